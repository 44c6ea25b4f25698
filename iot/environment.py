"""The environment of every child process: its variables, the flags of a JVM, and its temporary folder.

A child gets the same environment on every machine, whatever the user's profile says. ``VARIABLES`` says which variable
is kept, dropped or set, and why. ``processes.spawn`` applies it to each child, and ``iot.spark.session`` to Spark.
"""

from __future__ import annotations

import atexit
import fcntl
import fnmatch
import functools
import hashlib
import os
import pwd
import re
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, NamedTuple

from iot.settings import UserError, is_writable_folder, private_folder, reason

ROOT = Path(__file__).parents[1]
# Maximum number of memory pools of the C library, which otherwise has one for each of a JVM's hundred threads.
MALLOC_POOLS = "2"
# It is built into glibc and musl; macOS has no C.UTF-8 before version 14.
UTF8_LOCALE = "en_US.UTF-8" if sys.platform == "darwin" else "C.UTF-8"


class Variable(NamedTuple):
    """What a child gets of a variable. The pattern is as in a shell."""

    pattern: str
    does: Literal["kept", "dropped", "set"]
    why: str


# The first pattern that matches counts; a variable that none matches is kept.
VARIABLES = (
    Variable("KAFKA_BOOTSTRAP_SERVERS", "kept", "it is ours"),
    Variable("JAVA_HOME", "kept", "it chooses the Java; Spark gets the Java that was found"),
    Variable("PYTHONPATH", "set", "this program's folder comes first, then the rest"),
    Variable("PYTHONSAFEPATH", "set", "a module in the current folder must not replace one of Python's"),
    Variable("PYTHONUTF8", "set", "paths and output are UTF-8 in every locale"),
    Variable("PYTHONDONTWRITEBYTECODE", "kept", "it changes no result"),
    Variable("PYTHONPYCACHEPREFIX", "kept", "it changes no result"),
    Variable("PYTHONUNBUFFERED", "kept", "it changes no result"),
    Variable("PYTHONFAULTHANDLER", "kept", "it changes no result"),
    Variable("PYTHONNOUSERSITE", "kept", "packages are found as by the script itself"),
    Variable("PYTHONUSERBASE", "kept", "packages are found as by the script itself"),
    Variable("PYTHON*", "dropped", "it is for another Python, or prints what nobody expects"),
    Variable("__PYVENV_LAUNCHER__", "dropped", "it is for another Python"),
    Variable("JDK_JAVA_OPTIONS", "set", "to `IOT_JAVA_OPTIONS`; otherwise dropped"),
    Variable("JAVA_*", "dropped", "options for other JVMs contradict ours; use `IOT_JAVA_OPTIONS`"),
    Variable("_JAVA_*", "dropped", "options for other JVMs contradict ours; use `IOT_JAVA_OPTIONS`"),
    Variable("JDK_*", "dropped", "options for other JVMs contradict ours; use `IOT_JAVA_OPTIONS`"),
    Variable("*_JAVA_OPTIONS", "dropped", "options for other JVMs contradict ours; use `IOT_JAVA_OPTIONS`"),
    Variable("CLASSPATH", "dropped", "it has other versions of the same classes"),
    Variable("KAFKA_*", "dropped", "they are for Kafka's own shell scripts"),
    Variable("SPARK_*", "dropped", "they name another Spark or its settings; kept with a cluster"),
    Variable("PYSPARK_*", "dropped", "they name another Python or another session; kept with a cluster"),
    Variable("_PYSPARK_*", "dropped", "they name another session; kept with a cluster"),
    Variable("HADOOP_*", "dropped", "they name other settings and file systems; kept with a cluster"),
    Variable("YARN_*", "dropped", "they name other settings; kept with a cluster"),
    Variable("HIVE_*", "dropped", "they name other settings; kept with a cluster"),
    Variable("ARROW_PRE_0_15_IPC_FORMAT", "dropped", "Spark cannot work with it"),
    Variable("LC_ALL", "set", "to UTF-8: paths, numbers and messages are the same in every locale"),
    Variable("LC_*", "dropped", "`LC_ALL` replaces them"),
    Variable("LANG*", "dropped", "`LC_ALL` replaces them"),
    Variable("LOCPATH", "dropped", "UTF-8 need not be among the locales there"),
    Variable("MALLOC_ARENA_MAX", "set", f"to {MALLOC_POOLS} unless it is set: less memory for Spark's JVM"),
    Variable("BASH_*", "dropped", "Spark starts by bash scripts, which must run nothing else"),
    Variable("SHELLOPTS", "dropped", "Spark starts by bash scripts, which must run as written"),
    Variable("BASHOPTS", "dropped", "Spark starts by bash scripts, which must run as written"),
    Variable("POSIXLY_CORRECT", "dropped", "Spark starts by bash scripts, which must run as written"),
    Variable("CDPATH", "dropped", "with it, bash's `cd` prints"),
)  # fmt: skip
# What a Spark on a cluster needs from the profile.
OF_CLUSTERS = ("SPARK_", "PYSPARK_", "_PYSPARK_", "HADOOP_", "YARN_", "HIVE_", "JAVA_", "_JAVA_", "JDK_JAVA_OPTIONS")
# An absolute path of these characters means the same to shells, class paths, Java's options, log4j, Hadoop and URLs.
PLAIN = re.compile(r"/[A-Za-z0-9._+@/-]{,150}")

