"""A Spark session for these scripts: the right Java, the connector's jars, quiet on the terminal, bounded in time.

Started by ``spark-submit`` instead, the JVM is there already; then its own settings hold, and what is left is checked.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from iot import settings
from iot.java import flags
from iot.java.class_archives import jvm_flags
from iot.java.jars import class_path, jars, read_lock
from iot.java.runtime import find_java
from iot.settings import UserError, reason
from iot.spark.errors import explain

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

MASTER = "local[8]"
PACKAGE = Path(__file__).parents[1]

LOG4J = """
status = error
appender.file.type = RollingFile
appender.file.name = file
appender.file.fileName = {log}
appender.file.filePattern = {log}.%i
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d %p %c: %m%n%ex
appender.file.policies.type = SizeBasedTriggeringPolicy
appender.file.policies.size = 10MB
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = 2
rootLogger.level = warn
rootLogger.appenderRef.file.ref = file
"""

# State is small and written often: few partitions, and the same ones whatever the machine, because the first run
# freezes them into the checkpoint.
CONFIG = {
    "spark.sql.shuffle.partitions": "2",
    "spark.sql.streaming.stateStore.providerClass": (
        "org.apache.spark.sql.execution.streaming.state.HDFSBackedStateStoreProvider"
    ),
    # Windows are shown while they grow, so a batch only to close them would show nothing.
    "spark.sql.streaming.noDataMicroBatches.enabled": "false",
    "spark.sql.streaming.minBatchesToRetain": "10",
    "spark.sql.streaming.stateStore.minDeltasForSnapshot": "10",
    "spark.sql.streaming.numRecentProgressUpdates": "10",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "50000",
    "spark.sql.session.timeZone": "UTC",
    "spark.ui.showConsoleProgress": "false",
    "spark.ui.retainedJobs": "50",
    "spark.ui.retainedStages": "50",
    "spark.ui.retainedTasks": "500",
    "spark.sql.ui.retainedExecutions": "20",
    "spark.cleaner.periodicGC.interval": "2min",
    # Java's own default grows to a quarter of the machine, and shuffles the past around in it.
    "spark.driver.memory": os.environ.get("IOT_DRIVER_MEMORY") or "2g",
    # The sources name no secrets, but Kafka's options may hold some.
    "spark.redaction.regex": "(?i)secret|password|token|access[.]?key|jaas|ssl",
    "spark.sql.redaction.options.regex": "(?i)secret|password|token|access[.]?key|url|jaas|ssl",
}

# So that memory is flat soon: Java's usual collector lets the heap grow although most of it is free, and the C library
# keeps a pool of its own for each of a hundred threads. Most objects die young here, and what lives is little.
JVM_FLAGS = [
    "-XX:+UseSerialGC",
    "-XX:MaxNewSize=96m",
    "-XX:MinHeapFreeRatio=20",
    "-XX:MaxHeapFreeRatio=40",
    "-XX:-ShrinkHeapInSteps",
]
MALLOC_POOLS = "2"


# Spark's usual way of writing checkpoints, made for HDFS, forks a process for the mode of each file: a dozen a batch.
LOCAL_CHECKPOINTS = "org.apache.spark.sql.execution.streaming.checkpointing.FileSystemBasedCheckpointFileManager"


def log_file(name: str) -> Path:
    """Where Spark's log goes when a script of that name runs it."""
    return settings.LOG_DIR / f"{name}.log"


