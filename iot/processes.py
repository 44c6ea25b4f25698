"""How a script stops: stop signals, waits that they end, and child processes that never outlive it.

Each script imports this module before all others and calls ``stop_event()`` at once, so that it can be stopped cleanly
while it imports the rest, which takes up to a second.

``spawn`` runs this file as a program, which ties itself to the parent and then becomes the child. It imports only the
standard library, so that this takes a few milliseconds.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Any, TypeVar

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# The option of Linux's prctl() that sets the signal a process gets when its parent ends.
PR_SET_PDEATHSIG = 1
# How often a watcher checks that its child still runs.
WATCH_EVERY_S = 1.0
# How long further signals count as part of the first: `timeout` and service managers signal a process and its group.
SAME_REQUEST_S = 0.5
# How often a wait checks whether the script was stopped.
LOOK_S = 0.05

T = TypeVar("T")


class Stopped(Exception):  # noqa: N818  # not an error
    """The script was stopped before its work was done. The text says so, for the user."""


class StopSignal:
    """Stop on Ctrl-C, SIGTERM or SIGHUP: the first sets ``event``, the second exits at once with status 130."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def install(self) -> StopSignal:
        """Handle the signals from now on, and return self. Must run in the main thread."""
        global _installed
        _installed = self.event
        _open_standard_streams()
        # Python writes the signals to a socket and a thread reads them. The thread runs even while the main thread is
        # inside C code. Unlike a signal handler, it can wait for the event's lock while the main thread holds it.
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            # nohup asks to ignore SIGHUP.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda *_: None)
        threading.Thread(target=self._listen, name="stop-signal", daemon=True).start()
        # Python resets signals some time before it ends. A signal must not kill what has already finished.
        atexit.register(_ignore_signals)
        return self

    def _listen(self) -> None:
        first_s = None
        while received := self._receiver.recv(64):
            if not set(received) & set(STOP_SIGNALS):
                continue
            if signal.SIGHUP in received:
                _leave_terminal()
            now_s = time.monotonic()
            if first_s is None:
                first_s = now_s
                self.event.set()
            elif now_s - first_s > SAME_REQUEST_S:
                _show_cursor()
                os._exit(130)


_installed: threading.Event | None = None


def stop_event() -> threading.Event:
    """Return the event that the first stop signal sets. The first call starts to handle the signals."""
    return _installed or StopSignal().install().event


def require_not_stopped(what: str) -> None:
    """Return unless this script was stopped.

    Raises:
        Stopped: it was stopped. The text is "stopped", and ``what``.
    """
    if _installed and _installed.is_set():
        raise Stopped(f"stopped {what}")


def until_stopped(
    work: Callable[[], T], stop: threading.Event, what: str, meanwhile: Callable[[], None] = lambda: None
) -> T:
    """Return ``work()``, but wait for it only until ``stop`` is set.

    It runs in a thread that is left alone after a stop and ends with the process. So a stop also ends a wait that
    nothing interrupts, such as opening a FIFO or resolving a name. ``work`` must leave nothing behind.

    Args:
        what: for the text of ``Stopped``, such as "before anything was sent".
        meanwhile: is called now and then in this thread.

    Raises:
        Stopped: ``stop`` was set first. The text is "stopped", and ``what``.
        BaseException: what ``work`` raises.
    """
    done = threading.Event()
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    if not stop.is_set():
        threading.Thread(target=run, name="until-stopped", daemon=True).start()
    while not done.wait(0 if stop.is_set() else LOOK_S):
        if stop.is_set():
            raise Stopped(f"stopped {what}")
        meanwhile()
    if errors:
        raise errors[0]
    return results[0]


def _open_standard_streams() -> None:
    """Open each standard stream that is closed to nowhere. Otherwise the next file or socket would take its place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


def _leave_terminal() -> None:
    """Send output to nowhere where its terminal has gone, so that the summary is no error."""
    for number in range(3):
        try:
            is_gone = stat.S_ISCHR(os.fstat(number).st_mode) and not os.isatty(number)
            if is_gone:
                null = os.open(os.devnull, os.O_RDWR)
                os.dup2(null, number)
                os.close(null)
        except OSError:
            continue


def _ignore_signals() -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _show_cursor() -> None:
    """Show the cursor, which a status line hides: os._exit() runs no cleanup."""
    for stream in (sys.stdout, sys.stderr):
        if stream.isatty():
            os.write(stream.fileno(), b"\x1b[?25h\n")


def spawn(args: list[str], *, variables: Mapping[str, str] | None = None, **popen: Any) -> subprocess.Popen[bytes]:
    """Start a child process that is killed when this process ends, however it ends.

    The child has its own session, so Ctrl-C in the terminal reaches only this process.

    Args:
        args: the command, as for ``subprocess.Popen``.
        variables: what the child's environment has besides.
        popen: further arguments of ``subprocess.Popen``. Its ``env`` is what ``environment.child`` makes of it.

    Raises:
        OSError: the child cannot be started.
    """
    # The child itself, which runs this file, must not wait for such imports.
    from iot.environment import child

    popen["env"] = child(popen.get("env")) | dict(variables or {})
    started: SimpleQueue[subprocess.Popen[bytes] | OSError] = SimpleQueue()

    def run() -> None:
        watched, ours = os.pipe()
        tied = [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(watched), *args]
        pass_fds = (*popen.pop("pass_fds", ()), watched)
        try:
            process: subprocess.Popen[bytes] = subprocess.Popen(
                tied, start_new_session=True, pass_fds=pass_fds, **popen
            )
        except OSError as error:
            os.close(ours)
            started.put(error)
            return
        finally:
            os.close(watched)
        started.put(process)
        # Linux kills the child when the thread that started it ends, so this thread waits. Other systems use the pipe.
        process.wait()
        os.close(ours)

    threading.Thread(target=run, name="spawn", daemon=True).start()
    result = started.get()
    if isinstance(result, OSError):
        raise result
    return result


def end(process: subprocess.Popen[bytes], number: int, wait_s: float = 15.0) -> bool:
    """Send a child the signal ``number``, and kill it if it has not ended after ``wait_s``.

    Returns:
        Whether it ended without being killed.
    """
    if process.poll() is None:
        process.send_signal(number)
        # A process that is suspended handles no other signal before this one.
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(wait_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return False
    return True


def how_ended(status: int) -> str:
    """Return how a child with that status ended, such as "ended with status 1"."""
    return f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"


def _tie_to_parent(parent: int, pipe: int) -> None:
    """Make the kernel kill this process when the parent ends. Where it cannot, start a watcher that does."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        _start_watcher(pipe)
    os.close(pipe)
    # The parent may have ended before the line above took effect.
    if os.getppid() != parent:
        sys.exit(1)


def _start_watcher(pipe: int) -> None:
    """Fork a watcher that kills this process when the pipe closes, which happens when the parent ends."""
    child = os.getpid()
    if os.fork():
        return
    while os.getppid() == child:
        if select.select([pipe], [], [], WATCH_EVERY_S)[0]:
            os.kill(child, signal.SIGKILL)
            break
    os._exit(0)


if __name__ == "__main__":
    _tie_to_parent(int(sys.argv[1]), int(sys.argv[2]))
    try:
        os.execvp(sys.argv[3], sys.argv[3:])
    except OSError as failure:
        sys.exit(f"error: cannot run {sys.argv[3]}: {failure.strerror}")
