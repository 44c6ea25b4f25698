"""Runs ``python -m iot.gateway``."""

from iot.processes import stop_event

if __name__ == "__main__":
    # First of all, because the other imports take up to a second.
    stop_event()

import sys

from iot.gateway.process import main

if __name__ == "__main__":
    sys.exit(main())
