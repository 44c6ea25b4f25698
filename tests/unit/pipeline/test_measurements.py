"""What the pipeline measures: delays by Kafka's clock and by the device's, and sizes that may not be known."""

from __future__ import annotations

from typing import Any

from iot.batches import BatchReport
from iot.pipeline import measurements
from iot.pipeline.measurements import Measurements
from iot.results.store import StoreUnavailable
from tests.support.results import NOW_S, delivered
from tests.support.waiting import wait_for


class FakeStore:
    """A database that has a size, or does not answer."""

    def __init__(self) -> None:
        self.size: int | None = 4_096

    def size_bytes(self) -> int:
        if self.size is None:
            raise StoreUnavailable("it does not answer")
        return self.size


def make(checkpoints: Any = None) -> tuple[Measurements, FakeStore]:
    store = FakeStore()
    return Measurements(store, checkpoints or {}, clock=lambda: NOW_S + 2.5), store  # type: ignore[arg-type]


def test_the_delay_of_windows_is_that_of_the_first_message_of_a_batch():
    measured, _ = make()
    measured.add_written(BatchReport(messages=5, first_ms=int(NOW_S * 1_000)), 0.2)
    # Without a message, or without Kafka's timestamp, there is no delay.
    measured.add_written(BatchReport(), 0.1)
    measured.add_written(BatchReport(messages=1, first_ms=-1), 0.1)
    assert (measured.timings.windows.total, sum(measured.timings.windows.counts)) == (2.5, 1)
    assert sum(measured.timings.write.counts) == 3


def test_the_delay_of_alerts_is_that_of_the_first_alert():
    measured, _ = make()
    measured.add_alerts([delivered(1, at_s=1.5), delivered(2, at_s=2.0)])
    measured.add_alerts([])
    measured.add_alerts([delivered(3, timestamp="not a time")])
    assert (measured.timings.alerts.total, sum(measured.timings.alerts.counts)) == (1.0, 1)


def test_sizes_that_are_not_known_are_left_out(tmp_path):
    folder = tmp_path / "windows"
    (folder / "state" / "0").mkdir(parents=True)
    (folder / "state" / "0" / "1.delta").write_bytes(b"x" * 700)
    (folder / "metadata").write_bytes(b"x" * 50)
    measured, store = make({"windows": folder, "alerts": tmp_path / "alerts"})
    assert not measured.look_up_sizes()
    assert (measured.database_bytes, measured.checkpoint_bytes) == (4_096, {"windows": 750})
    store.size = None
    (tmp_path / "alerts").mkdir()
    assert not measured.look_up_sizes()
    assert (measured.database_bytes, measured.checkpoint_bytes) == (None, {"windows": 750, "alerts": 0})
    store.size = 8_192
    assert measured.look_up_sizes()


def test_sizes_are_looked_up_until_all_are_known(tmp_path, monkeypatch):
    monkeypatch.setattr(measurements, "UNKNOWN_EVERY_S", 0.01)
    measured, _ = make({"windows": tmp_path / "windows"})
    measured.start()
    try:
        wait_for(lambda: measured.database_bytes is not None)
        (tmp_path / "windows").mkdir()
        wait_for(lambda: measured.checkpoint_bytes == {"windows": 0})
    finally:
        measured.close()
    assert not measured._thread.is_alive()
