"""Spark's JVM at its end: it never outlives ``session.end``, whatever it does."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.scripts import ROOT, command_line

# Starts Spark, suspends its JVM at a given moment, and ends it.
END = """
import logging, os, signal, sys
from pyspark import SparkContext
from iot import processes
from iot.settings import UserError
from iot.spark import session
moment = sys.argv[1]
started = session.start("end", "local[1]", {"spark.ui.enabled": "false"})
gateway = SparkContext._gateway
print(gateway.proc.pid, flush=True)
def suspend(*_):
    os.kill(gateway.proc.pid, signal.SIGSTOP)
if moment == "killed before":
    # An object of Java that is freed now would be told to a JVM that is gone, and py4j prints that.
    logging.disable()
    gateway.proc.kill()
    gateway.proc.wait()
if moment == "before":
    suspend()
if moment == "after a stop":
    processes.stop_event().set()
    gateway.shutdown = suspend
if moment != "never":
    session.END_S = 2.0
try:
    session.end(started)
except (UserError, processes.Stopped) as how:
    print(f"{type(how).__name__}: {how}")
print(SparkContext._gateway)
"""
KILLED = "UserError: Spark's JVM did not end within 2 s, so it was killed; try again when the machine is less busy"


@pytest.mark.parametrize(
    ("moment", "said"),
    [
        ("never", []),
        ("before", [KILLED]),
        ("killed before", ["UserError: Spark's JVM ended too early, with status -9"]),
        ("after a stop", ["Stopped: stopped by killing Spark's JVM, which did not end within 2 s"]),
    ],
)
def test_a_jvm_that_does_not_end_is_killed(moment: str, said: list[str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", END, moment], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    pid, *rest = ran.stdout.splitlines()
    assert (ran.returncode, ran.stderr, rest) == (0, "", [*said, "None"])
    assert command_line(int(pid)) == ""
