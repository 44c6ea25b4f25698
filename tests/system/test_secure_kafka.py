"""Kafka with TLS and passwords: every script works with --kafka-config, and none reveals a secret."""

from __future__ import annotations

import html
import json
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest

from iot.alerts import DEFAULT_RULES, Rule
from iot.kafka.sender import CLIENTS
from iot.settings import READINGS_TOPIC, Kafka
from tests.support.app import App
from tests.support.scripts import ROOT, command_line, descendants, read_until, started
from tests.support.secure import client_properties, make_certificates, secure_broker

pytestmark = pytest.mark.timeout(400)
# It contains characters that are special in properties files, JAAS and command lines.
PASSWORD = 'pass-4f1c93, "quoted" \\ = #;'
# The part of the password that no escaping changes.
SECRET = "pass-4f1c93"
# Maximum number of pages of Spark's UI to read: each batch has one.
UI_PAGES = 60
SENT = 2 * 100 + 2 * 100 + 2
FOLLOWED = 40
REJECTED = 5

HOT = {"sensor_id": "kiln", "sensor_type": "temperature", "value": 99.5, "timestamp": "2026-11-24T02:15:07Z"}


@dataclass
class Secure:
    """A broker with security, the folder with the files of its clients, and the secrets in them."""

    address: str
    folder: Path
    secrets: list[str]

    def flags(self, properties: str = "client.properties") -> list[str]:
        return ["--bootstrap-servers", self.address, "--kafka-config", str(self.folder / properties)]

    def script(self, name: str, flags: str = "", properties: str = "client.properties") -> list[str]:
        return [sys.executable, str(ROOT / name), *self.flags(properties), *flags.split()]

    def require_no_secret(self, text: str, where: object) -> None:
        """Raise AssertionError if a text contains a secret."""
        for secret in self.secrets:
            assert secret not in text, f"{where} reveals {secret}"


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    folder = tmp_path_factory.mktemp("secure")
    make_certificates(folder)
    (folder / "client.properties").write_text(client_properties(folder, PASSWORD))
    (folder / "wrong.properties").write_text(client_properties(folder, f"{PASSWORD}2"))
    with secure_broker(tmp_path_factory.mktemp("broker"), folder, PASSWORD) as address:
        key = (folder / "client.key").read_text().splitlines()
        yield Secure(address, folder, [SECRET, *key[1:-1]])


