"""What a batch must know of the batches before it, where that is stored, and how it reaches Spark's tasks.

A task cannot ask the driver, and the functions of a query are pickled once, when the query starts. So the driver sets
the context as a local property of the query's jobs before each batch (``publish``), and a task reads it (``current``).
A restart finds it beside the query's checkpoint: like Spark's own ``offsets/5``, the file ``contexts/5`` is about
batch 5 and is written before batch 4 is committed. Spark may repeat a batch; it then finds the same context again.

The sensors that have an active alarm reach the tasks in the same way (``publish_watched``, ``current_watched``). They
are not stored here, because whoever keeps the alarms knows them after a restart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from iot.settings import UserError, reason
from iot.spark.remote_path import AnyPath, write_whole

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

FOLDER = "contexts"
PROPERTY = "iot.contexts"
WATCHED_PROPERTY = "iot.watched"
BATCH_ID = "streaming.sql.batchId"
# How many contexts to keep: after a power cut Spark may repeat more than its last batch.
KEPT = 8

Progress = list[tuple[int, int]]
"""How the newest event time of a partition rose: (Kafka's timestamp in ms, newest event time in whole seconds) of each
message that raised it, both ascending."""


class Context(msgspec.Struct):
    """What a batch must know of the batches before it."""

    progress: dict[int, Progress] = {}
    """By partition of the topic."""
    sensor_types: list[str] = []
    """Sensor types with rows of their own, in the order of their admission."""
    locations: list[str] = []


Contexts = Mapping[int, Context]
"""Contexts by the id of the batch that needs them."""

Watched = Mapping[tuple[str, str], int]
"""The newest event time in µs of each sensor, by sensor id and type, that has an active alarm."""

_encode = msgspec.json.encode
_decode = msgspec.json.Decoder(Context, strict=False).decode
_decode_watched = msgspec.json.Decoder(list[tuple[str, str, int]]).decode
_decode_all = msgspec.json.Decoder(dict[int, Context], strict=False).decode


class ContextFiles:
    """The contexts beside a checkpoint, one file for each of the last ``KEPT`` batches."""

    def __init__(self, checkpoint: AnyPath) -> None:
        self._folder = checkpoint / FOLDER

    def read(self) -> dict[int, Context]:
        """All contexts by batch id. That of batch 0 is always empty; a damaged one counts as missing.

        Raises:
            UserError: a file cannot be read.
        """
        contexts = {0: Context()}
        try:
            files = [file for file in self._folder.iterdir() if file.name.isdigit()]
        except FileNotFoundError:
            return contexts
        except OSError as error:
            raise UserError(f"cannot read {self._folder}: {reason(error)}") from error
        for file in files:
            try:
                contexts[int(file.name)] = _decode(file.read_bytes())
            except msgspec.DecodeError:
                continue
            except OSError as error:
                raise UserError(f"cannot read {file}: {reason(error)}") from error
        return contexts

    def write(self, batch_id: int, context: Context) -> None:
        """Store the context of a batch, completely or not at all, and remove what is no longer needed.

        Raises:
            UserError: the folder cannot be written.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._folder / str(batch_id), _encode(context))
            (self._folder / str(batch_id - KEPT)).unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot write {self._folder}: {reason(error)}; choose another folder with --checkpoint-dir"
            ) from error


def publish(spark: SparkSession, contexts: Contexts) -> None:
    """Set the contexts for the jobs of the query that the calling thread starts or runs."""
    spark.sparkContext.setLocalProperty(PROPERTY, _encode(contexts).decode())


def publish_watched(spark: SparkSession, watched: Watched) -> None:
    """Set the watched sensors for the same jobs as ``publish``."""
    rows = [(*sensor, newest_us) for sensor, newest_us in watched.items()]
    spark.sparkContext.setLocalProperty(WATCHED_PROPERTY, _encode(rows).decode())


def current_watched() -> Watched:
    """In a task: the watched sensors; none outside a stream."""
    from pyspark import TaskContext

    task = TaskContext.get()
    rows = _decode_watched(task.getLocalProperty(WATCHED_PROPERTY) or "[]") if task else []
    return {(sensor_id, sensor_type): newest_us for sensor_id, sensor_type, newest_us in rows}


def current() -> tuple[int, Context]:
    """In a task: the id of its batch and the context of that batch; -1 and an empty context outside a stream.

    Raises:
        RuntimeError: the context of this batch is missing.
    """
    from pyspark import TaskContext

    task = TaskContext.get()
    batch = task.getLocalProperty(BATCH_ID) if task else None
    if task is None or batch is None:
        return -1, Context()
    batch_id = int(batch)
    contexts = _decode_all(task.getLocalProperty(PROPERTY) or "{}")
    return batch_id, require(contexts, batch_id)


def require(contexts: Contexts, batch_id: int) -> Context:
    """The context of a batch.

    Raises:
        RuntimeError: it is missing.
    """
    if batch_id not in contexts:
        raise RuntimeError(f"{FOLDER}/{batch_id} is missing from the checkpoint")
    return contexts[batch_id]
