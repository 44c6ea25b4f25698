"""A worker whose Java is too old for Spark is named, with its machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from iot.broker.broker import Broker, find_free_port
from iot.cluster import spark
from iot.cluster.spark import SparkCluster
from iot.java.runtime import find_java
from tests.support.scripts import ROOT, read_until, started

pytestmark = pytest.mark.long
# What Java 11 prints.
SAID = """Error: LinkageError occurred while loading main class {0}
\tjava.lang.UnsupportedClassVersionError: {1} has been compiled by a more recent version of the Java Runtime \
(class file version 61.0), this version of the Java Runtime only recognizes class file versions up to 55.0
"""
EXECUTOR = "org.apache.spark.executor.CoarseGrainedExecutorBackend"
# Runs the worker itself, which is of the same Java, with one that fits.
JAVA = """#!/bin/sh
case "$*" in *{executor}*) cat "$(dirname "$0")/said" >&2; exit 1;; esac
exec {java}/bin/java "$@"
"""


@pytest.fixture
def old_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers and executors run on a Java that is too old for Spark."""
    folder = tmp_path / "java" / "bin"
    folder.mkdir(parents=True)
    (folder / "said").write_text(SAID.format(EXECUTOR, EXECUTOR.replace(".", "/")))
    (folder / "java").write_text(JAVA.format(executor=EXECUTOR, java=find_java()))
    (folder / "java").chmod(0o755)
    monkeypatch.setattr(spark, "find_java", lambda: folder.parent)
    for name in os.environ:
        if name.startswith(("SPARK_", "PYSPARK_")):
            monkeypatch.delenv(name)


@pytest.mark.usefixtures("old_java")
def test_a_java_that_is_too_old_is_said_with_its_machine(broker: Broker, topic: str, tmp_path: Path) -> None:
    with SparkCluster(tmp_path / "spark", port=find_free_port(), workers=1) as cluster:
        command = [sys.executable, str(ROOT / "structured_streaming_processor.py"), "--master", cluster.url]
        command += ["--bootstrap-servers", broker.bootstrap_servers, "--topic", topic, "--available-now"]
        command += ["--checkpoint-dir", str(tmp_path / "checkpoints")]
        environment = os.environ | {"IOT_LOG_DIR": str(tmp_path / "log")}
        with started(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            # Spark starts one executor after the other, without an end.
            line = read_until(process, "waiting for executors .*\n")
            process.send_signal(signal.SIGINT)
            process.wait(60)
    assert f"waiting for executors from {cluster.url}: on 127.0.0.1:" in line
    assert "an executor ended, because Java 11 is too old: install Java 17 or 21 there" in line
