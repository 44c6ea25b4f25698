"""Paths on the file systems that Spark reaches, such as ``hdfs://namenode/iot`` or ``s3a://bucket/iot``.

``RemotePath`` has the methods of ``pathlib.Path`` that checkpoints need, and raises the same errors. It asks Hadoop's
file system API in Spark's JVM, so Spark must run before anything is read or written. The modules that use it import no
Java class and have no second version of their logic.
"""

from __future__ import annotations

import errno
import functools
import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from iot.environment import for_java

URI = re.compile(r"([A-Za-z][\w.+-]*):(?://([^/]*))?(/.*)?")
# On an object store a rename is a slow copy. A file appears there when it is complete, so none is written aside.
OBJECT_STORES = {"s3a", "s3", "s3n", "gs", "oss", "cosn", "obs"}
# The class of an exception in the text of an error of py4j's, and what follows it.
_HEAD = re.compile(r"(?:[a-z]\w*\.)+(?:\w+\$)?(\w+(?:Exception|Error))\b\)?(?:: )?")


class RemotePath:
    """A path on a file system of Spark's. Its text is a URI; all methods but those of the text ask the file system.

    They raise ``FileNotFoundError``, ``FileExistsError``, ``PermissionError`` or another ``OSError``, whose message
    says how to fix it.
    """

    def __init__(self, uri: str) -> None:
        """
        Args:
            uri: such as ``hdfs://host:8020/folder``, with a scheme.
        """
        found = URI.fullmatch(uri)
        if found is None:
            raise ValueError(f"{uri!r} is no URI")
        self.scheme = found[1]
        self._root = f"{found[1]}://{found[2] or ''}"
        self._path = "/" + posixpath.normpath(found[3] or "/").strip("/")

    # The text ---------------------------------------------------------------------------------------------------------

    def __str__(self) -> str:
        return self._root + self._path

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __lt__(self, other: RemotePath) -> bool:
        return str(self) < str(other)

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self._root}{posixpath.join(self._path, name)}")

    @property
    def name(self) -> str:
        return posixpath.basename(self._path)

    @property
    def parent(self) -> RemotePath:
        return RemotePath(self._root + posixpath.dirname(self._path))

    @property
    def parts(self) -> tuple[str, ...]:
        return (self._root, *filter(None, self._path.split("/")))

    def with_name(self, name: str) -> RemotePath:
        return self.parent / name

    def resolve(self) -> RemotePath:
        """The path itself: symbolic links are of local file systems."""
        return self

    # The file system --------------------------------------------------------------------------------------------------

    def exists(self) -> bool:
        with self._asking() as (system, path):
            return bool(system.exists(path))

    def is_dir(self) -> bool:
        """Whether it is a folder; False also if that cannot be found out, as with ``pathlib``."""
        try:
            with self._asking() as (system, path):
                return bool(system.getFileStatus(path).isDirectory())
        except OSError:
            return False

    def is_file(self) -> bool:
        """Whether it is a file; False also if that cannot be found out, as with ``pathlib``."""
        try:
            with self._asking() as (system, path):
                return bool(system.getFileStatus(path).isFile())
        except OSError:
            return False

    def size_bytes(self) -> int:
        """The size of a file, or of all files in a folder; one request where the file system can do that."""
        with self._asking() as (system, path):
            return int(system.getContentSummary(path).getLength())

    def iterdir(self) -> Iterator[RemotePath]:
        with self._asking() as (system, path):
            names = [status.getPath().getName() for status in system.listStatus(path)]
        return (self / name for name in names)

    def read_bytes(self) -> bytes:
        with self._asking() as (system, path):
            stream = system.open(path)
            try:
                return bytes(stream.readAllBytes())
            finally:
                stream.close()

    def create(self, content: bytes = b"", *, overwrite: bool = False) -> None:
        """Write a new file; unless ``overwrite``, a file that is there raises ``FileExistsError``."""
        with self._asking() as (system, path):
            stream = system.create(path, overwrite)
            try:
                stream.write(content)
            finally:
                stream.close()

    def replace(self, target: RemotePath) -> None:
        """Rename a file; one that is there is replaced, in one step where the file system can do that."""
        with self._asking() as (_, path):
            jvm = _jvm()
            rename = jvm.org.apache.hadoop.fs.Options.Rename
            options = _gateway().new_array(rename, 1)
            options[0] = rename.OVERWRITE
            _file_context(_context(), self._root).rename(path, jvm.org.apache.hadoop.fs.Path(str(target)), options)

    def rename(self, target: RemotePath) -> None:
        """Rename a file or folder to a name that is not taken."""
        with self._asking() as (system, path):
            if not system.rename(path, _jvm().org.apache.hadoop.fs.Path(str(target))):
                raise FileExistsError(errno.EEXIST, "its new name is taken, or it is gone", str(self))

    def mkdir(self, parents: bool = False, exist_ok: bool = True) -> None:
        """Create a folder and its parents. One that is there is no error, whatever the arguments say."""
        with self._asking() as (system, path):
            system.mkdirs(path)

    def rmdir(self) -> None:
        """Remove an empty folder."""
        with self._asking() as (system, path):
            system.delete(path, False)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove a file."""
        with self._asking() as (system, path):
            if not system.delete(path, False) and not missing_ok:
                raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(self))

    @contextmanager
    def _asking(self) -> Iterator[tuple[Any, Any]]:
        """Yield the file system and this path as Java knows them; turn Java's exceptions into Python's."""
        try:
            path = _jvm().org.apache.hadoop.fs.Path(str(self))
            yield path.getFileSystem(_configuration()), path
        except OSError:
            raise
        except Exception as error:
            raise os_error(str(error), str(self)) from error


AnyPath = Path | RemotePath
"""A path of this machine, or one on a file system of Spark's."""


