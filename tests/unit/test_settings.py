"""The Kafka connection, and errors as one line."""

from __future__ import annotations

import pytest

from iot.settings import Kafka, reason


def test_passwords_are_not_in_the_repr():
    assert "secret" not in repr(Kafka(properties={"ssl.key.password": "secret"}))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("two\n  lines"), "two lines"),
        (ValueError(), "ValueError"),
        (FileNotFoundError(2, "No such file or directory", "x"), "No such file or directory"),
    ],
)
def test_reason_is_one_line(error, words):
    assert reason(error) == words
