"""Explains Spark's errors in one line: what they mean, and how to fix them.

``KNOWN`` is a table. A meaning is asserted only as far as it was checked, and a command that deletes a checkpoint is
named only if this checkpoint was read and found to be what the error says.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from iot.kafka import advertised
from iot.settings import Kafka
from iot.spark.cluster import is_local
from iot.spark.damage import find_damage, is_readable_checkpoint
from iot.spark.remote_path import AnyPath


@dataclass(frozen=True)
class Case:
    """An error to explain, and what can be looked at to explain it."""

    text: str
    """Spark's message and what its JVM printed."""
    own: str
    """Spark's own words in short."""
    fix: str = ""
    """The command that resets the query, if the checkpoint itself makes it fail."""
    checkpoint: AnyPath | None = None
    """The checkpoint of the query that failed."""
    kafka: Kafka | None = None
    in_worker: bool = True
    """Whether Python code failed in a worker of Spark's, not in this process."""


class Known(NamedTuple):
    """A kind of error: a pattern of Spark's messages, and what it means."""

    pattern: str
    meaning: str
    explain: Callable[[Case, str], str] = lambda case, meaning: f"{meaning} ({case.own})"
    """Makes the line from the case and the meaning, after whatever has to be checked."""


def _module(case: Case, _: str) -> str:
    """Name the Python that lacks a module."""
    found = re.search(r"No module named '([\w.]+)'", case.text)
    module = found[1] if found else ""
    python, is_cluster = _workers() if case.in_worker else (sys.executable, False)
    who = f"the Python of Spark's workers ({python})" if case.in_worker else f"this Python ({python})"
    if module.partition(".")[0] == "iot":
        return f"{who} does not find this program's package {module}: start the script from its folder ({case.own})"
    where = f", {_where(case.text)}" if is_cluster else ""
    return f"{who} lacks the module {module}: {python} -m pip install -r requirements.txt{where} ({case.own})"


def _workers() -> tuple[str, bool]:
    """Return the Python of Spark's workers, and whether they run on a cluster.

    With a local master, this program chooses that Python; otherwise the user's profile may.
    """
    # It may be PySpark that is missing.
    module = sys.modules.get("pyspark")
    context = module.SparkContext._active_spark_context if module else None
    return (context.pythonExec, not is_local(context.master)) if context else (sys.executable, False)


def _python(case: Case, _: str) -> str:
    """Name the machine that lacks a Python, or has another version."""
    named = re.search(r'Cannot run program "([^"]+)"', case.text)
    python = named[1] if named else _workers()[0]
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    other = re.search(r"Python in worker has different version: (\d+\.\d+)", case.text)
    what = f"{python} is Python {other[1]} and this script runs on {ours}" if other else f"there is no {python}"
    return f"{what}: install Python {ours} {_where(case.text)}, and set PYSPARK_PYTHON to its path ({case.own})"


def _where(text: str) -> str:
    """The machines to set right: the one where a task failed, and all that are like it."""
    found = re.search(r"\(TID \d+\) \((\S+) executor (?!driver)\S+\)", text)
    return f"on {found[1]} and every other machine of the cluster" if found else "on every machine of the cluster"


def _memory_size(case: Case, meaning: str) -> str:
    """Name the setting that is wrong, if there is only one."""
    given = os.environ.get("IOT_DRIVER_MEMORY")
    return f"{f'IOT_DRIVER_MEMORY={given}' if given else 'a setting of Java or Spark'} {meaning} ({case.own})"


def _kafka(case: Case, meaning: str) -> str:
    """Name the address at which Kafka is not reached."""
    if case.kafka and (why := advertised.outage(case.kafka)):
        return f"Kafka at {case.kafka.bootstrap_servers} does not answer: {why} ({case.own})"
    return f"{meaning} ({case.own})"


def _of_this_checkpoint(case: Case, meaning: str) -> str:
    """Name the command only for a checkpoint that can be read. Spark itself has made the diagnosis."""
    advice = f"; {case.fix}" if case.fix and is_readable_checkpoint(case.checkpoint) else ""
    return f"{meaning} ({case.own}){advice}"


