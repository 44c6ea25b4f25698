"""The lock files contain every pin and have a checksum for every package, and they name no server."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def requirements(name: str) -> list[Requirement]:
    """Read the requirements in a file, and in the files that it includes."""
    found = []
    for line in (ROOT / name).read_text().replace("\\\n", " ").splitlines():
        line = line.partition("#")[0].strip()
        if line.startswith("-r "):
            found += requirements(line.removeprefix("-r "))
        elif line:
            found.append(Requirement(line.partition("--hash")[0]))
    return found


def pins(name: str, python: str) -> dict[str, str]:
    """Return the version of each package that a Python gets from a file, by normalised name."""
    environment = {"python_version": python, "python_full_version": f"{python}.1", "sys_platform": "linux"}
    return {
        canonicalize_name(one.name): str(one.specifier).removeprefix("==")
        for one in requirements(name)
        if one.marker is None or one.marker.evaluate(environment)
    }


@pytest.mark.parametrize("python", PYTHONS)
def test_the_locks_contain_every_pin(python):
    locked, locked_dev = pins("requirements.lock", python), pins("requirements-dev.lock", python)
    assert pins("requirements.txt", python).items() <= locked.items()
    assert pins("requirements-dev.txt", python).items() <= locked_dev.items()
    assert locked.items() <= locked_dev.items(), "make lock"


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_each_pin_is_one_version_with_a_reason(name):
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("-r ")]
    for reason, pin in zip(lines[::2], lines[1::2], strict=True):
        assert reason.startswith("# ")
        assert re.fullmatch(r"[\w.-]+(\[\w+\])?==[\w.]+(; [^#]+)?", pin)


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_every_package_in_the_locks_has_checksums_and_no_address(name):
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert not re.search("^-", text, re.MULTILINE)
    for entry in re.findall(r"^\w.*(?:\n +.*)*", text, re.MULTILINE):
        assert re.fullmatch(r"[\w.-]+==[\w.]+( ; [^\\]+)?( \\\n +--hash=sha256:[0-9a-f]{64})+(\n +# .*)*", entry), entry
