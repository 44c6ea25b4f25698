"""The socket of the page: opened before anything else, or refused in one line."""

from __future__ import annotations

import argparse
import json
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from iot.broker.broker import find_free_port
from iot.settings import Kafka, UserError
from iot.web import child as child_module
from iot.web.child import WebChild
from iot.web.listening import listen

HAS_IPV6 = Path("/proc/net/if_inet6").exists()


def taken(host: str, listens: bool = True) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.bind((host, 0))
    if listens:
        made.listen()
    return made


@pytest.mark.parametrize(
    ("other", "host"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("127.0.0.1", "0.0.0.0"),
        ("127.0.0.1", "localhost"),
        ("127.0.0.1", "::"),
        ("127.0.0.1", "::1"),
        ("::1", "127.0.0.1"),
        ("::1", "0.0.0.0"),
        ("::", "127.0.0.1"),
        ("127.0.0.1", "0::0"),
        ("127.0.0.1", "0"),
    ],
)
def test_a_port_that_localhost_may_lead_to_is_in_use(other, host):
    if not HAS_IPV6 and ":" in other + host:
        pytest.skip("this machine has no IPv6")
    with taken(other) as there:
        port = there.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port}.* already in use.*; choose another with --port$"):
            listen(host, port)


def test_a_port_taken_on_another_address_is_free():
    with taken("127.0.0.2") as there, listen("127.0.0.1", there.getsockname()[1]) as listening:
        socket.create_connection(listening.getsockname()).close()


def test_a_port_that_is_only_bound_is_in_use_too():
    with taken("127.0.0.1", listens=False) as there, pytest.raises(UserError, match="already in use"):
        listen("127.0.0.1", there.getsockname()[1])


def test_what_listens_keeps_the_port():
    with listen("127.0.0.1", find_free_port()) as first, pytest.raises(UserError, match="already in use"):
        listen("127.0.0.1", first.getsockname()[1])


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("192.0.2.1", "this machine does not have that address; choose another with --host"),
        ("no-such-host.invalid", "^--host no-such-host.invalid cannot be resolved: .*"),
        ("http://localhost", "^--host http://localhost cannot be resolved: .*"),
        ("x" * 70 + ".example", "cannot be resolved"),
    ],
)
def test_a_host_that_is_not_of_this_machine(host, said):
    with pytest.raises(UserError, match=said):
        listen(host, find_free_port())


