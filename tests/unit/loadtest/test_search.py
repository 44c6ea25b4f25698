"""The search for the highest rate, against simulated systems."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from iot.loadtest.search import CLOSE, STEP_DOWN, Attempt, Search

LEAST_PER_S, MOST_PER_S = 400.0, 1e7
# (held, sent a second, decisive), as ``Search.tell`` takes them.
Outcome = tuple[bool, float, bool]


def run(search: Search, system: Callable[[Attempt], Outcome], most: int = 80) -> list[Attempt]:
    """Search to the end; returns all attempts."""
    attempts = []
    while attempt := search.next:
        attempts.append(attempt)
        assert len(attempts) <= most, "the search does not end"
        assert LEAST_PER_S <= attempt.rate_per_s <= MOST_PER_S
        search.tell(*system(attempt))
    return attempts


def exact(capacity_per_s: float) -> Callable[[Attempt], Outcome]:
    def system(attempt: Attempt) -> Outcome:
        over = attempt.rate_per_s / capacity_per_s
        return over <= 1, attempt.rate_per_s, over > 1.5

    return system


def noisy(capacity_per_s: float, chance: random.Random) -> Callable[[Attempt], Outcome]:
    """A system whose capacity varies by some per cent from step to step, and that pauses now and then."""

    def system(attempt: Attempt) -> Outcome:
        spread = 0.015 if attempt.kind == "confirmation" else 0.03
        over = attempt.rate_per_s / (capacity_per_s * chance.gauss(1, spread))
        paused = chance.random() < 0.05
        return over <= 1 and not paused, attempt.rate_per_s * chance.uniform(0.99, 1.001), over > 1.5

    return system


@pytest.mark.parametrize("capacity_per_s", [401, 950, 4_000, 4_001, 38_000, 123_456, 3_000_000])
@pytest.mark.parametrize("first_per_s", [1.0, 4_000.0, 1e9])
def test_the_result_is_just_below_the_capacity(capacity_per_s, first_per_s):
    search = Search(first_per_s, LEAST_PER_S, MOST_PER_S)
    attempts = run(search, exact(capacity_per_s))
    assert capacity_per_s / CLOSE <= search.result_per_s <= capacity_per_s
    assert [attempt.kind for attempt in attempts[-2:]] == ["confirmation", "check above"]


def test_two_noisy_searches_agree_within_a_tenth():
    chance = random.Random(17)
    off = 0
    for _ in range(300):
        capacity_per_s = chance.uniform(1_000, 200_000)
        results = []
        for _ in range(2):
            search = Search(4_000.0, LEAST_PER_S, MOST_PER_S)
            run(search, noisy(capacity_per_s, chance))
            assert search.result_per_s
            assert 0.75 * capacity_per_s <= search.result_per_s <= 1.08 * capacity_per_s
            results.append(search.result_per_s)
        off += max(results) > 1.1 * min(results)
    assert off <= 15


def test_nothing_that_failed_in_the_end_is_the_result():
    chance = random.Random(3)
    for _ in range(200):
        search = Search(4_000.0, LEAST_PER_S, MOST_PER_S)
        outcomes: list[tuple[Attempt, bool]] = []

        def system(attempt: Attempt, outcomes: list[tuple[Attempt, bool]] = outcomes) -> Outcome:
            outcomes.append((attempt, chance.random() < 0.6))
            return outcomes[-1][1], attempt.rate_per_s, chance.random() < 0.3

        run(search, system, most=200)
        if search.result_per_s is not None:
            assert (Attempt("confirmation", search.result_per_s), True) in outcomes
            confirmed = [attempt.rate_per_s for attempt, held in outcomes if held and attempt.kind == "confirmation"]
            assert search.result_per_s == confirmed[-1]


def test_the_result_is_never_more_than_was_sent():
    search = Search(4_000.0, LEAST_PER_S, MOST_PER_S)
    limit_per_s = 50_000.0

    def generator(attempt: Attempt) -> Outcome:
        sent_per_s = min(attempt.rate_per_s * 0.99, limit_per_s)
        return sent_per_s >= 0.98 * attempt.rate_per_s, sent_per_s, False

    run(search, generator)
    assert search.result_per_s
    assert search.result_per_s <= limit_per_s
    assert search.result_per_s >= 0.9 * limit_per_s


def test_a_narrow_failure_is_tried_again_and_a_clear_one_is_not():
    search = Search(4_000.0, LEAST_PER_S, MOST_PER_S)
    search.tell(False, 4_000.0)
    assert search.is_second_try
    assert search.next == Attempt("doubling", 4_000.0)
    search.tell(True, 4_000.0)
    assert search.next == Attempt("doubling", 8_000.0)
    search.tell(False, 8_000.0, decisive=True)
    assert search.next.kind == "bisection"


def test_a_rate_that_is_not_confirmed_is_followed_by_a_lower_one():
    search = Search(4_000.0, LEAST_PER_S, 4_000.0)
    search.tell(True, 4_000.0)
    assert search.next == Attempt("confirmation", 4_000.0)
    search.tell(False, 4_000.0, decisive=True)
    assert search.next == Attempt("confirmation", STEP_DOWN * 4_000)
    assert (search.held_per_s, search.result_per_s) == (None, None)
    search.tell(True, 3_700.0)
    # What is above the maximum is not tried.
    assert [search.next, search.result_per_s] == [None, 3_700.0]


def test_a_search_that_was_misled_goes_on_from_a_rate_above():
    search = Search(4_000.0, LEAST_PER_S, MOST_PER_S)
    search.tell(True, 4_000.0)
    search.tell(False, 8_000.0, decisive=True)
    attempts = run(search, exact(20_000))
    assert [attempt.kind for attempt in attempts].count("check above") == 2
    assert search.result_per_s
    assert 20_000 / CLOSE <= search.result_per_s <= 20_000


def test_a_result_stays_if_the_rest_of_the_search_is_stopped():
    search = Search(4_000.0, LEAST_PER_S, MOST_PER_S)
    search.tell(True, 4_000.0)
    search.tell(False, 4_100.0, decisive=True)
    while search.next.kind != "check above":
        search.tell(True, search.next.rate_per_s)
    confirmed_per_s = search.result_per_s
    search.tell(True, search.next.rate_per_s)
    assert search.next.kind == "doubling"
    assert search.result_per_s == confirmed_per_s


def test_a_system_that_takes_nothing_has_no_result():
    search = Search(4_000.0, LEAST_PER_S, MOST_PER_S)
    attempts = run(search, exact(300))
    assert search.result_per_s is None
    assert attempts[-1].rate_per_s == LEAST_PER_S


def test_before_the_end_the_highest_rate_that_held_is_known():
    search = Search(4_000.0, LEAST_PER_S, MOST_PER_S)
    search.tell(True, 4_000.0)
    search.tell(True, 8_000.0)
    assert (search.held_per_s, search.result_per_s) == (8_000.0, None)
