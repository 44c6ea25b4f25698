"""Check that pip finds a wheel of every package in a lock file: ``python -m tests.support.wheels requirements.lock``.

It checks every supported Python on Linux and macOS, x86-64 and Arm, and needs the package index that pip uses.
"""

from __future__ import annotations

import ast
import functools
import os
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from packaging import tags
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from iot import SUPPORTED

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-dev.lock")
# Built from source, which needs no compiler: it has no wheel at all.
FROM_SOURCE = ("pyspark",)
# The oldest glibc and macOS for which all packages have wheels.
GLIBC = (2, 28)
MACOS = (13, 0)
# The setting of uv that stands for a setting of pip. uv lists the files of the index, but does not read pip's settings.
UV_SETTINGS = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
}


class Target(NamedTuple):
    """A Python on a system for which every package needs a wheel."""

    python: tuple[int, int]
    system: str
    machine: str

    @property
    def version(self) -> str:
        return "{}.{}".format(*self.python)

    @property
    def platform(self) -> str:
        return f"{'macOS' if self.system == 'darwin' else 'Linux'} {'x86-64' if self.machine == 'x86_64' else 'Arm'}"

    def markers(self) -> dict[str, str]:
        """Return the values of environment markers."""
        return {
            "python_version": self.version,
            "python_full_version": f"{self.version}.0",
            "sys_platform": self.system,
            "platform_system": self.system.capitalize(),
            "platform_machine": self.machine,
            "os_name": "posix",
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
        }


@functools.cache
def fitting_tags(target: Target) -> frozenset[tags.Tag]:
    """Return the tags of the wheels that fit."""
    if target.system == "darwin":
        platforms = list(tags.mac_platforms(MACOS, target.machine))
    else:
        platforms = [f"manylinux_2_{minor}_{target.machine}" for minor in range(GLIBC[1], 4, -1)]
        platforms += [f"{old}_{target.machine}" for old in ("manylinux2014", "manylinux2010", "manylinux1", "linux")]
    interpreter = "cp{}{}".format(*target.python)
    fitting = tags.cpython_tags(target.python, platforms=platforms)
    return frozenset(fitting) | frozenset(tags.compatible_tags(target.python, interpreter, platforms))


TARGETS = tuple(
    Target(python, system, machine)
    for python in SUPPORTED
    for system, machine in (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "x86_64"), ("darwin", "arm64"))
)


class Locked(NamedTuple):
    """An entry of a lock file."""

    requirement: Requirement
    sha256s: frozenset[str]


class Listed(NamedTuple):
    """A file of a package in the index."""

    name: str
    sha256: str


def read_lock(path: Path) -> list[Locked]:
    """Read the packages in a lock file with their checksums."""
    found = []
    for line in path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        requirement, *hashes = line.partition("#")[0].split("--hash=sha256:")
        if requirement.strip():
            found.append(Locked(Requirement(requirement.strip()), frozenset(each.strip() for each in hashes)))
    return found


def uv_environment(pip_config: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which uv uses the index that pip uses.

    Args:
        pip_config: the output of ``pip config list``, in which later lines override earlier ones.
        environment: the present environment; settings of uv in it come first.
    """
    settings: dict[str, str] = {}
    lines = re.findall(r"^(global|install|:env:)\.([\w-]+)=(.*)$", pip_config, re.MULTILINE)
    for _, key, value in sorted(lines, key=lambda line: ("global", "install", ":env:").index(line[0])):
        if key in UV_SETTINGS:
            words = ast.literal_eval(value).split()
            settings[UV_SETTINGS[key]] = (",".join if key == "find-links" else " ".join)(words)
    # Like pip, take the best file of all indexes, not of the first one that has the package.
    return {"UV_INDEX_STRATEGY": "unsafe-best-match", **settings, **environment}


def list_files(lock: Path) -> dict[tuple[str, str], list[Listed]]:
    """Return the files that the index has of each package in a lock file, by name and version.

    Raises:
        RuntimeError: the index cannot be reached, or has not all of the packages. The text is uv's.
    """
    config = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    python = "{}.{}".format(*SUPPORTED[0])
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-deps", "--universal", "--generate-hashes"]
    command += ["--python-version", python, "--format", "pylock.toml", str(lock)]
    environment = uv_environment(config.stdout, os.environ)
    answer = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    if answer.returncode:
        raise RuntimeError(" ".join(answer.stderr.split()))
    files = {}
    for package in tomllib.loads(answer.stdout)["packages"]:
        listed = [*package.get("wheels", ()), *([package["sdist"]] if "sdist" in package else ())]
        files[package["name"], package["version"]] = [Listed(_name(file), file["hashes"]["sha256"]) for file in listed]
    return files


def _name(file: Mapping[str, Any]) -> str:
    return file.get("name") or unquote(Path(urlsplit(file.get("url") or file["path"]).path).name)


def missing(locked: list[Locked], files: Mapping[tuple[str, str], list[Listed]]) -> Iterator[tuple[str, Target]]:
    """Yield each package, as ``name==version``, with each target for which no file with a locked checksum fits."""
    for requirement, sha256s in locked:
        version = str(requirement.specifier).removeprefix("==")
        names = [file.name for file in files.get((requirement.name, version), ()) if file.sha256 in sha256s]
        wheels = frozenset().union(*map(_wheel_tags, names))
        pythons = _requires_python(requirement.name, version)
        for target in TARGETS:
            if requirement.marker and not requirement.marker.evaluate(target.markers()):
                continue
            source = requirement.name in FROM_SOURCE and bool(names)
            if not (source or wheels & fitting_tags(target)) or f"{target.version}.0" not in pythons:
                yield f"{requirement.name}=={version}", target


def _wheel_tags(name: str) -> frozenset[tags.Tag]:
    try:
        return parse_wheel_filename(name)[3]
    except InvalidWheelFilename:
        return frozenset()


def _requires_python(name: str, version: str) -> SpecifierSet:
    """Return for which Pythons pip installs a package: uv ignores upper bounds, but the package is installed here."""
    try:
        installed = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return SpecifierSet()
    known = installed["Version"] == version and "Requires-Python" in installed
    return SpecifierSet(installed["Requires-Python"] if known else "")


def report(lock: str, gaps: Iterator[tuple[str, Target]]) -> list[str]:
    """Return one line for each package without a wheel, with versions and platforms."""
    pythons: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for package, target in gaps:
        pythons[package][target.platform].append(target.version)
    lines = []
    for package, by_platform in pythons.items():
        places = "; ".join(f"{platform}, Python {', '.join(versions)}" for platform, versions in by_platform.items())
        advice = "pin another version, or two with markers, and run make lock"
        lines.append(f"{lock}: {package} has no wheel for {places}: {advice}")
    return lines


def main(locks: list[str]) -> int:
    lines = []
    for lock in locks or LOCKS:
        locked = read_lock(ROOT / lock)
        try:
            lines += report(lock, missing(locked, list_files(ROOT / lock)))
        except RuntimeError as error:
            lines.append(f"{lock}: cannot list the files of its packages: {error}")
    for line in lines:
        print(f"error: {line}", file=sys.stderr)
    if not lines:
        versions = ", ".join("{}.{}".format(*python) for python in SUPPORTED)
        print(f"Every package has a wheel for Python {versions} on Linux and macOS, x86-64 and Arm")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