def test_a_port_without_the_right_to_it(monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(UserError, match="port 80: Permission denied; choose a port above 1023 with --port"):
        listen("127.0.0.1", 80)
    with pytest.raises(UserError, match="port 8000: Permission denied; choose another with --host or --port"):
        listen("127.0.0.1", 8000)


# The child that inherits it -------------------------------------------------------------------------------------------


def flags(port: int, folder: Path, host: str = "127.0.0.1") -> argparse.Namespace:
    return argparse.Namespace(
        host=host,
        port=port,
        topic="readings",
        bootstrap_servers=f"localhost:{find_free_port()}",
        kafka_config=None,
        insecure=False,
        token=None,
        database_url=f"sqlite:///{folder}/results.db",
    )


@pytest.fixture
def stranger() -> Iterator[int]:
    """The port of a server that answers 200 to everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_the_child_serves_on_the_socket_and_is_recognised(tmp_path, monkeypatch, stranger):
    # A proxy of the environment is not asked, and a service's socket of systemd is not taken.
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{stranger}")
    monkeypatch.setenv("LISTEN_PID", "1")
    port = find_free_port()
    listening = listen("127.0.0.1", port)
    with WebChild(flags(port, tmp_path), Kafka("127.0.0.1:1"), listening) as page:
        assert page.await_answer(threading.Event())
        assert listening.fileno() == -1, "only the child has it"
        page._process.kill()
        page._process.wait()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 5)
        with pytest.raises(UserError, match=r"the page ended \(it was killed by signal 9\): start again"):
            page.look_after()


@pytest.mark.parametrize(
    ("host", "in_url"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "localhost"), ("::", "localhost"), ("::1", "[::1]"), ("0::1", "[0::1]")],
)
def test_a_url_names_a_host_that_can_be_opened(host, in_url, tmp_path):
    if not HAS_IPV6 and ":" in host:
        pytest.skip("this machine has no IPv6")
    port = find_free_port()
    with listen(host, port) as listening:
        assert WebChild(flags(port, tmp_path, host), Kafka("127.0.0.1:1"), listening).url == f"http://{in_url}:{port}"


@pytest.mark.parametrize(
    ("host", "loopback"), [("0.0.0.0", "127.0.0.1"), ("0", "127.0.0.1"), ("::", "::1"), ("0::0", "::1")]
)
def test_a_page_at_all_addresses_is_looked_for_at_loopback(host, loopback, tmp_path, monkeypatch):
    if not HAS_IPV6 and ":" in host:
        pytest.skip("this machine has no IPv6")
    dialled: list[str] = []
    connect = socket.create_connection

    def noted(address: tuple[str, int], *args: Any, **kwargs: Any) -> socket.socket:
        dialled.append(address[0])
        return connect(address, *args, **kwargs)

    port = find_free_port()
    listening = listen(host, port)
    given = flags(port, tmp_path, host)
    given.insecure = True
    monkeypatch.setattr(socket, "create_connection", noted)
    with WebChild(given, Kafka("127.0.0.1:1"), listening) as page:
        assert page.url == f"http://localhost:{port}"
        assert page.await_answer(threading.Event())
    assert set(dialled) == {loopback}


def test_another_program_at_the_address_is_not_the_page(tmp_path, monkeypatch, stranger):
    monkeypatch.setattr(child_module, "START_S", 1.0)
    listening = listen("127.0.0.1", find_free_port())
    with WebChild(flags(listening.getsockname()[1], tmp_path), Kafka("127.0.0.1:1"), listening) as page:
        page.url = page._probe = f"http://127.0.0.1:{stranger}"
        with pytest.raises(
            UserError, match=r"is not reached: another program answers at .*; choose another with --port"
        ):
            page.await_answer(threading.Event())


def test_a_stop_ends_the_wait_for_the_page(tmp_path):
    listening = listen("127.0.0.1", find_free_port())
    stop = threading.Event()
    stop.set()
    with WebChild(flags(listening.getsockname()[1], tmp_path), Kafka("127.0.0.1:1"), listening) as page:
        assert not page.await_answer(stop)


def problem(url: str) -> str:
    """What the page says of its database."""
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=5) as response:
            found = json.load(response)
    except urllib.error.HTTPError as error:
        found = json.load(error)
    return str(found["reason"])


def test_a_page_that_is_suspended_delays_nothing_and_is_told_the_newest_afterwards(tmp_path, eventually):
    listening = listen("127.0.0.1", find_free_port())
    with WebChild(flags(listening.getsockname()[1], tmp_path), Kafka("127.0.0.1:1"), listening) as page:
        assert page.await_answer(threading.Event())
        page.report_database("the disk is full")
        eventually(lambda: problem(page.url) == "the disk is full")
        page._process.send_signal(signal.SIGSTOP)
        # More than a pipe holds, and lines that are longer than it takes at once.
        reports = [*(f"{number} " + "ü" * 5_000 for number in range(200)), "the newest"]
        telling = threading.Thread(target=lambda: [*map(page.report_database, reports)], daemon=True)
        telling.start()
        telling.join(10)
        assert not telling.is_alive()
        page._process.send_signal(signal.SIGCONT)

        def newest_is_shown() -> bool:
            page.look_after()
            return problem(page.url) == "the newest"

        eventually(newest_is_shown)
        page.report_database("")
        eventually(lambda: problem(page.url) != "the newest")


def test_a_page_that_is_suspended_can_be_ended(tmp_path):
    listening = listen("127.0.0.1", find_free_port())
    with WebChild(flags(listening.getsockname()[1], tmp_path), Kafka("127.0.0.1:1"), listening) as page:
        assert page.await_answer(threading.Event())
        page._process.send_signal(signal.SIGSTOP)
        begun_s = time.monotonic()
    assert time.monotonic() - begun_s < 5
    assert page._process.returncode == 0
