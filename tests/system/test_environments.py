"""Broker, Spark and scripts run in the environments of other people: their profiles, paths, locales and users."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from iot.environment import UTF8_LOCALE
from iot.java import class_archives
from iot.java.jars import jars
from iot.kafka.sender import make_sender
from iot.settings import CACHE_DIR, UserError
from iot.spark import session
from tests.support.environment_runner import READINGS
from tests.support.scripts import ROOT

RUNNER = ROOT / "tests" / "support" / "environment_runner.py"
# All that a class path, an option of Java, a list with commas, a shell, a pattern or an URL reads differently.
ODD = 'Meine Projekte, Übung\'s "α:β" $HOME ${x} %41 50% #1 *?[a]{b} ✨ \\n ~;&'
NO_USER = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]
SCRIPTS = [[path.name] for path in sorted(ROOT.glob("*.py"))]
MODULES = [["-m", f"iot.{name}"] for name in ("broker", "java", "web", "rejected", "pipeline.training")]


def foreign(folder: Path) -> dict[str, str]:
    """The variables of a profile that is for another Python, Spark, Java and Kafka, all of them wrong here."""
    for name in ("pyspark", "numpy", "pyarrow"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise ImportError('the {name} of another Python')")
    (folder / "spark-defaults.conf").write_text("spark.master yarn\nspark.sql.shuffle.partitions x\n")
    (folder / "spark-env.sh").write_text("echo not expected; export SPARK_DRIVER_MEMORY=1\n")
    (folder / "bashrc").write_text("echo not expected\n")
    return {
        "PYSPARK_PYTHON": "python3.99",
        "PYSPARK_DRIVER_PYTHON": "jupyter",
        "PYSPARK_DRIVER_PYTHON_OPTS": "notebook",
        "PYSPARK_SUBMIT_ARGS": "--master yarn pyspark-shell",
        "PYSPARK_GATEWAY_PORT": "1",
        "PYSPARK_GATEWAY_SECRET": "of another shell",
        "PYSPARK_PIN_THREAD": "false",
        "SPARK_HOME": "/opt/spark",
        "SPARK_CONF_DIR": str(folder),
        "SPARK_DIST_CLASSPATH": "/opt/hadoop/*",
        "SPARK_SUBMIT_OPTS": "-Xmx1k",
        "SPARK_LAUNCHER_OPTS": "-Xbad",
        "SPARK_REMOTE": "sc://localhost",
        "SPARK_LOCAL_DIRS": "/nonexistent",
        "SPARK_LOCAL_IP": "192.0.2.1",
        "SPARK_TESTING": "1",
        "HADOOP_CONF_DIR": str(folder),
        "HADOOP_HOME": "/opt/hadoop",
        "HADOOP_USER_NAME": "hdfs",
        "KAFKA_OPTS": "-javaagent:/nonexistent.jar",
        "KAFKA_HEAP_OPTS": "-Xmx1k",
        "KAFKA_LOG4J_OPTS": "-Dlog4j2.configurationFile=/nonexistent",
        "JAVA_TOOL_OPTIONS": "-javaagent:/nonexistent.jar",
        "_JAVA_OPTIONS": "-Xmx1k",
        "JDK_JAVA_OPTIONS": "-Xbad",
        "CLASSPATH": "/nonexistent.jar",
        "PYTHONPATH": str(folder),
        "PYTHONSTARTUP": "/nonexistent.py",
        "PYTHONIOENCODING": "latin-1",
        "ARROW_PRE_0_15_IPC_FORMAT": "1",
        "BASH_ENV": str(folder / "bashrc"),
        "CDPATH": "/tmp:/",
        "LANG": "tr_TR.ISO-8859-9",
    }


@pytest.fixture(scope="module")
def latin(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables of a locale that is ISO-8859-1."""
    folder = tmp_path_factory.mktemp("locales")
    made = shutil.which("localedef")
    # It also reports failure when there was a warning only.
    if made:
        command = [made, "--no-warnings=ascii", "-i", "POSIX", "-f", "ISO-8859-1", str(folder / "xx_XX.ISO-8859-1")]
        subprocess.run(command, capture_output=True, check=False)
    variables = {"LOCPATH": str(folder), "LC_ALL": "xx_XX.ISO-8859-1"}
    code = "import sys; print(sys.getfilesystemencoding())"
    ran = subprocess.run([sys.executable, "-c", code], env=os.environ | variables, capture_output=True, check=True)
    if ran.stdout.strip() != b"iso8859-1":
        pytest.skip("no ISO-8859-1 locale can be made here: localedef is missing, or its sources are")
    return variables


