"""Explains Spark's errors in one line: what they mean, and how to fix them."""

from __future__ import annotations

import re

# Each table pairs patterns of Spark's messages with their meaning. The tables are searched in this order.
WORKERS = (
    (r"No module named '([\w.]+)'",
     "a Python worker lacks a module: pip install -r requirements.txt, on every machine of the cluster"),
    (r"reading the port number from|Python worker exited unexpectedly",
     "Spark's Python workers do not run: check that PYSPARK_PYTHON names this Python, and that there is memory "
     "for them"),
)  # fmt: skip
# After these errors the query cannot continue from its checkpoint.
FATAL = (
    (
        r"KAFKA_DATA_LOSS|data may have been lost|OffsetOutOfRange|offset(s)? .*out of range|was changed from \d+",
        "messages expired in Kafka before they were read, or the topic was deleted and made again",
    ),
    (r"UnknownTopicOrPartition", "the topic was deleted while it was read"),
    (
        r"(?i)STATE_STORE\w*(INCOMPAT|NOT_COMPATIBLE|MISMATCH)|STATE_STORE_(KEY|VALUE)|sources in the checkpoint|"
        r"incomplete log file|malformed|Failed to (parse|read) log|CANNOT_LOAD_STATE|MISSING_STATE_DIRECTORY|"
        r"unexpected end-of-input|no content to map|EOFException|Checksum(Exception| error)|"
        r"contexts/\d+ is missing|"
        r"Error reading (delta|snapshot)",
        "its checkpoint is damaged, or of another query or version",
    ),
)
OTHERS = (
    (r"No space left|Disk quota", "the disk with Spark's files or checkpoints is full: free some space"),
    (
        r"OutOfMemoryError|Java heap space|GC overhead|memory \d+ must be at least",
        "Spark has too little memory: set IOT_DRIVER_MEMORY, for example to 4g",
    ),
    (
        r"SSL (key|trust)store|(Ssl|Sasl)AuthenticationException|JAAS",
        "Kafka refuses Spark: check --kafka-config, and that this machine has the files that it names",
    ),
    (r"TimeoutException|TimeoutError|Disconnected|No resolvable bootstrap", "Kafka does not answer"),
    (r"(?i)Sasl|authenticat|authoriz", "Kafka refuses this client: check --kafka-config"),
    (r"(Invalid|Error).* heap size|must be specified as", "IOT_DRIVER_MEMORY is not a memory size; for example 4g"),
    (r"Could not parse Master URL|INVALID_MASTER|Master must either", "not a Spark master; for example local[8] or spark://HOST:7077"),
    (r"All masters are unresponsive|Failed to connect to master|on a stopped SparkContext",
     "the Spark master does not answer"),
)  # fmt: skip


def explain(error: BaseException, printed: str = "", fix: str = "remove the checkpoint to reset it") -> str:
    """One line for an error of Spark's: its meaning if it is known, and Spark's own words.

    Args:
        printed: the output of Spark's JVM, if it ended before it could report an error.
        fix: the command that resets a query which cannot continue.
    """
    # What follows this mark is the text of the query, which may contain any word.
    message = str(error).partition("=== Streaming Query ===")[0]
    # Errors of this package, raised inside a query, need no explanation.
    if ours := re.findall(r"^iot(?:\.\w+)+: (.+)$", message, re.MULTILINE):
        return str(ours[-1])
    text = f"{message}\n{printed}"
    own = _own_words(text) or type(error).__name__
    for pattern, meaning in WORKERS:
        if re.search(pattern, text):
            return f"{meaning} ({own})"
    for pattern, meaning in FATAL:
        if re.search(pattern, text):
            return f"{meaning} ({own}); {fix}"
    for pattern, meaning in OTHERS:
        if re.search(pattern, text):
            return f"{meaning} ({own})"
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
