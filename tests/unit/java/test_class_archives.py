"""Class archives are used where they exist, and written once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from iot.java import class_archives
from iot.java.runtime import Java

CREATE = "-XX:+AutoCreateSharedArchive"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(class_archives, "FOLDER", tmp_path / "classes")
    (tmp_path / "classes").mkdir()
    return tmp_path / "classes"


@pytest.fixture
def java(folder, tmp_path, monkeypatch):
    """``java(version)`` makes this the Java that is found; it comes with an archive of its own classes."""
    base = tmp_path / "java" / "lib" / "server" / "classes.jsa"
    base.parent.mkdir(parents=True)
    base.touch()

    def use(version: int, build: str = "+1") -> None:
        monkeypatch.setattr(class_archives, "find_runtime", lambda: Java(tmp_path / "java", version, build))

    use(17)
    return use


def test_without_an_archive_there_are_no_flags(java):
    assert class_archives.jvm_flags("kafka") == []
    class_archives.archive("kafka").touch()
    assert class_archives.jvm_flags("kafka") == []


def test_an_archive_is_mapped(java):
    class_archives.archive("spark").write_bytes(b"x")
    assert class_archives.jvm_flags("spark")[0] == f"-XX:SharedArchiveFile={class_archives.archive('spark')}"
    assert class_archives.jvm_flags("kafka") == []


def test_another_java_has_another_archive(java):
    older = class_archives.archive("kafka")
    java(17, "+2")
    assert class_archives.archive("kafka") != older


def test_an_existing_archive_is_not_written_again(java):
    for name in class_archives.NAMES:
        class_archives.archive(name).touch()
    class_archives.prepare(lambda _: pytest.fail("ran"))


def test_a_java_that_cannot_write_an_archive_is_asked_once(java, folder):
    ran = []

    def note(_: Path) -> None:
        ran.append(class_archives.jvm_flags("spark"))

    class_archives.prepare(note)
    class_archives.prepare(note)
    assert len(ran) == 1
    assert ran[0][0].startswith("-XX:ArchiveClassesAtExit=")
    assert class_archives.jvm_flags("spark") == []


def test_what_is_long_unused_is_removed(java, folder):
    old = folder / "spark-of-another-time.jsa"
    old.touch()
    interrupted = folder / "new-of-another-time"
    (interrupted / "broker").mkdir(parents=True)
    not_ours = folder / "notes.txt"
    not_ours.touch()
    for path in (old, interrupted, not_ours):
        os.utime(path, (0, 0))
    class_archives.prepare(lambda _: None)
    assert not old.exists()
    assert not interrupted.exists()
    assert not_ours.exists()
    assert class_archives.archive("kafka").exists()


def test_java_19_writes_a_missing_archive_by_itself(java):
    java(19)
    class_archives.prepare(lambda _: pytest.fail("ran"))
    assert class_archives.jvm_flags("kafka")[:2] == [
        CREATE,
        f"-XX:SharedArchiveFile={class_archives.archive('kafka')}",
    ]


@pytest.mark.parametrize("version", [17, 21])
def test_an_archive_in_use_is_kept(java, version):
    java(version)
    for name in class_archives.NAMES:
        class_archives.archive(name).write_bytes(b"x")
        os.utime(class_archives.archive(name), (0, 0))
    class_archives.jvm_flags("spark")
    class_archives.prepare(lambda _: None)
    assert class_archives.archive("spark").read_bytes() == b"x"


def test_a_short_lived_jvm_only_reads_an_archive(java):
    java(21)
    assert class_archives.jvm_flags("kafka", write=False) == []
    class_archives.archive("kafka").write_bytes(b"x")
    assert class_archives.jvm_flags("kafka", write=False)[0].startswith("-XX:SharedArchiveFile=")


def test_an_unwritable_cache_does_no_harm(java, tmp_path, monkeypatch):
    java(21)
    (tmp_path / "file").touch()
    monkeypatch.setattr(class_archives, "FOLDER", tmp_path / "file" / "classes")
    assert class_archives.jvm_flags("kafka") == []
