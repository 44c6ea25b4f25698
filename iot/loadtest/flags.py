"""Limits of a load test, and argument types that hold them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from urllib.parse import SplitResult, urlsplit

from iot import cli

MAX_MESSAGES, MAX_THREADS = 1_000_000_000, 256
MAX_IN_FLIGHT = 100_000
MAX_RATE_PER_S = 10_000_000
MIN_DELIVERY_TIMEOUT_S = 1.0


def at_most(most: int) -> Callable[[str], int]:
    """argparse type: a whole number from 1 to ``most``."""

    def whole(text: str) -> int:
        value = cli.positive_int(text)
        if value > most:
            raise argparse.ArgumentTypeError(f"{value:,} is too many: at most {most:,}")
        return value

    return whole


def thread_counts(text: str) -> list[int]:
    """argparse type: one or more numbers of threads, separated by commas."""
    return [at_most(MAX_THREADS)(part.strip()) for part in text.split(",")]


def rate_per_s(text: str) -> float:
    """argparse type: a number of readings a second, above zero and at most ``MAX_RATE_PER_S``."""
    value = cli.positive_float(text)
    if value > MAX_RATE_PER_S:
        raise argparse.ArgumentTypeError(f"{value:,.10g} is too many: at most {MAX_RATE_PER_S:,}")
    return value


def delivery_timeout_s(text: str) -> float:
    """argparse type: seconds, at least ``MIN_DELIVERY_TIMEOUT_S``."""
    value = cli.positive_float(text)
    if value < MIN_DELIVERY_TIMEOUT_S:
        raise argparse.ArgumentTypeError(f"{value:g} s is too short: at least {MIN_DELIVERY_TIMEOUT_S:g} s")
    return value


def dashboard_url(text: str) -> str:
    """argparse type: the URL of a dashboard as users write or copy it: without ``http://``, or with a query."""
    given = text.strip()
    url = given if "://" in given else f"http://{given}"
    try:
        parts: SplitResult | None = urlsplit(url)
        assert parts
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = None, None
    if not parts or parts.scheme not in ("http", "https") or not host or re.search(r"^[0-9]+$|\s", host):
        raise argparse.ArgumentTypeError(f"{text!r} is not the URL of a dashboard, for example http://localhost:5000")
    return url
