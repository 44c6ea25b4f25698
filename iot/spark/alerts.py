"""Turns messages of Kafka into alerts, with Spark expressions only.

Spark's real-time mode runs projections and filters, and no Python. So this module repeats ``iot.readings.decode`` and
``iot.alerts.broken_bound`` as expressions, with the same verdict on every message. ``iot.spark.harmless`` first filters
out most of the messages that raise no alert; only the others are parsed. No message makes an expression throw, and no
expression depends on a setting of the session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from iot.alerts import Rules
from iot.readings import CONVERSIONS, MAX_DEPTH, MAX_STRING, STANDARD_UNITS, TIMESTAMP_PATTERN, UNKNOWN
from iot.settings import FUTURE_TOLERANCE_S
from iot.spark.harmless import harmless_pattern

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

FIELDS = ("sensor_id", "sensor_type", "value", "timestamp", "location", "unit", "quality", "run_id", "sequence")
YEAR_1_US = -62_135_596_800_000_000
YEAR_10000_US = 253_402_300_800_000_000
DAY_US = 86_400_000_000
# Options of to_json that write a timestamp as Python does.
AS_IN_PYTHON = {"timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSxxx", "timeZone": "UTC"}


def alerts(messages: DataFrame, rules: Rules) -> DataFrame:
    """Return the alerts that messages raise under these rules.

    Args:
        messages: rows of Kafka's source; ``value``, ``topic``, ``partition``, ``offset`` and ``timestamp`` are used.
        rules: the rules that readings are checked against.

    Returns:
        Rows for Kafka's sink, both columns binary: ``key``, the sensor's id, and ``value``, an alert as JSON.
    """
    from pyspark.sql import functions as f

    text = f.col("value").cast("string")
    kafka_us = f.when(f.unix_micros("timestamp") >= 0, f.unix_micros("timestamp"))
    record = ("alert_id", "latest_us")
    marked = messages.where(~text.rlike(harmless_pattern(rules))).select(
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
    """Return the time zone of the machine, for timestamps without an offset. The session may have another one."""
    jvm: Any = session._jvm
    return str(jvm.java.util.TimeZone.getDefault().getID())


# Messages that may raise an alert -------------------------------------------------------------------------------------

# Every string is closed, and no escape is half a surrogate pair, which the parser would accept. Matching STRING takes
# linear time only if every string is closed; otherwise each quote would be tried as a start.
CLOSED_STRINGS = (
    r'(?s)\A(?:[^"\\]+|"(?:[^"\\]+|\\[^u]|\\u(?![dD][89a-fA-F])|'
    r'\\u[dD][89abAB][0-9a-fA-F]{2}\\u(?=[dD][c-fC-F]))*+")*+\z'
)
STRING = r'"([^"\\]*(?:\\.[^"\\]*)*+)"'
# A number before a colon is not a value. It is left unmarked, and the parser rejects it.
NUMBER = r"(?<![-+.0-9eE])(-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][-+]?[0-9]++)?+)(?![ \t\r\n]*+:)"
# The parser rejects very long names. No field that is read has a long name, so long names are replaced.
LONG_NAME = r'"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4}){1000,}+"(?=[ \t\r\n]*+:)'
PARSER = {
    "allowSingleQuotes": "false",
    "allowNonNumericNumbers": "false",
    # One more, for the array around the message.
    "maxNestingDepth": str(MAX_DEPTH + 1),
}


def _evaluated_once(*columns: Column) -> Column:
    """Return the same columns, but keep the optimiser from copying their expressions to every place that uses them."""
    from pyspark.sql import functions as f

    return f.inline(f.array(f.struct(*columns)))


def _marked(text: Column) -> Column:
    """Return a message in which strings begin with a colon and numbers have become strings that end with one.

    ``{"a": "x", "b": 1}`` becomes ``{":a": ":x", ":b": "1:"}``. So after parsing, numbers can be told from strings, and
    have all their digits. The result is null if the message is not valid UTF-8 or has a string that is not closed.
    """
    from pyspark.sql import functions as f

    marked = f.regexp_replace(text, f"(?s){LONG_NAME}|{STRING}|{NUMBER}", '"$2:$1"')
    return f.when(f.is_valid_utf8(text) & text.rlike(CLOSED_STRINGS), marked)


def _is_one_object(marked: str) -> Column:
    """Return whether a marked message is one well-formed object, with nothing before or after it.

    The parser reports neither text after the end nor errors in the fields that it extracts. So an end mark is added
    after the message, and only its field is extracted. No message can contain that field: marked names have a colon.
    """
    from pyspark.sql import functions as f

    with_end = f.concat(f.lit("["), marked, f.lit(', {"end": true}]'))
    return f.get(f.from_json(with_end, "array<struct<end boolean>>", PARSER), f.lit(1))["end"]


def _fields(marked: str) -> Column:
    """Return the fields of a marked object, as a struct of strings."""
    from pyspark.sql import functions as f

    return f.from_json(marked, ", ".join(f"`:{name}` string" for name in FIELDS), PARSER)


def _are_valid() -> Column:
    """Return whether each field has the right form; the range of value and timestamp is checked later."""
    from pyspark.sql import functions as f

    def is_string(name: str, shortest: int) -> Column:
        return f.col(name).rlike(rf"(?s)\A:.{{{shortest},{MAX_STRING}}}\z")

    valid = is_string("sensor_id", 1) & is_string("sensor_type", 1) & f.col("value").rlike(r"\A[^:]+:\z")
    for name in ("location", "unit", "quality", "run_id"):
        valid &= f.col(name).isNull() | is_string(name, 0)
    valid &= f.col("sequence").isNull() | f.col("sequence").rlike(r"\A-?[0-9]+:\z")
    return valid & f.col("timestamp").rlike(rf"\A:{TIMESTAMP_PATTERN}\z")


def _content(name: str) -> Column:
    """Return a marked string without its colon."""
    from pyspark.sql import functions as f

    return f.expr(f"substring({name}, 2)")


def _conversion() -> list[Column]:
    """Return ``standard_unit`` of a valid reading, and what to ``subtract`` from its value, then ``divide`` it by."""
    from pyspark.sql import functions as f

    sensor_type, unit = _content("sensor_type"), _content("unit")
    standard_units = f.create_map(*(f.lit(word) for pair in STANDARD_UNITS.items() for word in pair))
    found = [f.coalesce(unit, f.try_element_at(standard_units, sensor_type), f.lit(UNKNOWN)), f.lit(0.0), f.lit(1.0)]
    for (of_type, foreign), conversion in CONVERSIONS.items():
        applies = (sensor_type == of_type) & (unit == foreign)
        found = [f.when(applies, new).otherwise(old) for new, old in zip(conversion, found, strict=True)]
    return [column.alias(name) for column, name in zip(found, ("standard_unit", "subtract", "divide"), strict=True)]


def _normalised() -> list[Column]:
    """Return the fields of a valid reading that an alert has; ``value`` is null where it is out of range."""
    from pyspark.sql import functions as f

    # The validator reads -0 as a whole number, which is 0.
    number = f.when(f.col("value") == "-0:", 0.0).otherwise(f.rtrim("value", f.lit(":")).try_cast("double"))
    return [
        _content("sensor_id").alias("sensor_id"),
        _content("sensor_type").alias("sensor_type"),
        f.coalesce(_content("location"), f.lit(UNKNOWN)).alias("location"),
        f.when(f.abs(number) < float("inf"), (number - f.col("subtract")) / f.col("divide")).alias("value"),
        f.col("standard_unit").alias("unit"),
    ]


def _broken_bound(rules: Rules) -> Column:
    """Return a struct of the alert's ``type`` and ``threshold``; null for a reading that breaks no rule."""
    from pyspark.sql import functions as f

    found = []
    for rule in rules.bounds.values():
        watched = (f.col("sensor_type") == rule.sensor_type) & (f.col("unit") == rule.unit)
        for side, bound in (("HIGH", rule.max), ("LOW", rule.min)):
            if bound is not None:
                beyond = f.col("value") > bound if side == "HIGH" else f.col("value") < bound
                name = f.lit(f"{side}_{rule.sensor_type.upper()}").alias("type")
                found.append(f.when(watched & beyond, f.struct(name, f.lit(float(bound)).alias("threshold"))))
    if not found:
        return f.lit(None).cast("struct<type: string, threshold: double>")
    return f.coalesce(*found)


