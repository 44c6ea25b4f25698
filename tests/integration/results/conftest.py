"""The databases that the tests write to: each test with ``url`` or ``store`` runs on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from iot.results.store import Store
from tests.support.postgres import drop_everything
from tests.support.postgres import postgres as postgres  # a fixture
from tests.support.results import opened


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/results.db"
    server: str = request.getfixturevalue("postgres")
    drop_everything(server)
    return server


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """A database whose tables exist and are empty."""
    yield from opened(Store(url))
