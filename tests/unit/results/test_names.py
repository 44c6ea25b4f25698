"""Names of databases: which ones mean the same place, and what a command can be given."""

from __future__ import annotations

import pytest

from iot.results.names import paste, same_address

SERVER = "postgresql://me@localhost:5432/results"


@pytest.mark.parametrize(
    ("name", "pasted"),
    [
        ("postgresql+psycopg://me:***@db.example:5433/results", "postgresql://me@db.example:5433/results"),
        ("postgresql+psycopg2://me:secret@db.example/results", "postgresql://me@db.example/results"),
        ("postgres://db.example/results", "postgresql://db.example/results"),
        ("postgresql://m%40e:***@[::1]:5432/r", "postgresql://m%40e@[::1]:5432/r"),
        ("postgresql://a b:***@h/my db", "postgresql://a%20b@h/my%20db"),
        ("postgresql://me@/r?host=/var/run/postgresql", "postgresql://me@/r?host=%2Fvar%2Frun%2Fpostgresql"),
        ("postgresql://me@h/r?password=x&sslmode=require", "postgresql://me@h/r?sslmode=require"),
        ("postgresql://me@h/r?options=-c search_path%3Dmine", "postgresql://me@h/r?options=-c%20search_path%3Dmine"),
        # These are psycopg's own.
        ("postgresql://me@h/r?prepare_threshold=0", "postgresql://me@h/r"),
        ("postgresql://me@/r?host=a:1&host=b:2", "postgresql://me@/r?host=a%2Cb&port=1%2C2"),
        ("/a b/r.db", "sqlite:////a b/r.db"),
    ],
)
def test_a_command_gets_a_url_without_password_that_libpq_takes(name, pasted):
    assert paste(name) == pasted
    if pasted.startswith("postgresql"):
        conninfo = pytest.importorskip("psycopg").conninfo
        assert "password" not in conninfo.conninfo_to_dict(pasted)


@pytest.mark.parametrize(
    "other",
    [
        "postgresql+psycopg://me@localhost:5432/results",
        "postgresql://you:***@localhost/results",
        "postgresql://me:secret@127.0.0.1/results",
        "postgres://me@[::1]:5432/results",
        "postgresql://me@LOCALHOST/results?sslmode=disable&application_name=x",
        "postgresql://me@/results?host=127.0.0.1",
        # One of the servers that stand in for each other.
        "postgresql://me@/results?host=db.example,localhost&port=5433,5432",
        "postgresql://me@/results?host=db.example:5433&host=127.0.0.1",
    ],
)
def test_ways_to_write_an_address(other):
    assert same_address(SERVER, other)
    assert same_address(other, SERVER)


@pytest.mark.parametrize(
    "other",
    [
        "postgresql://me@localhost:5433/results",
        "postgresql://me@localhost/others",
        "postgresql://me@db.example/results",
        "postgresql://me@localhost/results?options=-csearch_path%3Dmine",
        "postgresql://me@/results?host=db.example,localhost&port=5432,5433",
        "/results.db",
    ],
)
def test_other_addresses(other):
    assert not same_address(SERVER, other)


def test_files(tmp_path):
    (tmp_path / "r.db").touch()
    (tmp_path / "other.db").touch()
    (tmp_path / "link.db").symlink_to("r.db")
    (tmp_path / "hard.db").hardlink_to(tmp_path / "r.db")
    (tmp_path / "folder").symlink_to(tmp_path)
    for name in ("link.db", "hard.db", "folder/r.db", "./r.db"):
        assert same_address(f"{tmp_path}/r.db", f"{tmp_path}/{name}")
    assert same_address(f"{tmp_path}/new.db", f"{tmp_path}/folder/new.db")
    assert not same_address(f"{tmp_path}/r.db", f"{tmp_path}/other.db")
    assert not same_address(f"{tmp_path}/r.db", f"{tmp_path}/new.db")
