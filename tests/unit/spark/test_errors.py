"""Explaining Spark's errors: what they mean, and when a checkpoint may be said to be damaged."""

from __future__ import annotations

import re
import sys
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import pytest
from pyspark import SparkContext

from iot import environment
from iot.kafka import advertised
from iot.settings import Kafka
from iot.spark.errors import KNOWN, explain

PLAN = """
=== Streaming Query ===
Logical Plan:
~WriteToMicroBatchDataSourceV1 ForeachBatchSink, [queryName=windows, checkpointLocation=/tmp/EOFException], Update"""
FAILED = "[STREAM_FAILED] Query [id = 3f, runId = 0c] terminated with exception: "
FIX = "to reset: rm -r /c"
WORKERS = next(known.meaning for known in KNOWN if "worker exited" in known.pattern)
CHECKSUM = b"crc\0\0\0\2\0"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A small checkpoint as Spark writes it."""
    for name, text in {
        "metadata": '{"id":"e08c1fb0-23f2-4f61-88e5-e909c000e9e2"}',
        "offsets/0": 'v1\n{"batchWatermarkMs":0}\n{"t":{"0":1}}',
        "offsets/1": 'v1\n{"batchWatermarkMs":0}\n-',
        "commits/0": 'v1\n{"nextBatchWatermarkMs":0}',
        "contexts/1": '{"newest":1}',
        "sources/0/0": "v1\n0",
        "state/0/0/1.delta": "anything",
        "state/0/0/_metadata/schema": "v3\nbinary",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


# Messages as Spark 4.2 wrote them when a file was empty, cut, changed or replaced. Secrets and plans are left out.
DAMAGE = {
    "incomplete": "Failed to read log file file:/c/offsets/3. Incomplete log file SQLSTATE: XXKST",
    "incomplete commit": "Failed to read log file file:/c/commits/3. Incomplete log file in the offset commit log",
    "cut json": "Unexpected end-of-input in field name\n at [Source: REDACTED; line: 1, column: 513]",
    "cut metadata": "jackson.core.io.JsonEOFException: Unexpected end-of-input: was expecting quote",
    "empty metadata": "jackson.databind.exc.MismatchedInputException: No content to map due to end-of-input",
    "checksum": "Checksum error: file:/c/offsets/3 at 512 exp: 131267608 got: -1497046238",
    "no json": "Unrecognized token 'not': was expecting (JSON String, Number, Array, Object or token 'null')",
    "state": "[FOREACH_BATCH_USER_FUNCTION_ERROR] An error occurred\nCaused by: java.io.EOFException",
    "cut state": "Task failed\nCaused by: java.io.EOFException: Stream ended prematurely",
}


def empty(file: Path) -> str:
    file.write_bytes(b"")
    return "is empty"


def cut(file: Path) -> str:
    file.write_bytes(file.read_bytes()[:-3])
    return "is no JSON, or cut short"


def change(file: Path) -> str:
    file.with_name(f".{file.name}.crc").write_bytes(CHECKSUM + b"\1\2\3\4")
    return "does not match its checksum"


def replace(file: Path) -> str:
    file.write_bytes(b"\xff\xfe")
    return "is no JSON, or cut short"


@pytest.mark.parametrize("message", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("offsets/1", empty),
        ("offsets/0", cut),
        ("commits/0", change),
        ("metadata", replace),
        ("contexts/1", cut),
        ("state/0/0/1.delta", empty),
    ],
)
def test_a_file_that_is_damaged_is_named_with_the_command_to_reset(message, name, damage, checkpoint):
    what = damage(checkpoint / name)
    line = explain(RuntimeError(FAILED + message + PLAN), fix=FIX, checkpoint=checkpoint)
    assert line.startswith(f"its checkpoint is damaged: {checkpoint / name} {what} (")
    assert line.endswith(f"); {FIX}")
    assert "\n" not in line


@pytest.mark.parametrize("message", DAMAGE.values(), ids=DAMAGE)
def test_without_a_damaged_file_nothing_is_said_to_be_damaged(message, checkpoint):
    for folder in (checkpoint, checkpoint / "elsewhere", Path("s3a:/bucket/checkpoint"), None):
        line = explain(RuntimeError(FAILED + message + PLAN), fix=FIX, checkpoint=folder)
        assert line.startswith("Spark cannot read some data, perhaps a file of its checkpoint (")
        assert "rm -r" not in line


@pytest.mark.parametrize("message", DAMAGE.values(), ids=DAMAGE)
def test_a_file_that_cannot_be_read_is_not_damaged(message, checkpoint, monkeypatch):
    empty(checkpoint / "offsets/1")
    read = Path.read_bytes

    def refuse(file: Path) -> bytes:
        if file.name == "metadata":
            raise PermissionError(13, "Permission denied", str(file))
        return read(file)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    line = explain(RuntimeError(FAILED + message + PLAN), fix=FIX, checkpoint=checkpoint)
    assert line.startswith(f"a file of its checkpoint cannot be read: {checkpoint}/metadata: Permission denied (")
    assert "rm -r" not in line


# They have words of damage in them, and yet say nothing about the content of a checkpoint. Most were seen with real
# programs; the first one with LC_ALL=C and a checkpoint folder `jörg`.
LOOK_ALIKES = {
    "java.nio.file.InvalidPathException: Malformed input or input contains unmappable characters: /j\ufffd": "ASCII",
    "java.io.FileNotFoundException: /c/offsets/3 (Permission denied)\nCaused by: java.io.EOFException": "owner",
    "java.nio.file.AccessDeniedException: /c/state/0/0/1.delta: Error reading delta file": "owner",
    "java.io.IOException: No space left on device\nCaused by: Checksum error: file:/c/offsets/3": "disk",
    "java.io.IOException: Disk quota exceeded, incomplete log file": "disk",
    "java.nio.file.FileSystemException: /c/offsets/3: Too many open files; Failed to read log file": "ulimit",
    "java.io.IOException: Input/output error\nat HDFSBackedStateStoreProvider: Error reading delta file": "file system",
    "org.apache.kafka.common.errors.DisconnectException\nCaused by: java.io.EOFException": "Kafka does not answer",
    "javax.net.ssl.SSLHandshakeException: Remote host terminated\nCaused by: java.io.EOFException: SSL peer": "refuses",
    "org.apache.kafka.common.errors.TimeoutException: Timed out waiting for a node assignment.": "not answer",
    "java.io.FileNotFoundException: File file:/c/state/0/0/4.delta does not exist; Error reading delta file": "missing",
    "[STREAMING_CHECKPOINT_MISSING_METADATA_FILE] Checkpoint location file:/c is in an inconsistent state": "missing",
    "[STREAMING_STATEFUL_OPERATOR_MISSING_STATE_DIRECTORY] Cannot restart streaming query": "missing",
    "RuntimeError: contexts/7 is missing from the checkpoint": "missing",
    "[CONCURRENT_STREAM_LOG_UPDATE] Concurrent update to the log. Multiple streaming jobs detected for 2.": "another",
    "java.lang.OutOfMemoryError: Java heap space\nCaused by: java.io.EOFException": "memory",
    "UnknownTopicOrPartitionException: This server does not host this topic-partition.": "does not know the topic",
}


@pytest.mark.parametrize(("message", "meaning"), LOOK_ALIKES.items())
def test_what_only_looks_like_damage_never_gets_the_command_that_deletes(message, meaning, checkpoint):
    line = explain(RuntimeError(FAILED + message + PLAN), fix=FIX, checkpoint=checkpoint)
    assert meaning in line.partition(" (")[0]
    assert "damaged" not in line
    assert "rm -r" not in line


@pytest.mark.parametrize(
    "message",
    [
        "[KAFKA_DATA_LOSS.ADDED_PARTITION_DOES_NOT_START_FROM_OFFSET_ZERO] x",
        "Some data may have been lost because they are not available in Kafka any more; either the data was aged out",
        "Partition iot-sensors-0's offset was changed from 500 to 0, some data may have been missed.",
        "org.apache.kafka.clients.consumer.OffsetOutOfRangeException: Fetch position is out of range",
        "[STATE_STORE_VALUE_SCHEMA_NOT_COMPATIBLE] Provided value schema does not match existing state value schema",
        "There are [1] sources in the checkpoint offsets and now there are [2] sources requested by the query.",
    ],
)
def test_what_spark_itself_says_of_a_checkpoint_holds_if_it_can_be_read(message, checkpoint):
    error = RuntimeError(FAILED + message + PLAN)
    assert explain(error, fix=FIX, checkpoint=checkpoint).endswith(f"; {FIX}")
    for other in (None, checkpoint / "elsewhere", checkpoint / "offsets"):
        assert "rm -r" not in explain(error, fix=FIX, checkpoint=other)


@pytest.mark.parametrize(
    ("message", "in_worker", "master"),
    [
        (
            "PythonException: Traceback (most recent call last):\nModuleNotFoundError: No module named 'msgspec'",
            True,
            "local[2]",
        ),
        (
            "Traceback (most recent call last):\nModuleNotFoundError: No module named 'pandas'",
            True,
            "spark://host:7077",
        ),
        (
            "[FOREACH_BATCH_USER_FUNCTION_ERROR] An error\nModuleNotFoundError: No module named 'psycopg'",
            False,
            "spark://host:7077",
        ),
    ],
)
def test_a_missing_module_names_the_python_that_lacks_it(message, in_worker, master, monkeypatch):
    # With a local master, this variable of the profile does not count.
    monkeypatch.setenv("PYSPARK_PYTHON", "/of/the/profile")
    context = SimpleNamespace(master=master, pythonExec="/of/workers/python3")
    monkeypatch.setattr(SparkContext, "_active_spark_context", context)
    runs = context.pythonExec if in_worker else sys.executable
    line = explain(RuntimeError(FAILED + message + PLAN))
    assert f"{runs} -m pip install -r requirements.txt" in line
    assert ("on every machine of the cluster" in line) == (in_worker and master.startswith("spark:"))
    assert "/of/the/profile" not in line
    assert "pip install" not in explain(RuntimeError(FAILED + "No module named 'iot.spark.worker'" + PLAN))


TASK_FAILED = "Job aborted due to stage failure: Lost task 0.3 in stage 0.0 (TID 3) (10.0.0.7 executor {}): "
NO_PYTHON = 'java.io.IOException: Cannot run program "/opt/python3": error=2, No such file or directory'
OTHER_PYTHON = (
    "pyspark.errors.PySparkRuntimeError: [PYTHON_VERSION_MISMATCH] Python in worker has different version: 3.9 than "
    "that in driver: 3.11, PySpark cannot run with different minor versions."
)


@pytest.mark.parametrize("executor", ["0", "17", "driver"])
@pytest.mark.parametrize(
    ("message", "said"),
    [
        (NO_PYTHON, "there is no /opt/python3: "),
        (OTHER_PYTHON, " is Python 3.9 and this script runs on "),
        ("ModuleNotFoundError: No module named 'msgspec'", " -m pip install -r requirements.txt"),
    ],
)
def test_what_an_executor_lacks_names_its_machine(message, said, executor, monkeypatch):
    context = SimpleNamespace(master="spark://host:7077", pythonExec="/of/workers/python3")
    monkeypatch.setattr(SparkContext, "_active_spark_context", context)
    line = explain(RuntimeError(FAILED + TASK_FAILED.format(executor) + message + PLAN))
    assert said in line
    assert ("on 10.0.0.7 and every other machine of the cluster" in line) == (executor != "driver")


def test_an_outage_of_kafka_names_the_address(monkeypatch):
    monkeypatch.setattr(advertised, "outage", lambda kafka: "kafka:9092 (it does not resolve)")
    message = "Timed out waiting for a node assignment. Call: describeTopics"
    assert explain(RuntimeError(FAILED + message + PLAN), kafka=Kafka("here:1")) == (
        f"Kafka at here:1 does not answer: kafka:9092 (it does not resolve) ({message})"
    )


def test_a_timeout_of_something_else_is_not_blamed_on_kafka():
    message = "java.util.concurrent.TimeoutException: Futures timed out after [300 seconds]"
    assert explain(RuntimeError(FAILED + message + PLAN)) == message.rpartition(".")[2]


def test_advice_names_a_variable_only_where_it_has_an_effect():
    """A local master gets an environment of this program's own, whatever the profile says."""
    for known in KNOWN:
        for name in re.findall(r"\b[A-Z]+_[A-Z_]+\b", known.meaning.partition("on a cluster")[0]):
            rule = next(rule for rule in [*environment.VARIABLES, None] if not rule or fnmatch(name, rule.pattern))
            assert not rule or rule.does == "kept", f"{name} is {rule.does}"


