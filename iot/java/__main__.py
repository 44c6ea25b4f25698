"""Runs ``python -m iot.java``."""

import sys

from iot.java.jars import main

if __name__ == "__main__":
    sys.exit(main())
