"""The limits on sensor types, locations and sensors, from a batch to the database and the API."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pyarrow as pa

from iot.batches import MAX_LOCATIONS, MAX_SENSORS, MAX_TYPES, OTHER
from iot.results.model import Batch, Status
from iot.results.store import Store
from iot.spark import fold
from iot.spark.contexts import Context
from iot.web.figures import metrics
from tests.support.batches import BASE_MS, BASE_US, Sent, reading, run_batch
from tests.support.results import IDENTITY, NO_RULES


def test_types_locations_and_sensors_stay_within_their_limits(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'results.db'}")
    store.reset(IDENTITY, "state")
    context, sizes = Context(), []
    # Every name in the second batch is new.
    for batch_id, numbers in enumerate((range(100_000), range(100_000, 120_000))):
        sent = [
            Sent(0, BASE_MS + batch_id, reading(BASE_US, 20.0, f"s{n}", sensor_type=f"type {n}", location=f"place {n}"))
            for n in numbers
        ]
        rows, report, context = run_batch(sent, context)
        assert len(rows) <= MAX_TYPES + MAX_LOCATIONS + 1
        assert len(report.latest) == len(numbers)
        store.write_batch(Batch("windows", batch_id, as_windows(rows), report), NO_RULES, BASE_MS / 1_000)
        sizes.append((tmp_path / "results.db").stat().st_size)
    state = store.read(BASE_MS / 1_000)
    assert (state.messages, state.sensors, len(state.totals)) == (120_000, MAX_SENSORS, MAX_TYPES + 1)
    assert state.totals[OTHER].count == 120_000 - MAX_TYPES
    assert (len(state.sensor_types), len(state.locations)) == (MAX_TYPES, MAX_LOCATIONS)
    assert max(sizes) < 20 * 2**20
    state.status = Status(BASE_MS / 1_000, BASE_MS / 1_000, [])
    answer = msgspec.to_builtins(metrics(state, BASE_MS / 1_000))
    assert answer["limits_reached"] == ["sensor types: 200", "locations: 1,000", "sensors: 100,000"]
    # The size of what the page receives.
    assert len(json.dumps(answer)) < 300_000
    store.close()


def as_windows(rows: list[dict[str, Any]]) -> pa.Table:
    """The windows of judged rows, in the columns that Spark passes on."""
    slot_us = fold.SLOT_US
    end_us = BASE_US // slot_us * slot_us + slot_us
    made = [
        {name: row[name] for name in ("sensor_type", "location", "unit", "count", "total", "min", "max")}
        | {"end": end_us + more * slot_us}
        for row in rows
        for more in range(fold.SLOTS_PER_WINDOW)
    ]
    table = pa.Table.from_pylist(made)
    return table.set_column(table.column_names.index("end"), "end", table["end"].cast(pa.timestamp("us", "UTC")))
