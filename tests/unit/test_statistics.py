"""The statistics of a consumer, over the run and over the last ten seconds, and the table that shows them."""

from __future__ import annotations

import math

import pytest

from iot.statistics import MAX_REASONS, MAX_TYPES, Aggregate, Statistics


def test_statistics_per_sensor_type():
    statistics = Statistics(0.0)
    statistics.add(5, {"temperature": [20.0, 24.0], "humidity": [50.0]}, 1.0)
    statistics.add(3, {"temperature": [-4.0]}, 2.0)
    assert statistics.run.messages == 8
    assert dict(statistics.run.values) == {
        "temperature": Aggregate(3, 40.0, -4.0, 24.0),
        "humidity": Aggregate(1, 50.0, 50.0, 50.0),
    }
    assert statistics.run.values["temperature"].mean == pytest.approx(40 / 3)


def test_malformed_messages_count_as_messages():
    statistics = Statistics(0.0)
    statistics.add(7, {}, 1.0)
    assert statistics.run.messages == 7
    assert not statistics.run.values
    assert list(statistics.table(1.0, 10)) == []


def test_the_last_ten_seconds():
    statistics = Statistics(100.0)
    for second in range(30):
        statistics.add(10, {"light": [float(second)]}, 100.5 + second)
    rate, recent = statistics.recent(129.5)
    # Seconds 120 to 129, of which the last is half over.
    assert recent.messages == 100
    assert recent.values["light"] == Aggregate(10, sum(range(20, 30)), 20.0, 29.0)
    assert rate == pytest.approx(100 / 9.5)
    assert statistics.run.values["light"] == Aggregate(30, sum(range(30)), 0.0, 29.0)


def test_recent_figures_leave_out_what_is_older_than_ten_seconds():
    statistics = Statistics(100.0)
    statistics.add(10, {"light": [1.0]}, 100.5)
    assert statistics.recent(109.9)[1].messages == 10
    rate, recent = statistics.recent(110.0)
    assert (rate, recent.messages, dict(recent.values)) == (0.0, 0, {})


def test_the_rate_of_a_run_that_just_began():
    statistics = Statistics(100.9)
    statistics.add(50, {}, 101.0)
    assert statistics.recent(101.0)[0] == 50.0
    assert statistics.recent(102.9)[0] == 25.0


def test_types_beyond_the_first_200_are_counted_together():
    statistics = Statistics(0.0)
    statistics.add(300, {f"type {number}": [1.0] for number in range(300)}, 1.0)
    statistics.add(2, {"type 0": [3.0], "type 299": [5.0]}, 1.0)
    assert len(statistics.run.values) == MAX_TYPES + 1
    assert statistics.run.values["type 0"] == Aggregate(2, 4.0, 1.0, 3.0)
    assert statistics.run.values["other"] == Aggregate(101, 105.0, 1.0, 5.0)
    assert statistics.recent(1.0)[1].values == statistics.run.values


def test_malformed_messages_are_counted_by_reason_without_the_position():
    statistics = Statistics(0.0)
    assert statistics.add_malformed("not JSON: trailing characters (byte 7)") == 1
    assert statistics.add_malformed("not JSON: trailing characters (byte 8)") == 2
    assert statistics.add_malformed("empty message") == 1
    assert statistics.malformed == {"not JSON: trailing characters": 2, "empty message": 1}


def test_reasons_are_bounded():
    statistics = Statistics(0.0)
    for number in range(1000):
        statistics.add_malformed(f"reason {number}")
    assert len(statistics.malformed) == MAX_REASONS + 1
    assert statistics.malformed.total() == 1000
    assert statistics.malformed["other"] == 1000 - MAX_REASONS


def test_table():
    statistics = Statistics(0.0)
    statistics.add(2, {"pressure": [1013.25, 1000.0]}, 1.0)
    statistics.add(1, {"humidity": [50.0]}, 20.0)
    assert list(statistics.table(20.0, 10)) == [
        "              whole run                        last 10 s",
        "sensor type       count    mean     min     max    count    mean     min     max",
        "humidity              1   50.00   50.00   50.00        1   50.00   50.00   50.00",
        "pressure              2 1006.62 1000.00 1013.25        0       -       -       -",
    ]


def test_table_fits_80_columns_whatever_the_values():
    statistics = Statistics(0.0)
    values = {
        "a" * 128: [1e300, -1e300],
        "overflowing": [1.7e308, 1.7e308],
        "\x1b[2J": [-9999.99, 123456.7],
        "日本語": [0.0],
    }
    statistics.add(10**8, {name: of_type * 10 for name, of_type in values.items()}, 1.0)
    lines = list(statistics.table(1.0, 10))
    assert len(lines) == 6
    assert max(map(len, lines)) <= 80
    assert all(line.isprintable() for line in lines)
    assert any("  -10000  123457 " in line for line in lines)
    assert "\n".join(lines).count(" - ") == 2, "a sum that overflowed is not shown"


def test_table_says_how_many_rows_are_left_out():
    statistics = Statistics(0.0)
    statistics.add(5, {name: [1.0] for name in "edcba"}, 1.0)
    lines = list(statistics.table(1.0, 3))
    assert [line.split()[0] for line in lines[2:-1]] == ["a", "b", "c"]
    assert lines[-1] == "and 2 more sensor types"


def test_an_empty_aggregate_has_no_mean():
    assert math.isnan(Aggregate().mean)
