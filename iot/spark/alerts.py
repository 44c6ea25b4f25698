"""The alerts query: from messages of Kafka to alerts for Kafka, in expressions of Spark's own.

Spark's real-time mode takes projections and filters only, and no Python; so what ``iot.readings.decode`` and
``iot.alerts.broken_bound`` say is said here once more, with the same verdict on every message. Most messages are
readings in the usual form that break no rule: a regular expression sees that without parsing them. Only the others are
judged. Nothing here throws on any message, nor depends on a setting of the session.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from math import ceil, floor
from typing import TYPE_CHECKING, Any

from iot.alerts import Rule, Rules
from iot.readings import CONVERSIONS, MAX_DEPTH, MAX_STRING, STANDARD_UNITS, TIMESTAMP_PATTERN, UNKNOWN
from iot.settings import FUTURE_TOLERANCE_S

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

FIELDS = ("sensor_id", "sensor_type", "value", "timestamp", "location", "unit", "quality", "run_id", "sequence")
YEAR_1_US = -62_135_596_800_000_000
YEAR_10000_US = 253_402_300_800_000_000
DAY_US = 86_400_000_000
AS_IN_PYTHON = {"timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSxxx", "timeZone": "UTC"}


def alerts(messages: DataFrame, rules: Rules) -> DataFrame:
    """The alerts that messages raise under these rules.

    Args:
        messages: rows of Kafka's source; ``value``, ``topic``, ``partition``, ``offset`` and ``timestamp`` are used.
        rules: as ``iot.alerts.broken_bound`` takes them.

    Returns:
        Rows for Kafka's sink, both columns binary: ``key``, the sensor's id, and ``value``, an alert as JSON.
    """
    from pyspark.sql import functions as f

    text = f.col("value").cast("string")
    kafka_us = f.when(f.unix_micros("timestamp") >= 0, f.unix_micros("timestamp"))
    record = ("alert_id", "latest_us")
    marked = messages.where(~text.rlike(harmless(rules))).select(
        f.concat_ws("-", "topic", "partition", "offset").alias("alert_id"),
        (kafka_us + FUTURE_TOLERANCE_S * 1_000_000).alias("latest_us"),
        _evaluated_once(_marked(text).alias("marked")),
    )
    parsed = marked.where(_is_one_object("marked")).select(*record, _evaluated_once(_fields("marked").alias("fields")))
    valid = parsed.select(*record, *(f.col("fields")[":" + name].alias(name) for name in FIELDS)).where(_are_valid())
    in_standard_units = valid.select("*", _evaluated_once(*_conversion())).select(
        *record, "timestamp", _evaluated_once(*_normalised())
    )
    broken = in_standard_units.select("*", _evaluated_once(_broken_bound(rules).alias("broken"))).where(
        "broken is not null"
    )
    time_us = _time_us(_content("timestamp"), local_zone(messages.sparkSession))
    in_time = broken.select("*", _evaluated_once(time_us.alias("time_us"))).where(
        f"time_us >= {YEAR_1_US} and time_us < {YEAR_10000_US} and (latest_us is null or time_us <= latest_us)"
    )
    alert = f.struct(
        "alert_id",
        "broken.type",
        *("sensor_id", "sensor_type", "location", "value", "unit"),
        "broken.threshold",
        f.timestamp_micros("time_us").alias("timestamp"),
    )
    return in_time.select(
        f.col("sensor_id").cast("binary").alias("key"),
        f.to_json(alert, AS_IN_PYTHON).cast("binary").alias("value"),
    )


def local_zone(session: SparkSession) -> str:
    """The machine's time zone, which timestamps without an offset are in; the session may be set to another."""
    jvm: Any = session._jvm
    return str(jvm.java.util.TimeZone.getDefault().getID())


# Messages that raise no alert, seen without parsing them --------------------------------------------------------------

# No backslash is let in, so a string is what stands between two quotes.
PLAIN_STRING = r'"[^"\\]*"'
PLAIN_NUMBER = r"-?[0-9]+(?:\.[0-9]+)?"
UNBOUNDED = 10**9


