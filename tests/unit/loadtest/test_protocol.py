"""The messages between a trial and its workers."""

from __future__ import annotations

import msgspec

from iot.loadtest.plan import COURSE, make_plan
from iot.loadtest.protocol import WorkerJob
from iot.settings import Kafka


def test_a_job_survives_its_journey_as_json():
    # Plans travel to the workers as JSON.
    job = WorkerJob(make_plan("sustained", COURSE, rate_per_s=5.0), "h:1", Kafka().properties, "t", "r", [0, 2])
    assert msgspec.json.decode(msgspec.json.encode(job), type=WorkerJob) == job
