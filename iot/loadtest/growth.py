"""Does lag grow, or does it only go up and down with each batch?

Lag rises while Spark works on a batch and falls when it is done. So the measurement is cut into blocks of several
batches, and a line is fitted through their means: lag grows if the line rises by more than chance can explain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

BLOCKS = 6
# Student's t for a one-sided test at 2.5 % with BLOCKS - 2 degrees of freedom.
CERTAIN = 2.776
# Lag that rises by less than this share of what is sent is steady: it would take minutes to become a second.
TOLERATED = 0.02


class Growth(NamedTuple):
    """How fast lag grows, in messages a second, and how far chance may be off; ``rate_per_s`` is what was sent."""

    per_s: float
    error_per_s: float
    rate_per_s: float

    @property
    def grows(self) -> bool:
        return self.per_s - CERTAIN * self.error_per_s > TOLERATED * self.rate_per_s

    @property
    def is_clear(self) -> bool:
        """Whether a longer measurement would not change the verdict."""
        return self.grows or self.per_s + self.error_per_s <= TOLERATED * self.rate_per_s


def growth(samples: Sequence[tuple[float, float]], rate_per_s: float) -> Growth | None:
    """The growth of lag over some samples of (seconds, messages), in order; None if they are too few to tell.

    Args:
        rate_per_s: how many messages were sent a second, above zero.
    """
    if len(samples) < 2 * BLOCKS:
        return None
    blocks = np.array_split(np.asarray(samples, float), BLOCKS)
    times_s, lags = np.array([block.mean(axis=0) for block in blocks]).T
    from_middle_s = times_s - times_s.mean()
    spread = float(from_middle_s @ from_middle_s)
    if spread == 0:
        return None
    per_s = float(from_middle_s @ lags) / spread
    left = lags - lags.mean() - per_s * from_middle_s
    error_per_s = float(np.sqrt(left @ left / (BLOCKS - 2) / spread))
    return Growth(per_s, error_per_s, rate_per_s)
