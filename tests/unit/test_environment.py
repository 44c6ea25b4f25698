"""The environment of children, paths without quoting, and folders for temporary files."""

from __future__ import annotations

import fcntl
import fnmatch
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from iot import environment
from iot.environment import VARIABLES, child, for_java, is_spark_submit, jvm_options, plain
from iot.processes import spawn
from iot.settings import UserError, private_folder

ROOT = Path(__file__).parents[2]
HOLD = "from iot.environment import work_folder; print(work_folder(), flush=True); input()"


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """A folder of its own for all temporary files of this process."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    environment.temporary_folder.cache_clear()
    environment._make_work_folder.cache_clear()
    yield tmp_path / "tmp"
    environment.temporary_folder.cache_clear()
    environment._make_work_folder.cache_clear()


@pytest.mark.parametrize(
    "name",
    [
        *("PYSPARK_PYTHON", "PYSPARK_SUBMIT_ARGS", "PYSPARK_NEW_IN_5", "_PYSPARK_DRIVER_CONN_INFO_PATH", "SPARK_HOME"),
        *("SPARK_REMOTE", "HADOOP_OPTS", "YARN_CONF_DIR", "HIVE_HOME", "KAFKA_OPTS", "KAFKA_JMX_OPTS", "CLASSPATH"),
        *("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "IBM_JAVA_OPTIONS", "OPENJ9_JAVA_OPTIONS"),
        *("PYTHONHOME", "PYTHONSTARTUP", "PYTHONWARNINGS", "PYTHONINSPECT", "PYTHONIOENCODING", "PYTHONOPTIMIZE"),
        *("LC_NUMERIC", "LANG", "LANGUAGE", "LOCPATH", "BASH_ENV", "BASH_FUNC_cd%%", "CDPATH", "SHELLOPTS"),
    ],
)
def test_children_get_no_variable_of_another_program(name):
    assert name not in child({name: "x"})


@pytest.mark.parametrize(
    "name",
    [
        *("PATH", "HOME", "TZ", "HTTPS_PROXY", "no_proxy", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "TERM", "NO_COLOR"),
        *("KAFKA_BOOTSTRAP_SERVERS", "MASTER", "IOT_TOKEN", "IOT_CACHE_DIR", "JAVA_HOME", "AWS_PROFILE", "TMPDIR"),
        *("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "LD_LIBRARY_PATH", "LD_PRELOAD", "XDG_CACHE_HOME"),
    ],
)
def test_children_get_what_a_user_sets_for_them(name):
    assert child({name: "x"})[name] == "x"


def test_what_is_set():
    made = child(
        {"PYTHONPATH": f"/theirs::{ROOT}", "IOT_JAVA_OPTIONS": "-Dx=y", "LC_ALL": "C", "MALLOC_ARENA_MAX": "8"}
    )
    assert made["PYTHONPATH"] == f"{plain(ROOT)}{os.pathsep}/theirs"
    assert made["JDK_JAVA_OPTIONS"] == "-Dx=y"
    assert made["LC_ALL"] in ("C.UTF-8", "en_US.UTF-8")
    assert (made["MALLOC_ARENA_MAX"], child({})["MALLOC_ARENA_MAX"]) == ("8", environment.MALLOC_POOLS)


@pytest.mark.parametrize("name", ["SPARK_HOME", "PYSPARK_PYTHON", "HADOOP_CONF_DIR", "JAVA_TOOL_OPTIONS"])
def test_on_a_cluster_the_profile_holds(name):
    assert child({name: "x", "KAFKA_OPTS": "x"}, on_cluster=True)[name] == "x"
    assert "KAFKA_OPTS" not in child({name: "x", "KAFKA_OPTS": "x"}, on_cluster=True)


def test_the_documentation_has_the_same_table():
    text = (ROOT / "docs" / "installation.md").read_text(encoding="utf-8")
    rows: dict[str, tuple[str, str]] = {}
    for names, does, why in re.findall(r"^\| (`.+`) \| (kept|dropped|set) \| (.+) \|$", text, re.MULTILINE):
        rows |= dict.fromkeys(re.findall(r"`([^`]+)`", names), (does, why))
    assert rows == {rule.pattern: (rule.does, rule.why) for rule in VARIABLES}


def test_no_earlier_pattern_hides_a_later_one():
    for number, rule in enumerate(VARIABLES):
        example = rule.pattern.replace("*", "X")
        assert not [early.pattern for early in VARIABLES[:number] if fnmatch.fnmatchcase(example, early.pattern)]


def test_spawn_applies_the_table(monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    monkeypatch.setenv("LC_ALL", "C")
    code = "import os, sys; print(os.environ.get('PYTHONWARNINGS'), sys.getfilesystemencoding(), os.environ['OWN'])"
    for env in (None, os.environ | {"OWN": "1"}):
        monkeypatch.setenv("OWN", "1")
        process = spawn([sys.executable, "-c", code], stdout=subprocess.PIPE, env=env)
        assert process.communicate(timeout=30)[0] == b"None utf-8 1\n"


@pytest.mark.parametrize("folder", [True, False])
def test_in_a_virtual_environment_its_packages_come_first(folder, tmp_path):
    if sys.prefix == sys.base_prefix:
        pytest.skip("not a virtual environment")
    (tmp_path / "numpy.py").write_text("raise ImportError('of another Python')")
    (tmp_path / "only_there.py").touch()
    variables = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT if folder else ''}"}
    code = "import iot, only_there, numpy; print(iot.__file__)"
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=True)
    assert Path(ran.stdout.strip()) == ROOT / "iot" / "__init__.py"


@pytest.mark.parametrize(
    "name",
    ["a b", "jörg", "✨", "it's", 'a"b', "a:b", "a,b", "$HOME", "100%", "#1", "a?b", "a*b", "[a]", "{a}", "a\\b",
     "a\nb", "a=b", "~", "-a b", "a;b", "a&b", "a|b", "`a`", "x" * 200],
)  # fmt: skip
def test_a_path_that_needs_no_quoting_leads_to_every_folder(name, temporary, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "file").write_text("inside")
    found = plain(folder)
    assert environment.PLAIN.fullmatch(str(found))
    assert (found / "file").read_text() == "inside"
    assert plain(folder) == found


def test_a_folder_with_a_plain_path_needs_no_link(tmp_path, temporary):
    assert plain(tmp_path) == tmp_path
    assert list(temporary.iterdir()) == []


def test_a_link_that_leads_elsewhere_is_replaced(tmp_path, temporary):
    folder = tmp_path / "a b"
    link = plain(folder)
    link.unlink()
    link.symlink_to("/nonexistent")
    folder.mkdir()
    assert plain(folder).samefile(folder)


def test_a_relative_path_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert for_java(Path("a:b/-c")) == f"{tmp_path}/a:b/-c"


def test_a_path_that_is_no_utf_8_is_refused():
    with pytest.raises(UserError, match="is not UTF-8, so Java cannot open it"):
        for_java(Path(os.fsdecode(b"/tmp/\xff")))


@pytest.mark.parametrize(("port", "secret"), [("1", "x"), ("", "x"), ("x", "x"), ("99999", "x"), ("listening", None)])
def test_variables_of_an_ended_spark_submit_do_not_count(port, secret, monkeypatch):
    server = socket.create_server(("127.0.0.1", 0))
    with server:
        listening = str(server.getsockname()[1])
        monkeypatch.setenv("PYSPARK_GATEWAY_PORT", listening if port == "listening" else port)
        if secret is None:
            monkeypatch.delenv("PYSPARK_GATEWAY_SECRET", raising=False)
        else:
            monkeypatch.setenv("PYSPARK_GATEWAY_SECRET", secret)
        assert not is_spark_submit()
        monkeypatch.setenv("PYSPARK_GATEWAY_PORT", listening)
        monkeypatch.setenv("PYSPARK_GATEWAY_SECRET", "x")
        assert is_spark_submit()


def hold(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_temporary_files_are_locked_and_removed_at_the_end(tmp_path):
    with hold(tmp_path) as process:
        folder = Path(process.stdout.readline().strip())
        assert folder.is_relative_to(tmp_path)
        (folder / "file").touch()
        for path in (folder, folder.parent):
            assert path.stat().st_mode & 0o777 == 0o700
            opened = os.open(path, os.O_RDONLY)
            # A cleaner takes this lock before it looks into a folder.
            with pytest.raises(BlockingIOError):
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(opened)
        process.communicate("\n", timeout=30)
    assert not folder.exists()


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    with hold(tmp_path) as living, hold(tmp_path) as killed:
        kept, left = (Path(process.stdout.readline().strip()) for process in (living, killed))
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert left.exists()
        with hold(tmp_path) as after:
            own = Path(after.stdout.readline().strip())
            assert (kept.exists(), left.exists(), own.exists()) == (True, False, True)
            after.communicate("\n", timeout=30)
        living.communicate("\n", timeout=30)


@pytest.mark.parametrize("mask", [0o000, 0o077, 0o777])
def test_the_mask_of_new_files_does_not_matter(mask, tmp_path):
    before = os.umask(mask)
    try:
        folder = private_folder(tmp_path)
        assert folder
        assert folder.stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)


def test_a_link_in_place_of_our_folder_is_not_followed(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / f"iot-{os.getuid()}").symlink_to(tmp_path / "theirs")
    assert private_folder(tmp_path) is None


def test_a_file_in_place_of_our_folder_is_not_used(tmp_path):
    (tmp_path / f"iot-{os.getuid()}").touch()
    assert private_folder(tmp_path) is None


@pytest.mark.parametrize("home", [None, "", "/nonexistent", "relative", "/dev/null"])
def test_without_a_home_the_folders_are_those_for_temporary_files(home, tmp_path):
    variables = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path), **({"HOME": home} if home is not None else {})}
    code = "from iot import settings; print(settings.CACHE_DIR, settings.LOG_DIR, settings.DATA_DIR, sep='\\n')"
    # The user must have no home in passwd either, whoever runs this.
    code = f"import pwd\ndef unknown(_): raise KeyError\npwd.getpwuid = unknown\n{code}"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=variables, capture_output=True, text=True, check=True
    )
    base = tmp_path / f"iot-{os.getuid()}"
    if os.geteuid() == 0 and home == "/nonexistent":
        # Only root can create it.
        assert len(set(ran.stdout.split())) == 3
    else:
        assert ran.stdout.split() == [str(base / name) for name in ("cache", "log", "data")]


def test_java_options_need_no_quotes(temporary, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "no home"))
    options = jvm_options()
    assert not [option for option in options if re.search(r"[^\w./=:@+-]", option)]
    [home] = [option for option in options if option.startswith("-Duser.home=")]
    assert Path(home.partition("=")[2]).is_dir()
