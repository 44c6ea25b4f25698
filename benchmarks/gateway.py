"""Compare how many readings the gateway takes by HTTP with the same server that reads the bodies and throws them away.

Both get the same batches over the same number of connections, in turns. The result is the ratio of their medians. Then
single readings are sent at a fixed rate, each delay counted from the moment when the request was due.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path

from flask import Flask, Response, request

from benchmarks import harness
from benchmarks.harness import in_turns, some_kafka
from benchmarks.serve import START_S, pace, row
from iot import cli
from iot.broker.broker import find_free_port
from iot.gateway.arriving import GatewayServer
from iot.processes import spawn
from iot.readings import Message, encode, format_timestamp
from iot.settings import UserError
from iot.web.listening import listen

ROOT = Path(__file__).parents[1]
SENSORS = 50
PATH = "/api/v1/readings"
# The run of the readings, which each connection replaces by one of its own, of the same length. So the sequences of a
# run and sensor go up.
RUN = b"run-00000"
ANSWER = b'{"written":100,"repeated":0,"refused":0,"errors":[]}'


def bodies(count: int, batch: int) -> list[bytes]:
    """Return JSON arrays of readings of 50 sensors, with run and sequence."""
    time_us = time.time_ns() // 1000

    def reading(number: int) -> bytes:
        name = f"sensor_{number % SENSORS}"
        stamp = format_timestamp(time_us + number)
        return encode(
            Message(name, "temperature", 21.5, stamp, "building_a", "celsius", "good", RUN.decode(), number // SENSORS)
        )

    return [b"[" + b",".join(map(reading, range(at * batch, (at + 1) * batch))) + b"]" for at in range(count)]


def serve_bare(pipe: Connection) -> None:
    """Serve the same path with the same server; the body is read and thrown away. Sends the port through ``pipe``."""
    app = Flask("bare", static_folder=None)

    @app.post(PATH)
    def throw_away() -> Response:
        request.get_data()
        return Response(ANSWER, mimetype="application/json")

    port = find_free_port()
    GatewayServer(listen("127.0.0.1", port), app).start()
    pipe.send(port)
    threading.Event().wait()


_runs = itertools.count(1)


class Client:
    """One connection that sends requests and waits for each answer."""

    def __init__(self, port: int) -> None:
        self._connection = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._run = b"run-%05d" % next(_runs)

    def post(self, body: bytes) -> None:
        """Send a body; raises ``UserError`` unless the answer is 200."""
        body = body.replace(RUN, self._run)
        head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        self._connection.sendall(head + body)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self._receive()
        start, _, rest = answer.partition(b"\r\n\r\n")
        if not start.startswith(b"HTTP/1.1 200"):
            raise UserError(f"the server answered {(start + rest).decode(errors='replace')[:500]}")
        length = int(start.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        while len(rest) < length:
            rest += self._receive()

    def _receive(self) -> bytes:
        if part := self._connection.recv(1 << 16):
            return part
        raise UserError("the server closed the connection")


def send_all(port: int, batches: Sequence[bytes], connections: int) -> float:
    """Send each batch once, over several connections; returns the seconds that it took."""
    numbers, lock = iter(batches), threading.Lock()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            client = Client(port)
            while True:
                with lock:
                    body = next(numbers, None)
                if body is None:
                    return
                client.post(body)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(connections)]
    begun_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return time.perf_counter() - begun_s


def await_ready(port: int) -> None:
    """Return once the gateway accepts readings.

    Raises:
        UserError: it does not within ``START_S``.
    """
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise UserError("the gateway does not answer")


def run(args: argparse.Namespace) -> None:
    with ExitStack() as stack:
        kafka = stack.enter_context(some_kafka(args.bootstrap_servers))
        port = find_free_port()
        command = [sys.executable, "-m", "iot.gateway", "--http-port", str(port)]
        process = spawn([*command, "--bootstrap-servers", kafka.bootstrap_servers], cwd=ROOT)
        stack.callback(process.wait)
        stack.callback(process.terminate)
        context = multiprocessing.get_context("spawn")
        pipe, theirs = context.Pipe()
        child = context.Process(target=serve_bare, args=(theirs,), daemon=True)
        child.start()
        stack.callback(child.kill)
        bare_port = pipe.recv()
        await_ready(port)
        batches = bodies(max(1, args.messages // args.batch), args.batch)
        readings = len(batches) * args.batch

        def rate_of(where: int) -> Callable[[], float]:
            return lambda: readings / send_all(where, batches, args.connections)

        ours_per_s, bare_per_s = in_turns(rate_of(port), rate_of(bare_port), args.rounds)
        print(f"\nbatches of {args.batch}, {args.connections} connections, readings a second")
        print(f"  the gateway, acknowledged by Kafka     {ours_per_s:>10,.0f}")
        print(f"  the same server, bodies thrown away    {bare_per_s:>10,.0f}")
        print(f"  ratio                                  {ours_per_s / bare_per_s:>10.2f}")
        single = [body[1:-1] for body in bodies(int(args.rate * args.duration) + 1, 1)]

        def sender(where: int) -> Callable[[], Callable[[], None]]:
            numbers, lock = iter(single), threading.Lock()

            def work() -> Callable[[], None]:
                client = Client(where)

                def send() -> None:
                    with lock:
                        body = next(numbers)
                    client.post(body)

                return send

            return work

        print(f"\nsingle readings, {args.rate:,.0f} a second, in ms{'p50':>21}{'p99':>9}{'max':>9}")
        print(row("  the gateway", pace(args.rate, args.duration, args.connections, sender(port))))
        print(row("  the same server", pace(args.rate, args.duration, args.connections, sender(bare_port))))


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = harness.parser(__doc__, kafka=True, messages=200_000, rounds=5)
    parser.add_argument("--batch", type=cli.positive_int, default=100, metavar="N", help="readings in a request")
    parser.add_argument("--connections", type=cli.positive_int, default=16, metavar="N", help="connections at once")
    parser.add_argument("--rate", type=cli.positive_float, default=1_000, metavar="R", help="single readings a second")
    parser.add_argument("--duration", type=cli.positive_float, default=20, metavar="S", help="seconds of these")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    return cli.exit_status(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
