"""Read the receivers of notifications from a TOML file, and name the line of each error in it.

Addresses and headers may hold secrets. No message shows them, nor what a variable of the environment holds.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from iot import durations
from iot.alarms.grouping import Routing
from iot.alarms.http_post import parse_url
from iot.alarms.matching import FIELDS, parse_matcher
from iot.alarms.model import Matcher
from iot.alarms.secret import Secret
from iot.alerts import SEVERITIES, Severity
from iot.inputs import name_of, read_text
from iot.settings import UserError
from iot.toml_file import Places, parse

Kind = Literal["webhook", "alertmanager", "apprise"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# What notifications can be grouped by. Together these distinguish all alarms that are active at the same time.
GROUPS = (*FIELDS, "unit")
TIMES = ("group_wait", "group_interval", "repeat_interval")
GROUPING = ("group_by", *TIMES)
TOP_LEVEL = (*GROUPING, "external_url", "receiver")
KEYS: dict[Kind, tuple[str, ...]] = {
    "webhook": ("name", "webhook", "headers", "max_alerts", "send_resolved", "severity", "matchers", *GROUPING),
    "alertmanager": ("name", "alertmanager", "headers", "send_resolved", "severity", "matchers"),
    "apprise": ("name", "apprise", "send_resolved", "severity", "matchers", *GROUPING),
}
# An Alertmanager groups by itself. It hears of a change within seconds, and once a minute of all that fires.
REPORTING = Routing(
    group_by=(), group_wait_s=0.0, group_interval_s=5.0, repeat_interval_s=60.0, silence_covers_told=False
)

# Maximum number of alarms in one webhook body. Alertmanager's default is no limit.
MAX_ALERTS = 500
MAX_NAME = 64
# A token of HTTP, and a value without control characters.
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
HEADER_VALUE = re.compile(r"[\t\x20-\x7e\xa0-\xff]*")
# Headers that describe the body or the connection.
FORBIDDEN_HEADERS = ("content-length", "content-type", "connection", "host", "transfer-encoding")


@dataclass(frozen=True)
class Receiver:
    """Where notifications go. ``url`` is any URL of the apprise library for ``kind`` apprise."""

    name: str
    kind: Kind
    url: Secret
    headers: Mapping[str, Secret]
    routing: Routing
    max_alerts: int


@dataclass(frozen=True)
class Notify:
    """The content of a file for ``--notify``. ``external_url`` is the dashboard's address for links, or empty."""

    receivers: tuple[Receiver, ...]
    external_url: str = ""


NO_RECEIVERS = Notify(())


def load_notify(path: Path | None, environment: Mapping[str, str] = os.environ) -> Notify:
    """Read a TOML file of ``[[receiver]]`` tables. None gives no receivers.

    Raises:
        UserError: the file cannot be read or is wrong. The text names the file, the line, the key and what is expected.
    """
    if path is None:
        return NO_RECEIVERS
    text = read_text(path, f"the file of receivers {name_of(path)}")
    try:
        document = parse(path, text)
    except UserError as error:
        # Its cause may hold the whole text.
        raise UserError(str(error)) from None
    return _Reader(Places(path, text, "receiver"), environment).read(document)


