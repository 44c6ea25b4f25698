"""The environments of the other processors: each has its own packages, outside the project's."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

from iot.java import jars
from iot.java.runtime import digest
from iot.settings import CACHE_DIR, UserError

FOLDER = CACHE_DIR / "peers"
FLINK, BYTEWAX, QUIX = "flink", "bytewax", "quixstreams"
PACKAGES = {
    # The newest Flink for which there is a Kafka connector.
    FLINK: ["apache-flink==2.2.1"],
    BYTEWAX: ["bytewax==0.21.1", "confluent-kafka==2.16.1", "orjson==3.13.0"],
    QUIX: ["quixstreams==3.28.1"],
}
CONNECTOR = jars.Jar(
    "org.apache.flink",
    "flink-sql-connector-kafka",
    "5.0.0-2.2",
    "5605c691d11a501382c383fecba37a7a552467da5ab7ba904ef5d6f3d62c5616",
)


def python_of(name: str) -> Path:
    """Return the Python of an environment; the first call installs its packages, which takes minutes.

    Raises:
        UserError: they cannot be installed.
    """
    folder = FOLDER / f"{name}-{digest(repr(PACKAGES[name]))}"
    python, installed = folder / "bin" / "python", folder / "installed"
    if not installed.exists():
        print(f"installing {', '.join(PACKAGES[name])} …", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        done = subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES[name]], stderr=subprocess.PIPE)
        if done.returncode:
            raise UserError(f"cannot install {name}: {done.stderr.decode(errors='replace').strip()[-500:]}")
        installed.touch()
    return python


def connector() -> Path:
    """Flink's Kafka connector, fetched once. Raises ``UserError`` as ``jars.fetched`` does."""
    return jars.fetched("flink", [CONNECTOR], "Flink's Kafka connector")[0]


def command(name: str) -> list[str]:
    """How to start the script of a processor, without the flags that all have."""
    if name == FLINK:
        return [str(python_of(FLINK)), "-m", "benchmarks.peers.flink_sql", "--jar", str(connector())]
    if name == BYTEWAX:
        return [str(python_of(BYTEWAX)), "-m", "benchmarks.peers.bytewax_windows"]
    if name == QUIX:
        return [str(python_of(QUIX)), "-m", "benchmarks.peers.quix_streams"]
    return [sys.executable, "-m", "benchmarks.peers.ours"]