_working = threading.Lock()
# Locks on folders, held until this process ends.
_held: list[int] = []


# Held while the environment of this process changes: another thread may start a child meanwhile.
_entering = threading.Lock()


def child(given: Mapping[str, str] | None = None, *, on_cluster: bool = False) -> dict[str, str]:
    """Return the environment of a child process.

    Args:
        given: what the child gets if ``VARIABLES`` does not say otherwise; by default the environment of this process.
        on_cluster: keep what Spark on a cluster needs.
    """
    if given is None:
        with _entering:
            given = dict(os.environ)
    made = {name: value for name, value in given.items() if _is_kept(name, on_cluster)}
    rest = [folder for folder in given.get("PYTHONPATH", "").split(os.pathsep) if folder and Path(folder) != ROOT]
    made["PYTHONPATH"] = os.pathsep.join([str(plain(ROOT)), *rest])
    made["PYTHONSAFEPATH"] = made["PYTHONUTF8"] = "1"
    made["LC_ALL"] = UTF8_LOCALE
    made.setdefault("MALLOC_ARENA_MAX", MALLOC_POOLS)
    if options := given.get("IOT_JAVA_OPTIONS"):
        made["JDK_JAVA_OPTIONS"] = options
    return made


def _is_kept(name: str, on_cluster: bool) -> bool:
    if on_cluster and name.startswith(OF_CLUSTERS):
        return True
    does = next((rule.does for rule in VARIABLES if fnmatch.fnmatchcase(name, rule.pattern)), "kept")
    # The only variable that is set to what the user gave, if anything.
    return does == "kept" or name == "MALLOC_ARENA_MAX"


def enter(environment: Mapping[str, str], into: MutableMapping[str, str] = os.environ) -> None:
    """Make ``environment`` that of this process: PySpark reads it, and hands it to its JVM."""
    with _entering:
        for name in set(into) - set(environment):
            del into[name]
        into.update(environment)


def jvm_options() -> list[str]:
    """Return the options of every JVM. None of them needs quotes.

    Raises:
        UserError: there is no folder for temporary files.
    """
    work = work_folder()
    return [
        "-Dfile.encoding=UTF-8",
        # Numbers are printed with a point. macOS takes the language from elsewhere than the locale.
        "-Duser.language=en",
        f"-Djava.io.tmpdir={work}",
        f"-Duser.home={_plain_home() or work}",
        f"-Duser.name={user_name()}",
    ]


def has_user_entry() -> bool:
    """Whether the system knows the name of this process's user; in a container often not."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        return False
    return True


def user_name() -> str:
    """Return the user's name, made up if the system does not know it."""
    name = pwd.getpwuid(os.getuid()).pw_name if has_user_entry() else ""
    return name if re.fullmatch(r"[\w.@+-]+", name, re.ASCII) else f"uid{os.getuid()}"


