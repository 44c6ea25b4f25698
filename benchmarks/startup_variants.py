"""The application with one of its tricks for a faster start switched off: ``benchmarks/startup.py`` runs this.

    python -m benchmarks.startup_variants "no class archives" --demo

The product has no switches for its tricks. So a variant replaces parts of modules, before the script imports them.
This module must not import them itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def without_class_archives() -> None:
    from iot.java import class_archives

    replace(class_archives, "jvm_flags", lambda name, **_: [])


def without_c2_flags_and_priorities() -> None:
    from iot.java import flags

    replace(flags, "FLAGS", [])
    replace(flags, "give_way", lambda pid: 0)


def without_factory_mode() -> None:
    from iot.spark import codegen

    replace(codegen, "INTERPRETED", codegen.COMPILED)


def without_worker_daemon() -> None:
    from iot.spark import session

    del session.LOCAL_CONFIG["spark.python.daemon.module"]


VARIANTS: dict[str, Callable[[], None]] = {
    "everything": lambda: None,
    "no class archives": without_class_archives,
    "no C2 flags and priorities": without_c2_flags_and_priorities,
    "no factoryMode": without_factory_mode,
    "no worker daemon": without_worker_daemon,
}


def replace(owner: Any, name: str, value: Any) -> None:
    """Replace an attribute that must exist: otherwise a variant would measure nothing after a rename."""
    getattr(owner, name)
    setattr(owner, name, value)


def main(variant: str, *flags: str) -> int:
    """Run the application as a variant."""
    VARIANTS[variant]()
    import iot_streaming_app

    return iot_streaming_app.main(flags)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
