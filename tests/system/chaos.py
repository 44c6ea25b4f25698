"""Kill broker, application and producer at random moments, and check that no reading is lost or counted twice.

Each is a process of its own. It is killed with SIGKILL while readings are sent, some of them malformed or late, and
started again. At the end, sequence numbers show whether the topic is complete. The independent references check the
API, and the topics of alerts and alarms. Only the last readings of a killed producer may be missing, because Kafka
never acknowledged them.

    python -m tests.system.chaos --rounds 20 --seed 1
    python -m tests.system.chaos --rounds 20 --seed 1 --cluster
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from iot.cli import HelpFormatter, positive_float, positive_int
from iot.rules_file import load_rules
from iot.settings import ALARMS_TOPIC, ALERTS_TOPIC, READINGS_TOPIC, REJECTED_TOPIC, Kafka
from iot.web.schemas import MAX_ALERTS
from tests.support import alarms_of_topic, notified, oracle
from tests.support.app import App
from tests.support.cluster_processes import ClusterProcesses
from tests.support.http_receiver import HttpReceiver, http_receiver
from tests.support.processes import Processes

# Maximum time between a recovery and the next kill.
MAX_CALM_S = 5.0
# Maximum time between a kill and the restart.
MAX_DOWN_S = 3.0
# Maximum time until the topic of alarms and the webhook have what the API has.
MAX_TOLD_S = 30.0
# Share of the rounds, after the first three, in which a second process is killed too.
TWO_AT_ONCE = 0.25


class Round(NamedTuple):
    """What was killed, when it was killed after the first recovery, and how long the recovery took."""

    what: str
    at_s: float
    recovered_after_s: float
    span: notified.Span
    """From the kill until the recovery, in seconds since the epoch."""


def victims(names: Sequence[str], chance: random.Random, rounds: int) -> Iterator[list[str]]:
    """Choose what to kill in each round: each of them in turn, in random order, and sometimes a second one."""
    order: list[str] = []
    for number in range(rounds):
        if not order:
            order = chance.sample(names, len(names))
        chosen = {order.pop()}
        if number >= len(names) and chance.random() < TWO_AT_ONCE:
            chosen.add(chance.choice(names))
        yield [name for name in names if name in chosen]


def rounds_of(processes: Processes, chance: random.Random, rounds: int, pause_s: float) -> Iterator[Round]:
    """Kill and restart processes, round by round; at the end suspend the broker for ``pause_s``."""
    processes.wait_for_recovery()
    begun_s = time.monotonic()
    for chosen in victims(processes.victims, chance, rounds):
        time.sleep(chance.uniform(0, MAX_CALM_S))
        at_s = time.monotonic()
        for name in chosen:
            processes.kill(name)
        time.sleep(chance.uniform(0, MAX_DOWN_S))
        for name in chosen:
            processes.start(name)
        processes.wait_for_recovery()
        yield round_of(" and ".join(chosen) + " killed", begun_s, at_s)
    if pause_s:
        at_s = time.monotonic()
        processes.pause_broker(pause_s)
        processes.wait_for_recovery()
        yield round_of(f"broker suspended for {pause_s:.0f} s", begun_s, at_s)


def round_of(what: str, begun_s: float, at_s: float) -> Round:
    """The round that ends now.

    Args:
        begun_s: the first recovery, and ``at_s`` the kill, in ``time.monotonic`` seconds.
    """
    took_s, now_s = time.monotonic() - at_s, time.time()
    return Round(what, at_s - begun_s, took_s, (now_s - took_s, now_s))


class Verdict(NamedTuple):
    messages: int
    lost: list[str]
    doubled: list[str]
    others: list[str]
    """Other differences from the reference."""
    late: int
    """How many readings were too late for one or more of their windows."""
    alarms: int
    """How many alarms there were."""
    told: int
    """How many of these a webhook was told about."""


def verdict(processes: Processes, webhook: HttpReceiver, done: Sequence[Round]) -> Verdict:
    """Stop the producer, wait until everything is processed, and compare with the reference.

    Args:
        webhook: receives the notifications of the application.
        done: all rounds.
    """
    others = []
    if status := processes.finish("producer"):
        others.append(f"the producer ended with status {status}")
    summary = processes.said("producer")
    records = oracle.read_topic(processes.kafka.bootstrap_servers, READINGS_TOPIC)
    lost, doubled = oracle.gaps_and_repeats(records)
    # Of a run that was not killed, every reading must be in the topic.
    if ended := re.search(r"^acknowledged: (\S+)\n(?:.*\n)*malformed: (\S+)\n(?:.*\n)*run_id: (\S+)$", summary, re.M):
        sent, malformed = (int(number.replace(",", "")) for number in ended.groups()[:2])
        of_run = sum((reading or {}).get("run_id") == ended[3] for reading in map(oracle.reading_of, records))
        lost += [f"{sent - malformed - of_run} acknowledged readings of run {ended[3]}"] * (of_run < sent - malformed)
        doubled += [f"{of_run} readings of run {ended[3]}, not {sent - malformed}"] * (of_run > sent - malformed)
    else:
        others.append(f"the producer printed no summary: {summary[-500:]}")
    alerts = oracle.alerts(records, READINGS_TOPIC)
    processes.wait_for("application that has processed everything", lambda: processes.app.messages() >= len(records))
    processes.wait_for("all alerts kept", lambda: processes.app.get("/api/metrics")["total_alerts"] >= len(alerts))
    wanted = oracle.expected(records)
    for what, found, due in (
        *in_api(processes.app, records, wanted, alerts),
        *in_topics(processes.kafka, records, set(alerts)),
    ):
        if found != due:
            others.append(f"{what}: {found} instead of {due}")
    others += oracle.differences(processes.app.windows(), oracle.over_all_locations(wanted.windows))
    alarms = alarms_of_topic.in_api(processes.app.get)
    others += wrong_alarms(processes, records, alarms)
    told, mistakes = wrong_notifications(processes, webhook, alarms, done)
    return Verdict(len(records), lost, doubled, others + mistakes, wanted.late, len(alarms), told)


Finding = tuple[str, object, object]
"""What was compared, the value found, and the expected value."""


def in_api(app: App, records: list[oracle.Record], wanted: oracle.Expected, alerts: oracle.Alerts) -> Iterator[Finding]:
    """Compare the API, except for its windows."""
    metrics = app.get("/api/metrics")
    yield "total_messages", metrics["total_messages"], wanted.readings
    yield "rejected_messages", metrics["rejected_messages"], wanted.rejected
    yield "late_messages", metrics["late_messages"], wanted.late
    yield "total_alerts", metrics["total_alerts"], len(alerts)
    values: dict[str, list[float]] = {}
    sensors = set()
    for reading in filter(None, map(oracle.reading_of, records)):
        values.setdefault(reading["sensor_type"], []).append(reading["value"])
        sensors.add(reading["sensor_id"])
    rows = {row.pop("sensor_type"): row for row in metrics["sensor_stats"]}
    for name, of in values.items():
        row = rows.pop(name, {})
        yield f"{name}", [row.get(key) for key in ("count", "min_value", "max_value")], [len(of), min(of), max(of)]
        yield f"average {name}", row.get("avg_value"), pytest.approx(sum(of) / len(of), rel=1e-9)
    yield "other sensor types", rows, {}
    for sensor in sensors:
        due_us = {alert_id: time_us for alert_id, (of, time_us) in alerts.items() if of == sensor}
        found = app.get(f"/api/alerts?limit={MAX_ALERTS}&sensor_id={sensor}")["alerts"]
        yield from newest_alerts(sensor, [alert["alert_id"] for alert in found], due_us)


def newest_alerts(sensor: str, found: Sequence[str], due_us: Mapping[str, int]) -> Iterator[Finding]:
    """Compare the alerts of a sensor in the API, which has the newest of them, with all due ones and their times."""
    yield f"alerts of {sensor} in the API that are unknown", set(found) - due_us.keys(), set()
    times_us = sorted((due_us[alert_id] for alert_id in set(found) & due_us.keys()), reverse=True)
    yield f"times of alerts of {sensor} in the API", times_us, sorted(due_us.values(), reverse=True)[:MAX_ALERTS]
    yield f"alerts of {sensor} that the API has twice", len(found) - len(set(found)), 0


def in_topics(kafka: Kafka, records: list[oracle.Record], alerts: set[str]) -> Iterator[Finding]:
    """Compare the topics of alerts and of rejected messages, which may have repeats."""
    of_alerts = oracle.read_topic(kafka.bootstrap_servers, ALERTS_TOPIC)
    raised = {json.loads(record.value or b"")["alert_id"] for record in of_alerts}
    yield f"alerts in {ALERTS_TOPIC}", (raised - alerts, alerts - raised), (set(), set())
    rejected = {}
    for record in oracle.read_topic(kafka.bootstrap_servers, REJECTED_TOPIC):
        headers = dict(record.headers)
        rejected[int(headers["source.partition"]), int(headers["source.offset"])] = record.value
    due = {(of.partition, of.offset): of.value for of in records if oracle.reading_of(of) is None}
    yield f"messages in {REJECTED_TOPIC}", rejected, due


def wrong_alarms(processes: Processes, records: list[oracle.Record], in_api: alarms_of_topic.Alarms) -> list[str]:
    """A line for each alarm of the API that differs from the reference, or from what the topic of alarms ends with."""
    wanted = alarms_of_topic.expected(records, load_rules(processes.rules_file).rules, READINGS_TOPIC)
    lines = [f"alarms in the API: {line}" for line in alarms_of_topic.differences(in_api, wanted)]
    told = alarms_of_topic.without_progress(in_api)

    def differences() -> list[str]:
        found = alarms_of_topic.in_topic(processes.kafka.bootstrap_servers, READINGS_TOPIC)
        return alarms_of_topic.differences(alarms_of_topic.without_progress(found), told)

    return lines + [f"alarms in {ALARMS_TOPIC}: {line}" for line in until_none(differences)]


def wrong_notifications(
    processes: Processes, webhook: HttpReceiver, alarms: alarms_of_topic.Alarms, done: Sequence[Round]
) -> tuple[int, list[str]]:
    """Return the number of alarms that the webhook was told about, and a line for each kind of mistake."""
    spans = notified.firing_spans(processes.kafka.bootstrap_servers, READINGS_TOPIC)
    # Without the producer the application works on.
    outages = [one.span for one in done if one.what != "producer killed"]
    must_be_told = notified.lasted(spans, outages)
    cut_off = sum("app" in one.what.removesuffix(" killed").split(" and ") for one in done)
    mistakes = until_none(lambda: notified.faults(notified.told(webhook.taken), alarms, must_be_told, cut_off))
    return len(notified.told(webhook.taken).firing), [f"notifications: {line}" for line in mistakes]


def until_none(differences: Callable[[], list[str]]) -> list[str]:
    """Wait until there is no difference; after ``MAX_TOLD_S`` return those that there are."""
    deadline_s = time.monotonic() + MAX_TOLD_S
    while (found := differences()) and time.monotonic() < deadline_s:
        time.sleep(0.2)
    return found


def run(rounds: int, seed: int, pause_s: float, folder: Path, kind: type[Processes] = Processes) -> Verdict:
    """Run all rounds and print a row for each, then the verdict."""
    begun_s = time.monotonic()
    kills = 0
    done: list[Round] = []
    processes = kind(folder, seed)
    with http_receiver() as webhook:
        processes.notify(notified.NOTIFY.format(url=webhook.url()))
        with processes:
            print(f"seed {seed}, {processes.rate_per_s} readings a second, all state in {folder}\n")
            print(f"{'round':>5}  {'after':>8}  {'recovered':>10}  what", flush=True)
            for number, of in enumerate(rounds_of(processes, random.Random(seed), rounds, pause_s), 1):
                done.append(of)
                kills += of.what.count(" and ") + 1 if "killed" in of.what else 0
                print(f"{number:>5}  {of.at_s:>6.1f} s  {of.recovered_after_s:>8.1f} s  {of.what}", flush=True)
            found = verdict(processes, webhook, done)
    for line in [*found.lost, *found.doubled, *found.others][:50]:
        print(line)
    print(
        f"\n{rounds} rounds, {kills} kills, {time.monotonic() - begun_s:,.0f} s: {found.messages:,} messages, "
        f"{len(found.lost)} lost, {len(found.doubled)} doubled, {len(found.others)} other differences "
        f"({found.late:,} readings were late; {found.alarms:,} alarms, of which {found.told:,} were notified)"
    )
    return found


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.system.chaos",
        description=(__doc__ or "").split("\n\n")[0],
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        "--rounds",
        type=positive_int,
        default=20,
        metavar="N",
        help="number of rounds; a round kills one or two processes",
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help="random seed; the same seed kills in the same order (default: a new one)"
    )
    parser.add_argument(
        "--cluster",
        action="store_true",
        help="kill Kafka nodes, executors, workers, PostgreSQL and the application of a cluster",
    )
    parser.add_argument(
        "--pause",
        type=positive_float,
        default=30.0,
        metavar="S",
        help="how long to suspend the broker at the end, in seconds",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    seed = random.randrange(2**16) if args.seed is None else args.seed
    folder = Path(tempfile.mkdtemp(prefix="iot-chaos-"))
    try:
        found = run(args.rounds, seed, args.pause, folder, ClusterProcesses if args.cluster else Processes)
    except TimeoutError as error:
        print(f"error: {error}; all state is in {folder}", file=sys.stderr)
        return 1
    if found.lost or found.doubled or found.others:
        print(f"error: not exact; all state is in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
