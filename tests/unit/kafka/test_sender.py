"""Senders that cannot start."""

from __future__ import annotations

import pytest

from iot.broker.broker import find_free_port
from iot.kafka.sender import CLIENTS, make_sender
from iot.settings import Kafka, UserError


@pytest.mark.parametrize("client", CLIENTS)
def test_a_sender_without_a_broker_names_topic_and_address(client):
    with pytest.raises(UserError, match="cannot send to any at localhost"):
        make_sender(client, Kafka(f"localhost:{find_free_port()}"), "any", **{})
