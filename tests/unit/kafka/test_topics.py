"""Creating topics: the settings of the environment."""

from __future__ import annotations

import pytest

from iot.kafka.topics import ensure_topics
from iot.settings import Kafka, UserError


@pytest.mark.parametrize("given", ["x", "0", "-1", "1.5", "99999", "³"])
def test_a_replication_factor_that_is_no_number_is_an_error_before_kafka_is_asked(given, monkeypatch):
    monkeypatch.setenv("IOT_REPLICATION_FACTOR", given)
    with pytest.raises(UserError, match=f"^IOT_REPLICATION_FACTOR={given} is not a number of brokers; "):
        ensure_topics(Kafka("127.0.0.1:1"))
