"""Jars are fetched once and checked; an error is one line."""

from __future__ import annotations

import base64
import hashlib
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from iot.java import jars as java
from iot.settings import UserError
from tests.support.secure import make_certificates


class Server(ThreadingHTTPServer):
    """Serves a folder on loopback; ``requests`` has the path and the headers of each request."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.hangs = threading.Event()
        self.released = threading.Event()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class Handler(SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers)))
        if self.server.hangs.is_set():
            self.server.released.wait(60)
        # A proxy is asked with a whole URL.
        self.path = self.path.removeprefix("http://mirror.test")
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path, monkeypatch) -> Iterator[Server]:
    """A repository that holds two jars, a lock that names them, and an empty cache."""
    locked = []
    for name in ("one", "two"):
        jar = java.Jar("org.example", name, "1.0", hashlib.sha256(name.encode()).hexdigest())
        file = tmp_path / "mirror" / "org" / "example" / name / "1.0" / f"{name}-1.0.jar"
        file.parent.mkdir(parents=True)
        file.write_bytes(name.encode())
        locked.append(jar)
    monkeypatch.setattr(java, "CACHE_DIR", tmp_path / "cache")
    monkeypatch.setattr(java, "read_lock", lambda: {"kafka": locked})
    monkeypatch.setenv("NO_PROXY", "*")
    with Server(tmp_path / "mirror") as server:
        monkeypatch.setenv("IOT_MAVEN_MIRROR", f"http://{server.address}")
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def two(mirror, tmp_path):
    """The second jar in the repository."""
    return tmp_path / "mirror" / "org" / "example" / "two" / "1.0" / "two-1.0.jar"


def cached(tmp_path: Path) -> list[str]:
    return sorted(file.name for file in (tmp_path / "cache").rglob("*") if file.is_file() and file.name != ".lock")


def test_jars_are_fetched_once(mirror):
    jars = java.jars("kafka")
    assert [jar.read_bytes() for jar in jars] == [b"one", b"two"]
    assert sorted(path for path, _ in mirror.requests) == [
        "/org/example/one/1.0/one-1.0.jar",
        "/org/example/two/1.0/two-1.0.jar",
    ]
    assert java.jars("kafka") == jars
    assert len(mirror.requests) == 2


def test_only_a_missing_jar_is_fetched_again(mirror):
    jars = java.jars("kafka")
    jars[0].unlink()
    assert java.jars("kafka")[0].read_bytes() == b"one"
    assert [path for path, _ in mirror.requests[2:]] == ["/org/example/one/1.0/one-1.0.jar"]


def test_a_fetch_goes_on_where_a_killed_one_stopped(mirror, tmp_path):
    jars = java.jars("kafka")
    jars[1].rename(jars[1].with_name(".two-1.0.jar.123.part"))
    java.jars("kafka")
    assert cached(tmp_path) == ["one-1.0.jar", "two-1.0.jar"]
    assert len(mirror.requests) == 3


def test_only_one_of_several_processes_fetches(mirror):
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(java.jars, ["kafka"] * 4))
    assert all(jar.exists() for jar in results[0])
    assert results == [results[0]] * 4
    assert len(mirror.requests) == 2


def test_a_jar_with_another_checksum_is_refused(mirror, two, tmp_path):
    two.write_bytes(b"something else")
    with pytest.raises(UserError, match=r"^refused org.example:two:1.0 from http://127.* its SHA-256 is ") as raised:
        java.jars("kafka")
    assert "\n" not in str(raised.value)
    assert cached(tmp_path) == ["one-1.0.jar"]


def test_a_jar_that_the_mirror_lacks_is_named(mirror, two):
    two.unlink()
    with pytest.raises(
        UserError, match=r"^cannot fetch Kafka's jars \(1 of 2 are missing\) .*org.example:two:1.0: HTTP"
    ):
        java.jars("kafka")


def test_a_mirror_may_be_a_folder(mirror, tmp_path, monkeypatch):
    monkeypatch.setenv("IOT_MAVEN_MIRROR", f"{(tmp_path / 'mirror').as_uri()}/")
    java.jars("kafka")
    assert cached(tmp_path) == ["one-1.0.jar", "two-1.0.jar"]
    shutil.rmtree(tmp_path / "mirror")
    java.jars("kafka")


def test_a_connection_that_stalls_is_given_up(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(java, "STALLED_S", 0.2)
    mirror.hangs.set()
    with pytest.raises(UserError, match=r"\(2 of 2 are missing\) .*: nothing arrived for 0 s; behind a proxy set "):
        java.jars("kafka")
    assert cached(tmp_path) == []


def test_of_a_connection_that_breaks_nothing_is_kept(mirror, tmp_path, monkeypatch):
    def break_off(listener: socket.socket) -> None:
        for _ in range(2):
            connection, _ = listener.accept()
            with connection:
                connection.recv(10_000)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\non")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("IOT_MAVEN_MIRROR", f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread = threading.Thread(target=break_off, args=[listener])
        thread.start()
        with pytest.raises(UserError, match=r"org.example:one:1.0: .* 1 more expected"):
            java.jars("kafka")
        thread.join()
    assert cached(tmp_path) == []


def test_credentials_in_the_mirrors_url_are_sent_and_not_shown(mirror, two, monkeypatch):
    monkeypatch.setenv("IOT_MAVEN_MIRROR", f"http://me:s%40cret@{mirror.address}")
    two.unlink()
    with pytest.raises(UserError) as raised:
        java.jars("kafka")
    sent = {headers["Authorization"] for _, headers in mirror.requests}
    assert sent == {f"Basic {base64.b64encode(b'me:s@cret').decode()}"}
    assert "cret" not in str(raised.value)


def test_a_proxy_of_the_environment_is_used(mirror, tmp_path, monkeypatch):
    monkeypatch.setenv("IOT_MAVEN_MIRROR", "http://mirror.test")
    monkeypatch.setenv("NO_PROXY", "elsewhere.test")
    monkeypatch.setenv("no_proxy", "elsewhere.test")
    monkeypatch.setenv("http_proxy", f"http://{mirror.address}")
    java.jars("kafka")
    assert cached(tmp_path) == ["one-1.0.jar", "two-1.0.jar"]
    assert {path.partition("org")[0] for path, _ in mirror.requests} == {"http://mirror.test/"}


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_certificates_of_the_environment_are_trusted(mirror, tmp_path, monkeypatch, variable):
    make_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    mirror.socket = context.wrap_socket(mirror.socket, server_side=True)
    monkeypatch.setenv("IOT_MAVEN_MIRROR", f"https://{mirror.address}")
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="certificate verify failed"):
        java.jars("kafka")
    monkeypatch.setenv(variable, str(tmp_path / "ca.pem"))
    java.jars("kafka")
    assert cached(tmp_path) == ["one-1.0.jar", "two-1.0.jar"]


def test_certificates_that_cannot_be_read_are_named(mirror, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such.pem")
    with pytest.raises(UserError, match=r"^cannot read the certificates in REQUESTS_CA_BUNDLE=/no/such.pem: No such"):
        java.jars("kafka")


def test_without_a_mirror_the_repository_is_that_of_sparks_resolver(monkeypatch):
    monkeypatch.delenv("IOT_MAVEN_MIRROR", raising=False)
    repository, credentials = java._repository()
    assert repository.startswith("https://")
    assert repository.endswith("/maven2")
    assert credentials == ""


def test_the_lock_names_each_jar_once_with_its_checksum():
    sets = java.read_lock()
    assert set(sets) == set(java.SETS)
    for locked in sets.values():
        assert len({jar.file_name for jar in locked}) == len(locked)
        assert all(len(jar.sha256) == 64 for jar in locked)