def _damaged(case: Case, meaning: str) -> str:
    """Name the file that is damaged, or say that none was found."""
    found = find_damage(case.checkpoint) if case.checkpoint and case.checkpoint.is_dir() else None
    if found is None:
        return f"{meaning} ({case.own})"
    if not found.is_damaged:
        return f"a file of its checkpoint cannot be read: {found.file}: {found.what} ({case.own})"
    return f"its checkpoint is damaged: {found.file} {found.what} ({case.own})" + (f"; {case.fix}" if case.fix else "")


def _missing(case: Case, meaning: str) -> str:
    """A file that is there, but damaged, is missing to those who read it."""
    found = find_damage(case.checkpoint) if case.checkpoint and case.checkpoint.is_dir() else None
    return _damaged(case, meaning) if found else f"{meaning} ({case.own})"


# The table is searched from its beginning. What happens to any file or connection comes before what is said of
# checkpoints, because it can look like damage.
KNOWN = (
    Known(r"No module named '[\w.]+'", "", _module),
    Known(r"PYTHON_VERSION_MISMATCH|Cannot run program \"[^\"]*python", "", _python),
    Known(
        r"reading the port number from|Python worker exited unexpectedly",
        "Spark's Python workers do not run: check that there is memory for them; on a cluster also that "
        f"PYSPARK_PYTHON names a Python {sys.version_info.major}.{sys.version_info.minor} on all its machines",
    ),
    Known(
        r"No space left|Disk quota|not enough space",
        "the disk with Spark's files or checkpoints is full: free some space",
    ),
    Known(
        r"Permission denied|AccessDenied|AccessControlException|Operation not permitted|Read-only file system",
        "Spark may not use a file: check the owner and the mode of the file or folder",
    ),
    Known(
        r"SafeModeException|failed on connection exception|StandbyException|minReplication nodes|"
        r"BlockMissingException",
        "the file system of the checkpoint does not answer, or is not ready: check its servers",
    ),
    Known(r"Too many open files", "this process may open too few files: raise the limit with ulimit -n"),
    Known(
        r"unmappable characters|InvalidPathException",
        "Java cannot use the characters of a path: choose a path of ASCII characters; on a cluster or with "
        "spark-submit, a UTF-8 locale such as LC_ALL=C.UTF-8 there helps too",
    ),
    Known(r"Input/output error|Stale file handle", "a disk or a network file system fails: check it, then start again"),
    Known(
        r"unable to create (new )?native thread",
        "this user may start too few threads: raise the limit with ulimit -u, or that of the container",
    ),
    Known(
        r"OutOfMemoryError|Java heap space|GC overhead|memory \d+ must be at least",
        "Spark has too little memory: set IOT_DRIVER_MEMORY, for example to 4g; with spark-submit its --driver-memory, "
        "and for the executors of a cluster spark.executor.memory",
    ),
    Known(
        r"SSL (key|trust)store|(Ssl|Sasl)AuthenticationException|SSLHandshakeException|JAAS",
        "Kafka refuses Spark: check --kafka-config, and that each machine on which Spark runs has the files that it "
        "names",
    ),
    Known(
        r"(?i)\[KAFKA_DATA_LOSS|some data may have been (lost|missed)|\bOffsetOutOfRangeException",
        "messages expired in Kafka before they were read, or the topic was deleted and made again",
        _of_this_checkpoint,
    ),
    Known(
        r"UnknownTopicOrPartition",
        "Kafka does not know the topic, or does not let this client see it: it may have been deleted, or this is "
        "another Kafka",
    ),
    Known(
        r"(?i)No resolvable bootstrap|node assignment|KafkaConnectionError|NoBrokersAvailable|"
        r"Timeout of \d+ ?ms expired before|not present in metadata after|"
        r"kafka[^\n]*(Timeout(Exception|Error)|Disconnect|NetworkException)|"
        r"Timeout(Exception|Error)[^\n]*(kafka|partition|metadata)",
        "Kafka does not answer",
        _kafka,
    ),
    Known(r"(?i)kafka[^\n]*(Sasl|authenticat|authoriz)|(Topic|Group|Cluster)AuthorizationException",
          "Kafka refuses this client: check --kafka-config, and what its user may do"),
    Known(r"CONCURRENT_STREAM_LOG_UPDATE",
          "another program uses this checkpoint, or something removed or replaced a file of it: stop the other "
          "program, and start this script again"),
    Known(
        r"(?i)STATE_STORE\w*(INCOMPAT|NOT_COMPATIBLE|MISMATCH)|STATE_STORE_(KEY|VALUE)\w*(SCHEMA|VALIDATION)|"
        r"sources in the checkpoint",
        "its checkpoint is of another query or version",
        _of_this_checkpoint,
    ),
    Known(
        r"MISSING_METADATA_FILE|MISSING_STATE_DIRECTORY|FileNotFoundException|NoSuchFileException|"
        r"contexts/\d+ is missing",
        "a file is missing, perhaps of its checkpoint: something may have removed it, such as a cleaner of temporary "
        "files; restore it, or move the whole checkpoint to another place to begin a new one",
        _missing,
    ),
    Known(
        r"(?i)incomplete log file|malformed|Failed to (parse|read) log|CANNOT_LOAD_STATE|end-of-input|"
        r"no content to map|EOFException|Stream ended prematurely|Checksum(Exception| error)|Unrecognized token|"
        r"JsonParseException|Error reading (delta|snapshot)|Stream is corrupted",
        "Spark cannot read some data, perhaps a file of its checkpoint",
        _damaged,
    ),
    Known(r"(Invalid|Error).* heap size|must be specified as|Could not reserve enough space",
          "is no memory size, or more than there is; for example 4g", _memory_size),
    Known(r"Could not parse Master URL|INVALID_MASTER|Master must either",
          "not a Spark master; for example local[8] or spark://HOST:7077"),
    Known(r"All masters are unresponsive|Failed to connect to master",
          "the Spark master does not answer: check that it runs, and its address"),
    Known(r"on a stopped SparkContext",
          "Spark has stopped, and its log says why; on a cluster, check that its master runs, and its address"),
)  # fmt: skip


