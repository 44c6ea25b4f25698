"""``compose.yaml`` and ``Dockerfile`` fit the rest, as far as that can be checked without Docker."""

from __future__ import annotations

import base64
import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from iot import SUPPORTED
from iot.broker.node import replication
from iot.cluster import spark
from iot.java.jars import read_lock

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["app", "sensors"])
def test_the_scripts_take_the_flags_that_they_are_given(name: str) -> None:
    python, script, *flags = shlex.split(SERVICES[name]["command"])
    assert python == "python"
    # Exits where a flag is wrong.
    importlib.import_module(script.removesuffix(".py")).parse_args(flags)


def test_spark_runs_the_programs_that_a_cluster_of_one_machine_runs() -> None:
    for name, main in (
        ("spark-master", spark.MASTER),
        ("spark-worker-1", spark.WORKER),
        ("spark-worker-2", spark.WORKER),
    ):
        assert f"spark-class {main} " in SERVICES[name]["command"]


def test_kafka_has_the_version_and_the_copies_of_the_embedded_cluster() -> None:
    version = next(jar.version for jar in read_lock()["kafka"] if jar.artifact.startswith("kafka_"))
    nodes = [SERVICES[f"kafka-{number}"] for number in (1, 2, 3)]
    for number, node in enumerate(nodes, 1):
        settings = node["environment"]
        assert node["image"] == f"apache/kafka:{version}"
        assert settings["KAFKA_NODE_ID"] == number
        assert f"{number}@kafka-{number}:9093" in settings["KAFKA_CONTROLLER_QUORUM_VOTERS"]
        for key, value in replication(len(nodes)).items():
            assert str(settings[f"KAFKA_{key.upper().replace('.', '_')}"]) == value
    # 16 bytes, as Kafka's tool for random ids makes them.
    assert len(base64.urlsafe_b64decode(nodes[0]["environment"]["CLUSTER_ID"] + "==")) == 16


def test_only_this_machine_reaches_what_is_published() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_every_name_is_declared() -> None:
    for service in SERVICES.values():
        assert set(service.get("depends_on", [])) <= SERVICES.keys()
        assert {volume.partition(":")[0] for volume in service.get("volumes", [])} <= COMPOSE["volumes"].keys()
        hosts = re.findall(r"(?:spark://|@)([a-z][a-z0-9-]*)[:/]", str(service.get("command", "")))
        assert set(hosts) <= SERVICES.keys()


def test_driver_and_workers_share_the_checkpoints() -> None:
    folder = shlex.split(SERVICES["app"]["command"])
    mounted = f"state:{folder[folder.index('--checkpoint-dir') + 1]}"
    for name in ("app", "spark-worker-1", "spark-worker-2"):
        assert mounted in SERVICES[name]["volumes"]


def test_the_image_has_a_supported_python_and_copies_what_is_there() -> None:
    [version] = set(re.findall(r"python:?(3\.\d+)", DOCKERFILE))
    assert tuple(map(int, version.split("."))) in SUPPORTED
    for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE):
        for pattern in line.split():
            assert list(ROOT.glob(pattern))