@pytest.mark.parametrize(
    ("message", "variable", "line"),
    [
        ("Invalid maximum heap size: -Xmx4q", "4q", "IOT_DRIVER_MEMORY=4q is no memory size, or more than there is"),
        ("Size must be specified as bytes (b)", None, "a setting of Java or Spark is no memory size, or more than"),
        ("Could not reserve enough space for 9g object heap", "9g", "IOT_DRIVER_MEMORY=9g is no memory size, or more"),
    ],
)
def test_a_wrong_memory_size_names_the_variable_only_if_it_is_set(message, variable, line, monkeypatch):
    monkeypatch.delenv("IOT_DRIVER_MEMORY", raising=False)
    if variable:
        monkeypatch.setenv("IOT_DRIVER_MEMORY", variable)
    assert explain(RuntimeError("Java ended"), message).startswith(line)


@pytest.mark.parametrize(
    ("message", "meaning"),
    [
        ("java.lang.OutOfMemoryError: unable to create native thread: possibly out of memory", "too few threads"),
        ("Cannot call methods on a stopped SparkContext.", "Spark has stopped, and its log says why"),
        ("All masters are unresponsive! Giving up.", "the Spark master does not answer: check that it runs"),
    ],
)
def test_what_has_another_cause_than_it_seems(message, meaning):
    assert meaning in explain(RuntimeError(message))