@pytest.fixture(scope="module")
def no_user() -> list[str]:
    """The beginning of a command that runs as a user whom the system does not know, and who is not root."""
    if not shutil.which("unshare") or subprocess.run([*NO_USER, "true"], capture_output=True, check=False).returncode:
        pytest.skip("user namespaces are not allowed here")
    return NO_USER


def run(folder: Path, runner: Path, variables: dict[str, str], prefix: list[str] | None = None) -> dict[str, object]:
    """Run ``environment_runner`` with all its files below ``folder``, and return its answer."""
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "PYTHONPATH")}
    environment |= {"IOT_CACHE_DIR": str(CACHE_DIR), "IOT_LOG_DIR": str(folder / "log")} | variables
    command = [*(prefix or []), sys.executable, str(runner), str(folder / "data"), str(folder / "checkpoint")]
    command += [f"sqlite:///{folder.as_posix().replace('?', '!')}.db"]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=240, check=False)
    assert ran.returncode == 0, ran.stderr.decode(errors="replace")
    answer: dict[str, object] = json.loads(ran.stdout.splitlines()[-1])
    assert answer["failure"] is None
    assert answer["rejected"] == READINGS
    # Spark wrote where Python looks, and nowhere else.
    assert (folder / "checkpoint" / "commits" / "0").exists()
    return answer


def clone(folder: Path) -> Path:
    """Copy the package and the runner into ``folder``; return the copy of the runner."""
    shutil.copytree(ROOT / "iot", folder / "iot", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tests" / "support").mkdir(parents=True)
    return Path(shutil.copy(RUNNER, folder / RUNNER.name))


@pytest.mark.long
def test_a_profile_for_other_programs_changes_nothing(tmp_path):
    variables = foreign(tmp_path / "foreign")
    runner = clone(tmp_path / "clone")
    (tmp_path / "run").mkdir()
    # A module in the current folder must not replace one of Python's.
    (tmp_path / "run" / "queue.py").write_text("raise ImportError('not the queue of Python')")
    answer = run(tmp_path / "run", runner, variables | {"LC_ALL": "C", "HOME": str(tmp_path)})
    assert answer["package"] == str(tmp_path / "clone")
    assert answer["archived"] == bool(class_archives.jvm_flags("spark"))


@pytest.mark.long
def test_every_path_works_in_the_posix_locale(tmp_path):
    folder = tmp_path / ODD
    folder.mkdir()
    (folder / "cache").mkdir()
    (folder / "cache" / "jars").symlink_to(CACHE_DIR / "jars")
    variables = {"LC_ALL": "POSIX", "IOT_CACHE_DIR": str(folder / "cache"), "TMPDIR": str(folder), "HOME": str(folder)}
    answer = run(folder, clone(folder), variables)
    assert answer["package"] == str(folder)
    assert (tmp_path / f"{ODD.replace('?', '!')}.db").exists()
    assert (folder / "log" / "environments.log").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([ODD, f"{ODD.replace('?', '!')}.db"])


def test_an_unknown_user_without_a_home_in_a_latin_locale_runs_all(tmp_path, latin, no_user):
    folder = tmp_path / "jörg ✨"
    (folder / "tmp").mkdir(parents=True)
    run(folder, clone(folder), latin | {"TMPDIR": str(folder / "tmp")}, no_user)
    assert (tmp_path / "jörg ✨.db").exists()
    assert [path.name for path in tmp_path.iterdir() if "j" not in path.name] == []
    # Temporary files are gone, and nothing was written to a folder called "~" or "?".
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoint",
        "data",
        "environment_runner.py",
        "iot",
        "log",
        "tests",
        "tmp",
    ]
    assert not list((folder / "tmp").glob("*/run-*"))


@pytest.mark.parametrize("command", [*SCRIPTS, *MODULES], ids=" ".join)
def test_help_works_everywhere(command, tmp_path, latin, no_user):
    environment = {"PATH": os.environ["PATH"], "TMPDIR": "/nonexistent"} | foreign(tmp_path / "foreign") | latin
    ran = subprocess.run(
        [*no_user, sys.executable, *command, "--help"], cwd=ROOT, env=environment, capture_output=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert ran.stdout.startswith(b"usage: ")


# Each is a mask, and whether the current folder is read-only and TMPDIR is missing; otherwise it is in memory.
@pytest.mark.long
@pytest.mark.parametrize(("mask", "is_bare"), [("077", False), ("000", True)])
def test_every_mask_of_file_modes_works(mask, is_bare, tmp_path, no_user):
    for name in ("run", "current"):
        (tmp_path / name).mkdir()
    in_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=in_memory if in_memory.is_dir() else tmp_path) as temporary:
        variables = {"TMPDIR": str(tmp_path / "missing") if is_bare else temporary}
        if is_bare:
            (tmp_path / "current").chmod(0o555)
        prefix = [*no_user, "sh", "-c", f'cd {tmp_path}/current; umask {mask}; exec "$@"', "sh"]
        run(tmp_path / "run", clone(tmp_path / "clone"), variables, prefix)
        assert not list((tmp_path / "current").iterdir())
        # Temporary files are private whatever the mask.
        folders = list(Path("/tmp" if is_bare else temporary).glob("iot-12345"))
        assert [stat.S_IMODE(folder.stat().st_mode) for folder in folders] == [0o700]