def _time_us(text: Column, zone: str) -> Column:
    """Return a timestamp in microseconds since the epoch; null for a day that does not exist.

    Java accepts offsets of at most 18 hours, so the offset is subtracted here.

    Args:
        text: a timestamp that matches ``TIMESTAMP_PATTERN``.
        zone: the time zone of a timestamp without an offset.
    """
    from pyspark.sql import functions as f

    # The written date and time without its offset, cut to microseconds.
    clock = f.concat(f.regexp_extract(text, r"\A.{19}(?:\.[0-9]{1,6})?", 0), f.lit("Z")).try_cast("timestamp")
    clock_us = f.unix_micros(clock)

    offset = [f.regexp_extract(text, r"([+-])([0-9]{2}):([0-9]{2})\z", group) for group in (1, 2, 3)]
    offset_us = (offset[1].try_cast("long") * 60 + offset[2].try_cast("long")) * 60_000_000
    # In the hour that is skipped when clocks go forward, Python uses the offset in force afterwards; so does this.
    # On the first and the last day of the calendar, Python raises an error; here the result is null.
    instant = f.to_utc_timestamp(clock, zone)
    local_us = clock_us - (f.unix_micros(f.from_utc_timestamp(instant, zone)) - f.unix_micros(instant))
    near_the_end = (clock_us < YEAR_1_US + DAY_US) | (clock_us >= YEAR_10000_US - DAY_US)
    time_us = (
        f.when(text.endswith("Z"), clock_us)
        .when(offset[0] == "+", clock_us - offset_us)
        .when(offset[0] == "-", clock_us + offset_us)
        .when(~near_the_end, local_us)
    )
    return f.when(clock_us >= YEAR_1_US, time_us)
