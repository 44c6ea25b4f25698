"""Turn payloads into readings and refusals, and say once per device what is left out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from iot.devices.field_map import NO_MAP, FieldMap
from iot.devices.formats import PayloadParser
from iot.devices.json_forms import SILENT_TOPICS
from iot.devices.own_schema import own_readings
from iot.devices.results import Refused, Timed
from iot.gateway.writer import Refusal
from iot.readings import Message
from iot.settings import FUTURE_TOLERANCE_S
from iot.terminal import printable

# Maximum number of devices about which something is said.
MAX_SAID = 1_000
# Maximum number of names in one such line.
MAX_NAMES = 20
# Maximum length of a device's name in a line and in the header of a refused message.
MAX_DEVICE = 256


class Problem(NamedTuple):
    """What is wrong with a record of a payload; ``number`` counts them from 1."""

    number: int
    reason: str


@dataclass
class Taken:
    """What one payload holds.

    Attributes:
        messages: the readings, in order.
        refusals: what goes to the dead-letter topic.
        problems: what to answer about records that were refused, wholly or in part.
        records: the number of records.
    """

    messages: list[Message] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    records: int = 0


class Intake:
    """Takes payloads. Threads may share it."""

    def __init__(
        self, say: Callable[[str], None], field_map: FieldMap = NO_MAP, clock: Callable[[], float] = time.time
    ) -> None:
        """
        Args:
            say: prints a line.
            field_map: what cannot be recognised.
            clock: returns seconds since the epoch.
        """
        self._say, self._map, self._clock = say, field_map, clock
        self._parsers = threading.local()
        self._said: set[str] = set()
        self._saying = threading.Lock()

    def take(self, payload: bytes, topic: str | None = None, device: str | None = None) -> Taken:
        """Return what a payload holds.

        Args:
            topic: the MQTT topic. Then messages that hold no measurements, such as those about a device's state, are
                neither readings nor refused.
            device: the name of the device, if its token tells it.
        """
        if topic is not None and SILENT_TOPICS.search(topic):
            return Taken()
        if own := self.take_own(payload):
            return Taken(own, records=len(own))
        now_us = int(self._clock() * 1e6)
        latest_us = now_us + FUTURE_TOLERANCE_S * 1_000_000
        parser = self._parser()
        records = parser.records(payload, topic, now_us, device)
        taken = Taken(records=len(records))
        for number, (raw, results) in enumerate(records, 1):
            readings = [each for each in results if isinstance(each, Timed) and each.time_us <= latest_us]
            reasons = [each for each in results if isinstance(each, Refused)]
            if len(readings) + len(reasons) < len(results):
                reasons.append(Refused("future timestamp"))
            taken.messages += [each.message for each in readings]
            wrong = _wrong(reasons, is_required=topic is None and not readings)
            if not results and topic is None:
                wrong = "it holds no reading"
            if wrong:
                taken.problems.append(Problem(number, wrong))
                # An HTTP client learns that its body is empty; there is nothing to keep.
                if raw:
                    taken.refusals.append(Refusal(raw, wrong, (device or topic or "")[:MAX_DEVICE]))
        name = device or topic or next((each.sensor_id for each in taken.messages), "")
        if left_out := list(parser.left_out):
            self._say_left_out(name, left_out)
        if topic is not None and taken.problems:
            # Nobody else tells the sender.
            self._say_once(f"{name}\0", f"{name}: refused, and said once: {taken.problems[0].reason}")
        return taken

    def take_own(self, payload: bytes) -> list[Message] | None:
        """Return the readings of a payload in our own schema; None if ``take`` must look closer."""
        own = own_readings(payload) if self._map == NO_MAP else None
        latest_us = (self._clock() + FUTURE_TOLERANCE_S) * 1e6
        return own[0] if own and max(own[1]) <= latest_us else None

    def _parser(self) -> PayloadParser:
        # It remembers forms, so threads cannot share one.
        if not hasattr(self._parsers, "own"):
            self._parsers.own = PayloadParser(self._map)
        own: PayloadParser = self._parsers.own
        return own

    def _say_left_out(self, device: str, names: list[str]) -> None:
        shown = ", ".join(names[:MAX_NAMES]) + (", …" if len(names) > MAX_NAMES else "")
        verb = "names" if len(names) == 1 else "name"
        who = device[:MAX_DEVICE] or "a device"
        self._say_once(device, f"{who}: {shown} {verb} no known type and {'is' if len(names) == 1 else 'are'} left out")

    def _say_once(self, about: str, text: str) -> None:
        with self._saying:
            if about in self._said or len(self._said) >= MAX_SAID:
                return
            self._said.add(about)
        self._say(printable(text))


def _wrong(reasons: Iterable[Refused], is_required: bool) -> str:
    """Return why a record is refused; empty if it is not.

    A value that is missing, and a field that measures nothing, are no errors where something else was measured.
    """
    texts = [each.reason for each in reasons if is_required or not (each.is_missing or each.is_other)]
    return "; ".join(dict.fromkeys(texts))
