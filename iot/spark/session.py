"""A Spark session for the scripts: with the right Java and jars, a log file, and bounded memory.

If ``spark-submit`` started the script, the JVM is already there. Its settings then hold, and only versions are checked.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from iot import environment, settings
from iot.java import flags
from iot.java.class_archives import jvm_flags
from iot.java.jars import class_path, jars, read_lock
from iot.java.runtime import find_java
from iot.logs import open_log
from iot.processes import Stopped, require_not_stopped
from iot.settings import UserError, reason
from iot.spark import cluster
from iot.spark.errors import explain
from iot.spark.remote_path import AnyPath, RemotePath
from iot.spark.shared_folder import require_shared

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

MASTER = "local[8]"
# How long Spark and its JVM may take to end. At its end, the JVM may write an archive of classes.
END_S = 60.0

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

CONFIG = {
    # State is small and written often, so few partitions do. The first run freezes their number into the checkpoint.
    "spark.sql.shuffle.partitions": "2",
    "spark.sql.streaming.stateStore.providerClass": (
        "org.apache.spark.sql.execution.streaming.state.HDFSBackedStateStoreProvider"
    ),
    # A batch without data would only close windows, and windows are shown while they grow.
    "spark.sql.streaming.noDataMicroBatches.enabled": "false",
    # A query that does not end must not hold up the end of the process; its next run takes up the batch again.
    "spark.sql.streaming.stopTimeout": "10s",
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
    # Java's default is a quarter of the machine, and it would be filled with garbage before it is collected.
    "spark.driver.memory": os.environ.get("IOT_DRIVER_MEMORY") or "2g",
    # Kafka's options may hold secrets, which the UI must not show.
    "spark.redaction.regex": "(?i)secret|password|token|access[.]?key|jaas|ssl",
    "spark.sql.redaction.options.regex": "(?i)secret|password|token|access[.]?key|url|jaas|ssl",
}

# These flags keep memory flat: Java's default collector lets the heap grow although most of it is free. Here most
# objects die young, and few live long.
JVM_FLAGS = [
    "-XX:+UseSerialGC",
    "-XX:MaxNewSize=96m",
    "-XX:MinHeapFreeRatio=20",
    "-XX:MaxHeapFreeRatio=40",
    "-XX:-ShrinkHeapInSteps",
]

LOCAL_CONFIG = {
    # Executors on other machines get this package only after their daemon has started.
    "spark.python.daemon.module": "iot.spark.worker",
}

CLUSTER_CONFIG = {
    # An executor is as cold as the driver. A backlog of 3 million on 2 executors, all on 2 cores: 24 s instead of 27 s.
    "spark.executor.extraJavaOptions": " ".join(flags.FLAGS),
    # A machine that is cut off keeps its tasks until the driver gives its executors up, by default after two to three
    # minutes, or the master gives the machine up, by default after one.
    "spark.executor.heartbeatInterval": "3s",
    "spark.storage.blockManagerHeartbeatTimeoutMs": "15s",
    "spark.network.timeoutInterval": "3s",
}

LOCAL_CHECKPOINTS = {
    # The default manager, made for HDFS, forks a process for the mode of each checkpoint file: a dozen a batch.
    "spark.sql.streaming.checkpointFileManagerClass": (
        "org.apache.spark.sql.execution.streaming.checkpointing.FileSystemBasedCheckpointFileManager"
    ),
}


# By the path of a log: the log that this process has in its place, and the file for what Spark's JVM prints.
_logs: dict[Path, tuple[Path, IO[bytes]]] = {}


def log_file(name: str) -> Path:
    """Spark's log file for the script of that name, which no other process writes.

    Raises:
        UserError: the folder cannot be written.
    """
    default = settings.LOG_DIR / f"{name}.log"
    if default not in _logs:
        # The JVM keeps this file reserved until it ends, and with it the log of the same name.
        printed, output = open_log(default.with_suffix(".out"))
        _logs[default] = printed.with_suffix(".log"), output
    return _logs[default][0]


def comes_first(master: str, checkpoint_dir: AnyPath) -> bool:
    """Whether Spark must run before a script reads its state or writes anything.

    A remote folder is read through Spark, and whether all machines of a cluster share a local one, only Spark can tell.
    """
    return isinstance(checkpoint_dir, RemotePath) or not cluster.is_local(master) or environment.is_spark_submit()


def start(
    name: str,
    master: str,
    config: dict[str, str] | None = None,
    *,
    checkpoint_dir: AnyPath | None = None,
    driver_host: str | None = None,
    say: Callable[[str], None] = print,
    stop: threading.Event | None = None,
) -> SparkSession:
    """Start Spark, or join the one that ``spark-submit`` started. On a cluster, wait until executors are there.

    Args:
        name: of the script; names the application and the log file.
        master: as Spark's ``--master``.
        config: on top of ``CONFIG``.
        checkpoint_dir: where checkpoints are. On a cluster, all machines must see it.
        driver_host: the address at which executors reach this process; see ``cluster.driver_address``.
        say: prints a line, if executors are long in coming.
        stop: ends the wait for executors.

    Raises:
        UserError: Java, jars, PySpark or the master do not fit, or do not answer; or an executor does not see the
            checkpoint folder.
    """
    wanted = _require_pyspark()
    from pyspark.sql import SparkSession

    stop = stop or threading.Event()
    builder: Any = SparkSession.builder.appName(name)
    for key, value in (CONFIG | (config or {})).items():
        builder = builder.config(key, value)
    if environment.is_spark_submit():
        # Spark's log goes to the terminal.
        return _joined(_checked(builder.getOrCreate(), wanted), Path(os.devnull), say, stop, checkpoint_dir)
    is_local = cluster.is_local(master)
    address = cluster.driver_address(master, driver_host)
    log = log_file(name)
    log4j, output = _open_log(log)
    _set_environment(is_local)
    options = [*environment.jvm_options(), f"-Dlog4j2.configurationFile={_plain(log4j)}"]
    options += [*JVM_FLAGS, *flags.FLAGS, *jvm_flags("spark")]
    builder = builder.master(cluster.with_retries(master)).config("spark.driver.extraJavaOptions", " ".join(options))
    # Only from the JVM's own class path can classes come from the archive.
    builder = builder.config("spark.driver.extraClassPath", class_path("spark"))
    local = LOCAL_CONFIG | {"spark.local.dir": str(environment.work_folder())}
    if not isinstance(checkpoint_dir, RemotePath):
        local |= LOCAL_CHECKPOINTS
    of_master = local if is_local else CLUSTER_CONFIG | {"spark.jars": ",".join(map(str, jars("spark")))}
    for key, value in (address | of_master).items():
        builder = builder.config(key, value)
    try:
        with output, ThreadPoolExecutor(1) as other_thread:
            # In the main thread, Spark would install its own handler for Ctrl-C.
            session = other_thread.submit(_launch, builder, output).result()
    except Stopped:
        raise
    except Exception as error:
        printed = log.with_suffix(".out").read_text(errors="replace")
        raise UserError(f"Spark does not start with --master {master}: {explain(error, printed)}; see {log}") from error
    return _joined(_checked(session, wanted), log, say, stop, checkpoint_dir)


def _joined(
    session: SparkSession,
    log: Path,
    say: Callable[[str], None],
    stop: threading.Event,
    checkpoint_dir: AnyPath | None,
) -> SparkSession:
    """The session, once executors are there and have this package."""
    if not cluster.is_local(session.sparkContext.master or ""):
        cluster.ship_package(session)
        cluster.await_executors(session, log, say, stop)
        require_not_stopped("before anything was processed")
        _require_shared(session, checkpoint_dir, stop)
    return session


def _require_shared(session: SparkSession, checkpoint_dir: AnyPath | None, stop: threading.Event) -> None:
    if isinstance(checkpoint_dir, Path):
        try:
            require_shared(session, checkpoint_dir, stop)
        except BaseException:
            session.stop()
            raise


def _require_pyspark() -> str:
    """The version of Spark that the Kafka connector is for, which must be PySpark's.

    Raises:
        UserError: PySpark is missing, or another version.
    """
    try:
        import pyspark
    except ImportError as error:
        raise UserError(f"cannot import PySpark ({reason(error)}): pip install -r requirements.txt") from error
    wanted = next(jar.version for jar in read_lock()["spark"] if jar.artifact.startswith("spark-sql-kafka"))
    if pyspark.__version__ != wanted:
        raise UserError(
            f"PySpark {pyspark.__version__} does not fit its Kafka connector {wanted}: pip install pyspark=={wanted}"
        )
    return wanted


def _open_log(log: Path) -> tuple[Path, IO[bytes]]:
    """Spark's log configuration, and a file for what its JVM prints.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        log4j = log.with_suffix(".log4j2.properties")
        log4j.write_text(LOG4J.format(log=_plain(log)) + cluster.LOG4J)
        reserved = next(output for used, output in _logs.values() if used == log)
        # It is closed if this process starts Spark for a second time.
        return log4j, log.with_suffix(".out").open("ab") if reserved.closed else reserved
    except OSError as error:
        raise UserError(f"cannot write {log}: {reason(error)}; set IOT_LOG_DIR to another folder") from error


