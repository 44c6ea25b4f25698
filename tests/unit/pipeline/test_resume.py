"""Whether checkpoints and database belong to the same run, and what becomes of the parts of an earlier one."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import threading
from pathlib import Path

import pytest

from iot.batches import Identity
from iot.owner import InUse, Leases
from iot.pipeline.resume import Place, owned, resume
from iot.results.store import Store
from iot.settings import UserError
from iot.spark.checkpoints import NOTES, CheckpointNotes, how_to_reset, read_notes, write_notes
from tests.support.results import Sample, write_batch

OURS = Identity("iot-sensors", "topic-id")
EARLIER = Identity("iot-sensors", "earlier-id")
START = {0: 5, 1: 0, 2: 7}
NOW_S = 1_795_561_380
STAMP = "20261124T230300Z"


def place_in(folder: Path, checkpoints: str = "checkpoints", database: str = "results.db") -> Place:
    return Place([folder / checkpoints / "one", folder / checkpoints / "two"], str(folder / database))


@pytest.fixture
def place(tmp_path):
    return place_in(tmp_path)


@pytest.fixture
def store(place):
    made = Store(f"sqlite:///{place.database}")
    yield made
    made.close()


def begin(store: Store, place: Place, identity: Identity = OURS) -> str:
    """Returns the line to print; empty if nothing is kept."""
    start, line = resume(store, place, identity, lambda: START, NOW_S)
    assert start == START
    assert store.identity()[0] == identity
    assert all(read_notes(folder).state_id == store.identity()[1] for folder in place.folders)
    return line or ""


def run(store: Store, place: Place, identity: Identity = OURS) -> None:
    """A run that counted 2 readings, and Spark's own files in its checkpoints."""
    begin(store, place, identity)
    write_batch(store, 0, [Sample(), Sample()])
    for folder in place.folders:
        (folder / "offsets").mkdir()
        (folder / "offsets" / "0").write_text("v1")


