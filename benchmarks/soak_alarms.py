"""The alarms of a soak test: the API, the topic of alarms and a webhook must agree at the end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from iot.settings import READINGS_TOPIC, Kafka
from tests.support import alarms_of_topic, notified

# How long to wait until they agree.
AGREE_S = 30.0


def mistakes(kafka: Kafka, get: Callable[[str], Any], bodies: Sequence[Any]) -> list[str]:
    """Return a line for each difference that is still there after ``AGREE_S``.

    Args:
        get: returns the JSON at a path of the API.
        bodies: what the webhook has taken; it may grow meanwhile.
    """
    deadline_s = time.monotonic() + AGREE_S
    while True:
        in_topic = alarms_of_topic.in_topic(kafka.bootstrap_servers, READINGS_TOPIC)
        in_api = alarms_of_topic.in_api(get)
        found, wanted = map(alarms_of_topic.without_progress, (in_topic, in_api))
        lines = [f"alarms in their topic: {line}" for line in alarms_of_topic.differences(found, wanted)]
        told = notified.told(bodies)
        # Only the webhook still knows the alarms that have expired.
        kept = notified.Told(*(Counter({name: counts[name] for name in counts.keys() & in_api}) for counts in told))
        lines += [f"notifications: {line}" for line in notified.faults(kept, in_api, (), 0)]
        if not lines or time.monotonic() > deadline_s:
            return lines
        time.sleep(0.5)
