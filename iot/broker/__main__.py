"""Runs ``python -m iot.broker``."""

import sys

from iot.broker.broker import main

if __name__ == "__main__":
    sys.exit(main())
