"""A PostgreSQL that does not answer, because it or its machine is suspended, delays no stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from iot.owner import this_process
from iot.results.model import Status
from iot.results.store import Store, StoreUnavailable
from iot.settings import UserError
from tests.support.postgres import drop_everything, suspended
from tests.support.results import IDENTITY, NOW_S, Sample, write_batch

# A stop may wait 2 s for the server and 2 s for the lock; the rest is for a slow machine.
STOP_S = 8.0


@pytest.fixture
def server(postgres: str) -> str:
    drop_everything(postgres)
    return postgres


@pytest.fixture
def owned(server: str) -> Iterator[tuple[Store, ExitStack]]:
    """A store with a batch, and the stack that releases it."""
    store = Store(server)
    with ExitStack() as stack:
        stack.callback(store.close)
        stack.enter_context(store.own(this_process("first"), "stop it"))
        store.reset(IDENTITY, "state")
        write_batch(store, 0, [Sample()])
        yield store, stack


def in_background(call: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, errors


def owns(url: str) -> bool:
    with ExitStack() as stack:
        store = Store(url)
        stack.callback(store.close)
        try:
            stack.enter_context(store.own(this_process("second"), "stop it"))
        except UserError:
            return False
        return True


def test_the_lock_of_a_suspended_server_is_left_behind(server, owned, eventually, monkeypatch):
    store, stack = owned
    lock, looks = store._transactions.lease, threading.Event()
    look = lock._try_to_renew

    def noted() -> None:
        looks.set()
        look()

    monkeypatch.setattr(lock, "_try_to_renew", noted)
    with suspended(server):
        looks.clear()
        # From here on, the thread of the lock waits for an answer.
        assert looks.wait(30)
        begun_s = time.monotonic()
        stack.close()
        assert time.monotonic() - begun_s < STOP_S
    eventually(lambda: owns(server))


@pytest.mark.parametrize(
    "call",
    [
        lambda store: write_batch(store, 1, [Sample()] * 5),
        lambda store: store.heartbeat(Status(NOW_S, NOW_S)),
        lambda store: store.read(NOW_S),
        lambda store: store.prune(NOW_S, 60),
    ],
)
def test_what_waits_for_a_suspended_server_ends_when_it_is_given_up(server, owned, eventually, call):
    store, stack = owned
    with suspended(server):
        thread, errors = in_background(lambda: call(store))
        begun_s = time.monotonic()
        store.give_up_without_answer()
        thread.join(STOP_S)
        assert isinstance(errors[0], StoreUnavailable)
        said = f"cannot use {store.name}: its server does not answer"
        assert str(errors[0]) == said
        # What comes later does not wait either.
        with pytest.raises(StoreUnavailable) as raised:
            store.heartbeat(Status(NOW_S, NOW_S))
        assert str(raised.value) == said
        stack.close()
        assert time.monotonic() - begun_s < STOP_S
    # The server goes on. Nothing is half written, and the next process can have the database.
    eventually(lambda: owns(server))
    after = Store(server)
    assert after.read(NOW_S).messages in (1, 6)
    # Its first batch is written, or was written.
    write_batch(after, 1, [Sample()])
    assert write_batch(after, 2, [Sample()])
    after.close()


def test_a_server_that_answers_is_not_given_up(server, owned):
    store, _ = owned
    store.give_up_without_answer()
    assert write_batch(store, 1, [Sample()])
    assert store.read(NOW_S).messages == 2


def test_a_file_is_never_given_up(tmp_path):
    store = Store(f"sqlite:///{tmp_path}/results.db")
    store.reset(IDENTITY, "state")
    store.give_up_without_answer()
    assert write_batch(store, 0, [Sample()])
    store.close()
