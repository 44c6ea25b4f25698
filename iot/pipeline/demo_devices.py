"""What ``--demo --devices`` adds: the gateway for devices, and an MQTT broker if Mosquitto is installed."""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from iot import environment, settings
from iot.broker.node import find_free_port, is_free
from iot.logs import open_log
from iot.processes import end, require_not_stopped, spawn
from iot.properties_file import handed_on
from iot.settings import Kafka, UserError

HTTP_PORT, MQTT_PORT = 8080, 1883
# Where Debian's package has it, which is not on every user's PATH.
SBIN = "/usr/sbin:/usr/local/sbin"
# How long the gateway may take to start, and how often to look.
START_S = 30.0
LOOK_EVERY_S = 0.1
# A reading that breaks a built-in rule, so that the page shows the most.
READING = '{"temperature": 31.5}'


@contextmanager
def demo_devices(
    args: argparse.Namespace, kafka: Kafka, say: Callable[[str], None], stop: threading.Event
) -> Iterator[None]:
    """The gateway on loopback, ready to receive, and how to send it a reading; it ends with this block.

    Args:
        args: with the flags that all scripts share, and the token of the page, which is also the gateway's.
        kafka: as the flags say. What they name may be readable only once.
        stop: ends the wait.

    Raises:
        UserError: the gateway does not start, or a log cannot be written.
        Stopped: ``stop`` was set.
    """
    with ExitStack() as stack:
        broker = stack.enter_context(_mosquitto())
        port = _port(HTTP_PORT)
        process, log = stack.enter_context(_gateway(args, kafka, port, broker))
        _await_answer(process, port, log, stop)
        say(f"devices  gateway at http://localhost:{port}, process {process.pid}, log {log}")
        header = '-H "Authorization: Bearer $IOT_TOKEN" ' if args.token else ""
        say(f"         curl {header}-d '{READING}' http://localhost:{port}/api/v1/my-device/telemetry")
        if broker:
            say(f"         mosquitto_pub -p {broker} -q 1 -t devices/my-sensor -m '{READING}'")
        else:
            say("         no MQTT: install Mosquitto for it (Debian and Ubuntu: apt-get install mosquitto)")
        yield


@contextmanager
def _mosquitto() -> Iterator[int | None]:
    """An MQTT broker that everyone on this machine may use, and its port; None if Mosquitto is not installed."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path=SBIN)
    if not program:
        yield None
        return
    port = _port(MQTT_PORT)
    config = environment.work_folder() / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
    _, output = open_log(settings.LOG_DIR / "demo-mosquitto.log")
    with output:
        process = spawn([program, "-c", str(config)], stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield port
    finally:
        end(process, signal.SIGTERM)


@contextmanager
def _gateway(
    args: argparse.Namespace, kafka: Kafka, port: int, mqtt_port: int | None
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The gateway's process and its log."""
    log, output = open_log(settings.LOG_DIR / "demo-gateway.log")
    command = [sys.executable, "-m", "iot.gateway", "--topic", args.topic, "--http-port", str(port)]
    command += ["--bootstrap-servers", args.bootstrap_servers]
    own = {"IOT_TOKEN": args.token or "", "IOT_MQTT_URL": f"mqtt://127.0.0.1:{mqtt_port}" if mqtt_port else ""}
    with output, handed_on(kafka.properties) as (flags, descriptors):
        process = spawn(
            [*command, *flags],
            env=environment.child() | own,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=descriptors,
        )
    try:
        yield process, log
    finally:
        end(process, signal.SIGINT)


def _await_answer(process: subprocess.Popen[bytes], port: int, log: Path, stop: threading.Event) -> None:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s and process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1):
            return
        stop.wait(LOOK_EVERY_S)
        require_not_stopped("before anything was processed")
    said = log.read_text(errors="replace").strip().splitlines()
    raise UserError(f"the gateway does not start: {said[-1] if said else 'it says nothing'}; see {log}")


def _port(usual: int) -> int:
    """The usual port of a program, or another one if it is taken."""
    return usual if is_free(usual) else find_free_port()
