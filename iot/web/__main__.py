"""Runs ``python -m iot.web``."""

from iot.processes import stop_event

if __name__ == "__main__":
    # First of all, because the other imports take up to a second.
    stop_event()

import sys

from iot.web.process import main

if __name__ == "__main__":
    sys.exit(main())