def location(path: AnyPath) -> str:
    """A path as Spark takes it.

    Raises:
        UserError: it is a local path that Java cannot open.
    """
    return for_java(path) if isinstance(path, Path) else str(path)


def write_whole(path: AnyPath, content: bytes, ending: str = ".new") -> None:
    """Write a file, so that others see it completely or not at all.

    Args:
        ending: of the name under which it is written before it is renamed.

    Raises:
        OSError: it cannot be written.
    """
    if isinstance(path, Path):
        new = path.with_name(f"{path.name}{ending}")
        new.write_bytes(content)
        new.replace(path)
    elif path.scheme in OBJECT_STORES:
        path.create(content, overwrite=True)
    else:
        aside = path.with_name(f"{path.name}{ending}")
        aside.create(content, overwrite=True)
        aside.replace(path)


def os_error(text: str, path: str) -> OSError:
    """The Python error for the text of a Java exception, with its causes.

    Args:
        path: what could not be read or written.
    """
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("at ")]
    heads = [
        (found[1], line[found.end() :].partition("; For more")[0]) for line in lines for found in _HEAD.finditer(line)
    ]
    if not heads:
        return OSError(errno.EIO, " ".join(text.split())[:300] or "Spark's JVM does not answer", path)
    names = {name for name, _ in heads}
    words = next((message for _, message in reversed(heads) if message), heads[-1][0])[:300]
    scheme = path.partition(":")[0]
    if "No FileSystem for scheme" in text:
        return OSError(errno.EINVAL, f"Spark knows no file system {scheme}://: check the URI, or add its jars", path)
    if names & {"ClassNotFoundException", "NoClassDefFoundError"}:
        return OSError(errno.EINVAL, f"Spark lacks a class for {scheme}:// ({words}); {_how_to_add(scheme)}", path)
    if "SafeModeException" in names:
        return OSError(errno.EROFS, "the name node is in safe mode: wait until it has left it", path)
    if "is not a directory" in words:
        return NotADirectoryError(errno.ENOTDIR, "a file is where a folder should be", path)
    if names & {"AccessControlException", "AccessDeniedException"}:
        return PermissionError(errno.EACCES, f"no permission ({words})", path)
    # A file that another process is creating is there, too.
    if names & {"FileAlreadyExistsException", "AlreadyBeingCreatedException"}:
        return FileExistsError(errno.EEXIST, words, path)
    if "FileNotFoundException" in names:
        return FileNotFoundError(errno.ENOENT, "No such file or directory", path)
    if "UnknownHostException" in names:
        return ConnectionError(errno.EHOSTUNREACH, f"the host does not resolve ({words}): check the URI", path)
    if names & {"ConnectException", "ConnectTimeoutException", "SocketTimeoutException", "NoRouteToHostException"}:
        return ConnectionError(errno.ECONNREFUSED, f"its server does not answer ({words}): check that it runs", path)
    if "EOFException" in names and "between local host" in text:
        return ConnectionError(errno.ECONNRESET, "its server closed the connection: check that it runs", path)
    return OSError(errno.EIO, words, path)


def _how_to_add(scheme: str) -> str:
    """How to get the classes of a file system. They must be in the version of Spark's own Hadoop."""
    from pyspark import __version__ as spark

    if scheme != "s3a":
        return "add its jars with spark-submit --packages"
    kafka = f"org.apache.spark:spark-sql-kafka-0-10_2.13:{spark}"
    hadoop = _jvm().org.apache.hadoop.util.VersionInfo.getVersion()
    return f"start it with: spark-submit --packages {kafka},org.apache.hadoop:hadoop-aws:{hadoop} SCRIPT.py …"


def _context() -> Any:
    """The running Spark.

    Raises:
        OSError: there is none.
    """
    from pyspark import SparkContext

    context = SparkContext._active_spark_context
    if context is None or context._jsc is None:
        raise OSError(errno.ENOTCONN, "Spark does not run")
    return context


@functools.lru_cache(maxsize=4)
def _file_context(spark: Any, root: str) -> Any:
    """Hadoop's second interface to a file system, which alone can replace a file. It cannot be closed, so it is kept.

    Args:
        spark: the running Spark, to which it belongs.
    """
    jvm = spark._jvm
    uri = jvm.org.apache.hadoop.fs.Path(f"{root}/").toUri()
    return jvm.org.apache.hadoop.fs.FileContext.getFileContext(uri, spark._jsc.hadoopConfiguration())


def _jvm() -> Any:
    return _context()._jvm


def _gateway() -> Any:
    return _context()._gateway


def _configuration() -> Any:
    """Hadoop's configuration, with the session's spark.hadoop.* settings."""
    return _context()._jsc.hadoopConfiguration()
