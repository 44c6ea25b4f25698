"""Notifications over real HTTP: failures, hanging servers, restarts, and secrets that nobody sees."""

from __future__ import annotations

import logging
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from iot.alarms import http_post, lane
from iot.alarms.grouping import Notification
from iot.alarms.http_post import post_json
from iot.alarms.notifier import Notifier
from iot.alarms.notify_file import load_notify
from iot.alarms.outcome import DELIVERED, Outcome
from iot.alarms.receivers import deliver_to
from tests.support.alarms import MemoryLog, alarm, resolved
from tests.support.http_receiver import http_receiver
from tests.support.listeners import other_listener
from tests.support.mail_server import mail_server
from tests.support.waiting import wait_for

SECRET = "s3cr3t-t0k3n"
FAST = "group_wait = 0\ngroup_interval = 1\n"


@pytest.fixture
def server():
    with http_receiver() as running:
        yield running


@pytest.fixture
def short_pauses(monkeypatch):
    monkeypatch.setattr(lane, "FIRST_PAUSE_S", 0.02)


def load(tmp_path, text):
    path = tmp_path / "notify.toml"
    path.write_text(FAST + text)
    return load_notify(path)


@contextmanager
def running(notify, alarms, log, report):
    started = Notifier(notify, lambda: alarms, log, report=report, poll_s=0.02)
    started.start()
    try:
        yield started
    finally:
        started.stop()


def statuses(body):
    return [(one["status"], one["labels"]["sensor_id"]) for one in body["alerts"]]


def test_a_server_that_fails_three_times_gets_each_message_once_also_with_restarts(tmp_path, server, short_pauses):
    notify = load(tmp_path, f'[[receiver]]\nname = "ops"\nwebhook = "{server.url()}"\n')
    log, alarms = MemoryLog(), [alarm("a")]
    lines: list[str] = []
    server.answers = [503, 503, 503]
    with running(notify, alarms, log, lines.append) as first:
        wait_for(lambda: server.taken)
        wait_for(lambda: first.results()["ops", "delivered"])
        assert first.results() == {("ops", "delivered"): 1, ("ops", "failed"): 3, ("ops", "rejected"): 0}
    with running(notify, alarms, log, lines.append):
        time.sleep(1.5)  # longer than group_interval
        assert len(server.taken) == 1, "a restart repeats nothing"
        server.answers = [503, 503, 503]
        alarms[0] = resolved(alarms[0])
        wait_for(lambda: len(server.taken) == 2)
        wait_for(lambda: not log.entries)
    with running(notify, alarms, log, lines.append):
        time.sleep(0.3)
    assert [statuses(body) for body in server.taken] == [[("firing", "sensor_a")], [("resolved", "sensor_a")]]
    assert [body["status"] for body in server.taken] == ["firing", "resolved"]
    assert lines == 2 * [
        "warning: notifications to 'ops' fail: it answered 503 Service Unavailable; trying again",
        "notifications to 'ops' work again",
    ]


def test_a_server_that_hangs_delays_no_other_and_not_the_stop(tmp_path, server, short_pauses):
    with http_receiver() as hanging:
        hanging.answering.clear()
        text = "".join(
            f'[[receiver]]\nname = "{name}"\nwebhook = "{one.url()}"\n'
            for name, one in {"hangs": hanging, "works": server}.items()
        )
        log, alarms = MemoryLog(), [alarm("a")]
        with running(load(tmp_path, text), alarms, log, print) as started:
            wait_for(lambda: server.taken and hanging.requests)
            alarms[0] = resolved(alarms[0])
            wait_for(lambda: len(server.taken) == 2)
            begun_s = time.monotonic()
            started.stop()
            assert time.monotonic() - begun_s < 2
        hanging.answering.set()
        with running(load(tmp_path, text), alarms, log, print):
            # Nobody knows whether the first message arrived. So at least its end is told.
            wait_for(lambda: any(body["status"] == "resolved" for body in hanging.taken))
    assert [statuses(body) for body in server.taken] == [[("firing", "sensor_a")], [("resolved", "sensor_a")]]


@pytest.mark.parametrize(
    ("kind", "reason", "is_unsure"),
    [
        ("closed", "connection refused", False),
        ("full", "no connection within 0.5 s", False),
        ("silent", "no answer within 0.5 s", True),
        ("hangs up", "the connection broke before the answer", True),
    ],
)
def test_a_failure_is_named_without_the_address(kind, reason, is_unsure):
    with other_listener(kind) as port:
        outcome = post_json(f"http://127.0.0.1:{port}/{SECRET}", {}, b"{}", 0.5)
    assert (outcome.result, outcome.reason, outcome.is_unsure) == ("failed", reason, is_unsure)