class _Reader:
    """Checks the content of a file, table by table."""

    def __init__(self, places: Places, environment: Mapping[str, str]) -> None:
        self._places = places
        self._environment = environment

    def read(self, document: dict[str, Any]) -> Notify:
        for key in document:
            if key not in TOP_LEVEL:
                expected = f"expected {', '.join(TOP_LEVEL[:-1])} or [[receiver]] tables"
                raise UserError(f"{self._places.top_level(key)}: unknown key {key!r}; {expected}")
        tables = document.get("receiver")
        if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
            raise UserError(f"{self._places.top_level('receiver')}: expected one or more [[receiver]] tables")
        common = self._grouping(document, Routing(), None)
        external_url = document.get("external_url", "")
        if not isinstance(external_url, str) or (external_url and not _is_http(external_url)):
            raise UserError(f"{self._places.top_level('external_url')}: external_url: expected the dashboard's address")
        receivers: dict[str, Receiver] = {}
        for number, table in enumerate(tables):
            receiver = self._receiver(table, number, common)
            if receiver.name in receivers:
                where = self._places.table(number, "name")
                raise UserError(f"{where}: a second receiver {receiver.name!r}; expected a name of its own for each")
            receivers[receiver.name] = receiver
        return Notify(tuple(receivers.values()), external_url.rstrip("/"))

    def _receiver(self, table: dict[str, Any], number: int, common: Routing) -> Receiver:
        kinds = [kind for kind in KINDS if kind in table]
        if len(kinds) != 1:
            found = f"both {kinds[0]} and {kinds[1]}" if kinds else "no address"
            where = self._places.table(number, kinds[1] if kinds else None)
            raise UserError(f"{where}: {found}; expected one of webhook, alertmanager and apprise with a URL")
        (kind,) = kinds
        for key in table:
            if key not in KEYS[kind]:
                expected = f"expected {', '.join(KEYS[kind][:-1])} or {KEYS[kind][-1]}"
                raise self._error(number, key, f"unknown key {key!r} of a receiver with {kind}; {expected}")
        name = table.get("name")
        if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME or not name.isprintable():
            raise self._error(number, "name", f"name: expected a text of 1 to {MAX_NAME} characters")
        grouping = REPORTING if kind == "alertmanager" else self._grouping(table, common, number)
        send_resolved = table.get("send_resolved", True)
        if not isinstance(send_resolved, bool):
            raise self._error(number, "send_resolved", "send_resolved: expected true or false")
        max_alerts = table.get("max_alerts", MAX_ALERTS)
        if not isinstance(max_alerts, int) or isinstance(max_alerts, bool) or max_alerts < 0:
            raise self._error(number, "max_alerts", "max_alerts: expected a whole number; 0 means no limit")
        routing = Routing(
            grouping.group_by,
            grouping.group_wait_s,
            grouping.group_interval_s,
            grouping.repeat_interval_s,
            send_resolved,
            self._severities(table, number),
            self._matchers(table, number),
            grouping.silence_covers_told,
        )
        url = self._url(table[kind], number, kind)
        return Receiver(name, kind, url, self._headers(table, number), routing, max_alerts)

    def _grouping(self, table: dict[str, Any], common: Routing, number: int | None) -> Routing:
        """Return the grouping that a table gives, else the common one; ``number`` is None for the top level."""
        group_by = common.group_by
        if "group_by" in table:
            given = table["group_by"]
            if given == ["..."]:
                given = list(GROUPS)
            if not isinstance(given, list) or any(one not in GROUPS or given.count(one) > 1 for one in given):
                expected = f'expected a list of {", ".join(GROUPS)}, or ["..."] for all of these'
                raise self._error(number, "group_by", f"group_by: {expected}")
            group_by = tuple(given)
        wait_s, interval_s, repeat_s = (
            self._seconds(table[key], key, number, least) if key in table else common_s
            for key, common_s, least in (
                ("group_wait", common.group_wait_s, 0.0),
                ("group_interval", common.group_interval_s, 1.0),
                ("repeat_interval", common.repeat_interval_s, 1.0),
            )
        )
        return Routing(group_by, wait_s, interval_s, repeat_s)

    def _seconds(self, value: Any, key: str, number: int | None, least_s: float) -> float:
        found_s = math.nan
        if isinstance(value, str):
            with suppress(ValueError):
                found_s = durations.seconds(value)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found_s = float(value)
        if not least_s <= found_s <= durations.MAX_S:
            expected = f"expected a duration of at least {least_s:g}s, such as {durations.EXAMPLES}"
            raise self._error(number, key, f"{key}: {expected}")
        return found_s

    def _severities(self, table: dict[str, Any], number: int) -> tuple[Severity, ...]:
        given = table.get("severity", list(SEVERITIES))
        if not isinstance(given, list) or not given or any(one not in SEVERITIES for one in given):
            raise self._error(number, "severity", f"severity: expected a list of {', '.join(SEVERITIES)}")
        return tuple(given)

    def _matchers(self, table: dict[str, Any], number: int) -> tuple[Matcher, ...]:
        given = table.get("matchers", [])
        if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
            raise self._error(number, "matchers", "matchers: expected a list of texts such as 'location = \"lab\"'")
        try:
            return tuple(parse_matcher(text) for text in given)
        except ValueError as error:
            raise self._error(number, "matchers", f"matchers: {error}") from None

    def _url(self, value: Any, number: int, kind: Kind) -> Secret:
        url = self._filled(value, number, kind)
        if kind == "apprise":
            if not _is_known_to_apprise(url):
                raise self._error(
                    number, kind, "apprise: the library does not know this URL; see https://appriseit.com/services/"
                )
        elif not _is_http(url):
            raise self._error(number, kind, f"{kind}: expected a URL that begins with http:// or https:// and a host")
        return Secret(url)

    def _headers(self, table: dict[str, Any], number: int) -> dict[str, Secret]:
        given = table.get("headers", {})
        if not isinstance(given, dict):
            raise self._error(number, "headers", 'headers: expected a table such as { Authorization = "Bearer …" }')
        headers = {}
        for name, value in given.items():
            if not HEADER_NAME.fullmatch(name) or name.lower() in FORBIDDEN_HEADERS:
                raise self._error(number, "headers", f"headers: {name!r} cannot be set; expected another header")
            filled = self._filled(value, number, "headers")
            if not HEADER_VALUE.fullmatch(filled):
                raise self._error(number, "headers", f"headers: {name}: expected a value without control characters")
            headers[name] = Secret(filled)
        return headers

    def _filled(self, value: Any, number: int, key: str) -> str:
        """Return the text with each ``${NAME}`` replaced by that variable of the environment; ``$${`` means ``${``."""
        if not isinstance(value, str) or not value:
            raise self._error(number, key, f"{key}: expected a text")

        def fill(found: re.Match[str]) -> str:
            if found[0] == "$${":
                return "${"
            if not (variable := self._environment.get(found[1] or "", "")):
                hint = f"set the variable {found[1]}" if found[1] else "write $${ for a plain ${"
                raise self._error(number, key, f"{key}: a ${{…}} in it names no variable with a value; {hint}")
            # A file of secrets usually ends in a line break.
            return variable.rstrip("\n")

        return re.sub(r"\$\$\{|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)\})?", fill, value)

    def _error(self, number: int | None, key: str, text: str) -> UserError:
        place = self._places.top_level(key) if number is None else self._places.table(number, key)
        return UserError(f"{place}: {text}")


def _is_http(url: str) -> bool:
    try:
        parse_url(url)
    except ValueError:
        return False
    return True


def _is_known_to_apprise(url: str) -> bool:
    # The library takes half a second to load.
    from iot.alarms.apprise_post import is_known

    return is_known(url)
