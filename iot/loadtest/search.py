"""The search for the highest rate that a system takes: it says which rate to try next, and is told how that went.

It doubles the rate while it holds, and halves it while it does not. Then it tries the middle between the highest rate
that held and the lowest that did not, until both are close. The highest one must hold once more for longer, and a
rate clearly above it must not hold.
It knows no clock and sends nothing, so tests run it against simulated systems.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

Kind = Literal["doubling", "halving", "bisection", "confirmation", "check above"]

# How close the highest rate that held and the lowest that did not must be, as a ratio.
CLOSE = 1.06
# The next rate after one that was not confirmed, as a share of it, and maximum number of rates to confirm.
STEP_DOWN, MOST_CONFIRMATIONS = 0.94, 8
# What must not hold, as a multiple of the result.
ABOVE = 1.2


class Attempt(NamedTuple):
    """A rate to try, in readings a second."""

    kind: Kind
    rate_per_s: float


class Search:
    """The state of a search. ``next`` is the attempt to make, and ``tell`` takes its outcome.

    A rate that fails narrowly is tried a second time, because a single step may meet a pause of the machine.
    """

    def __init__(self, first_per_s: float, least_per_s: float, most_per_s: float) -> None:
        """
        Args:
            first_per_s: the first rate to try.
            least_per_s, most_per_s: the search stays within them.
        """
        self.held_per_s: float | None = None
        """The highest rate that has held, whether confirmed or not."""
        self.result_per_s: float | None = None
        """The result, once it is confirmed. It is never more than what was sent."""
        self._first_per_s, self._least_per_s, self._most_per_s = first_per_s, least_per_s, most_per_s
        self._failed_per_s = math.inf
        self._retries = self._over = False
        self._confirmations = 0
        self._attempt = Attempt("doubling", min(max(first_per_s, least_per_s), most_per_s))

    @property
    def next(self) -> Attempt | None:
        """The next attempt; None at the end."""
        return None if self._over else self._attempt

    @property
    def is_second_try(self) -> bool:
        return self._retries

    def tell(self, held: bool, sent_per_s: float, decisive: bool = False) -> None:
        """Take the outcome of ``next``.

        Args:
            held: whether the system took the rate.
            sent_per_s: what the load generator really sent.
            decisive: a failure so clear that it need not be repeated.
        """
        kind, rate_per_s = self._attempt
        if kind == "check above" and not held:
            self._over = True
            return
        if not held and not decisive and not self._retries:
            self._retries = True
            return
        self._retries = False
        if kind == "confirmation":
            self._tell_confirmation(held, rate_per_s, sent_per_s)
            return
        if kind == "check above":
            # Something disturbed the steps before, so the search goes on from here.
            self._failed_per_s = math.inf
        if held:
            self.held_per_s = rate_per_s
        else:
            self._failed_per_s = rate_per_s
        self._choose()

    def _tell_confirmation(self, held: bool, rate_per_s: float, sent_per_s: float) -> None:
        self._confirmations += 1
        if held:
            self.held_per_s = rate_per_s
            self.result_per_s = min(rate_per_s, sent_per_s)
            above_per_s = ABOVE * rate_per_s
            self._over = above_per_s > self._most_per_s or self._confirmations >= MOST_CONFIRMATIONS
            self._attempt = Attempt("check above", above_per_s)
            return
        self.held_per_s = self.result_per_s
        lower_per_s = rate_per_s * STEP_DOWN
        if lower_per_s < max(self._least_per_s, self.result_per_s or 0.0) or self._confirmations >= MOST_CONFIRMATIONS:
            self._over = True
            return
        self._attempt = Attempt("confirmation", lower_per_s)

    def _choose(self) -> None:
        """Choose the next attempt between the highest rate that held and the lowest that did not."""
        held_per_s, failed_per_s = self.held_per_s, self._failed_per_s
        if held_per_s is None:
            self._over = failed_per_s <= self._least_per_s
            self._attempt = Attempt("halving", max(failed_per_s / 2, self._least_per_s))
        elif math.isinf(failed_per_s) and held_per_s < self._most_per_s:
            self._attempt = Attempt("doubling", min(2 * held_per_s, self._most_per_s))
        elif math.isinf(failed_per_s) or failed_per_s <= CLOSE * held_per_s:
            self._attempt = Attempt("confirmation", held_per_s)
        else:
            self._attempt = Attempt("bisection", math.sqrt(held_per_s * failed_per_s))
