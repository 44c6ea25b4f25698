"""What the tests of the web server share: its application on a fake database, and a clock that tests move."""

from __future__ import annotations

import pytest

from iot.alarms.model import Alarm
from iot.alerts import Alert
from iot.batches import Total
from iot.results.model import AlarmPage, QueryStatus, State, Status, Window
from iot.settings import UserError
from iot.web.app import create_app

NOW_S = 1_800_000_005.0


class FakeStore:
    """A database in memory that records its queries in ``asked``."""

    def __init__(self) -> None:
        self.state = State(
            version=1,
            messages=200,
            rejected=1,
            late=3,
            total_alerts=2,
            totals={"temperature": Total(200, 4_400.0, 10.0, 31.5, 0, "celsius")},
            active_sensors=10,
            active_alerts=1,
            rate_10s=20.0,
            locations=["building_a"],
            sensor_types=["temperature"],
            offsets={0: 90, 1: 111},
            processed_s=NOW_S - 2,
            status=Status(
                at_s=NOW_S,
                started_s=NOW_S - 60,
                queries=[QueryStatus(name, True, None, NOW_S) for name in ("windows", "alerts")],
                end_offsets={0: 95, 1: 111},
            ),
        )
        self.found_alerts: list[Alert] = []
        self.found_windows: list[Window] = []
        self.asked: list[tuple[object, ...]] = []
        self.failure: UserError | None = None
        self.alarms = self
        self.found_alarms: list[Alarm] = []

    def _check(self) -> None:
        if self.failure:
            raise self.failure

    def version(self):
        self._check()
        return self.state.version

    def read(self, now_s):
        self._check()
        return self.state

    def alerts(self, *asked):
        self._check()
        self.asked.append(asked)
        return self.found_alerts

    def page(self, *asked):
        self._check()
        self.asked.append(asked)
        return AlarmPage(self.found_alarms, 7, "a cursor")

    def windows(self, *asked, limit):
        self._check()
        self.asked.append(asked)
        return self.found_windows[:limit]


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store():
    return FakeStore()


@pytest.fixture
def app(store, clock):
    return create_app({"STORE": store, "CLOCK": clock})


@pytest.fixture
def client(app):
    return app.test_client()