def harmless(rules: Rules) -> str:
    """A pattern of messages that raise no alert, whatever else may be wrong with them.

    It knows readings of plain strings and numbers that have type, value and unit once each, in this order: first as the
    simulator writes them, for speed; then with spaces; then with any other fields before, between and after. A reading
    in another form is as good, but has to be parsed.
    """
    forms = [_in_the_contracts_order(rules, ""), _in_the_contracts_order(rules, " "), _in_some_order(rules)]
    return rf"\A\{{(?:{'|'.join(forms)})\}}\z"


def _in_the_contracts_order(rules: Rules, space: str) -> str:
    def field(name: str, pattern: str = PLAIN_STRING) -> str:
        return f',{space}"{name}":{space}{pattern}'

    before = field("sensor_id").removeprefix(f",{space}") + f",{space}"
    rest = f"{field('timestamp')}(?:{field('quality')})?(?:{field('run_id')})?(?:{field('sequence', PLAIN_NUMBER)})?"
    unwatched = field("location") + field("value", PLAIN_NUMBER) + field("unit") + rest
    return _form(rules, space, before, field("location"), "", rest, unwatched)


def _in_some_order(rules: Rules) -> str:
    def field_except(*names: str) -> str:
        return rf'"(?!(?:{"|".join(names)})")[^"\\]*": ?(?:{PLAIN_STRING}|{PLAIN_NUMBER}|null)'

    other = field_except("sensor_type", "value", "unit")
    others = f"(?:, ?{other})*+"
    return _form(rules, " ?", f"(?:{other}, ?)*+", others, others, others, f"(?:, ?{field_except('sensor_type')})*+")


def _form(
    rules: Rules, space: str, before: str, after_type: str, after_value: str, after_unit: str, after_unwatched: str
) -> str:
    """A pattern of readings, given the patterns of all the fields before and after those that the rules look at."""
    cases = []
    for rule in rules.values():
        for units, subtract, divide in _spellings(rule):
            in_bounds = f',{space}"value":{space}{_decimals(rule, subtract, divide)}{after_value}'
            names = "|".join(re.escape(unit) for unit in units if unit is not None)
            unit = f'(?:,{space}"unit":{space}"(?:{names})"{after_unit}){"?" if None in units else ""}'
            cases.append(f'{re.escape(rule.sensor_type)}"{after_type}{in_bounds}{unit}')
    watched = "|".join(sorted({re.escape(rule.sensor_type) for rule in rules.values()}))
    cases.append(rf'(?!(?:{watched})")[^"\\]*"{after_unwatched}')
    return f'{before}"sensor_type":{space}"(?:{"|".join(cases)})'


def _spellings(rule: Rule) -> Iterator[tuple[list[str | None], float, float]]:
    """The units that readings of a rule may have, None for no unit, together with how their values are converted."""
    if (rule.sensor_type, rule.unit) in CONVERSIONS:
        return  # No reading has this unit once it is normalised.
    found: dict[tuple[float, float], list[str | None]] = {(0.0, 1.0): [rule.unit]}
    if STANDARD_UNITS.get(rule.sensor_type, UNKNOWN) == rule.unit:
        found[0.0, 1.0].append(None)
    for (sensor_type, unit), (standard, subtract, divide) in CONVERSIONS.items():
        if (sensor_type, standard) == (rule.sensor_type, rule.unit):
            found.setdefault((subtract, divide), []).append(unit)
    for (subtract, divide), units in found.items():
        yield units, subtract, divide


def _decimals(rule: Rule, subtract: float, divide: float) -> str:
    """A pattern of decimals that are within the rule's bounds, because all with the same whole part are."""
    low, high = -UNBOUNDED, UNBOUNDED
    if rule.min is not None:
        low = max(low, ceil(Fraction(rule.min) * Fraction(divide) + Fraction(subtract)))
    if rule.max is not None:
        high = min(high, floor(Fraction(rule.max) * Fraction(divide) + Fraction(subtract)))
    patterns = _whole_numbers(max(low, 0), high - 1)
    patterns += ["-" + pattern for pattern in _whole_numbers(max(-high, 0), -low - 1)]
    return rf"(?:{'|'.join(patterns)})(?:\.[0-9]+)?" if patterns else "(?!)"


