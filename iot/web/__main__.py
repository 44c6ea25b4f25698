"""Runs ``python -m iot.web``."""

import sys

from iot.web.process import main

if __name__ == "__main__":
    sys.exit(main())