@pytest.mark.long
def test_spark_submit_runs_the_processor(tmp_path, broker, topic):
    sender = make_sender("confluent-kafka", broker.kafka, topic)
    sender.send([{"key": b"sensor", "value": b"no reading"}] * READINGS, threading.Event())
    assert sender.flush(30) == 0
    sender.close()
    scripts = Path(sys.executable).parent
    # Spark's own scripts take the first python3, as in an environment that was activated, and what the profile names.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_"))}
    environment |= {"PATH": f"{scripts}:{os.environ['PATH']}", "IOT_LOG_DIR": str(tmp_path / "log")}
    environment["LC_ALL"] = UTF8_LOCALE
    command = [str(scripts / "spark-submit"), "--master", "local[2]", "--jars", ",".join(map(str, jars("spark")))]
    for setting in ("ui.enabled=false", "driver.host=127.0.0.1", "driver.bindAddress=127.0.0.1"):
        command += ["--conf", f"spark.{setting}"]
    command += ["structured_streaming_processor.py", "--bootstrap-servers", broker.bootstrap_servers, "--topic", topic]
    command += ["--checkpoint-dir", str(tmp_path), "--starting-offsets", "earliest", "--available-now"]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert ran.returncode == 0, ran.stderr[-3_000:]
    assert f"0 readings, {READINGS} rejected" in ran.stdout
    assert "Traceback" not in ran.stderr


def test_a_cluster_is_told_which_variable_is_wrong(monkeypatch, tmp_path):
    monkeypatch.setenv("SPARK_HOME", "/opt/no-spark")
    monkeypatch.setattr("iot.settings.LOG_DIR", tmp_path)
    with pytest.raises(UserError, match="SPARK_HOME=/opt/no-spark has no bin/spark-submit: unset SPARK_HOME"):
        session.start("environments", "spark://127.0.0.1:1")


APP = ["iot_streaming_app.py", "--bootstrap-servers", "127.0.0.1:1"]
REFUSALS = [
    (["-m", "iot.broker", "--data-dir", "{closed}/x"], {}, "--data-dir"),
    (["-m", "iot.broker", "--data-dir", "{file}/x"], {}, "--data-dir"),
    (["-m", "iot.broker"], {"IOT_DATA_DIR": "{closed}"}, "--data-dir"),
    (["-m", "iot.broker", "--data-dir", "{open}"], {"IOT_CACHE_DIR": "{closed}"}, "IOT_CACHE_DIR"),
    (["-m", "iot.broker", "--data-dir", "{open}"], {"IOT_CACHE_DIR": "{file}"}, "IOT_CACHE_DIR"),
    ([*APP, "--checkpoint-dir", "{used}"], {}, "--checkpoint-dir"),
    ([*APP, "--checkpoint-dir", "{file}"], {}, "--checkpoint-dir"),
    ([*APP, "--checkpoint-dir", "{open}", "--database-url", "sqlite:///{database}"], {}, "--database-url"),
    ([*APP, "--checkpoint-dir", "{open}", "--database-url", "sqlite:///{database}?x=y"], {}, "--database-url"),
    (["structured_streaming_processor.py", "--checkpoint-dir", "{used}"], {}, "--checkpoint-dir"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "variables", "helps"), REFUSALS)
def test_what_cannot_be_written_is_said_in_one_line_before_the_start(command, variables, helps, tmp_path, no_user):
    paths = {name: tmp_path / name for name in ("closed", "open", "used", "file", "database")}
    for name in ("closed", "open", "used"):
        paths[name].mkdir()
    for name in ("dashboard-sensors-checkpoint", "spark-windows-checkpoint"):
        (paths["used"] / name / "state").mkdir(parents=True)
        (paths["used"] / name / "state").chmod(0o555)
    paths["closed"].chmod(0o555)
    for name in ("file", "database"):
        paths[name].touch(0o444)
    given = {name: value.format(**paths) for name, value in variables.items()}
    environment = os.environ | {"IOT_CACHE_DIR": str(CACHE_DIR), "IOT_LOG_DIR": str(tmp_path / "log")} | given
    ran = subprocess.run(
        [*no_user, sys.executable, *(text.format(**paths) for text in command)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    [line] = ran.stderr.splitlines()
    assert line.startswith("error: cannot") or "question mark" in line
    assert helps in line
    assert ran.returncode == 1
