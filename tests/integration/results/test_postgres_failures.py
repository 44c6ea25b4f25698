"""PostgreSQL loses connections, restarts, or is replaced by its standby: nothing is lost and nothing doubled."""

from __future__ import annotations

import itertools
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
import pytest

from iot.cluster.postgres import PostgresServer
from iot.owner import InUse, LeaseLost, this_process
from iot.processes import end
from iot.results.model import Batch, Status
from iot.results.names import paste
from iot.results.store import Store, StoreUnavailable
from iot.settings import UserError
from tests.support.cable import cable as cable  # a fixture
from tests.support.postgres import Pair, Proxy, drop_everything, require_binaries, running_pair, running_server
from tests.support.results import IDENTITY, NO_RULES, NOW_S, Sample, Stream, delivered, write_batch

SAMPLES = 20
# How long a writer may get nothing written.
PATIENCE_S = 60.0
FAULTS = 20
TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'iot' AND pid <> pg_backend_pid()"
LOCKS = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted"


@pytest.fixture
def server(postgres: str) -> str:
    drop_everything(postgres)
    return postgres


@pytest.fixture
def proxy(server: str) -> Iterator[Proxy]:
    with Proxy(server) as proxy:
        yield proxy


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class Writer:
    """Writes batches and alerts as the processing does: what failed is written again until it is stored.

    It is the owner of the results while it runs, and counts what it has written.
    """

    def __init__(self, url: str, stack: ExitStack) -> None:
        self.store = Store(url)
        stack.callback(self.store.close)
        self.lease = stack.enter_context(self.store.own(this_process("writer"), "stop it"))
        self.store.reset(IDENTITY, "state")
        self.batches = self.failures = 0
        self.before_write: Callable[[], None] = lambda: None
        self._stream = Stream()

    def write(self) -> None:
        """Write a batch with its readings, and an alert."""
        number = self.batches
        samples = [Sample(sensor_id=f"s{of}", at_s=number % 60) for of in range(SAMPLES)]
        changed, report = self._stream.batch(samples)
        self._again(lambda: self.store.write_batch(Batch("windows", number, changed, report), NO_RULES, NOW_S))
        self._again(lambda: self.store.write_alerts([delivered(number)], {0: number + 1}, IDENTITY.topic_id))
        self._again(lambda: self.store.heartbeat(Status(NOW_S, NOW_S)))
        self.batches += 1

    def _again(self, write: Callable[[], object]) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while (why := self._failure(write)) is not None:
            assert "\n" not in why
            assert time.monotonic() < deadline_s, why
            time.sleep(0.02)

    def _failure(self, write: Callable[[], object]) -> str | None:
        """Why it failed; None if it did not."""
        self.before_write()
        try:
            write()
        except StoreUnavailable as error:
            self.failures += 1
            return str(error)
        return None

    def write_while(self, condition: Callable[[], bool]) -> None:
        while condition():
            self.write()

    def write_until(self, batches: int) -> None:
        self.write_while(lambda: self.batches < batches)

    def require_exact(self) -> None:
        """Check totals, windows, alerts and offsets."""
        state = self.store.read(NOW_S)
        assert (state.messages, state.total_alerts) == (self.batches * SAMPLES, self.batches)
        counts = {window.end_s: window.count for window in self.store.windows()}
        assert counts == {end_s: len(samples) for (end_s, _, _), samples in self._stream.windows.items()}
        assert {alert.alert_id for alert in self.store.alerts(10_000)} == {
            f"iot-sensors-0-{number}" for number in range(self.batches)
        }
        assert self.store.alert_offsets() == {0: self.batches}


def test_connections_that_the_server_ends_cost_nothing(server, stack):
    writer = Writer(server, stack)
    with psycopg.connect(server, autocommit=True) as connection:
        write_under(writer, lambda: connection.execute(TERMINATE))
    writer.require_exact()


def test_connections_that_are_reset_on_the_way_cost_nothing(proxy, stack):
    writer = Writer(proxy.url, stack)
    write_under(writer, proxy.reset_all)
    assert proxy.broken > FAULTS
    writer.require_exact()


def write_under(writer: Writer, fault: Callable[[], object]) -> None:
    """Write while a fault happens ``FAULTS`` times, at any moment of a batch."""
    chance = random.Random(1)

    def happen() -> None:
        for _ in range(FAULTS):
            time.sleep(chance.uniform(0, 0.2))
            fault()

    faults = threading.Thread(target=happen)
    faults.start()
    writer.write_while(faults.is_alive)
    faults.join()
    writer.write()
    assert writer.failures


def test_what_was_committed_without_an_answer_is_not_counted_twice(proxy, stack):
    writer = Writer(proxy.url, stack)
    calls = itertools.count()

    def lose_the_answer() -> None:
        # Each transaction is written twice: the first answer is lost, and the second arrives.
        if next(calls) % 2 == 0:
            proxy.lose_answer_to(b"COMMIT")

    writer.before_write = lose_the_answer
    writer.write_until(3)
    # A batch, its alert and the heartbeat are three transactions.
    assert (writer.failures, next(calls)) == (9, 18)
    writer.require_exact()


def test_restarts_of_the_server_cost_nothing(stack, eventually):
    server = stack.enter_context(running_server(require_binaries()))
    writer = Writer(server.url, stack)
    # A fast and an immediate shutdown, and a crash.
    for how in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        with writing(writer):
            least, failures = writer.batches + 3, writer.failures
            eventually(lambda least=least: writer.batches > least)
            end(server._process, how)
            eventually(lambda failures=failures: writer.failures > failures)
            eventually(lambda: started(server))
            least = writer.batches + 3
            eventually(lambda least=least: writer.batches > least)
        writer.require_exact()
    # The lock is there again, too.
    require_lock(server.url, eventually)


