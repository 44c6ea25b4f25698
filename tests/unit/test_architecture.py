"""The imports between folders go one way: ``FLOORS`` says which folder may import which."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
# A module imports its own folder and any floor above it in this list, never another folder of its own floor.
# Modules directly in iot/ are on the first floor, but for the commands.
FLOORS = (
    {"iot"},
    {"iot.java", "iot.kafka", "iot.results"},
    {"iot.sensors", "iot.broker", "iot.spark", "iot.web"},
    {"iot.pipeline", "iot.loadtest"},
    {"scripts"},
)
COMMANDS = {"iot.rejected"}
# These two meet only in iot.pipeline, although their floors would allow it.
STRANGERS = ("iot.spark", "iot.results")
FLOOR = {folder: number for number, folders in enumerate(FLOORS) for folder in folders}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in [*ROOT.glob("*.py"), *ROOT.glob("iot/**/*.py")]}


def folder_of(module: str) -> str:
    """The folder that ``FLOORS`` names: ``iot.kafka.topics`` is in ``iot.kafka``, a top-level script in ``scripts``."""
    if module in COMMANDS or not module.startswith("iot."):
        return "iot" if module == "iot" else "scripts"
    return module if module in FLOOR else module.rpartition(".")[0]


def imported_by(module: str) -> Iterator[str]:
    """The modules of this project that a module imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield from [found for found in (name, name.rpartition(".")[0]) if found in MODULES][:1]


def test_imports_between_folders_go_one_way():
    wrong = []
    for module in MODULES:
        for imported in imported_by(module):
            ours, theirs = folder_of(module), folder_of(imported)
            if ours != theirs and (FLOOR[theirs] >= FLOOR[ours] or {ours, theirs} == set(STRANGERS)):
                wrong.append(f"{module} imports {imported}")
    assert wrong == []


def test_no_imports_go_in_a_circle():
    graph = {module: set(imported_by(module)) - {module} for module in MODULES}
    TopologicalSorter(graph).prepare()