def _plain(file: Path) -> Path:
    """The path of a file as log4j takes it."""
    return environment.plain(file.parent) / file.name


def _set_environment(is_local: bool) -> None:
    """Set the environment of the JVM and, through it, of the Python workers.

    With a local master both are this program's own. On a cluster the user's profile says which they are.

    Raises:
        UserError: a variable names a Spark that is not there.
    """
    wanted = environment.child(on_cluster=not is_local)
    if not is_local and os.environ.get("SPARK_HOME"):
        _require_spark_home(Path(os.environ["SPARK_HOME"]))
    elif spec := find_spec("pyspark"):
        wanted["SPARK_HOME"] = str(environment.plain(Path(str(spec.origin)).resolve().parent))
    wanted["JAVA_HOME"] = str(find_java())
    wanted["TMPDIR"] = str(environment.work_folder())
    # A session that a variable left from another shell names has ended.
    for name in ("PYSPARK_GATEWAY_PORT", "PYSPARK_GATEWAY_SECRET"):
        wanted.pop(name, None)
    for name in ("PYSPARK_PYTHON", "PYSPARK_DRIVER_PYTHON"):
        wanted.setdefault(name, sys.executable)
    wanted.setdefault("SPARK_USER", environment.user_name())
    # Spark's UI listens there.
    wanted.setdefault("SPARK_LOCAL_IP", cluster.LOOPBACK)
    environment.enter(wanted)


