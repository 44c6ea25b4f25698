"""Take readings of devices by HTTP and MQTT, check them, and write them to Kafka.

A request or message is acknowledged only after Kafka has acknowledged its readings. A reading with run_id and sequence
that was written before is recognised, also after a restart. Ctrl-C finishes what is on its way and prints a summary.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

import iot  # noqa: F401  # stops an unsupported Python before a package is missing
from iot import cli
from iot.devices.field_map import NO_MAP, load_map
from iot.gateway.app import Services, create_app
from iot.gateway.arriving import GatewayServer
from iot.gateway.direct import Direct
from iot.gateway.intake import Intake
from iot.gateway.journal import journal_topic
from iot.gateway.keeper import Keeper
from iot.gateway.mqtt import MqttInput
from iot.gateway.mqtt_url import is_filter, parse_url
from iot.gateway.tokens import Clients, load_tokens
from iot.gateway.writer import Writer
from iot.kafka.connect import require_broker
from iot.kafka.topics import ensure_topics
from iot.processes import stop_event, until_stopped
from iot.settings import REJECTED_TOPIC, UserError
from iot.web.access import require_token
from iot.web.listening import listen

HOST, PORT = "127.0.0.1", 8080
ALL_TOPICS = "#"
TOO_EARLY = "before anything was received"
# How often to check whether the gateway must end.
LOOK_S = 0.2


def run(args: argparse.Namespace, stop: threading.Event) -> None:
    """Receive until ``stop`` is set, and print the summary.

    Raises:
        UserError: a flag or file cannot be used, Kafka does not answer at the start, or another gateway takes over.
    """
    require_token(args.host, args.token or args.tokens, args.insecure)
    url = parse_url(args.mqtt_url) if args.mqtt_url else None
    kafka = until_stopped(lambda: cli.kafka_from(args), stop, TOO_EARLY)
    tokens = until_stopped(lambda: load_tokens(args.tokens), stop, TOO_EARLY) if args.tokens else None
    field_map = until_stopped(lambda: load_map(args.map), stop, TOO_EARLY) if args.map else NO_MAP
    with ExitStack() as stack:
        listening = listen(args.host, args.http_port, "--http-port")
        stack.callback(listening.close)
        intake, writer = Intake(say, field_map), Writer(kafka, args.topic, say)
        mqtt = None
        if url:
            name = f"iot-gateway-{args.topic}"
            mqtt = MqttInput(url, args.mqtt_topic or [ALL_TOPICS], name, intake, writer, say, args.mqtt_ca)
        until_stopped(lambda: require_broker(kafka), stop, TOO_EARLY)
        journal = journal_topic(args.topic)
        topics = dict.fromkeys((args.topic, REJECTED_TOPIC, journal))
        create = partial(
            ensure_topics, kafka, topics, {args.topic: args.partitions, journal: 1}, args.replication_factor
        )
        for warning in until_stopped(create, stop, TOO_EARLY):
            print(f"warning: {warning}", file=sys.stderr)
        keeper = Keeper(kafka, args.topic, writer, say)
        until_stopped(keeper.open, stop, TOO_EARLY)
        begun_s = time.monotonic()
        keeper.start()
        stack.callback(keeper.close)
        services = Services(intake, writer, Clients(args.token, tokens))
        server = GatewayServer(listening, create_app(services, args.host), Direct(services, args.host))
        server.start()
        stack.callback(server.stop)
        host = f"[{args.host}]" if ":" in args.host else args.host
        print(
            f"receiving readings at http://{host}:{args.http_port}/api/v1/readings for {args.topic} at "
            f"{kafka.bootstrap_servers}; Ctrl-C stops",
            flush=True,
        )
        if mqtt:
            mqtt.start()
            stack.callback(mqtt.close)
        while not stop.wait(LOOK_S) and not keeper.failure:
            if mqtt:
                mqtt.look_after()
    counts, took_s = writer.counts, time.monotonic() - begun_s
    print(
        f"received for {took_s:,.1f} s: {counts['readings']:,} readings written, {counts['repeated']:,} repeats "
        f"recognised, {counts['refused']:,} messages refused",
        flush=True,
    )
    if keeper.failure:
        raise keeper.failure


def say(text: str) -> None:
    """Print a line."""
    print(text, flush=True)


def topic_filter(text: str) -> str:
    """argparse type: an MQTT topic filter."""
    if not is_filter(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no topic filter; for example zigbee2mqtt/+ or tele/#")
    return text


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    parser.prog = "python -m iot.gateway"
    cli.add_topic_arguments(parser)
    http = parser.add_argument_group("HTTP")
    http.add_argument("--http-port", type=cli.port_number, default=PORT, help="the port to listen on")
    http.add_argument("--host", default=HOST, help="the address to listen on; 0.0.0.0 lets other machines connect")
    # Set on the parser, not on the flags: --help shows the default of a flag, and these may hold a secret.
    parser.set_defaults(token=os.environ.get("IOT_TOKEN") or None, mqtt_url=os.environ.get("IOT_MQTT_URL") or None)
    http.add_argument(
        "--token",
        default=argparse.SUPPRESS,
        help="the token that clients must present; better in IOT_TOKEN, because other users can see command lines",
    )
    http.add_argument(
        "--tokens",
        metavar="FILE",
        type=cli.input_path,
        help='TOML file with a token for each device, in lines such as "TOKEN" = "device" (default: none)',
    )
    http.add_argument("--insecure", action="store_true", help="let everyone who can reach --host in without a token")
    mqtt = parser.add_argument_group("MQTT")
    mqtt.add_argument(
        "--mqtt-url",
        metavar="URL",
        default=argparse.SUPPRESS,
        help="the MQTT broker, such as mqtt://localhost:1883, or mqtts:// for TLS; put a URL with a password into "
        "IOT_MQTT_URL (default: no MQTT)",
    )
    mqtt.add_argument(
        "--mqtt-topic",
        metavar="FILTER",
        type=topic_filter,
        action="append",
        help=f"topics to subscribe to; may be given several times (default: {ALL_TOPICS})",
    )
    mqtt.add_argument(
        "--mqtt-ca",
        metavar="FILE",
        type=cli.input_path,
        help="certificates in PEM form that sign that of the MQTT broker (default: those of the system)",
    )
    parser.add_argument(
        "--map",
        metavar="FILE.toml",
        type=cli.input_path,
        help="TOML file that says what cannot be recognised in payloads: fields, units, format of the time",
    )
    args = parser.parse_args(argv)
    if not args.mqtt_url and (args.mqtt_topic or args.mqtt_ca):
        parser.error("--mqtt-topic and --mqtt-ca need --mqtt-url")
    if args.mqtt_url:
        try:
            parse_url(args.mqtt_url)
        except UserError as error:
            parser.error(str(error))
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    return cli.exit_status(lambda: run(args, stop_event()))
