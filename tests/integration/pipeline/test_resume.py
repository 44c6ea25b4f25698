"""Checkpoints whose results in PostgreSQL are gone: whether the database is the one that they belong to."""

from __future__ import annotations

import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from iot.batches import Identity
from iot.pipeline.resume import Place, resume
from iot.results.store import Store
from iot.settings import UserError
from iot.spark.checkpoints import read_notes, write_notes
from tests.support.postgres import drop_everything
from tests.support.postgres import postgres as postgres  # a fixture
from tests.support.results import NOW_S, Sample, write_batch

OURS = Identity("iot-sensors", "topic-id")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place([tmp_path / "checkpoints" / name for name in ("one", "two")], "")


@pytest.fixture
def server(postgres: str) -> str:
    drop_everything(postgres)
    with psycopg.connect(postgres, autocommit=True) as connection:
        for statement in (
            "DROP DATABASE IF EXISTS second",
            "CREATE DATABASE second",
            "DROP SCHEMA IF EXISTS mine CASCADE",
            "CREATE SCHEMA mine",
            "DROP ROLE IF EXISTS another",
            "CREATE ROLE another LOGIN SUPERUSER PASSWORD 'secret'",
        ):
            connection.execute(statement)
    return postgres


@pytest.fixture
def other_host(server: str) -> Iterator[str]:
    """Another path to the folder of the server's socket."""
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "host"
        link.symlink_to(server.rpartition("host=")[2])
        yield str(link)


def begin(url: str, place: Place) -> str:
    with closing(Store(url)) as store:
        _, line = resume(store, place, OURS, lambda: {0: 1}, NOW_S)
        return line or ""


def run(url: str, place: Place) -> None:
    """A run that counted readings, whose results are then lost."""
    begin(url, place)
    with closing(Store(url)) as store:
        write_batch(store, 0, [Sample()])
    for folder in place.folders:
        (folder / "offsets").mkdir()
        (folder / "offsets" / "0").write_text("v1")
    drop_everything(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA IF NOT EXISTS mine")


def ways(server: str, other_host: str) -> list[str]:
    return [
        server.replace("postgresql://", "postgresql+psycopg://"),
        server.replace("iot@", "another:secret@"),
        f"{server}&application_name=other&connect_timeout=3",
        server.replace(server.rpartition("host=")[2], other_host),
    ]


@pytest.mark.parametrize("number", range(4))
def test_every_way_to_write_the_database_is_the_same(server, other_host, place, number):
    run(server, place)
    assert "only one and two of an earlier run was there; kept as " in begin(ways(server, other_host)[number], place)


@pytest.mark.parametrize("way", ["database", "schema"])
def test_another_database_is_refused_with_the_first_one(server, place, way):
    url = server.replace("iot@", "another:secret@")
    run(url, place)
    other = {
        "database": server.replace("/postgres?", "/second?"),
        "schema": f"{server}&options={quote('-c search_path=mine')}",
    }[way]
    with pytest.raises(UserError) as refused:
        begin(other, place)
    [chosen] = re.findall(r"choose --database-url (\S+) \(with its password, or set PGPASSWORD\)", str(refused.value))
    assert "***" not in str(refused.value).partition("choose")[2]
    # The server of the tests asks for no password.
    assert "kept as " in begin(shlex.split(chosen)[0], place)


def test_notes_of_an_earlier_version_are_compared_by_address(server, place):
    run(server, place)
    for folder in place.folders:
        notes = read_notes(folder)
        assert notes
        notes.database_id = ""
        write_notes(folder, notes)
    with pytest.raises(UserError, match="belong to the database"):
        begin(server.replace("/postgres?", "/second?"), place)
    assert "kept as " in begin(server.replace("iot@", "another:secret@"), place)


def test_the_command_that_removes_what_is_kept_can_be_pasted(server, place):
    url = server.replace("postgresql://iot@", "postgresql+psycopg://another:secret@")
    begin(url, place)
    with closing(Store(url)) as store:
        write_batch(store, 0, [Sample()])
    for folder in place.folders:
        (folder / "iot-notes.json").unlink()
    line = begin(url, place)
    [command] = re.findall(r"\(remove it with: (psql .*)\)$", line)
    assert "***" not in command
    assert "secret" not in command
    with psycopg.connect(server) as connection:
        schemas = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE '%before%'"
        assert connection.execute(schemas).fetchone() == (1,)
    subprocess.run(command, shell=True, check=True, timeout=60, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    with psycopg.connect(server) as connection:
        assert connection.execute(schemas).fetchone() == (0,)
