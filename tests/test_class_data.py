"""Archives of classes: used where they are there, and never in the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from iot import class_data
from iot.broker import Broker, find_free_port


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(class_data, "FOLDER", tmp_path)
    return tmp_path


def test_without_an_archive_there_are_no_flags(folder):
    assert class_data.jvm_flags("kafka") == []
    class_data._archive("kafka").touch()
    assert class_data.jvm_flags("kafka") == []


def test_an_archive_is_mapped(folder):
    class_data._archive("spark").write_bytes(b"x")
    assert class_data.jvm_flags("spark")[0] == f"-XX:SharedArchiveFile={class_data._archive('spark')}"
    assert class_data.jvm_flags("kafka") == []


def test_another_java_has_another_archive(folder, monkeypatch):
    (folder / "release").write_text('JAVA_VERSION="17.0.1"')
    monkeypatch.setattr(class_data, "find_java", lambda: folder)
    older = class_data._archive("kafka")
    (folder / "release").write_text('JAVA_VERSION="21.0.1"')
    assert class_data._archive("kafka") != older


def test_what_is_there_is_not_made_again(folder, monkeypatch):
    monkeypatch.setattr(class_data, "_run_both", lambda _: pytest.fail("ran"))
    for name in class_data.NAMES:
        class_data._archive(name).touch()
    class_data.prepare()


def test_what_a_java_cannot_make_is_not_tried_again(folder, monkeypatch):
    ran = []
    old = folder / "spark-of-another-time.jsa"
    old.touch()
    interrupted = folder / "new-of-another-time"
    (interrupted / "broker").mkdir(parents=True)
    monkeypatch.setattr(class_data, "UNUSED_S", -1)
    monkeypatch.setattr(class_data, "_run_both", lambda work: ran.append(class_data.jvm_flags("spark")))
    class_data.prepare()
    class_data.prepare()
    assert len(ran) == 1
    assert ran[0][0].startswith("-XX:ArchiveClassesAtExit=")
    assert class_data.jvm_flags("spark") == []
    assert not old.exists()
    assert not interrupted.exists()


@pytest.mark.integration
def test_a_broker_starts_with_an_archive_that_does_not_fit(folder, tmp_path):
    class_data._archive("kafka").write_bytes(b"no archive of classes")
    assert class_data.jvm_flags("kafka")
    with Broker(find_free_port(), tmp_path / "broker") as broker:
        broker.require_alive()
