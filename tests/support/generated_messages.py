"""Random messages for tests that compare two validators: valid, almost valid and broken ones."""

from __future__ import annotations

import json
import random

import msgspec

from iot.alerts import Rule, Rules
from iot.readings import CONVERSIONS, MAX_STRING
from tests.support.cases import CASES, EXAMPLE

KAFKA_MS = 1_795_486_447_123
"""The Kafka timestamp for which 2026-11-24T02:15:07.123 is the latest event time that is not in the future."""
END_OF_TIME_MS = 253_402_300_800_000

# Rules that every accepted case of the table breaks, with any value.
EVERY_VALUE_ALERTS = Rules(
    tuple(
        Rule(*key, max=-1e308)
        for key in dict.fromkeys(
            (case["accept"]["sensor_type"], case["accept"]["unit"]) for case in CASES if "accept" in case
        )
    )
)

# Numbers near the bounds in every unit, and numbers that are hard to read.
VALUES = """
15 15.0 15.00 14.999999999999998 14.99999999999999999999 30 30.0 29.99999999999999999999 30.000000000000004 30.1 29.9
59 59.0 58.99999 86 86.0 86.00000000000001 86.00000000000000000001 87 70 70.0 69.99 70.00000000000001 71 29 5e-324
1000 999.9999999999999 999.99 1030 1030.01 1031 100000 99999.99 103000 103000.00000000001 103001 -40 212 -0.5 0 -0 -0.0
-0e5 1.5e1 3E+1 0.1e3 1e-400 1.7976931348623157e308 1.7976931348623159e308 9007199254740993 1009.4200000000001
2.4703282292062328e-324 123456789.123456789123456789 18446744073709551617
"""
ODD_WORDS = r"""
null true false "" "x" {} [] {"value":99} [1,"a",{"unit":"F"}] NaN Infinity -Infinity - 01 -01 1. .5 +1 1e 1e999 -1e999
1_0 0x1f "NaN" tru nulll 'x' "\ud83d" "\ude00\ud83d" "\ud83d\ude00" "\u0000" "\x" "\u12" "\\" "\"" "\\\"" "a\/b" 1.0
"{[,:]}" "value" ":" [1,] [,1] {"a"} {"a":} {1:2} {a:1} {"a":1,} {"a":1,"a":2} [1e999] [-] ["\ud800"] [NaN] ["\x"] 1.5
{"\ud800":1} -1 "1" 1: ":1" "1:" : "\ud83d\u0041" "\ud83d\ud83d" "\\ud83d"
"""
ODD = [
    *ODD_WORDS.split(),
    *(
        "/* c */ 1",
        "1 2",
        '"a" "b"',
        '"a\nb"',
        '"\x7f"',
        "\0",
        '"\0"',
        "\ufeff1",
        "1\u00a0",
        '"😀"',
        r'"\u 123"',
        '"\\\n"',
    ),
    *(f'"{text * length}"' for text in ("é", "😀", r"\ud83d\ude00", r"\n") for length in (MAX_STRING, MAX_STRING + 1)),
    *("1" * 30, "1" * 400, "-" + "9" * 5000, "0." + "0" * 400 + "1", "1" * 1100 + "e-1098", '"' + "[" * 150 + '"'),
    *("[" * depth + "]" * depth for depth in (98, 99, 100, 101)),
    *('{"a":' * depth + "1" + "}" * depth for depth in (99, 100)),
]
AROUND = ["x", "]", "[", "}", "{", ",", '""', "{}", ",{}", "]}", "[]", "#", " ", "\ufeff", "\u00a0", "\0"]
AROUND += [',{"end":true}]', '],[{"end":true}', ',{"end":true}]x']
BYTES = [byte.encode() for byte in '"\\{}[]:,0-e. \n\0'] + [
    b"",
    b"1e999",
    b"null",
    rb"\ud83d",
    rb"\u0022",
    b"\xff",
    b"\xc3",
]
BYTES += [b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xf0\x9f\x98\x80"]


class MessageGenerator:
    """Generates messages, from valid readings to bytes that are not JSON."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)

    def message(self) -> tuple[bytes, int]:
        """A message and Kafka's timestamp of it, in ms."""
        pick, chance = self._chance.choice, self._chance.random
        # The probability that a part of this message is wrong.
        self._error_rate = pick([0.0, 0.0, 0.03, 0.2])
        names = list(msgspec.structs.asdict(EXAMPLE))
        if chance() < 0.5:
            self._chance.shuffle(names)
        names = [name for name in names if name not in ("unit", "location", "quality", "run_id") or chance() < 0.8]
        fields = [(self._string(name, 0.1), self._field(name)) for name in names if chance() > self._error_rate / 10]
        while chance() < self._error_rate + 0.1:
            name = pick([*names, "x", "", "time_us", "Value", "value ", "n" * 200, "é"])
            fields.insert(self._chance.randint(0, len(fields)), (self._string(name, 0.3), self._field(name)))
        comma, colon = pick([(",", ":"), (", ", ": "), (", ", ": "), (" ,\t", "\r: "), (",\n  ", ":")])
        text = "{" + comma.join(name + colon + value for name, value in fields) + "}"
        if chance() < self._error_rate:
            text = pick(["", pick(AROUND)]) + text + pick(AROUND)
        message = bytearray(text, "utf-8", "surrogatepass")
        while chance() < self._error_rate:
            at = self._chance.randint(0, len(message))
            message[at : at + pick([0, 0, 1, 1, 2, 5])] = pick([*BYTES, bytes([self._chance.randrange(256)])])
        return bytes(message), pick([KAFKA_MS, KAFKA_MS, KAFKA_MS - 1, END_OF_TIME_MS, 0, -1])

    def _field(self, name: str) -> str:
        pick, chance = self._chance.choice, self._chance.random
        if chance() < self._error_rate / 2 or name not in msgspec.structs.asdict(EXAMPLE):
            return pick(ODD)
        if name == "value":
            many_digits = f"{pick(['', 1, 10])}{self._chance.randint(10, 99)}.{self._chance.randrange(10**40):040d}"
            number = many_digits[: self._chance.randint(6, len(many_digits))]
            return pick([pick(VALUES.split()), number, repr(self._chance.uniform(-1100, 1100))])
        if name == "timestamp":
            return self._string(self._timestamp(), 0.1)
        if name == "sensor_type":
            return self._string(
                pick(["temperature", "humidity", "pressure"] * 5 + [key[0] for key in EVERY_VALUE_ALERTS.bounds]), 0.1
            )
        if name == "unit":
            return pick(
                [
                    "null",
                    *(self._string(key[1], 0.1) for key in EVERY_VALUE_ALERTS.bounds),
                    *(f'"{u}"' for _, u in CONVERSIONS),
                ]
            )
        if name == "sequence":
            return pick(["null", "0", "-0", str(self._chance.randrange(10**30))])
        characters = 'ab7_é😀"\\/\n\0\x1f\u2028\x7f\ufeff{]:, '
        length = pick([1, 2, 5, 5, MAX_STRING - 1, MAX_STRING])
        return pick(['"x"', self._string("".join(self._chance.choices(characters, k=length)), 0.3)])

    def _string(self, text: str, escapes: float) -> str:
        """A text as a JSON string, in one of the possible spellings; ``escapes`` is the probability of escapes."""
        if self._chance.random() > escapes:
            return json.dumps(text, ensure_ascii=False)
        ascii_only = json.dumps(text)[1:-1]
        chosen = (f"\\u{ord(c):04X}" if c.isalpha() and self._chance.random() < 0.5 else c for c in ascii_only)
        return json.dumps(text) if "\\" in ascii_only else f'"{"".join(chosen)}"'

    def _timestamp(self) -> str:
        pick, chance = self._chance.choice, self._chance.random
        fraction = pick(["", ".0", ".1", ".123", ".123000", ".123001", ".1230009", ".123456", ".9999999999999999999"])
        offset = pick(["Z", "", "+00:00", "+00:00", "-00:00", "+00:01", "-00:01", "+18:01", "+23:59", "-23:59"])
        if chance() < 0.5:
            return f"2026-11-24T02:15:07{fraction}{offset}"
        year = pick(
            ["0001", "0001", "0002", "1582", "1883", "1969", "1970", "2000", "2023", "2024", "2026", "2100", "9999"]
        )
        day = pick(["01-01", "01-02", "02-28", "03-08", "03-29", "06-30", "10-25", "11-01", "12-31", "12-31"])
        clock = pick(["00:00:00", "00:59:59", "01:30:00", "02:00:00", "02:30:00", "12:34:56", "18:30:00", "23:59:59"])
        text = f"{year}-{day}T{clock}{fraction}{offset}"
        if chance() < self._error_rate:
            day = pick(["02-29", "02-30", "04-31", "00-10", "13-01", "01-00", "01-32"])
            clock = pick(["24:00:00", "23:60:00", "23:59:60", "1:00:00", "12:00"])
            text = pick([f"{year}-{day}T12:00:00Z", f"{year}-01-01T{clock}Z", "0000-12-31T23:59:59-00:01", text[:-1]])
        while chance() < self._error_rate / 2:
            at = self._chance.randint(0, len(text))
            text = text[:at] + pick("0 xTZ+-:.,٢−\n") + text[at + pick([0, 1]) :]
        return text
