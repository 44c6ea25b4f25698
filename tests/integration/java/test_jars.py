"""Jars are fetched once, checked, and complained about in one line."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from iot import processes
from iot.broker.broker import find_free_port
from iot.java import jars as java
from iot.settings import UserError

ROOT = Path(__file__).parents[3]
VECTOR = "--add-modules=jdk.incubator.vector"


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """An empty cache, a mirror in a folder that holds two jars, and a lock that names them."""
    locked = []
    for name in ("one", "two"):
        file = tmp_path / "mirror" / "org.example" / f"{name}-1.0.jar"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode())
        locked.append(java.Jar("org.example", name, "1.0", hashlib.sha256(name.encode()).hexdigest()))
    pattern = tmp_path / "mirror" / "[organisation]" / "[artifact]-[revision].[ext]"
    (tmp_path / "ivysettings.xml").write_text(
        '<ivysettings><settings defaultResolver="mirror"/><property name="ivy.checksums" value=""/><resolvers>'
        f'<filesystem name="mirror"><artifact pattern="{pattern}"/></filesystem></resolvers></ivysettings>'
    )
    monkeypatch.setenv("IOT_IVY_SETTINGS", str(tmp_path / "ivysettings.xml"))
    monkeypatch.setattr(java, "CACHE_DIR", tmp_path / "cache")
    monkeypatch.setattr(java, "read_lock", lambda: {"kafka": locked})
    return tmp_path / "mirror" / "org.example"


def test_jars_are_fetched_once(mirror, monkeypatch):
    jars = java.jars("kafka")
    assert [jar.read_bytes() for jar in jars] == [b"one", b"two"]
    shutil.rmtree(mirror)
    monkeypatch.setattr(java, "spawn", lambda *_, **__: pytest.fail("nothing may be fetched again"))
    assert java.jars("kafka") == jars


def test_a_missing_jar_is_fetched_again(mirror):
    jars = java.jars("kafka")
    jars[0].unlink()
    assert java.jars("kafka")[0].read_bytes() == b"one"


def test_of_two_at_the_same_time_one_fetches(mirror, monkeypatch):
    spawned = []

    def spawn(command, **popen):
        spawned.append(command)
        return processes.spawn(command, **popen)

    monkeypatch.setattr(java, "spawn", spawn)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(java.jars, ["kafka"] * 4))
    assert all(jar.exists() for jar in results[0])
    assert results == [results[0]] * 4
    assert len(spawned) == 1


def test_a_jar_with_another_checksum_is_refused(mirror, tmp_path):
    (mirror / "two-1.0.jar").write_bytes(b"something else")
    with pytest.raises(UserError, match=r"^org.example:two:1.0 was fetched with SHA-256 .* refused") as raised:
        java.jars("kafka")
    assert "\n" not in str(raised.value)
    assert [jar.name for jar in (tmp_path / "cache").rglob("*.jar")] == ["one-1.0.jar"]


def test_a_jar_that_the_mirror_lacks_is_named(mirror):
    (mirror / "two-1.0.jar").unlink()
    with pytest.raises(UserError, match=r"^cannot fetch Kafka's jars \(1 of 2, first org.example:two:1.0"):
        java.jars("kafka")


def test_offline_says_in_one_line_what_to_do(tmp_path):
    (tmp_path / "ivysettings.xml").write_text(
        f'<ivysettings><settings defaultResolver="away"/><resolvers><ibiblio name="away" m2compatible="true" '
        f'root="http://127.0.0.1:{find_free_port()}/"/></resolvers></ivysettings>'
    )
    ran = subprocess.run(
        [sys.executable, "-m", "iot.java"],
        cwd=ROOT,
        env=os.environ | {"IOT_CACHE_DIR": str(tmp_path), "IOT_IVY_SETTINGS": str(tmp_path / "ivysettings.xml")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    error = ran.stderr.splitlines()[-1]
    assert error.startswith("error: cannot fetch Kafka's jars (45 of 45, first at.yawk.lz4:lz4-java:1.11.2: ")
    for said in ("Connection refused", "JAVA_TOOL_OPTIONS", "IOT_IVY_SETTINGS", f"copy the folder {tmp_path}"):
        assert said in error
    assert "Traceback" not in ran.stderr


def test_the_lock_names_each_jar_once_with_its_checksum():
    sets = java.read_lock()
    assert set(sets) == set(java.SETS)
    for locked in sets.values():
        assert len({jar.file_name for jar in locked}) == len(locked)
        assert all(len(jar.sha256) == 64 for jar in locked)