def content(folder: Path) -> dict[str, bytes]:
    """All files below a folder, but the results: reading them changes SQLite's own files beside."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and ".db" not in file.name
    }


def messages(database: Path) -> int:
    kept = Store(f"sqlite:///{database}")
    try:
        return kept.read(NOW_S).messages
    finally:
        kept.close()


def test_a_run_is_resumed_if_checkpoints_and_database_belong_together(store, place):
    assert begin(store, place) == ""
    state = store.identity()
    (place.folders[0] / "offsets").mkdir()
    assert resume(store, place, OURS, lambda: pytest.fail("a new run began"), NOW_S) == (START, None)
    assert store.identity() == state


@pytest.mark.parametrize("removed", [["one", "two"], ["one"], ["two"]])
def test_removing_checkpoints_resets_everything_and_keeps_the_results_under_another_name(store, place, removed):
    run(store, place)
    for name in removed:
        shutil.rmtree(place.folders[0].parent / name)
    line = begin(store, place)
    assert store.read(NOW_S).messages == 0
    kept = Path(f"{place.database}.before-{STAMP}")
    assert "database of an earlier run was there; kept as " in line
    assert f"{kept} (remove it with: rm {kept})" in line
    assert messages(kept) == 2
    left = {"one", "two"} - set(removed)
    for name in left:
        aside = place.folders[0].with_name(f"{name}.before-{STAMP}")
        assert (aside / "offsets" / "0").read_text() == "v1"
        assert f"{aside} (remove it with: rm -r -- {aside})" in line
    # The commands of the line remove what was kept, and nothing else.
    for command in re.findall(r"remove it with: ([^)]+)\)", line):
        subprocess.run(command, shell=True, check=True)
    names = {file.name for file in place.folders[0].parent.parent.rglob("*")}
    assert not any("before" in name for name in names)
    assert {"one", "two", "results.db"} <= names


def test_without_the_database_the_checkpoints_are_kept_under_another_name(store, place):
    run(store, place)
    store.close()
    Path(place.database).unlink()
    line = begin(store, place)
    for folder in place.folders:
        aside = folder.with_name(f"{folder.name}.before-{STAMP}")
        assert (aside / "offsets" / "0").exists()
        assert f"{aside} (remove it with: rm -r -- {aside})" in line
        assert not (folder / "offsets").exists()


def test_two_resets_in_one_second_keep_both(store, place):
    for _ in range(2):
        run(store, place)
        for folder in place.folders:
            shutil.rmtree(folder)
    line = begin(store, place)
    assert line.endswith("; 1 kept earlier have .before- in their names too")
    kept = sorted(Path(place.database).parent.glob("results.db.before-*"))
    assert [file.name for file in kept] == [f"results.db.before-{STAMP}", f"results.db.before-{STAMP}-2"]
    assert [messages(file) for file in kept] == [2, 2]


def test_what_is_kept_can_be_put_back(store, place):
    run(store, place)
    store.close()
    kept = [folder.rename(folder.with_name(f"{folder.name}.mine")) for folder in place.folders]
    begin(store, place)
    store.close()
    for folder, mine in zip(place.folders, kept, strict=True):
        shutil.rmtree(folder)
        mine.rename(folder)
    Path(f"{place.database}.before-{STAMP}").replace(place.database)
    assert begin(store, place) == ""
    assert store.read(NOW_S).messages == 2
    with sqlite3.connect(place.database) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_a_run_that_was_interrupted_while_it_began_leaves_nothing_to_keep(store, place):
    begin(store, place)
    for folder in place.folders:
        (folder / NOTES).unlink()
    # Only the second note is missing.
    assert begin(store, place) == ""
    (place.folders[1] / NOTES).unlink()
    assert begin(store, place) == ""
    assert not list(place.folders[0].parent.parent.rglob("*before*"))


def test_the_database_of_another_run_is_refused_with_the_folder_it_belongs_to(store, tmp_path):
    first, second = place_in(tmp_path, "first"), place_in(tmp_path, "second")
    run(store, first)
    before = content(tmp_path)
    with pytest.raises(UserError, match=rf"belongs to the checkpoints in {tmp_path}/first: choose --checkpoint-dir "):
        begin(store, second)
    assert content(tmp_path) == before
    assert store.read(NOW_S).messages == 2
    # Its own folder was removed, so it is nobody's.
    shutil.rmtree(tmp_path / "first")
    assert "results.db.before" in begin(store, second)


def test_the_checkpoints_of_another_database_are_refused_with_its_name(store, place, tmp_path):
    run(store, place)
    other = Store(f"sqlite:///{tmp_path / 'other.db'}")
    before = content(tmp_path)
    with pytest.raises(UserError, match=rf"belong to the database {place.database}: choose --database-url sqlite:////"):
        begin(other, place_in(tmp_path, database="other.db"))
    assert content(tmp_path) == before
    assert not (tmp_path / "other.db").exists()


@pytest.mark.parametrize("how", ["database", "a checkpoint"])
def test_parts_of_two_runs_are_refused(store, place, tmp_path, how):
    run(store, place)
    other = Store(f"sqlite:///{tmp_path / 'other.db'}")
    elsewhere = place_in(tmp_path, "elsewhere", "other.db")
    run(other, elsewhere)
    if how == "database":
        mixed, of = Place(place.folders, elsewhere.database), other
    else:
        (place.folders[1] / NOTES).write_bytes((elsewhere.folders[1] / NOTES).read_bytes())
        mixed, of = place, store
    before = content(tmp_path)
    with pytest.raises(UserError, match="are of different runs: choose a --checkpoint-dir and a --database-url") as no:
        begin(of, mixed)
    # The command removes no results: they may be another run's.
    assert "results.db" not in str(no.value).partition("to reset:")[2]
    assert content(tmp_path) == before
    assert store.read(NOW_S).messages == other.read(NOW_S).messages == 2
    other.close()


def test_a_topic_that_was_made_again_is_refused_until_the_checkpoints_are_gone(store, place):
    run(store, place, EARLIER)
    with pytest.raises(UserError, match=r"is of an earlier topic iot-sensors.*; to reset: rm -r -- \S+ \S+$"):
        begin(store, place)
    # Without checkpoints nothing can be mixed up, and the database may be one that has no file to remove.
    for folder in place.folders:
        shutil.rmtree(folder)
    assert "only database of an earlier run was there; kept as " in begin(store, place)


def test_the_results_of_another_topic_are_not_reset(store, place):
    run(store, place, Identity("elsewhere", "other-id"))
    for folder in place.folders:
        shutil.rmtree(folder)
    with pytest.raises(UserError, match="the results database is of topic elsewhere, not iot-sensors"):
        begin(store, place)


def test_a_checkpoint_behind_a_link_is_kept_where_it_is(store, place, tmp_path):
    real = tmp_path / "big disk"
    real.mkdir()
    place.folders[0].parent.mkdir()
    place.folders[0].symlink_to(real, target_is_directory=True)
    run(store, place)
    store.close()
    Path(place.database).unlink()
    begin(store, place)
    assert place.folders[0].readlink() == real
    assert (tmp_path / f"big disk.before-{STAMP}" / "offsets" / "0").exists()
    assert not (real / "offsets").exists()


def test_notes_and_results_of_an_earlier_version_are_continued(store, place):
    begin(store, place)
    for folder in place.folders:
        notes = read_notes(folder)
        write_notes(folder, CheckpointNotes(notes.identity, notes.start, notes.state_id))
    with sqlite3.connect(place.database) as connection:
        connection.execute("DELETE FROM iot_notes WHERE name IN ('owner', 'checkpoint_dir')")
    connection.close()
    assert begin(store, place) == ""


def test_the_message_has_the_command_that_resets_everything():
    assert Place([Path("/a"), Path("/b")], "/c.db").reset == "to reset: rm -r -- /a /b"
    assert Place([Path("/a b"), Path("/b'c")], "").reset == """to reset: rm -r -- '/a b' '/b'"'"'c'"""


@pytest.mark.parametrize("name", ["-rf", "--", "a b", "it's", 'a "b"', "größe", "$HOME", "*", "a;b", "~", "a)b", "#"])
def test_the_command_removes_what_has_an_odd_name_and_nothing_else(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "neighbour").mkdir()
    folders = [Path(name) / "one", Path(name) / "two"]
    for folder in (*folders, Path(name) / "three"):
        folder.mkdir(parents=True)
    command = Place(folders, "").reset.removeprefix("to reset: ")
    subprocess.run(command, shell=True, check=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted([name, "neighbour", "three"])
    subprocess.run(how_to_reset(Path(name)).removeprefix("to reset: "), shell=True, check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["neighbour"]


@pytest.mark.parametrize("way", ["link.db", "folder/results.db", "hard.db"])
def test_a_database_that_was_emptied_is_the_same_on_another_path(store, place, tmp_path, way):
    run(store, place)
    store.close()
    database = Path(place.database)
    for file in (database, *tmp_path.glob("results.db-*")):
        file.unlink()
    database.touch()
    (tmp_path / "link.db").symlink_to(database)
    (tmp_path / "folder").symlink_to(tmp_path)
    (tmp_path / "hard.db").hardlink_to(database)
    other = Store(f"sqlite:///{tmp_path / way}")
    assert "only one and two of an earlier run was there" in begin(other, place_in(tmp_path, database=way))
    other.close()


# Two applications -----------------------------------------------------------------------------------------------------


def own(store: Store, place: Place, script: str = "app"):
    return owned(store, place, script, lambda _: None, threading.Event())


@pytest.mark.parametrize(
    ("checkpoints", "database", "shared"),
    [
        ("checkpoints", "results.db", "the checkpoint folder"),
        ("checkpoints", "other.db", "the checkpoint folder"),
        ("other", "results.db", "the results database"),
        ("checkpoints/../checkpoints", "other.db", "the checkpoint folder"),
        ("link to checkpoints", "other.db", "the checkpoint folder"),
        ("folder of links", "other.db", "the checkpoint folder"),
        ("other", "other/../results.db", "the results database"),
        ("other", "link.db", "the results database"),
    ],
)
def test_in_every_combination_the_second_is_refused_and_changes_nothing(
    store, place, tmp_path, checkpoints, database, shared
):
    (tmp_path / "link to checkpoints").symlink_to(tmp_path / "checkpoints")
    (tmp_path / "link.db").symlink_to(place.database)
    (tmp_path / "folder of links").mkdir()
    for folder in place.folders:
        (tmp_path / "folder of links" / folder.name).symlink_to(folder)
    with own(store, place) as leases:
        run(store, place)
        before, names = content(tmp_path / "checkpoints"), sorted(tmp_path.iterdir())
        second = Store(f"sqlite:///{tmp_path / database}")
        with pytest.raises(InUse) as refused, own(second, place_in(tmp_path, checkpoints, database)):
            pytest.fail("two applications run")
        line = str(refused.value)
        assert line.startswith(shared)
        assert re.search(r" is in use by app on \S+ \(process \d+\): stop it", line)
        assert "--checkpoint-dir" in line
        assert "--database-url" in line
        second.close()
        before = {name: of for name, of in before.items() if not name.endswith(".lock")}
        after = content(tmp_path / "checkpoints")
        assert before == {name: of for name, of in after.items() if not name.endswith(".lock")}
        assert sorted(tmp_path.iterdir()) == names
        assert write_batch(store, 1, [Sample()])
        assert store.read(NOW_S).messages == 3
        leases.require()


def test_with_state_of_its_own_a_second_application_runs_beside(store, place, tmp_path):
    other = Store(f"sqlite:///{tmp_path / 'other.db'}")
    with own(store, place), own(other, place_in(tmp_path, "other", "other.db")) as leases:
        assert isinstance(leases, Leases)
        leases.require()
    other.close()


def test_a_database_with_a_second_hard_link_is_refused(store, place, tmp_path):
    with own(store, place):
        run(store, place)
        (tmp_path / "second name.db").hardlink_to(place.database)
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "third.db").hardlink_to(place.database)
        second = Store(f"sqlite:///{tmp_path / 'second name.db'}")
        with pytest.raises(InUse, match=r"second name.db is in use by app on .* --checkpoint-dir and a --database-url"):
            own(second, place_in(tmp_path, "other", "second name.db")).__enter__()
        third = Store(f"sqlite:///{tmp_path}/elsewhere/third.db")
        with pytest.raises(InUse, match=r"third.db is in use by app on .* --checkpoint-dir and a --database-url of"):
            own(third, place_in(tmp_path, "other", "elsewhere/third.db")).__enter__()
        assert store.read(NOW_S).messages == 2
        second.close()
        third.close()
    assert not (tmp_path / "elsewhere" / "third.db.lock").exists()
    ended = Store(f"sqlite:///{tmp_path}/elsewhere/third.db")
    with pytest.raises(UserError, match=r"has another name \(a hard link\).*--checkpoint-dir and --database-url"):
        own(ended, place_in(tmp_path, "other", "elsewhere/third.db")).__enter__()
    ended.close()


def test_a_folder_of_another_user_is_refused_with_the_flag(store, tmp_path):
    (tmp_path / "checkpoints").touch()
    with pytest.raises(UserError, match=r"cannot write .*: .*; choose another folder with --checkpoint-dir"):
        own(store, place_in(tmp_path)).__enter__()
    nowhere = Store(f"sqlite:///{tmp_path / 'no folder' / 'x.db'}")
    with pytest.raises(UserError, match=r"cannot write .*: No such .*; choose another file with --database-url"):
        own(nowhere, place_in(tmp_path, "other", "no folder/x.db")).__enter__()
    assert not (tmp_path / "other").exists()