def test_no_meaning_asserts_damage_or_names_a_deletion():
    assert not [known for known in KNOWN if "rm " in known.meaning or "is damaged" in known.meaning]


@pytest.mark.parametrize(
    ("message", "explained"),
    [
        (
            FAILED + "EOFException occurred while reading the port number from iot.spark.worker's stdout",
            f"{WORKERS} (EOFException occurred while reading the port number from iot.spark.worker's stdout)",
        ),
        (
            FAILED + "Python worker exited unexpectedly (crashed)\nCaused by: java.io.EOFException",
            f"{WORKERS} (EOFException)",
        ),
        # Errors of this package stay as they are.
        (
            FAILED + "[FOREACH_BATCH_USER_FUNCTION_ERROR] An error occurred in the user provided function\n"
            '  File "iot/pipeline/pipeline.py", line 1, in _write_batch\n'
            "iot.results.database.StoreUnavailable: /r.db is locked by another process: end that one\n",
            "/r.db is locked by another process: end that one",
        ),
        (
            FAILED + "java.io.IOException: No space left on device SQLSTATE: XXKST",
            "the disk with Spark's files or checkpoints is full: free some space "
            "(IOException: No space left on device)",
        ),
        (FAILED + "Job aborted. SQLSTATE: XXKST", "Job aborted."),
    ],
)
def test_an_error_of_spark_is_explained_in_one_line(message, explained):
    assert explain(RuntimeError(message + PLAN), fix="rm -r /c") == explained
