"""Every reason that the validator gives has a kind, and there are few kinds."""

from __future__ import annotations

import pytest

from iot.readings import Rejected, decode_batch
from iot.rejections import KINDS, OTHER, kind_of
from tests.support.cases import CASES, bytes_of


def test_every_rejected_case_has_a_kind():
    verdicts = decode_batch(map(bytes_of, CASES), [case.get("kafka_timestamp_ms") for case in CASES])
    kinds = {kind_of(str(verdict)) for verdict in verdicts if isinstance(verdict, Rejected)}
    # A reason without a kind would be counted as other.
    assert OTHER not in kinds
    # The cases have every kind.
    assert kinds == {*KINDS} - {OTHER}


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("value: expected `float`, got `str`", "value"),
        ("timestamp: no such day", "timestamp"),
        ("future timestamp", "future_timestamp"),
        ("not JSON: invalid character (byte 7)", "not_json"),
        ("a reason: that nobody knows", OTHER),
        ("value", OTHER),
    ],
)
def test_the_kind_of_a_reason(reason, kind):
    assert kind_of(reason) == kind
