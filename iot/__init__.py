"""The code that the five scripts share. Its folders follow the data, from Kafka to the dashboard.

Modules in this folder know no other folder, except the command ``rejected``:
    settings, cli, terminal, processes: constants, shared flags, status lines, stop signals and child processes.
    inputs, properties_file: files, pipes and standard input, each read once; Kafka's client properties.
    owner, lease, lock_file, logs: who owns what is written, and log files that no two processes share.
    readings, alerts, rules_file: the schema and its validator, the alert rules, the rules file.
    durations, toml_file: times such as 5m or 1h30m; TOML files, with the line of each error.
    batches, statistics: what Spark reports about a batch, what the consumer counts.
    histograms, rejections: durations in Prometheus' manner, and kinds of reasons for which messages are rejected.
    rejected: ``python -m iot.rejected``, the command for rejected messages.
``java``: the Java runtime and the jars of Kafka and Spark.
``kafka``: clients, topics and offsets of any Kafka.
``broker``: the embedded Kafka, ``python -m iot.broker``.
``sensors``: simulated and recorded readings, sent at a rate.
``spark``: windows and alerts over the readings.
``results``: the database of results.
``pipeline``: Spark's results into the database, and restarts. Only here do ``spark`` and ``results`` meet.
``web``: the dashboard and its API, ``python -m iot.web``.
``loadtest``: load tests of ``performance_test.py``.
"""

import os
import sys

# The version under development; CHANGELOG.md says what is in it.
VERSION = "1.0.dev0"

# Each of these has a wheel of every package but PySpark, for Linux and macOS: make wheels
SUPPORTED = ((3, 11), (3, 12), (3, 13), (3, 14))

# Every command imports this file first, and make setup runs it to find a Python. So old versions must be able to read
# it: no f-strings here.
_implementation = sys.implementation.name if hasattr(sys, "implementation") else "cpython"
_threads = "without GIL " if "t" in getattr(sys, "abiflags", "") else ""
if sys.version_info[:2] not in SUPPORTED or _implementation != "cpython" or _threads:
    _name = _implementation.replace("cpython", "Python") + " " + _threads + ".".join(map(str, sys.version_info[:3]))
    sys.exit(
        "error: " + (sys.executable or "this interpreter") + " is " + _name + ", which is not supported: install "
        "CPython 3.11, 3.12, 3.13 or 3.14, run 'make clean setup', then use .venv/bin/python"
    )


def _prefer_own_packages() -> None:
    """In a virtual environment, search its packages before the folders of PYTHONPATH, except this program's folder.

    A profile that is for another Spark has that one's PySpark in PYTHONPATH.
    """
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120  # imports take time
    # Spark's executors on a cluster load this package from an archive, and their packages where the cluster has them.
    if sys.prefix == sys.base_prefix or not os.path.isdir(root):  # noqa: PTH112
        return
    folders = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    given = {os.path.abspath(folder) for folder in folders} - {root}  # noqa: PTH100
    sys.path.sort(key=given.__contains__)


_prefer_own_packages()
