"""The flags of the web server."""

from __future__ import annotations

import pytest

from iot.results.store import DATABASE_URL
from iot.web import process


def test_the_help_shows_no_secret_from_the_environment(monkeypatch, capsys):
    assert process.parse_args([]).database_url == DATABASE_URL
    monkeypatch.setenv("IOT_TOKEN", "sesame")
    monkeypatch.setenv("IOT_DATABASE_URL", "postgresql://me:sesame@host/results")
    assert process.parse_args([]).token == "sesame"
    assert process.parse_args([]).database_url == "postgresql://me:sesame@host/results"
    assert process.parse_args(["--token", "other"]).token == "other"
    assert process.parse_args(["--database-url", "sqlite:///other.db"]).database_url == "sqlite:///other.db"
    with pytest.raises(SystemExit):
        process.parse_args(["--help"])
    help_text = capsys.readouterr().out
    assert "sesame" not in help_text
    assert DATABASE_URL in "".join(help_text.split())


def test_the_help_names_the_command_and_the_default_database(capsys):
    with pytest.raises(SystemExit):
        process.parse_args(["--help"])
    help_text = " ".join(capsys.readouterr().out.split())
    assert help_text.startswith("usage: python -m iot.web ")
    assert f"(default: {DATABASE_URL})" in help_text
