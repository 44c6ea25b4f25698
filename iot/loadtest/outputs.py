"""The files of ``--output`` and ``--report``: checked before the tests, and written so that no result is lost."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path

from iot.places import require_writable_file
from iot.settings import UserError, reason

STDOUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


def require_outputs(output: Path | None, report: Path | None, compare: Path | None) -> None:
    """Check that both files can be written, and are two files.

    Args:
        compare: the earlier results, which the report must not replace.

    Raises:
        UserError: they cannot, or are not.
    """
    for path, flag in ((output, "--output"), (report, "--report")):
        if path and not is_stdout(path):
            require_writable_file(path, f"choose another file with {flag}")
    for other, flag in ((output, "--output"), (compare, "--compare")):
        if report and other and is_same(report, other):
            raise UserError(f"{flag} and --report are the same file, {report}: choose another file for --report")


def is_stdout(path: Path | None) -> bool:
    return str(path) in STDOUT


def is_same(one: Path, other: Path) -> bool:
    """Whether two paths lead to the same file, also one that does not exist yet."""
    if is_stdout(one) or is_stdout(other):
        return is_stdout(one) and is_stdout(other)
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))


@contextmanager
def text_elsewhere(*paths: Path | None) -> Iterator[None]:
    """While a file is written to the standard output, print everything else to the standard error."""
    if not any(map(is_stdout, paths)):
        yield
        return
    with redirect_stdout(sys.stderr):
        yield


def save(path: Path, content: bytes, what: str) -> bool:
    """Write a file and say where it is; if that fails, write it to the temporary folder or print it.

    Returns:
        Whether it is in the file that was asked for. Otherwise an error is printed.
    """
    try:
        write(path, content)
    except OSError as error:
        where = _save_elsewhere(path, content)
        print(f"error: cannot write {path}: {reason(error)}; the {what} {where} instead", file=sys.stderr)
        return False
    print(f"{what} in {path}")
    return True


def write(path: Path, content: bytes) -> None:
    """Write a file, completely or not at all: what was there before is replaced only by the whole content.

    Raises:
        OSError: it cannot be written.
    """
    if is_stdout(path):
        _print(content)
        return
    mode = path.stat().st_mode if path.exists() else None
    # The path of a pipe, such as /dev/fd/63, leads nowhere once it is resolved.
    target = path.resolve() if mode is None or stat.S_ISREG(mode) else path
    if mode is not None and not (stat.S_ISREG(mode) and os.access(target.parent, os.W_OK)):
        # A device or a pipe; or a file in a folder where nothing can be created.
        # Opening a FIFO that nobody reads would wait for ever; like this, it is an error.
        waits = os.O_NONBLOCK if stat.S_ISFIFO(mode) else 0
        with open(os.open(target, os.O_WRONLY | os.O_TRUNC | waits), "wb") as file:
            os.set_blocking(file.fileno(), True)
            file.write(content)
        return
    new = target.with_name(f"{target.name[:200]}.new-{os.getpid()}")
    try:
        with new.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            new.chmod(stat.S_IMODE(mode))
        new.replace(target)
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise


def _save_elsewhere(path: Path, content: bytes) -> str:
    try:
        with tempfile.NamedTemporaryFile(prefix="iot-load-test-", suffix=path.suffix, delete=False) as file:
            file.write(content)
        return f"are in {file.name}"
    except OSError:
        _print(content)
        return "are printed above"


def _print(content: bytes) -> None:
    # Not sys.stdout, which may be redirected.
    assert sys.__stdout__
    sys.__stdout__.flush()
    sys.__stdout__.buffer.write(content + b"\n")
    sys.__stdout__.flush()
