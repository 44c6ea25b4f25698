"""Where an MQTT broker is, and who logs in there."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from iot.settings import UserError

PORTS = {"mqtt": 1883, "mqtts": 8883}
EXPECTED = "expected mqtt://host:1883 or mqtts://user:password@host:8883"


@dataclass(frozen=True)
class MqttUrl:
    """The parts of a URL. ``str`` has no password."""

    host: str
    port: int
    has_tls: bool
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.has_tls else 'mqtt'}://{host}:{self.port}"


def parse_url(text: str) -> MqttUrl:
    """Read a URL.

    Raises:
        UserError: it is none of an MQTT broker. The text does not contain it, because it may have a password.
    """
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UserError(f"--mqtt-url: {EXPECTED}") from error
    scheme = parts.scheme.lower()
    if scheme not in PORTS or not host or parts.path not in ("", "/") or parts.query or parts.fragment or port == 0:
        raise UserError(f"--mqtt-url: {EXPECTED}; topics are given with --mqtt-topic")
    user, password = (None if each is None else unquote(each) for each in (parts.username, parts.password))
    return MqttUrl(host, port or PORTS[scheme], scheme == "mqtts", user, password)


def is_filter(text: str) -> bool:
    """Whether a text is an MQTT topic filter, such as zigbee2mqtt/+ or tele/#."""
    levels = text.split("/")
    return (
        bool(text)
        and len(text.encode(errors="replace")) <= 65_535
        and "\0" not in text
        and all("#" not in level for level in levels[:-1])
        and ("#" not in levels[-1] or levels[-1] == "#")
        and all(level == "+" or "+" not in level for level in levels)
    )
