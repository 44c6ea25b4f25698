"""``python -m iot.java`` finds Java and fetches all jars."""

from iot.processes import stop_event

if __name__ == "__main__":
    # First of all, because the other imports take up to a second.
    stop_event()

import argparse
import sys

from iot.java.jars import SETS, jars
from iot.java.runtime import find_java
from iot.settings import CACHE_DIR, UserError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Find Java and fetch the jars of Kafka and of Spark's Kafka connector."
    )
    parser.parse_args(argv)
    try:
        print(f"Java: {find_java()}")
        for set_name in SETS:
            jars(set_name)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"Jars: {CACHE_DIR / 'jars'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
