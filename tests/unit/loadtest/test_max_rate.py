"""What is said about a search for the highest rate."""

from __future__ import annotations

from iot.loadtest.max_rate import first_to_give_out
from iot.loadtest.steps import StepFigures
from tests.support.load_results import make_step


def step(rate_per_s: float, held: bool) -> StepFigures:
    made = make_step("doubling", rate_per_s, 1_000)
    made.held, made.gave_out, made.why = held, "the page", "it is slow"
    return made


def test_what_gave_out_is_said_of_the_lowest_rate_above_those_that_held():
    steps = [step(4_000, True), step(8_000, False), step(8_000, True), step(32_000, False), step(16_000, False)]
    assert first_to_give_out(steps) == "the page at 16,000/s: it is slow"
    assert first_to_give_out(steps[:3]) == ""
    assert first_to_give_out([step(4_000, False), step(2_000, False)]) == "the page at 2,000/s: it is slow"
    assert first_to_give_out([]) == ""
