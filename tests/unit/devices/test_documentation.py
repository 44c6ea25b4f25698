"""The examples in docs/devices.md are what the program does."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from iot_producer import parse_args, run_or_ask

PAGE = (Path(__file__).parents[3] / "docs" / "devices.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```\n", PAGE, re.DOTALL)
ATTIC, GREENHOUSE = (text for language, text in BLOCKS if language == "csv")
[MAP] = (text for language, text in BLOCKS if language == "toml")


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (("attic.csv", ATTIC), ("greenhouse.csv", GREENHOUSE), ("greenhouse.toml", MAP)):
        Path(name).write_text(text, encoding="utf-8")


def test_the_dry_run_prints_what_the_page_shows(capsys):
    assert run_or_ask(parse_args(["--replay", "attic.csv", "--dry-run"]), threading.Event()) == 0
    assert ("", capsys.readouterr().out) in BLOCKS


def test_the_map_answers_what_is_asked(capsys):
    assert run_or_ask(parse_args(["--replay", "greenhouse.csv"]), threading.Event()) == 2
    error = capsys.readouterr().err
    assert "no column names a sensor; 08.12.2023 09:30 in noted_date may have the day or the month first" in error
    command = next(text for language, text in BLOCKS if "--map" in text)
    flags = command.split("iot_producer.py")[1].split()
    assert run_or_ask(parse_args(flags), threading.Event()) == 0
    assert "2023-12-08T08:40:00.000000+00:00  greenhouse outdoor temp  temperature  8.3" in capsys.readouterr().out
