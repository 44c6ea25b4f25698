"""Whatever alarms, silences, receivers, log and program do: each beginning and each end is told, and no more."""

from __future__ import annotations

from collections import Counter

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from iot.alarms.grouping import Routing
from iot.alarms.lane import Lane
from iot.alarms.notify_file import Receiver
from iot.alarms.outcome import DELIVERED, Outcome
from iot.alarms.secret import Secret
from iot.alarms.shared import SharedLog
from tests.support.alarms import MemoryLog, alarm, resolved

SENSORS = 3
ROUTINGS = (
    Routing(repeat_interval_s=1e9),
    Routing(group_by=("sensor_id",), group_wait_s=0, group_interval_s=60, repeat_interval_s=1e9),
    Routing(group_by=(), group_wait_s=100, group_interval_s=50, repeat_interval_s=1e9),
)
MODES = {
    "delivered": DELIVERED,
    "refused": Outcome("failed", "connection refused"),
    "rejected": Outcome("rejected", "404"),
    "lost": Outcome("failed", "no answer", is_unsure=True),
    "taken": Outcome("failed", "no answer", is_unsure=True),
}
TAKEN = ("delivered", "taken", "crash after")


class Crash(BaseException):
    """The process ends, as by SIGKILL."""


class World:
    """Alarms of a few sensors, a receiver, and a notifier that may be killed at any moment."""

    def __init__(self, routing):
        self.routing = routing
        self.now_s = 1e9
        self.ids: Counter[int] = Counter()
        self.alarms = {}
        self.active = {}
        self.silenced = set()
        self.forgotten = set()
        self.mode = "delivered"
        self.log = MemoryLog()
        self.attempted: set[str] = set()
        self.told: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.is_exact = True
        self.restart()

    def restart(self):
        receiver = Receiver("ops", "webhook", Secret("http://localhost"), {}, self.routing, 0)
        log = SharedLog(self.log, {"ops"})
        self.is_exact = self.is_exact and not self.log.is_broken
        self.is_up = True
        self.lane = Lane(receiver, self.deliver, self.source, log, lambda line: None, lambda: self.now_s, lambda: 0.5)

    def source(self):
        return [one for alarm_id, one in self.alarms.items() if alarm_id not in self.forgotten]

    def deliver(self, notification):
        new = [one.alarm_id for one in notification.firing[: notification.new]]
        for one in (*notification.firing, *notification.resolved):
            assert not self.alarms[one.alarm_id].silenced_by
            assert one.state == self.alarms[one.alarm_id].state
        for one in notification.resolved:
            assert one.alarm_id in self.attempted, "an end without a beginning"
        if self.mode not in ("refused", "rejected", "crash before"):
            self.attempted.update(new)
        if self.mode in TAKEN:
            self.told.update(new)
            self.ended.update(one.alarm_id for one in notification.resolved)
        if self.mode not in ("delivered", "refused", "rejected"):
            self.is_exact = False
        if self.mode.startswith("crash"):
            self.attempted.update(new)
            self.mode = "delivered"
            raise Crash
        return MODES[self.mode]

    def run(self):
        """Let the notifier do what is due."""
        try:
            while self.is_up and self.lane.step():
                pass
        except Crash:
            self.is_up = False

    def pass_time(self, seconds):
        self.now_s += seconds
        self.run()

    def change(self, sensor, what):
        present = self.active.get(sensor)
        if what in ("fire", "pend") and present is None:
            self.ids[sensor] += 1
            present = f"{sensor}-{self.ids[sensor]}"
            self.active[sensor] = present
            state = "firing" if what == "fire" else "pending"
            self.alarms[present] = alarm(present, state=state, silenced_by=["s"] if sensor in self.silenced else [])
        elif what == "fire":
            self.alarms[present] = msgspec.structs.replace(self.alarms[present], state="firing")
        elif what == "end" and present is not None:
            del self.active[sensor]
            if self.alarms[present].state == "pending":
                del self.alarms[present]
            else:
                self.alarms[present] = resolved(self.alarms[present])
        elif what in ("silence", "unsilence"):
            (self.silenced.add if what == "silence" else self.silenced.discard)(sensor)
            if present is not None:
                by = ["s"] if what == "silence" else []
                self.alarms[present] = msgspec.structs.replace(self.alarms[present], silenced_by=by)

    def forget(self):
        """The database no longer has the alarms that are over."""
        self.forgotten = {key for key, one in self.alarms.items() if one.state == "resolved" and not one.silenced_by}

    def apply(self, step):
        kind, *arguments = step
        if kind == "change":
            self.change(*arguments)
        elif kind == "time":
            self.pass_time(*arguments)
        elif kind == "mode":
            self.mode = arguments[0]
        elif kind == "log":
            self.log.is_broken = arguments[0]
        elif kind == "forget":
            self.forget()
        else:
            self.restart()
        self.run()

    def come_to_rest(self):
        """Let everything work again, and wait for what is due."""
        self.mode, self.log.is_broken = "delivered", False
        if not self.is_up:
            self.restart()
        for _ in range(8):
            self.pass_time(301)


