"""The imports between folders go one way: ``FLOORS`` says which folder may import which."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
# A module imports its own folder and any floor above it in this list, never another folder of its own floor.
# Modules directly in iot/ are on the first floor, but for the commands.
FLOORS = (
    {"iot"},
    {"iot.java", "iot.kafka", "iot.alarms", "iot.devices"},
    {"iot.results"},
    {"iot.sensors", "iot.broker", "iot.spark", "iot.web"},
    {"iot.pipeline", "iot.loadtest", "iot.cluster", "iot.gateway"},
    {"scripts"},
)
# What a worker of Spark's loads of iot.spark.
SPARK_MODULES = (
    *("candidate_columns", "candidates", "codegen", "columns", "contexts", "fold", "groups", "lateness", "rejected"),
    *("batch_ends", "remote_path", "windows"),
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


def test_a_folder_names_the_modules_that_others_use():
    used = set()
    for module in MODULES:
        for imported in imported_by(module):
            folder = folder_of(imported)
            if folder not in (folder_of(module), "iot", "scripts") and imported != folder:
                used.add(imported)
    unnamed = []
    for module in used:
        folder, _, name = module.rpartition(".")
        docstring = ast.get_docstring(ast.parse(MODULES[folder].read_text(encoding="utf-8"))) or ""
        if not re.search(rf"\b{name}\b", docstring):
            unnamed.append(module)
    assert sorted(unnamed) == []


def test_spark_workers_load_only_what_they_run():
    code = "import sys; import iot.spark.worker; print(*(name for name in sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(ran.stdout.split())
    ours = {name for name in loaded if name.startswith("iot.") and name not in FLOOR}
    assert ours == {
        "iot.addresses",
        "iot.batches",
        "iot.environment",
        "iot.kafka.client_config",
        "iot.kafka.dial",
        "iot.readings",
        "iot.rejections",
        "iot.settings",
        *(f"iot.spark.{name}" for name in SPARK_MODULES),
        "iot.spark.worker",
    }
    assert not loaded & {"argparse", "rich", "kafka", "sqlalchemy", "flask", "cheroot"}
