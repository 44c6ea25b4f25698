"""Archives of classes: used where they are there, and never in the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from iot.broker.broker import Broker, find_free_port
from iot.java import class_archives


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(class_archives, "FOLDER", tmp_path)
    return tmp_path


def test_without_an_archive_there_are_no_flags(folder):
    assert class_archives.jvm_flags("kafka") == []
    class_archives.archive("kafka").touch()
    assert class_archives.jvm_flags("kafka") == []


def test_an_archive_is_mapped(folder):
    class_archives.archive("spark").write_bytes(b"x")
    assert class_archives.jvm_flags("spark")[0] == f"-XX:SharedArchiveFile={class_archives.archive('spark')}"
    assert class_archives.jvm_flags("kafka") == []


def test_another_java_has_another_archive(folder, monkeypatch):
    (folder / "release").write_text('JAVA_VERSION="17.0.1"')
    monkeypatch.setattr(class_archives, "find_java", lambda: folder)
    older = class_archives.archive("kafka")
    (folder / "release").write_text('JAVA_VERSION="21.0.1"')
    assert class_archives.archive("kafka") != older


def test_what_is_there_is_not_made_again(folder, monkeypatch):
    for name in class_archives.NAMES:
        class_archives.archive(name).touch()
    class_archives.prepare(lambda _: pytest.fail("ran"))


def test_what_a_java_cannot_make_is_not_tried_again(folder, monkeypatch):
    ran = []
    old = folder / "spark-of-another-time.jsa"
    old.touch()
    interrupted = folder / "new-of-another-time"
    (interrupted / "broker").mkdir(parents=True)
    monkeypatch.setattr(class_archives, "UNUSED_S", -1)

    def note(_: Path) -> None:
        ran.append(class_archives.jvm_flags("spark"))

    class_archives.prepare(note)
    class_archives.prepare(note)
    assert len(ran) == 1
    assert ran[0][0].startswith("-XX:ArchiveClassesAtExit=")
    assert class_archives.jvm_flags("spark") == []
    assert not old.exists()
    assert not interrupted.exists()


@pytest.mark.integration
def test_a_broker_starts_with_an_archive_that_does_not_fit(folder, tmp_path):
    class_archives.archive("kafka").write_bytes(b"no archive of classes")
    assert class_archives.jvm_flags("kafka")
    with Broker(find_free_port(), tmp_path / "broker") as broker:
        broker.require_alive()