def test_a_wrong_password_is_one_line_of_error(secure, tmp_path):
    scripts = [
        ("iot_producer.py", "--count 1"),
        ("iot_producer.py", "--count 1 --client confluent-kafka"),
        ("structured_streaming_processor.py", f"--available-now --checkpoint-dir {tmp_path}"),
    ]
    started = [
        subprocess.Popen(
            secure.script(*script, "wrong.properties"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for script in scripts
    ]
    for process in started:
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out) == (1, "")
        assert re.fullmatch(
            f"error: Kafka at {secure.address} refuses this client: .*invalid credentials.*; check --kafka-config\n",
            err,
        )
        secure.require_no_secret(err, process.args)


def test_every_script_works_and_reveals_no_secret(secure, tmp_path, monkeypatch, eventually):
    monkeypatch.setenv("SPARK_LOCAL_DIRS", str(tmp_path / "spark"))
    monkeypatch.setenv("IOT_LOG_DIR", str(tmp_path / "log"))
    replay = tmp_path / "hot.jsonl"
    replay.write_text("".join(json.dumps(HOT | {"sensor_id": name}) + "\n" for name in ("kiln", "oven")))
    app = App(Kafka(secure.address), READINGS_TOPIC, tmp_path)
    rules = tmp_path / "rules.toml"
    rules.write_text("".join(map(rule_text, DEFAULT_RULES.rules)))
    # The application reads both once; its web server gets the properties from it.
    pipes = 'exec "${@:3}" --kafka-config <(cat "$1") --rules <(cat "$2")'
    app.command = ["bash", "-c", pipes, "bash", str(secure.folder / "client.properties"), str(rules), *app.command]

    def run(script: str, flags: str) -> str:
        """Run a script that must succeed, and return its output; check its processes while they run."""
        with started(
            secure.script(script, flags), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            ended = threading.Event()
            with ThreadPoolExecutor(1) as pool:
                watching = pool.submit(watch, secure, process.pid, ended)
                try:
                    said = str(process.communicate(timeout=120)[0])
                finally:
                    ended.set()
                    process.kill()
            watching.result()
        assert process.returncode == 0, said
        secure.require_no_secret(said, script)
        return said

    with app.running() as process:
        for client in CLIENTS:
            run("iot_producer.py", f"--count 100 --rate 2000 --client {client}")
        said = run("performance_test.py", "--test custom --messages 100 --threads 2 --client both")
        assert said.count("100 of 100 readings acknowledged") == 2
        eventually(lambda: app.messages() == SENT - 2, 180)
        log = read_until(process, ".*Ctrl-C stops")
        with urllib.request.urlopen(f"http://127.0.0.1:{app.port}/api/stream", timeout=60) as stream:
            events = [stream.readline().decode()]
            run("iot_producer.py", f"--replay {replay} --rate 100")
            run("iot_producer.py", f"--malformed-ratio 1 --count {REJECTED} --rate 100")
            while events.count("event: alert\n") < 2:
                events.append(stream.readline().decode())
        said = run("iot_consumer.py", f"--from-beginning --max-messages {SENT + REJECTED}")
        assert "HIGH_TEMPERATURE kiln 99.5" in said
        assert f"malformed: {REJECTED}\n" in said
        eventually(lambda: app.messages() == SENT + REJECTED, 120)
        metrics = app.get("/api/metrics")
        assert (metrics["total_messages"], metrics["rejected_messages"]) == (SENT, REJECTED)
        eventually(lambda: app.get("/api/metrics")["total_alerts"] >= 2, 120)
        dashboard = f"--dashboard-url http://127.0.0.1:{app.port}"
        said = run("performance_test.py", f"--test end-to-end --messages {FOLLOWED} --rate 40 {dashboard}")
        assert re.search(rf"read back from the topic +{FOLLOWED} +{FOLLOWED} +0 +0 ", said), said

        secure.require_no_secret("".join(events), "the event stream")
        for path in ("/", "/api/metrics", "/api/alerts", "/api/windows", "/api/openapi.json", "/healthz", "/metrics"):
            secure.require_no_secret(read(f"http://127.0.0.1:{app.port}{path}"), path)
        check_processes(secure, process.pid)
        check_spark_ui(secure, re.search(r"UI (http://\S+)", log)[1])
        check_files(secure, tmp_path)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        secure.require_no_secret(log + process.stdout.read(), "the app")
    said = run(
        "structured_streaming_processor.py", f"--available-now --starting-offsets earliest --checkpoint-dir {tmp_path}"
    )
    assert f"{SENT + FOLLOWED} readings, {REJECTED} rejected" in said
    check_files(secure, tmp_path)


def rule_text(rule: Rule) -> str:
    text = f"[[rule]]\nsensor_type = {rule.sensor_type!r}\nunit = {rule.unit!r}\n"
    return text + "".join(
        f"{name} = {bound}\n" for name in ("min", "max") if (bound := getattr(rule, name)) is not None
    )


def watch(secure: Secure, pid: int, ended: threading.Event) -> None:
    """Check processes until ``ended`` is set."""
    while not ended.wait(0.05):
        check_processes(secure, pid)


def check_processes(secure: Secure, pid: int) -> None:
    """The command line and the environment of a process and its descendants."""
    for each in [pid, *descendants(pid)]:
        for file in ("cmdline", "environ"):
            with suppress(OSError):
                text = Path(f"/proc/{each}/{file}").read_text(errors="replace")
                secure.require_no_secret(text, f"{file} of {command_line(each)[:80]}")


def check_spark_ui(secure: Secure, url: str) -> None:
    """Spark's UI, down to single batches, and the configuration and queries in its API."""
    [application] = json.loads(read(f"{url}/api/v1/applications"))
    api = f"{url}/api/v1/applications/{application['id']}"
    waiting = [f"{api}/environment", f"{api}/sql?details=true&planDescription=true&length=20", f"{api}/jobs"]
    waiting += [f"{url}/{page}/" for page in ("environment", "SQL", "StreamingQuery", "jobs", "stages", "executors")]
    seen = set(waiting)
    read_pages: set[str] = set()
    redacted = 0
    while waiting and len(seen) - len(waiting) < UI_PAGES:
        at = waiting.pop(0)
        text = read(at)
        secure.require_no_secret(text, at)
        read_pages.add(urlsplit(at).path)
        redacted += text.count("(redacted)")
        for link in re.findall(r'href="([^"#]+)', text):
            to = urljoin(at, html.unescape(link))
            if to not in seen and re.match(
                rf"{url}/(SQL|StreamingQuery|jobs|stages)/(execution|statistics|job|stage)/", to
            ):
                seen.add(to)
                waiting.append(to)
    assert {"/SQL/execution/", "/StreamingQuery/statistics/"} <= read_pages
    # Spark replaces secrets by this text.
    assert redacted


def check_files(secure: Secure, folder: Path) -> None:
    """Logs, checkpoints, database and Spark's temporary files."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert {"results.db", "iot_streaming_app.log", "metadata"} <= {file.name for file in files}
    for file in files:
        with suppress(FileNotFoundError):
            secure.require_no_secret(file.read_text(errors="replace"), file)


def read(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return str(answer.read().decode(errors="replace"))
    except urllib.error.HTTPError as error:
        return error.read().decode(errors="replace")
