"""Take messages from an MQTT broker, and acknowledge each only after Kafka has acknowledged its readings.

The session is persistent: while the gateway is away, the broker keeps the messages of QoS 1. Messages are acknowledged
in the order in which they came. While Kafka does not answer or too much waits for it, no further message is taken, so
that the broker holds them back.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from iot.gateway.intake import MAX_DEVICE, Intake, Taken
from iot.gateway.mqtt_url import MqttUrl
from iot.gateway.writer import Full, Refusal, Unavailable, Writer
from iot.gateway.writes import Write
from iot.settings import UserError, reason
from iot.terminal import printable

KEEPALIVE_S = 60
# How long the broker keeps messages for a gateway that is away, with MQTT 5.
SESSION_S = 7 * 24 * 3600
# Maximum number of messages that the broker may send before they are acknowledged, with MQTT 5.
RECEIVE_MAXIMUM = 200
# Maximum size of a message, with MQTT 5. A larger one is refused.
MAX_PACKET_BYTES = (1 << 20) + (64 << 10)
MAX_PAYLOAD_BYTES = 1 << 20
# Pauses between two attempts to connect.
MIN_PAUSE_S, MAX_PAUSE_S = 1, 8
# How long to wait before a message is tried again that Kafka cannot take now.
RETRY_S = 0.05
# How long acknowledgements may take when the gateway stops.
STOP_S = 5.0
UNSUPPORTED_VERSION = "Unsupported protocol version"


class MqttInput:
    """A client of one broker, in a thread of its own.

    Attributes:
        problem: why no messages come; empty while they do.
    """

    def __init__(
        self,
        url: MqttUrl,
        topics: Sequence[str],
        client_id: str,
        intake: Intake,
        writer: Writer,
        say: Callable[[str], None],
        ca_file: Path | None = None,
    ) -> None:
        """
        Args:
            client_id: the name of the session, the same at each start.
            say: prints a line.
            ca_file: certificates that sign the broker's, with TLS; None: those of the system.

        Raises:
            UserError: the certificates cannot be used.
        """
        self._url, self._topics, self._client_id = url, topics, client_id
        self._intake, self._writer, self._say = intake, writer, say
        self._tls = _tls(ca_file) if url.has_tls else None
        self._stop = threading.Event()
        self._lock = threading.Lock()
        # What came over the present connection and is not acknowledged: the id, and what becomes of it.
        self._unacknowledged: deque[tuple[int, Write]] = deque()
        self._version = MQTTProtocolVersion.MQTTv5
        self._client = self._make_client()
        self.problem = f"not connected to {url} yet"
        self._said = ""

    def start(self) -> None:
        self._connect()

    def look_after(self) -> None:
        """Use MQTT 3.1.1 if the broker does not know 5; to be called now and then."""
        if self._version == MQTTProtocolVersion.MQTTv5 and self._said == UNSUPPORTED_VERSION:
            self._client.disconnect()
            self._client.loop_stop()
            self._version = MQTTProtocolVersion.MQTTv311
            self._said = ""
            self._client = self._make_client()
            self._connect()

    def close(self) -> None:
        """Take no more messages, acknowledge what Kafka acknowledges within a few seconds, and disconnect."""
        self._stop.set()
        # The broker keeps what is not taken for the next start.
        deadline_s = time.monotonic() + STOP_S
        for _, write in list(self._unacknowledged):
            write.wait(max(0.0, deadline_s - time.monotonic()))
        self._client.disconnect()
        self._client.loop_stop()

    def _make_client(self) -> Client:
        is_5 = self._version == MQTTProtocolVersion.MQTTv5
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            clean_session=None if is_5 else False,
            protocol=self._version,
            manual_ack=True,
        )
        if self._url.user is not None:
            client.username_pw_set(self._url.user, self._url.password)
        if self._tls:
            client.tls_set_context(self._tls)
        client.reconnect_delay_set(MIN_PAUSE_S, MAX_PAUSE_S)
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        return client

    def _connect(self) -> None:
        if self._version == MQTTProtocolVersion.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = SESSION_S
            properties.ReceiveMaximum = RECEIVE_MAXIMUM
            properties.MaximumPacketSize = MAX_PACKET_BYTES
            self._client.connect_async(
                self._url.host, self._url.port, KEEPALIVE_S, clean_start=False, properties=properties
            )
        else:
            self._client.connect_async(self._url.host, self._url.port, KEEPALIVE_S)
        self._client.loop_start()

    # What the client reports, in its thread ---------------------------------------------------------------------------

    def _on_connect(
        self, client: Client, _: Any, flags: ConnectFlags, code: ReasonCode, properties: Properties | None
    ) -> None:
        if code.is_failure:
            self._report(str(code))
            return
        if self._version == MQTTProtocolVersion.MQTTv5:
            options = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
            client.subscribe([(topic, options) for topic in self._topics])
        else:
            client.subscribe([(topic, 1) for topic in self._topics])

    def _on_subscribe(
        self, client: Client, _: Any, mid: int, codes: Sequence[ReasonCode], properties: Properties | None
    ) -> None:
        refused = [topic for topic, code in zip(self._topics, codes, strict=False) if code.is_failure]
        if refused:
            self._report(f"it does not let this client subscribe to {', '.join(refused)}")
            return
        self.problem = self._said = ""
        self._say(f"receiving {', '.join(self._topics)} from {self._url}")

    def _on_connect_fail(self, client: Client, _: Any) -> None:
        self._report(self._why_no_connection())

    def _on_disconnect(
        self, client: Client, _: Any, flags: DisconnectFlags, code: ReasonCode, properties: Properties | None
    ) -> None:
        # The broker sends again what was not acknowledged, under other ids.
        with self._lock:
            self._unacknowledged.clear()
        if not self._stop.is_set() and not self._said:
            self._report(f"the connection has ended ({code})")

    def _on_message(self, client: Client, _: Any, message: MQTTMessage) -> None:
        write = self._take(message)
        if write is None or message.qos == 0:
            return
        with self._lock:
            self._unacknowledged.append((message.mid, write))
        write.on_end(self._on_written)

    # Steps ------------------------------------------------------------------------------------------------------------

    def _take(self, message: MQTTMessage) -> Write | None:
        """Hand the readings of a message to the writer, as soon as it takes them; None if the gateway stops before."""
        done = Write()
        # A retained message is the last state, not a measurement of now.
        if message.retain:
            done.end_part()
            return done
        payload = bytes(message.payload)
        if len(payload) > MAX_PAYLOAD_BYTES:
            self._say(f"a message of {printable(message.topic)} has {len(payload):,} bytes, and is left out")
            done.end_part()
            return done
        try:
            taken = self._intake.take(payload, message.topic)
        except Exception as error:
            # An error of this program must neither end the client's thread nor stop what comes after the message.
            why = f"error in the gateway: {type(error).__name__}: {reason(error)}"
            self._say(f"{printable(message.topic)}: {printable(why)}")
            taken = Taken(refusals=[Refusal(payload, why, message.topic[:MAX_DEVICE])])
        while not self._stop.is_set():
            try:
                return self._writer.write(taken.messages, taken.refusals)
            except (Full, Unavailable):
                self._stop.wait(RETRY_S)
        return None

    def _on_written(self, write: Write) -> None:
        if not write.is_acknowledged:
            # Nobody knows whether Kafka has it. The broker sends it again over a new connection.
            self._reconnect()
            return
        # With the lock, so that no acknowledgement belongs to an older connection.
        with self._lock:
            waiting = self._unacknowledged
            while waiting and waiting[0][1].is_done and waiting[0][1].is_acknowledged:
                mid, _ = waiting.popleft()
                self._client.ack(mid, 1)

    def _reconnect(self) -> None:
        connection: Any = self._client.socket()
        if connection is not None:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _report(self, why: str) -> None:
        """Say once why no messages come."""
        self.problem = f"{self._url}: {why}"
        if why != UNSUPPORTED_VERSION and not self._said:
            self._say(f"no messages come from {self._url}: {why}; retrying")
        self._said = why

    def _why_no_connection(self) -> str:
        """Find out why the broker cannot be reached."""
        try:
            with socket.create_connection((self._url.host, self._url.port), 2.0) as connection:
                if self._tls:
                    self._tls.wrap_socket(connection, server_hostname=self._url.host).close()
        except OSError as error:
            return reason(error)
        return "it does not answer as an MQTT broker does"


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise UserError(f"--mqtt-ca {ca_file}: {reason(error)}; name a file of certificates in PEM form") from error
