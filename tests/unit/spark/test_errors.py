"""Explaining Spark's errors."""

from __future__ import annotations

import pytest

from iot.spark.errors import explain

PLAN = """
=== Streaming Query ===
Logical Plan:
~WriteToMicroBatchDataSourceV1 ForeachBatchSink, [queryName=windows, checkpointLocation=/tmp/EOFException], Update"""
FAILED = "[STREAM_FAILED] Query [id = 3f, runId = 0c] terminated with exception: "


@pytest.mark.parametrize(
    ("message", "explained"),
    [
        (
            FAILED + "Failed to read log file file:/c/offsets/1. Incomplete log file SQLSTATE: XXKST",
            "its checkpoint is damaged, or of another query or version (Failed to read log file file:/c/offsets/1. "
            "Incomplete log file); rm -r /c",
        ),
        (
            FAILED + "Unexpected end-of-input in field name\n at [Source: REDACTED; line: 1] SQLSTATE: XXKST",
            "its checkpoint is damaged, or of another query or version (Unexpected end-of-input in field name); "
            "rm -r /c",
        ),
        (
            FAILED + "Checksum error: file:/c/offsets/3 at 0 exp: -1 got: 8 SQLSTATE: XXKST",
            "its checkpoint is damaged, or of another query or version "
            "(Checksum error: file:/c/offsets/3 at 0 exp: -1 got: 8); "
            "rm -r /c",
        ),
        (
            FAILED + "Partition iot-sensors-0's offset was changed from 500 to 0, some data may have been missed.",
            "messages expired in Kafka before they were read, or the topic was deleted and made again "
            "(Partition iot-sensors-0's offset was changed from 500 to 0, some data may have been missed.); rm -r /c",
        ),
        (
            FAILED + "EOFException occurred while reading the port number from iot.spark.worker's stdout",
            "Spark's Python workers do not run: check that PYSPARK_PYTHON names this Python, and that there is "
            "memory for them (EOFException occurred while reading the port number from iot.spark.worker's stdout)",
        ),
        (
            FAILED + "Python worker exited unexpectedly (crashed)\nCaused by: java.io.EOFException",
            "Spark's Python workers do not run: check that PYSPARK_PYTHON names this Python, and that there is "
            "memory for them (EOFException)",
        ),
        (
            FAILED + "ModuleNotFoundError: No module named 'msgspec'",
            "a Python worker lacks a module: pip install -r requirements.txt, on every machine of the cluster "
            "(ModuleNotFoundError: No module named 'msgspec')",
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
        (
            FAILED + "PythonException: An exception was thrown from the Python worker:\n"
            "Traceback (most recent call last):\n"
            '  File "iot/spark/contexts.py", line 107, in current\n'
            "RuntimeError: contexts/7 is missing from the checkpoint\n SQLSTATE: 38000",
            "its checkpoint is damaged, or of another query or version "
            "(RuntimeError: contexts/7 is missing from the checkpoint); "
            "rm -r /c",
        ),
        (FAILED + "Job aborted. SQLSTATE: XXKST", "Job aborted."),
    ],
)
def test_an_error_of_spark_is_explained_in_one_line(message, explained):
    assert explain(RuntimeError(message + PLAN), fix="rm -r /c") == explained
