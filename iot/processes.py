"""How a script ends: a signal that means stop, and children that never outlive it.

Run as a program, this file is the step between ``spawn`` and the child: it ties the process to the parent, then
becomes the child. It imports only the standard library, so that this takes a few milliseconds.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from queue import SimpleQueue
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PR_SET_PDEATHSIG = 1
WATCH_S = 1.0
# `timeout` and service managers signal the process and then its group: within this time that is one request.
ONE_REQUEST_S = 0.5


class StopSignal:
    """The first Ctrl-C, SIGTERM or SIGHUP sets ``event``; the second ends the process at once, with status 130."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def install(self) -> StopSignal:
        """Take the signals over; only from the main thread. Returns itself."""
        # A thread reads the signals from a socket: it is there while the main thread is inside C code, and it may set
        # the event while the main thread holds the event's lock, which a signal handler may not.
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            # nohup asks for SIGHUP to be ignored.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda *_: None)
        threading.Thread(target=self._listen, name="stop-signal", daemon=True).start()
        return self

    def _listen(self) -> None:
        first_s = None
        while received := self._receiver.recv(64):
            if not set(received) & set(STOP_SIGNALS):
                continue
            now_s = time.monotonic()
            if first_s is None:
                first_s = now_s
                self.event.set()
            elif now_s - first_s > ONE_REQUEST_S:
                _show_cursor()
                os._exit(130)


def _show_cursor() -> None:
    """Undo what a status line on a terminal does, because nothing else will be run."""
    for stream in (sys.stdout, sys.stderr):
        if stream.isatty():
            os.write(stream.fileno(), b"\x1b[?25h\n")


def spawn(args: list[str], **popen: Any) -> subprocess.Popen[bytes]:
    """Start a child that is killed when this process ends, however it ends; otherwise as ``subprocess.Popen``.

    The child has a session of its own, so Ctrl-C in the terminal reaches this process only. ``pid`` is the child's.

    Raises:
        OSError: it cannot be started.
    """
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
        # Linux ties the child to the thread that started it, so this thread stays; the pipe is for other systems.
        process.wait()
        os.close(ours)

    threading.Thread(target=run, name="spawn", daemon=True).start()
    result = started.get()
    if isinstance(result, OSError):
        raise result
    return result


def _tie_to_parent(parent: int, pipe: int) -> None:
    """Have the kernel kill this process when the parent ends; where it can't, a watcher of the pipe does."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        _watch(pipe)
    os.close(pipe)
    # The parent may have ended before it was tied to.
    if os.getppid() != parent:
        sys.exit(1)


def _watch(pipe: int) -> None:
    """Fork a watcher that kills this process when the pipe's other end closes, which the parent's end does."""
    child = os.getpid()
    if os.fork():
        return
    while os.getppid() == child:
        if select.select([pipe], [], [], WATCH_S)[0]:
            os.kill(child, signal.SIGKILL)
            break
    os._exit(0)


if __name__ == "__main__":
    _tie_to_parent(int(sys.argv[1]), int(sys.argv[2]))
    try:
        os.execvp(sys.argv[3], sys.argv[3:])
    except OSError as failure:
        sys.exit(f"error: cannot run {sys.argv[3]}: {failure.strerror}")
