"""``python -m iot.rejected``: fetches rejected messages, so that they can be corrected and sent again."""

from __future__ import annotations

import json
import subprocess
import sys

import pyarrow as pa

from iot.broker.broker import Broker
from iot.readings import decode, parse_timestamp
from iot.settings import REJECTED_TOPIC
from iot.spark.rejected import RejectedWriter
from tests.support import oracle
from tests.support.readings import TIMESTAMP, valid_fields
from tests.support.scripts import ROOT


def run(module: tuple[str, ...], broker: Broker, topic: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *module, "--bootstrap-servers", broker.bootstrap_servers, "--topic", topic, *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)


def test_rejected_messages_can_be_corrected_and_sent_again(broker, topic, tmp_path):
    values = [
        json.dumps(valid_fields(value="21.5")).encode(),
        json.dumps(valid_fields(value="22.5", location="Küche")).encode(),
        b"\xff",
        json.dumps(valid_fields(sensor_id="")).encode(),
    ]
    batch = pa.RecordBatch.from_pydict(
        {
            "key": pa.array([b"k"] * len(values), pa.binary()),
            "value": pa.array(values, pa.binary()),
            "partition": pa.array([0] * len(values), pa.int32()),
            "offset": pa.array(range(len(values)), pa.int64()),
        }
    )
    reasons = ["value: expected `float`, got `str`"] * 2 + ["invalid UTF-8 (byte 0)", "sensor_id: too short"]
    for writes_to in (topic, topic, f"{topic}-other"):
        # The second write repeats the first one.
        RejectedWriter(broker.kafka, REJECTED_TOPIC, writes_to)(batch, list(enumerate(reasons)))
    file = tmp_path / "rejected.jsonl"
    fetch = ("-m", "iot.rejected")
    counted = run(fetch, broker, topic)
    assert counted.stdout.splitlines() == [
        f"4 messages of {topic} were rejected",
        "        2  value: expected `float`, got `str`",
        "        1  invalid UTF-8",
        "        1  sensor_id: too short",
    ]
    fetched = run(fetch, broker, topic, "--to", str(file), "--reason", "value: ")
    assert f"--replay {file} --timestamps recorded" in fetched.stdout, fetched.stderr
    # An existing file is not overwritten, and --since filters by time.
    again = run(fetch, broker, topic, "--to", str(file))
    assert (again.returncode, again.stderr.count("\n"), "already exists" in again.stderr) == (1, 1, True)
    assert "0 messages" in run(fetch, broker, topic, "--since", "2999-01-01T00:00:00Z").stdout

    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    corrected = [json.dumps(line | {"value": float(line["value"])}) for line in lines]
    file.write_text("\n".join(corrected), encoding="utf-8")
    replayed = run(
        ("iot_producer.py",), broker, topic, "--replay", str(file), "--timestamps", "recorded", "--rate", "100"
    )
    assert replayed.returncode == 0, replayed.stderr
    time_us = parse_timestamp(TIMESTAMP)
    sent = [decode(record.value) for record in oracle.read_topic(broker.bootstrap_servers, topic)]
    assert {(of.value, of.location, of.time_us) for of in sent} == {
        (21.5, "unknown", time_us), (22.5, "Küche", time_us)
    }  # fmt: skip
