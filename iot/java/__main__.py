"""``python -m iot.java`` finds Java and fetches all jars."""

from iot.processes import require_not_stopped, stop_event

if __name__ == "__main__":
    # First of all, because the other imports take up to a second.
    stop_event()

import argparse
import sys

from iot import cli
from iot.java.jars import NOT_FETCHED, SETS, jars
from iot.java.runtime import find_java
from iot.settings import CACHE_DIR


def main(argv: list[str] | None = None) -> int:
    cli.print_any_text()
    parser = argparse.ArgumentParser(
        description="Find Java and fetch the jars of Kafka and of Spark's Kafka connector."
    )
    parser.parse_args(argv)
    # The next step of a set-up needs the jars, so a stop is no success.
    return cli.exit_status(run, stopped=130)


def run() -> None:
    """Fetch the jars that are missing.

    Raises:
        UserError: there is no Java, or a jar cannot be fetched.
    """
    print(f"Java: {find_java()}")
    for set_name in SETS:
        require_not_stopped(NOT_FETCHED)
        jars(set_name)
    print(f"Jars: {CACHE_DIR / 'jars'}")


if __name__ == "__main__":
    sys.exit(main())
