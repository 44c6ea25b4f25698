"""A package without a wheel for a supported Python and system is found, by name, version and platform."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.support import wheels
from tests.support.wheels import Listed, Locked, missing, report, uv_environment

ALL = (
    "manylinux_2_17_x86_64.manylinux2014_x86_64",
    "manylinux_2_28_aarch64",
    "macosx_10_9_x86_64",
    "macosx_11_0_arm64",
)


def names(package: str, pythons: str, platforms: tuple[str, ...] = ALL) -> list[str]:
    return [f"{package}-{python}-{python}-{platform}.whl" for python in pythons.split() for platform in platforms]


def lines(requirement: str, files: list[str], unlocked: str = "") -> list[str]:
    """Return the report on one package whose lock has the checksums of all files but one."""
    one = Requirement(requirement)
    listed = [Listed(file, f"sha256 of {file}") for file in files]
    locked = [Locked(one, frozenset(each.sha256 for each in listed if each.name != unlocked))]
    return report("the.lock", missing(locked, {(one.name, str(one.specifier)[2:]): listed}))


NUMPY = [*names("numpy-2.2.6", "cp310 cp311 cp312 cp313"), "numpy-2.2.6.tar.gz"]


def test_a_python_without_a_wheel_is_named():
    [line] = lines("numpy==2.2.6", NUMPY)
    assert line.startswith(
        "the.lock: numpy==2.2.6 has no wheel for Linux x86-64, Python 3.14; Linux Arm, Python 3.14; "
    )
    assert "3.13" not in line


@pytest.mark.parametrize(
    ("left_out", "named"),
    [(0, "Linux x86-64"), (1, "Linux Arm"), (2, "macOS x86-64"), (3, "macOS Arm")],
)
def test_a_platform_without_a_wheel_is_named(left_out, named):
    platforms = ALL[:left_out] + ALL[left_out + 1 :]
    [line] = lines("hdrhistogram==0.10.8", names("hdrhistogram-0.10.8", "cp311 cp312 cp313 cp314", platforms))
    assert f"hdrhistogram==0.10.8 has no wheel for {named}, Python 3.11, 3.12, 3.13, 3.14: " in line


@pytest.mark.parametrize(
    "files",
    [
        names("some-1.0", "cp311 cp312 cp313 cp314"),
        [f"some-1.0-cp39-abi3-{platform}.whl" for platform in ALL],
        [f"some-1.0-py3-none-{platform}.whl" for platform in ALL],
        ["some-1.0-py2.py3-none-any.whl"],
        ["some-1.0-1-py3-none-any.whl", "some-1.0.zip", "some-1.0.exe"],
        names("some-1.0", "cp311 cp312 cp313 cp314", (*ALL[:2], "macosx_13_0_universal2")),
    ],
)
def test_every_kind_of_wheel_that_fits_is_accepted(files):
    assert lines("some==1.0", files) == []


@pytest.mark.parametrize(
    "files",
    [
        [],
        ["some-1.0.tar.gz"],
        names("some-1.0", "cp311t cp312t cp313t cp314t"),
        names("some-1.0", "cp311 cp312 cp313 cp314", ("musllinux_1_2_x86_64", "win_amd64", "manylinux_2_17_i686")),
        names("some-1.0", "cp311 cp312 cp313 cp314", ("manylinux_2_34_x86_64", "macosx_26_0_arm64")),
        [f"some-1.0-cp315-abi3-{platform}.whl" for platform in ALL],
        ["some-1.0-py2-none-any.whl", "some-1.0-pp311-pypy311_pp73-macosx_11_0_arm64.whl"],
    ],
)
def test_a_file_that_does_not_fit_anywhere_is_no_wheel(files):
    [line] = lines("some==1.0", files)
    for platform in ("Linux x86-64", "Linux Arm", "macOS x86-64", "macOS Arm"):
        assert f"{platform}, Python 3.11, 3.12, 3.13, 3.14" in line


def test_a_wheel_without_a_locked_checksum_does_not_count():
    files = names("some-1.0", "cp311 cp312 cp313 cp314")
    [line] = lines("some==1.0", files, unlocked="some-1.0-cp314-cp314-macosx_11_0_arm64.whl")
    assert "some==1.0 has no wheel for macOS Arm, Python 3.14: " in line


@pytest.mark.parametrize(
    ("marker", "named"),
    [
        ("python_full_version < '3.14'", None),
        (
            "python_version >= '3.14' and sys_platform == 'darwin'",
            "macOS x86-64, Python 3.14; macOS Arm, Python 3.14: ",
        ),
        ("platform_machine == 'aarch64'", "Linux Arm, Python 3.14: "),
        ("implementation_name == 'pypy' or os_name == 'nt' or platform_system == 'Windows'", None),
    ],
)
def test_only_where_the_marker_holds_a_wheel_is_needed(marker, named):
    found = lines(f"numpy==2.2.6 ; {marker}", NUMPY)
    assert [line.partition("no wheel for ")[2][: len(named or "")] for line in found] == ([named] if named else [])


def test_pyspark_needs_a_source_with_a_locked_checksum():
    assert lines("pyspark==4.2.0", ["pyspark-4.2.0.tar.gz"]) == []
    assert len(lines("pyspark==4.2.0", ["pyspark-4.2.0.tar.gz"], unlocked="pyspark-4.2.0.tar.gz")) == 1


def test_a_wheel_for_any_python_may_still_refuse_one(monkeypatch):
    known = {"Version": "1.0", "Requires-Python": ">=3.8,<3.13"}
    monkeypatch.setattr(wheels.metadata, "metadata", lambda name: known)
    [line] = lines("some==1.0", ["some-1.0-py3-none-any.whl"])
    assert "Linux x86-64, Python 3.13, 3.14; " in line
    assert lines("some==2.0", ["some-2.0-py3-none-any.whl"]) == []


def test_settings_of_pip_are_those_of_uv():
    config = (
        "global.index-url='https://one.example/simple'\n"
        "install.extra-index-url='https://two.example/a\\nhttps://two.example/b'\n"
        ":env:.index-url='https://three.example/simple'\n"
        "global.timeout='60'\nglobal.find-links='/a /b'\nglobal.cert='/ca.pem'\n"
    )
    found = uv_environment(config, {"SSL_CERT_FILE": "/mine.pem", "HOME": "/home"})
    assert found == {
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_DEFAULT_INDEX": "https://three.example/simple",
        "UV_INDEX": "https://two.example/a https://two.example/b",
        "UV_FIND_LINKS": "/a,/b",
        "SSL_CERT_FILE": "/mine.pem",
        "HOME": "/home",
    }


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index in ``tmp_path / "simple"``, which pip's configuration names."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    config = tmp_path / "pip.conf"
    config.write_text(f"[global]\nindex-url = http://127.0.0.1:{server.server_port}/simple\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield tmp_path / "simple"
    server.shutdown()
    thread.join()
    server.server_close()


def publish(folder: Path, files: list[str]) -> str:
    """Write wheels and the page that lists them. Return their entry in a lock file."""
    name, version = files[0].split("-")[:2]
    page, entry = [], f"{name}=={version}"
    folder = folder / name
    folder.mkdir(parents=True)
    for file in files:
        with zipfile.ZipFile(folder / file, "w") as wheel:
            wheel.writestr(
                f"{name}-{version}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            )
            wheel.writestr(
                f"{name}-{version}.dist-info/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {file}\n"
            )
            wheel.writestr(f"{name}-{version}.dist-info/RECORD", "")
        sha256 = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        page.append(f'<a href="{file}#sha256={sha256}">{file}</a>')
        entry += f" \\\n    --hash=sha256:{sha256}"
    (folder / "index.html").write_text("<!DOCTYPE html><html><body>" + "<br>".join(page) + "</body></html>")
    return entry + "\n"


def test_the_command_asks_the_index_of_pip_and_fails_with_one_line(index, tmp_path, capsys):
    lock = tmp_path / "requirements.lock"
    lock.write_text(publish(index, NUMPY[:-1]))
    assert wheels.main([str(lock)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {lock}: numpy==2.2.6 has no wheel for Linux x86-64, Python 3.14; Linux Arm, ")


def test_the_command_succeeds_where_every_wheel_is_there(index, tmp_path, capsys):
    lock = tmp_path / "requirements.lock"
    lock.write_text(publish(index, names("numpy-2.4.6", "cp311 cp312 cp313 cp314")))
    assert wheels.main([str(lock)]) == 0
    assert capsys.readouterr().err == ""


def test_an_index_without_the_package_is_one_line(index, tmp_path, capsys):
    lock = tmp_path / "requirements.lock"
    lock.write_text("nowhere==1.0 --hash=sha256:" + 64 * "0" + "\n")
    assert wheels.main([str(lock)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "cannot list the files of its packages" in line
    assert "nowhere" in line