def start(name: str, master: str, config: dict[str, str] | None = None) -> SparkSession:
    """Start Spark, or join the one that ``spark-submit`` started.

    Args:
        name: of the script; names the application and the log file.
        master: as Spark's ``--master``.
        config: on top of ``CONFIG``.

    Raises:
        UserError: Java, jars, PySpark or the master do not fit or do not answer; one line.
    """
    try:
        import pyspark
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise UserError(f"cannot import PySpark ({reason(error)}): pip install -r requirements.txt") from error
    wanted = next(jar.version for jar in read_lock()["spark"] if jar.artifact.startswith("spark-sql-kafka"))
    if pyspark.__version__ != wanted:
        raise UserError(
            f"PySpark {pyspark.__version__} does not fit its Kafka connector {wanted}: pip install pyspark=={wanted}"
        )
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ
    builder: Any = SparkSession.builder.appName(name)
    for key, value in (CONFIG | (config or {})).items():
        builder = builder.config(key, value)
    if submitted:
        return _checked(builder.getOrCreate(), wanted)
    local = master.startswith("local")
    os.environ["JAVA_HOME"] = str(find_java())
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    os.environ.setdefault("MALLOC_ARENA_MAX", MALLOC_POOLS)
    # The Python workers import this package.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    if local:
        os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
        builder = builder.config("spark.driver.host", "127.0.0.1").config("spark.driver.bindAddress", "127.0.0.1")
        builder = builder.config("spark.sql.streaming.checkpointFileManagerClass", LOCAL_CHECKPOINTS)
        # Executors elsewhere get this package only after their daemon is started.
        builder = builder.config("spark.python.daemon.module", "iot.spark.worker")
    log = log_file(name)
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        log4j = log.with_suffix(".log4j2.properties")
        log4j.write_text(LOG4J.format(log=log))
        console = log.with_suffix(".out").open("wb")
    except OSError as error:
        raise UserError(f"cannot write {log}: {reason(error)}; IOT_LOG_DIR names another place") from error
    options = [f"-Dlog4j2.configurationFile={log4j.as_uri()}", *JVM_FLAGS, *flags.FLAGS, *jvm_flags("spark")]
    builder = builder.master(master).config("spark.driver.extraJavaOptions", " ".join(options))
    # On the class path of the JVM itself their classes can come from the archive.
    builder = builder.config("spark.driver.extraClassPath", class_path("spark"))
    if not local:
        builder = builder.config("spark.jars", ",".join(map(str, jars("spark"))))
    try:
        with console, ThreadPoolExecutor(1) as other_thread:
            # In the main thread Spark would take Ctrl-C for itself.
            session = other_thread.submit(_launch, builder, console).result()
    except Exception as error:
        said = log.with_suffix(".out").read_text(errors="replace")
        raise UserError(f"Spark does not start with --master {master}: {explain(error, said)}; see {log}") from error
    if not local:
        _ship_package(session)
    return _checked(session, wanted)


def end(session: SparkSession) -> None:
    """Stop Spark and the JVM that ``start`` launched, and wait until that is gone."""
    from pyspark import SparkContext

    session.stop()
    gateway: Any = SparkContext._gateway
    gateway.shutdown()
    if process := getattr(gateway, "proc", None):
        process.stdin.close()
        process.wait(60)
    SparkContext._gateway = SparkContext._jvm = None


def _checked(session: SparkSession, wanted: str) -> SparkSession:
    jvm: Any = session._jvm
    if session.version != wanted:
        raise UserError(f"this Spark is {session.version}, but the Kafka connector is for {wanted}: use Spark {wanted}")
    try:
        jvm.java.lang.Class.forName("org.apache.spark.sql.kafka010.KafkaSourceProvider", False,
                                    jvm.java.lang.Thread.currentThread().getContextClassLoader())  # fmt: skip
    except Exception as error:
        raise UserError(
            "Spark has no Kafka connector for its Scala version: "
            f"spark-submit --packages org.apache.spark:spark-sql-kafka-0-10_2.13:{wanted}"
        ) from error
    return session


def _launch(builder: Any, console: IO[bytes]) -> SparkSession:
    """Start a JVM whose own output goes into a file, and a session in it."""
    from pyspark import SparkConf, SparkContext
    from pyspark.java_gateway import launch_gateway

    if SparkContext._gateway is None:
        conf = SparkConf(loadDefaults=False).setAll(list(builder._options.items()))
        gateway = launch_gateway(conf, {"stdout": console, "stderr": console})  # type: ignore[no-untyped-call]
        flags.give_way(gateway.proc.pid)
        SparkContext._ensure_initialized(gateway=gateway)
    session: SparkSession = builder.getOrCreate()
    return session


def _ship_package(session: SparkSession) -> None:
    """Executors on other machines get this package; what it depends on has to be installed there."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "ship", PACKAGE.name)
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        archive = shutil.make_archive(str(Path(folder, PACKAGE.name)), "zip", copy.parent)
        session.sparkContext.addPyFile(archive)
        # Spark copies what it serves.


def slots(session: SparkSession) -> int:
    """How many tasks can run at once."""
    return int(session.sparkContext.defaultParallelism)
