"""The comparison with an earlier run (``--compare``): what is worse by more than a margin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from iot.inputs import read_text
from iot.loadtest.latency import Milliseconds, in_ms
from iot.loadtest.plan import Plan
from iot.loadtest.results import Result
from iot.settings import UserError, reason

# Ignore smaller p99 differences in paced tests: they are noise.
LATENCY_FLOOR_MS = 5.0

# What must not become less, and how it is called. The throughput of test 8 follows from its result.
RATES = {"throughput_per_s": "", "max_rate_per_s": "maximum rate ", "drain_rate_per_s": "drain rate "}

Key = tuple[str, str, int, float | None]
"""What two results must share to be compared: test, client, threads and rate."""


def key_of(one: Result | Earlier.Test) -> Key:
    """The key of a result. The rate of test 8 is its result, so it does not tell tests apart."""
    return one.test, one.client, one.threads, None if one.test == "max-rate" else one.rate_per_s


class Earlier(msgspec.Struct):
    """The figures of an earlier run that are compared."""

    class Test(msgspec.Struct):
        test: str
        client: str
        threads: int
        success_rate_pct: float
        throughput_per_s: float
        latency_ms: Milliseconds
        rate_per_s: float | None = None
        max_rate_per_s: float | None = None
        drain_rate_per_s: float | None = None

        @property
        def key(self) -> Key:
            return key_of(self)

    tests: list[Test]


def read_earlier(path: Path) -> Earlier:
    """Read a file of ``--output``.

    Raises:
        UserError: the file cannot be read, or is not the output of a load test, or has no test.
    """
    try:
        earlier = msgspec.json.decode(read_text(path), type=Earlier)
    except UserError as error:
        raise UserError(f"{error}; choose another file with --compare") from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not the output of a load test: {reason(error)}; choose another file with --compare"
        ) from error
    if not earlier.tests:
        raise UserError(f"{path} has no test to compare with; choose another file with --compare")
    return earlier


def require_comparable(earlier: Earlier, plans: Sequence[Plan], path: Path) -> None:
    """Check that an earlier run has one of the planned tests.

    Raises:
        UserError: it has none.
    """
    planned = {(plan.test, plan.client, plan.threads, plan.rate_per_s) for plan in plans}
    if not planned & {test.key for test in earlier.tests}:
        raise UserError(nothing_to_compare(path))


def nothing_to_compare(path: Path) -> str:
    return (
        f"nothing to compare: {path} has no test with the same name, client, threads and rate; "
        "run that test again with --output"
    )


def regressions(earlier: Earlier, now: Sequence[Result], margin: float) -> tuple[list[str], int]:
    """Compare with an earlier run: rates and success of all tests, and p99 latency of paced tests.

    Without a pace, latency only follows from the throughput.

    Args:
        margin: the change that is tolerated; 0.1 is a tenth.

    Returns:
        A line for each regression, and how many tests were compared.
    """
    lines, compared = [], 0
    for result in now:
        for old in earlier.tests:
            if old.key != key_of(result):
                continue
            compared += 1
            what = f"{result.test} with {result.client} and {result.threads} threads:"
            for name, said in RATES.items():
                if result.test == "max-rate" and name == "throughput_per_s":
                    continue
                rate, rate_before = getattr(result, name), getattr(old, name)
                if rate_before and (rate or 0.0) < rate_before * (1 - margin):
                    change = 100 * (1 - (rate or 0.0) / rate_before)
                    lines.append(f"{what} {said}{rate or 0.0:,.0f}/s, {change:.0f} % less than {rate_before:,.0f}/s")
            if result.success_rate_pct < old.success_rate_pct:
                lines.append(f"{what} success {result.success_rate_pct:.2f} %, it was {old.success_rate_pct:.2f} %")
            p99, before = result.latency_ms.p99, old.latency_ms.p99
            is_paced = result.rate_per_s and result.test != "max-rate"
            if is_paced and p99 and before and p99 > max(before * (1 + margin), LATENCY_FLOOR_MS):
                lines.append(f"{what} latency p99 {in_ms(p99)}, it was {in_ms(before)}")
            break
    return lines, compared