def _plain_home() -> Path | None:
    """The home folder, if Java can write there."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111  # it never raises
    with suppress(UserError):
        return plain(home) if home.is_absolute() and is_writable_folder(home) else None
    return None


def is_spark_submit() -> bool:
    """Whether ``spark-submit`` started this process: its JVM listens.

    Nothing listens at the port in a variable that was left from another shell.
    """
    port = os.environ.get("PYSPARK_GATEWAY_PORT", "")
    if not port.isdecimal() or "PYSPARK_GATEWAY_SECRET" not in os.environ:
        return False
    try:
        socket.create_connection(("127.0.0.1", int(port)), timeout=5).close()
    except (OSError, OverflowError):
        return False
    return True


def for_java(path: Path) -> str:
    """Return an absolute path as Java must be told it.

    In a locale without UTF-8, Python reads the bytes of a path differently than Java.

    Raises:
        UserError: it is no UTF-8, so that Java cannot open it.
    """
    try:
        return os.fsencode(path.absolute()).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"the path {str(path)!r} is not UTF-8, so Java cannot open it: choose another") from error


def plain(folder: Path) -> Path:
    """Return a path to a folder that needs no quoting anywhere: its own, or that of a link to it.

    A class path cannot hold a colon, Spark's list of jars no comma, and log4j's file names no dollar sign. The link is
    the same at each start, because archives of classes hold the paths of their jars.

    Raises:
        UserError: there is no place for the link.
    """
    folder = folder.absolute()
    if PLAIN.fullmatch(str(folder)):
        return folder
    link = temporary_folder() / f"link-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]}"
    with suppress(OSError):
        if link.readlink() == folder:
            return link
    new = link.with_name(f"{link.name}.{os.getpid()}.{threading.get_native_id()}")
    try:
        new.symlink_to(folder)
        new.replace(link)
    except OSError as error:
        raise UserError(f"cannot write {link}: {reason(error)}; set TMPDIR to another folder") from error
    return link


@functools.cache
def temporary_folder() -> Path:
    """Return a folder of this user for temporary files, created if missing.

    Cleaners such as systemd-tmpfiles pass over a folder that is locked. It is, until this process ends.

    Raises:
        UserError: there is none that can be written.
    """
    with suppress(OSError):
        tempfile.gettempdir()
    for parent in filter(None, (tempfile.tempdir, "/tmp", "/var/tmp", "/dev/shm")):
        if PLAIN.fullmatch(parent) and (folder := private_folder(Path(parent))):
            _hold(folder)
            return folder
    raise UserError("no folder for temporary files can be written: set TMPDIR to one that can")


def work_folder() -> Path:
    """Return the folder for temporary files of this process and its JVMs. It is removed at the end.

    Of a process that was killed, the next one removes it.

    Raises:
        UserError: it cannot be made.
    """
    with _working:
        return _make_work_folder()


@functools.cache
def _make_work_folder() -> Path:
    base = temporary_folder()
    try:
        with _alone(base):
            for left in base.glob("run-*"):
                if _is_left(left):
                    shutil.rmtree(left, ignore_errors=True)
            folder = Path(tempfile.mkdtemp(prefix="run-", dir=base))
            folder.chmod(0o700)
            _hold(folder)
    except OSError as error:
        raise UserError(f"cannot write {base}: {reason(error)}; set TMPDIR to another folder") from error
    atexit.register(_remove, folder, os.getpid())
    return folder


def _remove(folder: Path, owner: int) -> None:
    # A fork of this process must not remove it.
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def _hold(folder: Path) -> None:
    """Lock a folder until this process ends. Where that is not possible, it is only less safe from cleaners."""
    with suppress(OSError):
        _held.append(os.open(folder, os.O_RDONLY))
        fcntl.flock(_held[-1], fcntl.LOCK_SH | fcntl.LOCK_NB)


def _is_left(folder: Path) -> bool:
    """Whether no process holds a folder."""
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(opened)
    return True


@contextmanager
def _alone(base: Path) -> Iterator[None]:
    """Wait until no other process makes or removes a folder below ``base``."""
    with open(base / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