def explain(
    error: BaseException,
    printed: str = "",
    fix: str = "",
    *,
    checkpoint: AnyPath | None = None,
    kafka: Kafka | None = None,
) -> str:
    """One line for an error of Spark's: its meaning if it is known, and Spark's own words.

    Args:
        printed: the output of Spark's JVM, if it ended before it could report an error.
        fix: the command that resets a query which cannot continue from its checkpoint.
        checkpoint: the checkpoint of the query, which is read before ``fix`` is named.
        kafka: the Kafka of the query, to find out which address fails.
    """
    # What follows this mark is the text of the query, which may contain any word.
    message = str(error).partition("=== Streaming Query ===")[0]
    # Errors of this package, raised inside a query, need no explanation.
    if ours := re.findall(r"^iot(?:\.\w+)+: (.+)$", message, re.MULTILINE):
        return str(ours[-1])
    text = f"{message}\n{printed}"
    own = _own_words(text) or type(error).__name__
    in_worker = not isinstance(error, ImportError) and "FOREACH_BATCH_USER_FUNCTION_ERROR" not in text
    case = Case(text, own, fix, checkpoint, kafka, in_worker)
    for known in KNOWN:
        if re.search(known.pattern, text):
            return known.explain(case, known.meaning)
    return own


def _own_words(text: str) -> str:
    """The innermost cause in a Java stack trace, without the trace; at most 300 characters."""
    before = r"(?:Caused by: |: |Exception in thread \"[^\"]*\" )?"
    causes = re.findall(rf"^{before}((?:[\w$]+\.)+[\w$]*(?:Exception|Error)(?:: .*)?)$", text, re.MULTILINE)
    raised = re.findall(r"^\w*(?:Error|Exception): .+$", text.partition("Traceback (most recent call last):")[2], re.M)
    words = (raised or causes or [next((line for line in text.splitlines() if line.strip()), "")])[-1]
    words = re.sub(r"^\[STREAM_FAILED\] Query \[[^]]*\] terminated with exception: | SQLSTATE: \w+", "", words)
    words = re.sub(r"^(?:[\w$]+\.)+", "", " ".join(words.split()))
    return words if len(words) <= 300 else words[:300] + "…"