changes = st.tuples(
    st.just("change"),
    st.integers(0, SENSORS - 1),
    st.sampled_from(["fire", "fire", "end", "end", "pend", "silence", "unsilence"]),
)
times = st.tuples(st.just("time"), st.sampled_from([1, 10, 31, 60, 301]))
faults = st.one_of(
    st.tuples(st.just("mode"), st.sampled_from([*MODES, "crash before", "crash after"])),
    st.tuples(st.just("log"), st.booleans()),
    st.just(("restart",)),
    st.just(("forget",)),
)
# Changes and time take turns, else most histories would end before anything is told.
rounds = st.tuples(st.lists(changes, max_size=3), st.lists(faults, max_size=1), times)
histories = st.lists(rounds, min_size=1, max_size=20).map(
    lambda made: [step for changed, failed, time in made for step in (*changed, *failed, time)]
)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(ROUTINGS), histories)
@example(ROUTINGS[0], [("change", 0, "fire"), ("time", 31), ("mode", "crash after"), ("change", 0, "end")])
@example(
    ROUTINGS[0],
    [("change", 0, "fire"), ("mode", "crash after"), ("time", 31), ("change", 0, "end"), ("time", 300)],
)
@example(
    ROUTINGS[0],
    [
        ("change", 0, "fire"),
        ("mode", "refused"),
        ("time", 31),
        ("change", 0, "end"),
        ("mode", "delivered"),
        ("time", 60),
    ],
)
@example(
    ROUTINGS[0],
    [
        ("change", 0, "fire"),
        ("mode", "taken"),
        ("time", 31),
        ("change", 0, "silence"),
        ("change", 1, "fire"),
        ("mode", "delivered"),
        ("time", 60),
        ("change", 0, "unsilence"),
        ("change", 0, "end"),
        ("time", 301),
    ],
)
def test_each_beginning_and_each_end_is_told(routing, history):
    world = World(routing)
    for step in history:
        world.apply(step)
    world.come_to_rest()
    for alarm_id, present in world.alarms.items():
        told, ended = world.told[alarm_id], world.ended[alarm_id]
        if present.silenced_by:
            # What was sent before the silence was told; the end of a silenced alarm is told to nobody.
            assert not (present.state == "resolved" and ended)
        elif present.state == "firing":
            assert told >= 1
        elif present.state == "resolved" and told:
            assert ended >= 1
        if world.is_exact:
            assert told <= 1
            assert ended <= told
    # What is over is forgotten.
    told_ids = {
        one["alarm_id"]
        for content in world.log.entries.values()
        for one in msgspec.json.decode(content).get("told", [])
    }
    assert told_ids <= set(world.active.values())