@contextmanager
def writing(writer: Writer) -> Iterator[None]:
    """Write in a thread until the end of the block."""
    stop = threading.Event()
    thread = threading.Thread(target=writer.write_while, args=[lambda: not stop.is_set()])
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def started(server: PostgresServer) -> bool:
    """Start the server again; processes of the killed one may still be ending."""
    try:
        return server.start(threading.Event())
    except UserError:
        return False


def require_lock(url: str, eventually: Any) -> None:
    """Wait until the owner has its lock again, and check that another process is refused."""
    eventually(lambda: psycopg.connect(url).execute(LOCKS).fetchone())
    store = Store(url)
    try:
        with pytest.raises(InUse, match="is in use by writer on "), store.own(this_process("second"), "stop it"):
            pass
    finally:
        store.close()


def test_a_standby_that_takes_over_has_everything(stack, eventually):
    pair = stack.enter_context(running_pair())
    writer = Writer(pair.url, stack)
    place_id = writer.store.place_id()
    with writing(writer):
        eventually(lambda: writer.batches > 3)
        pair.fail_over()
        least = writer.batches + 3
        eventually(lambda: writer.batches > least)
    assert writer.failures
    writer.require_exact()
    # Nobody else may write there either, and checkpoints still find the database that they belong to.
    require_lock(pair.url, eventually)
    assert not writer.lease.lost
    other_order = Store(pair.url.replace(f"127.0.0.1:{pair.ports[0]},", "") + "&application_name=other")
    stack.callback(other_order.close)
    assert place_id
    assert other_order.is_at(writer.store.name, place_id)


def test_a_process_that_was_replaced_on_the_standby_writes_nothing(stack, monkeypatch):
    """The new primary knows no locks: another process may be faster than the owner."""
    pair = stack.enter_context(running_pair())
    monkeypatch.setattr("iot.owner.RENEW_S", 600.0)
    writer = Writer(pair.url, stack)
    writer.write_until(3)
    pair.fail_over()
    other = Store(pair.url)
    stack.callback(other.close)
    stack.enter_context(other.own(this_process("second"), "stop it"))
    with pytest.raises(LeaseLost, match="was taken over by second on "):
        write_batch(writer.store, 3, [Sample()])
    writer.require_exact()


@pytest.mark.long
def test_a_server_whose_machine_is_gone_is_left_for_another_address(server, cable, stack, eventually):
    """Nothing tells the client: packets are lost. Both addresses lead to the same server, which still has its locks."""
    there = stack.enter_context(Proxy(server, cable.listen_there()))
    here = stack.enter_context(Proxy(server))
    writer = Writer(f"postgresql://iot@{there.address},{here.address}/postgres", stack)
    with writing(writer):
        eventually(lambda: writer.batches > 3)
        cable.cut()
        cut_s = time.monotonic()
        least = writer.batches + 3
        eventually(lambda: writer.batches > least, 60)
        print(f"batches were written again {time.monotonic() - cut_s:.1f} s after the cut")
        eventually(lambda: writer.store._transactions.lease._session)
    writer.require_exact()
    assert not writer.lease.lost
    require_lock(server, eventually)


@pytest.mark.parametrize(
    ("hosts", "query"),
    [
        ("127.0.0.1:{0},127.0.0.1:{1}", ""),
        ("localhost:{0},localhost:{1}", "?target_session_attrs=read-write"),
        ("", "?host=127.0.0.1:{0}&host=127.0.0.1:{1}"),
        ("", "?host=127.0.0.1,127.0.0.1&port={0},{1}"),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_writes_go_to_the_primary_wherever_it_stands_in_the_url(pair_of_module, hosts, query, order, stack):
    ports = pair_of_module.ports[::order]
    url = f"postgresql://iot@{hosts}/postgres{query}".format(*ports)
    store = Store(url)
    stack.callback(store.close)
    stack.enter_context(store.own(this_process("writer"), "stop it"))
    store.reset(IDENTITY, "state")
    assert write_batch(store, 0, [Sample()])
    # The name is a URL that everything takes, without the password.
    same = Store(store.name)
    stack.callback(same.close)
    assert same.read(NOW_S).messages == 1
    assert same.is_at(store.name, "")
    command = ["psql", paste(store.name), "-Atc", "SELECT messages FROM iot_results"]
    listed = subprocess.run(command, capture_output=True, check=False)
    assert listed.stdout == b"1\n", listed.stderr


@pytest.fixture(scope="module")
def pair_of_module() -> Iterator[Pair]:
    with running_pair() as pair:
        yield pair


def test_a_server_that_only_reads_is_one_line(pair_of_module, stack):
    standby = f"postgresql://iot@127.0.0.1:{pair_of_module.ports[1]}/postgres"
    store = Store(pair_of_module.url)
    store.reset(IDENTITY, "state")
    store.close()
    read_only = Store(standby)
    stack.callback(read_only.close)
    with pytest.raises(StoreUnavailable, match=r"^[^\n]*only reads[^\n]*target_session_attrs=read-write[^\n]*$"):
        write_batch(read_only, 0, [Sample()])
    with pytest.raises(StoreUnavailable, match="only reads"), read_only.own(this_process("writer"), "stop it"):
        pass