def _require_spark_home(home: Path) -> None:
    if not (home / "bin" / "spark-submit").exists():
        raise UserError(
            f"SPARK_HOME={home} has no bin/spark-submit: unset SPARK_HOME, or set it to the folder of Spark"
        )


def end(session: SparkSession) -> None:
    """Stop Spark and the JVM that ``start`` launched. The JVM has ended afterwards, in any case.

    Raises:
        UserError: the JVM had to be killed after ``END_S``, or it failed.
        Stopped: the JVM had to be killed, and the script was stopped.
    """
    from pyspark import SparkContext

    gateway: Any = SparkContext._gateway
    process: subprocess.Popen[bytes] = gateway.proc
    is_late = threading.Event()

    def kill() -> None:
        # This also ends the calls below that wait for an answer.
        is_late.set()
        process.kill()

    killer = threading.Timer(END_S, kill)
    killer.start()
    # PySpark and py4j print warnings and tracebacks about a JVM that was killed.
    logging.disable()
    try:
        with warnings.catch_warnings(action="ignore"), suppress(Exception):
            session.stop()
        gateway.shutdown()
        process.communicate()
    finally:
        logging.disable(logging.NOTSET)
        killer.cancel()
        SparkContext._gateway = SparkContext._jvm = None
    if is_late.is_set():
        require_not_stopped(f"by killing Spark's JVM, which did not end within {END_S:.0f} s")
        raise UserError(
            f"Spark's JVM did not end within {END_S:.0f} s, so it was killed; try again when the machine is less busy"
        )
    if process.returncode:
        raise UserError(f"Spark's JVM ended too early, with status {process.returncode}")


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


def _launch(builder: Any, output: IO[bytes]) -> SparkSession:
    """Start a JVM that prints into ``output``, and a session in it."""
    from pyspark import SparkConf, SparkContext
    from pyspark.java_gateway import launch_gateway

    if SparkContext._gateway is None:
        conf = SparkConf(loadDefaults=False).setAll(list(builder._options.items()))
        # Signals to this process's group, such as those of `timeout` or a closed terminal, must not reach the JVM. It
        # ends with this process, because its standard input ends then.
        popen = {"stdout": output, "stderr": output, "start_new_session": True}
        gateway = launch_gateway(conf, popen)  # type: ignore[no-untyped-call]
        flags.give_way(gateway.proc.pid)
        if not environment.has_user_entry():
            # Hadoop asks the system for the user's name, and fails if there is none.
            users = gateway.jvm.org.apache.hadoop.security.UserGroupInformation
            users.setLoginUser(users.createRemoteUser(environment.user_name()))
        SparkContext._ensure_initialized(gateway=gateway)
        # The JVM ends with this process.
        require_not_stopped("before anything was processed")
    session: SparkSession = builder.getOrCreate()
    # The path of the workers' Python: in a locale without UTF-8, Python has it in another form than Java.
    session.sparkContext.pythonExec = os.fsencode(session.sparkContext.pythonExec).decode()
    return session
