"""Wait for a condition."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_for(is_so: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Wait until ``is_so`` returns something true; fail after ``timeout_s``."""
    ends_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < ends_s, "it takes too long"
        time.sleep(0.05)