@contextmanager
def dripping(content):
    """A server that repeats this content, a byte at a time, until the client has enough."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            with suppress(OSError):
                connection, _ = listening.accept()
                with connection:
                    connection.sendall(content)
                    while True:
                        connection.sendall(b"x")
                        time.sleep(0.01)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        thread.join()


@pytest.mark.parametrize(
    ("beginning", "expected"),
    [
        (b"HTTP/1.", Outcome("failed", "no answer within 0.5 s", is_unsure=True)),
        # The status is there, so the message was taken.
        (b"HTTP/1.1 200 OK\r\nX-A: ", DELIVERED),
    ],
)
def test_an_answer_that_comes_byte_by_byte_ends_in_time(beginning, expected):
    with dripping(beginning) as port:
        begun_s = time.monotonic()
        outcome = post_json(f"http://127.0.0.1:{port}/", {}, b"{}", 0.5)
        assert time.monotonic() - begun_s < 5
    assert outcome == expected


def test_an_answer_without_an_end_is_read_to_a_bound(monkeypatch):
    monkeypatch.setattr(http_post, "MAX_ANSWER_BYTES", 20)
    with dripping(b"HTTP/1.1 200 OK\r\n\r\n") as port:
        assert post_json(f"http://127.0.0.1:{port}/", {}, b"{}", 30).result == "delivered"


def test_a_name_without_address_is_no_address():
    outcome = post_json(f"http://{SECRET}.invalid/", {}, b"{}", 5)
    assert (outcome.result, outcome.reason) == ("failed", "its host name has no address")


def test_a_redirect_is_not_followed(server):
    with http_receiver() as elsewhere:
        server.answers, server.headers = [307], {"Location": elsewhere.url()}
        outcome = post_json(server.url(), {"Authorization": SECRET}, b"{}")
        assert outcome.result == "rejected"
        assert outcome.reason == "it answered 307 Temporary Redirect: redirects are not followed, so give the final URL"
        assert elsewhere.requests == []


def test_headers_and_credentials_are_sent(server):
    post_json(server.url("/a%20b?c=d#e", "us%40er:pw@"), {"X-Key": "k"}, b"{}")
    post_json(server.url(), {"Authorization": "Bearer b"}, b"{}")
    (path, headers, _), (_, more_headers, _) = server.requests
    assert path == "/a%20b?c=d"
    assert (headers["X-Key"], headers["Authorization"]) == ("k", "Basic dXNAZXI6cHc=")
    assert headers["Content-Type"] == "application/json"
    assert more_headers["Authorization"] == "Bearer b"


@pytest.mark.parametrize(("name", "reason"), [("localhost", "self-signed"), ("plain", "no TLS connection")])
def test_a_server_of_unknown_identity_gets_nothing(tmp_path, name, reason):
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "server.pem"
    pem.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    received = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            connection, _ = listening.accept()
            with connection, suppress(OSError):
                if name == "plain":
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                else:
                    with context.wrap_socket(connection, server_side=True) as secure:
                        received.append(secure.recv(4096))

        thread = threading.Thread(target=serve)
        thread.start()
        outcome = post_json(f"https://localhost:{listening.getsockname()[1]}/{SECRET}", {}, b"{}")
        thread.join()
    assert (outcome.result, outcome.is_unsure) == ("failed", False)
    assert reason in outcome.reason
    assert SECRET not in outcome.reason
    assert not any(received)


def test_apprise_sends_a_text(tmp_path, server):
    text = f'[[receiver]]\nname = "chat"\napprise = "json://127.0.0.1:{server.port}/hook"\n'
    (receiver,) = load(tmp_path, text).receivers
    deliver = deliver_to(receiver, "", time.time)
    fires = Notification("{}:{}", {}, (alarm("a"),), (), 1)
    ends = Notification("{}:{}", {}, (), (resolved(alarm("a")),), 0)
    assert deliver(fires).result == "delivered"
    assert deliver(ends).result == "delivered"
    first, second = server.taken
    assert (first["title"], first["type"]) == ("1 alarm firing: HIGH_TEMPERATURE", "failure")
    assert first["message"].startswith("FIRING warning: sensor_a (lab): temperature above 30 celsius since")
    assert (second["title"], second["type"]) == ("1 alarm resolved: HIGH_TEMPERATURE", "success")


@pytest.mark.parametrize(
    ("status", "result", "is_unsure"), [(404, "rejected", False), (429, "failed", False), (503, "failed", False)]
)
def test_apprise_says_why_it_failed(tmp_path, server, status, result, is_unsure):
    text = f'[[receiver]]\nname = "chat"\napprise = "json://127.0.0.1:{server.port}/{SECRET}"\n'
    (receiver,) = load(tmp_path, text).receivers
    server.answers = [status]
    outcome = deliver_to(receiver, "", time.time)(Notification("{}:{}", {}, (alarm("a"),), (), 1))
    assert (outcome.result, outcome.is_unsure) == (result, is_unsure)
    assert f"it answered {status}" in outcome.reason


def test_nobody_sees_a_secret(tmp_path, server, short_pauses, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    # Three receivers use this server, and each of them stops at its first 3xx or 4xx.
    server.answers = [503, 503, 503, 500, 500, 500, 404, 302, 400]
    with other_listener("closed") as closed, other_listener("hangs up") as broken:
        text = "".join(
            f'[[receiver]]\nname = "{number}"\n{kind} = "{url}/{SECRET}?{SECRET}"\n'
            for number, (kind, url) in enumerate(
                (kind, f"{'json' if kind == 'apprise' else 'http'}://{SECRET}:{SECRET}@127.0.0.1:{port}")
                for kind in ("webhook", "alertmanager", "apprise")
                for port in (closed, broken, server.port)
            )
        ).replace("webhook =", f'headers = {{Authorization = "{SECRET}"}}\nwebhook =')
        lines: list[str] = []
        notify = load(tmp_path, text)
        with running(notify, [alarm("a")], MemoryLog(), lines.append) as started:
            wait_for(lambda: sum(started.results().values()) > 20 and len(server.requests) == 9)
    assert lines
    output = capfd.readouterr()
    assert SECRET not in "\n".join(lines) + output.out + output.err + caplog.text + repr(notify) + repr(vars(started))


def run(*arguments):
    command = [sys.executable, "-m", "iot.alarms", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_says_how_each_receiver_took_a_sample(tmp_path, server):
    path = tmp_path / "notify.toml"
    path.write_text(
        f'[[receiver]]\nname = "ops"\nwebhook = "{server.url()}"\n'
        f'[[receiver]]\nname = "beginnings"\nwebhook = "{server.url()}"\nsend_resolved = false\n'
        f'[[receiver]]\nname = "am"\nalertmanager = "{server.url("/am/")}"\n'
        f'[[receiver]]\nname = "chat"\napprise = "json://127.0.0.1:{server.port}/"\n'
    )
    ran = run("test", "--notify", str(path))
    assert ran.stdout.splitlines() == [
        "ops (webhook): firing delivered, resolved delivered",
        "beginnings (webhook): firing delivered",
        "am (alertmanager): firing delivered, resolved delivered",
        "chat (apprise): firing delivered, resolved delivered",
    ]
    assert (ran.returncode, ran.stderr) == (0, "")
    assert server.requests[3][0] == "/am/api/v2/alerts"
    assert [body["status"] for body in server.taken[:3]] == ["firing", "resolved", "firing"]

    server.answers = [200, 404, 503]
    ran = run("test", "--notify", str(path))
    assert ran.stdout.splitlines()[:2] == [
        "ops (webhook): firing delivered, resolved rejected: it answered 404 Not Found: check its URL and headers",
        "beginnings (webhook): firing failed: it answered 503 Service Unavailable",
    ]
    assert (ran.returncode, ran.stderr) == (1, "")


def test_the_command_refuses_wrong_flags_and_files(tmp_path):
    assert run("test").returncode == 2
    assert run().returncode == 2
    assert run("test", "--notify", "x", "--loud").returncode == 2
    ran = run("test", "--notify", str(tmp_path / "missing.toml"))
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: cannot read the file of receivers ")
    assert ran.stderr.count("\n") == 1
    assert "(default" not in run("test", "--help").stdout


def test_apprise_sends_mail(tmp_path):
    with mail_server() as (port, mails):
        url = f"mailto://127.0.0.1:{port}?from=iot@example.org&to=team@example.org"
        (receiver,) = load(tmp_path, f'[[receiver]]\nname = "mail"\napprise = "{url}"\n').receivers
        told = Notification("{}:{}", {}, (alarm("<b>a"), alarm("b")), (), 2)
        assert deliver_to(receiver, "http://localhost:5000", time.time)(told).result == "delivered"
    (mail,) = mails
    assert mail["To"] == "team@example.org"
    assert mail["Subject"] == "2 alarms firing: HIGH_TEMPERATURE"
    body = mail.get_body()
    assert body is not None
    assert body.get_content_type() == "text/plain", "in HTML, a name could be markup"
    told_as = "sensor_b (lab): temperature above 30 celsius since 1970-01-01 00:00:00 UTC, now 31.5, peak 33"
    assert told_as in body.get_content()
