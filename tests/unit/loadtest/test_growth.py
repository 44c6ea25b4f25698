"""Growth of lag against noise."""

from __future__ import annotations

import random

import pytest

from iot.loadtest.growth import growth

RATE_PER_S = 10_000.0


def lag(seed: int, seconds: float, batch_s: float, grows_per_s: float) -> list[tuple[float, float]]:
    """Lag as a dashboard shows it: a sawtooth of batches that vary, read five times a second, with noise."""
    chance = random.Random(seed)
    samples, at_s, begun_s, ends_s = [], 0.0, 0.0, batch_s * chance.random()
    while at_s < seconds:
        while at_s >= ends_s:
            begun_s, ends_s = ends_s, ends_s + batch_s * chance.uniform(0.7, 1.3)
        waiting = RATE_PER_S * (0.5 + at_s - begun_s) + grows_per_s * at_s + chance.gauss(0, 0.1 * RATE_PER_S)
        samples.append((at_s, max(0.0, waiting)))
        at_s += 0.2
    return samples


@pytest.mark.parametrize("batch_s", [0.5, 1.0, 2.0])
def test_steady_lag_is_seldom_taken_for_growth(batch_s):
    verdicts = [growth(lag(seed, 20, batch_s, 0.0), RATE_PER_S) for seed in range(200)]
    assert sum(verdict.grows for verdict in verdicts) <= 8


@pytest.mark.parametrize("batch_s", [0.5, 1.0, 2.0])
def test_growth_by_a_tenth_of_the_rate_is_seen(batch_s):
    verdicts = [growth(lag(seed, 30, batch_s, 0.1 * RATE_PER_S), RATE_PER_S) for seed in range(200)]
    # Those that are not sure ask for a longer measurement.
    assert sum(verdict.grows or not verdict.is_clear for verdict in verdicts) >= 199
    assert sum(verdict.grows for verdict in verdicts) >= 150


def test_a_longer_measurement_sees_growth_by_a_twentieth():
    verdicts = [growth(lag(seed, 60, 1.0, 0.05 * RATE_PER_S), RATE_PER_S) for seed in range(100)]
    assert sum(verdict.grows for verdict in verdicts) >= 90


def test_falling_lag_is_clear_and_does_not_grow():
    found = growth([(at_s, 1_000.0 - 10 * at_s) for at_s in range(30)], RATE_PER_S)
    assert (found.grows, found.is_clear) == (False, True)
    assert found.per_s == pytest.approx(-10)


@pytest.mark.parametrize("samples", [[], [(0.0, 1.0)] * 11, [(5.0, 1.0)] * 30])
def test_too_little_says_nothing(samples):
    assert growth(samples, RATE_PER_S) is None
