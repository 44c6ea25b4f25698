"""The web server as a child process of ``iot_streaming_app.py``: the page answers whatever Spark is doing."""

from __future__ import annotations

import argparse
import http.client
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from types import TracebackType

from iot.environment import child
from iot.processes import end, spawn
from iot.properties_file import handed_on
from iot.settings import Kafka, UserError
from iot.web.listening import INSTANCE_HEADER, LOOPBACK

# How long to wait for the page.
START_S = 30.0
# How long one attempt to reach it may take. A stop waits for its end.
ANSWER_S = 1.0


class WebChild:
    """The process; ``with WebChild(args, listening) as page`` starts it and ends it.

    Args:
        args: with the flags of ``iot.web``.
        kafka: as the flags say. What they name may be readable only once.
        listening: the socket of the page, from ``listening.listen``. It is handed over to the process.
    """

    def __init__(self, args: argparse.Namespace, kafka: Kafka, listening: socket.socket) -> None:
        self._kafka = kafka
        own = listening.getsockname()[0]
        self.url = f"http://{'localhost' if own in LOOPBACK else _in_url(args.host)}:{args.port}"
        self._probe = f"http://{_in_url(LOOPBACK[own])}:{args.port}" if own in LOOPBACK else self.url
        self._command = [sys.executable, "-m", "iot.web", "--topic", args.topic, "--host", args.host]
        self._command += ["--port", str(args.port), "--bootstrap-servers", args.bootstrap_servers]
        self._command += ["--insecure"] if args.insecure else []
        self._listening, self._instance = listening, secrets.token_hex(8)
        self._command += ["--listening-fd", str(listening.fileno()), "--instance", self._instance, "--told-by-stdin"]
        # Secrets are not on its command line, which every user of the machine can read.
        self._environment = child() | {"IOT_DATABASE_URL": args.database_url}
        self._environment |= {"IOT_TOKEN": args.token} if args.token else {}
        # What the page is to be told, and what it was told last.
        self._report = self._told = ""
        self._telling = threading.Lock()

    def __enter__(self) -> WebChild:
        # Only the web server keeps the socket: when it ends, clients are refused and do not wait.
        with self._listening, handed_on(self._kafka.properties) as (flags, descriptors):
            passed = [self._listening.fileno(), *descriptors]
            self._process = spawn(
                [*self._command, *flags], stdin=subprocess.PIPE, env=self._environment, pass_fds=passed
            )
        assert self._process.stdin
        os.set_blocking(self._process.stdin.fileno(), False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end(self._process, signal.SIGTERM)

    def await_answer(self, stop: threading.Event) -> bool:
        """Wait until this page answers at its URL; returns False if ``stop`` was set before.

        Raises:
            UserError: the process ended, and has printed why; or it does not answer in time, or another program does.
        """
        deadline_s = time.monotonic() + START_S
        while not stop.is_set():
            if self._process.poll() is not None:
                raise UserError(f"the page did not start ({self._how_it_ended()})")
            found = self._who_answers()
            if found == self._instance:
                return True
            if time.monotonic() > deadline_s:
                why = "does not answer" if found is None else "is not reached: another program answers"
                raise UserError(f"the page {why} at {self.url}; choose another with --port or --host")
            stop.wait(0.1)
        return False

    def _who_answers(self) -> str | None:
        """The instance id of what answers there, empty for another program; None if nothing answers."""
        # The page is on this machine, so no proxy is used.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self._probe}/healthz", timeout=ANSWER_S) as response:
                return str(response.headers.get(INSTANCE_HEADER, ""))
        except urllib.error.HTTPError as error:
            with error:
                return str(error.headers.get(INSTANCE_HEADER, ""))
        except http.client.HTTPException:
            return ""
        except OSError:
            return None

    def look_after(self) -> None:
        """Tell the page what it could not be told before; to be called now and then.

        Raises:
            UserError: the process has ended.
        """
        self._tell()
        if self._process.poll() is not None:
            raise UserError(f"the page ended ({self._how_it_ended()}): start again, which continues from here")

    def _how_it_ended(self) -> str:
        status = self._process.returncode
        return f"it was killed by signal {-status}" if status < 0 else f"status {status}, for the reason above"

    def report_database(self, problem: str) -> None:
        """Have the page say why results cannot be written; an empty text says that they can.

        This never waits: a page that is suspended is told only the newest text, once it reads again.
        """
        self._report = problem
        self._tell()

    def _tell(self) -> None:
        assert self._process.stdin
        with self._telling:
            # So short a text is written completely or not at all.
            told = self._report.encode(errors="backslashreplace")[: select.PIPE_BUF - 1].decode(errors="ignore")
            # ``look_after`` notices a process that has ended, and tells again what does not fit into the pipe now.
            if told != self._told:
                with suppress(OSError):
                    os.write(self._process.stdin.fileno(), f"{told}\n".encode())
                    self._told = told


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