def _whole_numbers(first: int, last: int) -> list[str]:
    """Patterns that together match the whole numbers from first to last, neither below zero."""
    if first > last:
        return []
    if first // 10 == last // 10:
        return [f"{first // 10 or ''}[{first % 10}-{last % 10}]"]
    # The tens that are complete.
    ten, last_ten = max(1, -(-first // 10)), (last + 1) // 10 - 1
    complete = [pattern + "[0-9]" for pattern in _whole_numbers(ten, last_ten)]
    return [*_whole_numbers(first, 10 * ten - 1), *complete, *_whole_numbers(max(first, 10 * last_ten + 10), last)]


# The others, judged ---------------------------------------------------------------------------------------------------

# Each string is closed, and no escape in it is half a surrogate pair, which the parser would let pass. Only in such a
# text can strings be looked for in linear time: after one that is not closed, each quote would be tried.
CLOSED_STRINGS = (
    r'(?s)\A(?:[^"\\]+|"(?:[^"\\]+|\\[^u]|\\u(?![dD][89a-fA-F])|'
    r'\\u[dD][89abAB][0-9a-fA-F]{2}\\u(?=[dD][c-fC-F]))*+")*+\z'
)
STRING = r'"([^"\\]*(?:\\.[^"\\]*)*+)"'
# A number before a colon is none: left alone, the parser refuses it.
NUMBER = r"(?<![-+.0-9eE])(-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][-+]?[0-9]++)?+)(?![ \t\r\n]*+:)"
# No field has a name that long, and the parser refuses names that are far longer.
LONG_NAME = r'"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4}){1000,}+"(?=[ \t\r\n]*+:)'
PARSER = {
    "allowSingleQuotes": "false",
    "allowNonNumericNumbers": "false",
    # One for the array around the message.
    "maxNestingDepth": str(MAX_DEPTH + 1),
}


def _evaluated_once(*columns: Column) -> Column:
    """The same columns, but the optimiser does not copy their expressions to each place that uses them."""
    from pyspark.sql import functions as f

    return f.inline(f.array(f.struct(*columns)))


def _marked(text: Column) -> Column:
    """A message with colons put in front of its strings and, as strings, behind its numbers; null if it is no text.

    ``{"a": "x", "b": 1}`` becomes ``{":a": ":x", ":b": "1:"}``: so after parsing, a number is known from a string, and
    is as it was written.
    """
    from pyspark.sql import functions as f

    marked = f.regexp_replace(text, f"(?s){LONG_NAME}|{STRING}|{NUMBER}", '"$2:$1"')
    return f.when(f.is_valid_utf8(text) & text.rlike(CLOSED_STRINGS), marked)


def _is_one_object(marked: str) -> Column:
    """Whether a marked message is well-formed, with nothing before or after it.

    The parser says nothing of text after the end, nor of errors in fields that it was asked for. So it is asked for the
    field of an end mark, which no message can hold: without a colon there is no such name.
    """
    from pyspark.sql import functions as f

    with_end = f.concat(f.lit("["), marked, f.lit(', {"end": true}]'))
    return f.get(f.from_json(with_end, "array<struct<end boolean>>", PARSER), f.lit(1))["end"]


def _fields(marked: str) -> Column:
    """The fields of a marked object, as a struct of strings."""
    from pyspark.sql import functions as f

    return f.from_json(marked, ", ".join(f"`:{name}` string" for name in FIELDS), PARSER)


def _are_valid() -> Column:
    """Whether each field is as it should be, but for the size of the value and the moment of the timestamp."""
    from pyspark.sql import functions as f

    def is_string(name: str, shortest: int) -> Column:
        return f.col(name).rlike(rf"(?s)\A:.{{{shortest},{MAX_STRING}}}\z")

    valid = is_string("sensor_id", 1) & is_string("sensor_type", 1) & f.col("value").rlike(r"\A[^:]+:\z")
    for name in ("location", "unit", "quality", "run_id"):
        valid &= f.col(name).isNull() | is_string(name, 0)
    valid &= f.col("sequence").isNull() | f.col("sequence").rlike(r"\A-?[0-9]+:\z")
    return valid & f.col("timestamp").rlike(rf"\A:{TIMESTAMP_PATTERN}\z")


def _content(name: str) -> Column:
    """What a string has after its colon."""
    from pyspark.sql import functions as f

    return f.expr(f"substring({name}, 2)")


def _conversion() -> list[Column]:
    """The standard ``unit`` of a valid reading, and what to ``subtract`` from its value, then to ``divide`` it by."""
    from pyspark.sql import functions as f

    sensor_type, unit = _content("sensor_type"), _content("unit")
    standard_units = f.create_map(*(f.lit(word) for pair in STANDARD_UNITS.items() for word in pair))
    found = [f.coalesce(unit, f.try_element_at(standard_units, sensor_type), f.lit(UNKNOWN)), f.lit(0.0), f.lit(1.0)]
    for (of_type, foreign), conversion in CONVERSIONS.items():
        applies = (sensor_type == of_type) & (unit == foreign)
        found = [f.when(applies, new).otherwise(old) for new, old in zip(conversion, found, strict=True)]
    return [column.alias(name) for column, name in zip(found, ("standard_unit", "subtract", "divide"), strict=True)]


def _normalised() -> list[Column]:
    """What an alert tells of a valid reading; ``value`` is null where it is out of range."""
    from pyspark.sql import functions as f

    # As a whole number, -0 is 0.
    number = f.when(f.col("value") == "-0:", 0.0).otherwise(f.rtrim("value", f.lit(":")).try_cast("double"))
    return [
        _content("sensor_id").alias("sensor_id"),
        _content("sensor_type").alias("sensor_type"),
        f.coalesce(_content("location"), f.lit(UNKNOWN)).alias("location"),
        f.when(f.abs(number) < float("inf"), (number - f.col("subtract")) / f.col("divide")).alias("value"),
        f.col("standard_unit").alias("unit"),
    ]


def _broken_bound(rules: Rules) -> Column:
    """The ``type`` of the alert and the ``threshold``, null for a reading that breaks no rule."""
    from pyspark.sql import functions as f

    found = []
    for rule in rules.values():
        watched = (f.col("sensor_type") == rule.sensor_type) & (f.col("unit") == rule.unit)
        for side, bound in (("HIGH", rule.max), ("LOW", rule.min)):
            if bound is not None:
                beyond = f.col("value") > bound if side == "HIGH" else f.col("value") < bound
                name = f.lit(f"{side}_{rule.sensor_type.upper()}").alias("type")
                found.append(f.when(watched & beyond, f.struct(name, f.lit(float(bound)).alias("threshold"))))
    return f.coalesce(*found)


def _time_us(text: Column, zone: str) -> Column:
    """Microseconds since the epoch of a timestamp by the pattern; null where it names no real day.

    Java's own offsets end at 18 hours, so the offset is reckoned by hand.
    """
    from pyspark.sql import functions as f

    # On the clock that was looked at, cut to microseconds.
    clock = f.concat(f.regexp_extract(text, r"\A.{19}(?:\.[0-9]{1,6})?", 0), f.lit("Z")).try_cast("timestamp")
    clock_us = f.unix_micros(clock)

    offset = [f.regexp_extract(text, r"([+-])([0-9]{2}):([0-9]{2})\z", group) for group in (1, 2, 3)]
    offset_us = (offset[1].try_cast("long") * 60 + offset[2].try_cast("long")) * 60_000_000
    # As Python does it, also where the clock was put forward: by the offset that is in force afterwards. Near the ends
    # of the calendar Python gives up.
    instant = f.to_utc_timestamp(clock, zone)
    local_us = clock_us - (f.unix_micros(f.from_utc_timestamp(instant, zone)) - f.unix_micros(instant))
    near_the_end = (clock_us < YEAR_1_US + DAY_US) | (f.unix_micros(f.from_utc_timestamp(clock, zone)) >= YEAR_10000_US)
    time_us = (
        f.when(text.endswith("Z"), clock_us)
        .when(offset[0] == "+", clock_us - offset_us)
        .when(offset[0] == "-", clock_us + offset_us)
        .when(~near_the_end, local_us)
    )
    return f.when(clock_us >= YEAR_1_US, time_us)
