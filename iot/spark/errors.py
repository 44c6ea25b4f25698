"""What Spark's errors mean, in one line."""

from __future__ import annotations

import re

# What Spark says, and what it means for who runs the script. A query that died of what is in OVER has to start afresh.
WORKERS = (
    (r"No module named '([\w.]+)'",
     "a Python worker lacks a module: pip install -r requirements.txt, on every machine of the cluster"),
    (r"reading the port number from|Python worker exited unexpectedly",
     "Spark's Python workers do not run: PYSPARK_PYTHON must name this Python, and there must be memory for them"),
)  # fmt: skip


OVER = (
    (
        r"KAFKA_DATA_LOSS|data may have been lost|OffsetOutOfRange|offset(s)? .*out of range|was changed from \d+",
        "messages that were not read yet have expired in Kafka, or the topic was made anew",
    ),
    (r"UnknownTopicOrPartition", "the topic was deleted while it was read"),
    (
        r"(?i)STATE_STORE\w*(INCOMPAT|NOT_COMPATIBLE|MISMATCH)|STATE_STORE_(KEY|VALUE)|sources in the checkpoint|"
        r"incomplete log file|malformed|Failed to (parse|read) log|CANNOT_LOAD_STATE|MISSING_STATE_DIRECTORY|"
        r"unexpected end-of-input|no content to map|EOFException|Checksum(Exception| error)|"
        r"Error reading (delta|snapshot)",
        "its checkpoint is damaged, or of another query",
    ),
)


KNOWN = (
    (r"No space left|Disk quota", "there is no room for the files of Spark and its checkpoints: free some space"),
    (
        r"OutOfMemoryError|Java heap space|GC overhead|memory \d+ must be at least",
        "Spark has too little memory: more, 4 GB, with IOT_DRIVER_MEMORY=4g",
    ),
    (
        r"SSL (key|trust)store|(Ssl|Sasl)AuthenticationException|JAAS",
        "Kafka does not let Spark in: check --kafka-config, and that this machine has the files that it names",
    ),
    (r"TimeoutException|TimeoutError|Disconnected|No resolvable bootstrap", "Kafka does not answer"),
    (r"(?i)Sasl|authenticat|authoriz", "Kafka refuses this client: check --kafka-config"),
    (r"(Invalid|Error).* heap size|must be specified as", "IOT_DRIVER_MEMORY is no size of memory; for example 4g"),
    (r"Could not parse Master URL|INVALID_MASTER|Master must either", "that is no Spark master; for example local[8] or spark://HOST:7077"),
    (r"All masters are unresponsive|Failed to connect to master|on a stopped SparkContext",
     "that Spark master does not answer"),
)  # fmt: skip


def explain(error: BaseException, said: str = "", cure: str = "remove the checkpoint to start afresh") -> str:
    """One line for an error of Spark's: what it means and the cure where that is known, and Spark's own words.

    Args:
        said: what Spark's JVM has printed, where it ended before it could tell more.
        cure: of what is over: a command that has it start afresh.
    """
    # What follows is the query itself, with any word in it.
    message = str(error).partition("=== Streaming Query ===")[0]
    # What this package says, from inside a query, needs no explanation.
    if ours := re.findall(r"^iot(?:\.\w+)+: (.+)$", message, re.MULTILINE):
        return str(ours[-1])
    text = f"{message}\n{said}"
    own = _own_words(text) or type(error).__name__
    for pattern, meaning in WORKERS:
        if re.search(pattern, text):
            return f"{meaning} ({own})"
    for pattern, meaning in OVER:
        if re.search(pattern, text):
            return f"{meaning} ({own}); {cure}"
    for pattern, meaning in KNOWN:
        if re.search(pattern, text):
            return f"{meaning} ({own})"
    return own


def _own_words(text: str) -> str:
    """The innermost cause that a Java stack trace names, without the trace; at most 300 characters."""
    before = r"(?:Caused by: |: |Exception in thread \"[^\"]*\" )?"
    causes = re.findall(rf"^{before}((?:[\w$]+\.)+[\w$]*(?:Exception|Error)(?:: .*)?)$", text, re.MULTILINE)
    words = causes[-1] if causes else next((line for line in text.splitlines() if line.strip()), "")
    words = re.sub(r"^\[STREAM_FAILED\] Query \[[^]]*\] terminated with exception: | SQLSTATE: \w+", "", words)
    words = re.sub(r"^(?:[\w$]+\.)+", "", " ".join(words.split()))
    return words if len(words) <= 300 else words[:300] + "…"
