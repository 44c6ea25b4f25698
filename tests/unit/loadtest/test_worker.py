"""A worker that cannot start."""

from __future__ import annotations

import threading

import pytest

from iot.broker.broker import find_free_port
from iot.kafka import sender
from iot.kafka.sender import CLIENTS
from iot.loadtest import course
from iot.loadtest.plan import COURSE, make_plan
from iot.loadtest.protocol import WorkerJob
from iot.loadtest.worker import Work
from iot.settings import UserError


@pytest.mark.parametrize("client", [*CLIENTS, COURSE])
def test_a_worker_without_a_broker_names_topic_and_address(client, monkeypatch):
    for module in (sender, course):
        monkeypatch.setattr(module, "START_S", 0.5)
    job = WorkerJob(make_plan("burst", client), f"localhost:{find_free_port()}", {}, "any", "run1", [0])
    with pytest.raises(UserError, match="cannot send to any at localhost"):
        Work(job, threading.Event())
