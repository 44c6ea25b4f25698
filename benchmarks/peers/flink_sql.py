"""The windows by Flink SQL: Kafka connector, JSON format, a window table-valued function.

Not tuned beyond the parallelism: Flink's local cluster, its usual memory, watermarks by partition.
"""

from __future__ import annotations

import time
from datetime import UTC
from typing import Any

from pyflink.table import EnvironmentSettings, TableEnvironment

from benchmarks.peers.output import SLIDE_S, WATERMARK_S, WINDOW_S, parse_args, say, say_window

PARALLELISM = 2

SOURCE = f"""
CREATE TEMPORARY TABLE {{name}} (
    sensor_type STRING,
    `value` DOUBLE,
    `timestamp` STRING,
    event_time AS TO_TIMESTAMP(SUBSTRING(`timestamp`, 1, 23), 'yyyy-MM-dd''T''HH:mm:ss.SSS'),
    WATERMARK FOR event_time AS event_time - INTERVAL '{WATERMARK_S}' SECOND
) WITH (
    'connector' = 'kafka',
    'topic' = '{{topic}}',
    'properties.bootstrap.servers' = '{{servers}}',
    'scan.startup.mode' = 'earliest-offset',
    'format' = 'json',
    'json.ignore-parse-errors' = 'true'{{bound}}
)
"""
BOUND = ",\n    'scan.bounded.mode' = 'latest-offset'"
SINK = """
CREATE TEMPORARY TABLE discarded (
    window_end TIMESTAMP(3), sensor_type STRING, readings BIGINT, mean DOUBLE, least DOUBLE, most DOUBLE
) WITH ('connector' = 'blackhole')
"""
WINDOWS = f"""
SELECT window_end, sensor_type, COUNT(*), AVG(`value`), MIN(`value`), MAX(`value`)
FROM TABLE(HOP(TABLE {{name}}, DESCRIPTOR(event_time), INTERVAL '{SLIDE_S}' SECOND, INTERVAL '{WINDOW_S}' SECOND))
GROUP BY window_start, window_end, sensor_type
"""


def main() -> None:
    args = parse_args(__doc__)
    tables = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
    tables.get_config().set("pipeline.jars", f"file://{args.jar}")
    tables.get_config().set("parallelism.default", str(PARALLELISM))
    tables.execute_sql(SINK)

    def query(name: str, topic: str) -> str:
        bound = "" if args.live else BOUND
        tables.execute_sql(SOURCE.format(name=name, topic=topic, servers=args.bootstrap_servers, bound=bound))
        return WINDOWS.format(name=name)

    if args.warm_up:
        tables.execute_sql(f"INSERT INTO discarded {query('warm_up', args.warm_up)}").wait()
    select = query("readings", args.topic)
    say(ready=True)
    begun_s = time.perf_counter()
    if args.windows or args.live:
        give_out(tables.execute_sql(select))
    else:
        tables.execute_sql(f"INSERT INTO discarded {select}").wait()
    say(seconds=time.perf_counter() - begun_s)


def give_out(result: Any) -> None:
    """Print each window as soon as Flink hands it over."""
    with result.collect() as rows:
        for end, *of_window in rows:
            say_window(end.replace(tzinfo=UTC).timestamp(), *of_window)


if __name__ == "__main__":
    main()
