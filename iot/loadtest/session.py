"""One run of ``performance_test.py``: it runs tests, prints and keeps their results, and says what failed."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console

from iot.kafka.sender import CLIENTS
from iot.loadtest import backlog, details, earlier, end_to_end, max_rate, menu, outputs, results, thresholds, versus
from iot.loadtest.demo import DemoSystem
from iot.loadtest.menu import Choice
from iot.loadtest.plan import COURSE_THREADS, Plan, make_plan
from iot.loadtest.report import render
from iot.loadtest.results import Comparison, Report, Result, ThresholdOutcome
from iot.loadtest.stepper import CONFIRM_S, FIRST_PER_S, MaxRatePlan
from iot.loadtest.trial import run_trial
from iot.settings import Kafka, UserError
from iot.terminal import StatusLine


@dataclass
class Session:
    """What was asked for, and the results so far."""

    args: argparse.Namespace
    kafka: Kafka
    stop: threading.Event
    system: DemoSystem | None = None
    """The broker and application of ``--demo``."""
    tests: list[Result] = field(default_factory=list)
    comparison: list[Comparison] = field(default_factory=list)
    thresholds: list[ThresholdOutcome] = field(default_factory=list)
    failures: int = 0

    @property
    def clients(self) -> tuple[str, ...]:
        return CLIENTS if self.args.client == "both" else (self.args.client,)

    @property
    def dashboard_url(self) -> str:
        return self.system.dashboard_url if self.system else str(self.args.dashboard_url)

    @property
    def token(self) -> str | None:
        return None if self.system else os.environ.get("IOT_TOKEN")

    def make_plans(self, chosen: Choice) -> list[Plan]:
        """A plan for each number of threads and each client."""
        args = self.args
        return [
            make_plan(
                chosen.test,
                client,
                messages=chosen.messages,
                threads=threads,
                rate_per_s=args.rate,
                duration_s=args.duration,
                in_flight=args.in_flight,
                delivery_timeout_s=args.delivery_timeout,
            )
            for threads in chosen.threads or (None,)
            for client in self.clients
        ]

    def run_menu(self) -> None:
        """Run the tests that the user chooses; an error ends the test, not the menu."""
        for chosen in menu.choices(self.args.messages, self.args.threads, self.stop):
            try:
                self.run_test(chosen)
            except UserError as error:
                self.failures += 1
                print(f"error: {error}", file=sys.stderr)

    def run_test(self, chosen: Choice) -> None:
        """Run one test and print its results.

        Raises:
            UserError: it cannot run.
            Stopped: it was stopped before anything was sent.
        """
        if self.system and chosen.test != "backlog":
            self.system.start_application()
            self.system.await_processing(self.stop)
        if chosen.test == "compare":
            self._compare(chosen)
        elif chosen.test == "end-to-end":
            self._end_to_end(chosen)
        elif chosen.test == "max-rate":
            self._max_rate()
        elif chosen.test == "backlog":
            self._backlog(chosen)
        else:
            self._run_plans(self.make_plans(chosen))

    def _run_plans(self, plans: Sequence[Plan]) -> None:
        """Run tests one after the other; print the details of each and a table of all."""
        done = []
        for plan in plans:
            if self.stop.is_set():
                break
            with StatusLine(plain_every_s=2) as status:
                pace = f" at {plan.rate_per_s:,.10g} a second" if plan.rate_per_s else ""
                status.print(
                    f"{plan.test}: {plan.messages:,} readings{pace} from {plan.threads} threads with {plan.client} "
                    f"to {self.args.topic} at {self.kafka.bootstrap_servers}"
                )
                result = run_trial(plan, self.kafka, self.args.topic, status, self.stop)
                status.print(*(f"  {line}" for line in details.details(result)), "")
            done.append(result)
            self._keep(result)
        if done:
            show(details.table(done))
        if len({plan.threads for plan in plans}) > 1:
            for line in details.best_of_sweep(done):
                print(line)

    def _compare(self, chosen: Choice) -> None:
        """Compare with Kafka's own tool and the course's method."""
        threads = chosen.threads[0] if chosen.threads else COURSE_THREADS
        plan = versus.ComparisonPlan(self.clients, chosen.messages, threads, self.args.rounds)
        with StatusLine(plain_every_s=5) as status:
            found = versus.compare(plan, self.kafka, status, self.stop)
        self.comparison = found.comparison
        self.tests += found.tests
        self.failures += not (found.is_complete or self.stop.is_set())
        if found.comparison:
            show(versus.table(found.comparison))

    def _end_to_end(self, chosen: Choice) -> None:
        """Send readings and follow each through a running dashboard."""
        args = self.args
        plan = end_to_end.EndToEndPlan(
            dashboard_url=self.dashboard_url,
            topic=args.topic,
            client=self.clients[-1],
            messages=chosen.messages,
            rate_per_s=args.rate,
            duration_s=args.duration,
            token=self.token,
        )
        with StatusLine(plain_every_s=2) as status:
            result = end_to_end.run(plan, self.kafka, status, self.stop)
        print("\n".join(details.details(result)))
        show(end_to_end.table(result.stages))
        self._keep(result)

    def _max_rate(self) -> None:
        """Search the highest rate that a running dashboard takes."""
        args = self.args
        plan = MaxRatePlan(
            dashboard_url=self.dashboard_url,
            topic=args.topic,
            target_p99_ms=args.target_p99,
            first_per_s=args.rate or FIRST_PER_S,
            confirm_s=args.duration or CONFIRM_S,
            token=self.token,
        )
        with StatusLine(plain_every_s=5) as status:
            result = max_rate.run(plan, self.kafka, status, self.stop)
        print("\n".join(details.details(result)))
        if result.steps:
            show(details.steps_table(result.steps))
        self._keep(result)

    def _backlog(self, chosen: Choice) -> None:
        """Measure how fast a backlog is processed."""
        plan = backlog.BacklogPlan(
            dashboard_url=self.dashboard_url,
            topic=self.args.topic,
            client=self.clients[-1],
            messages=chosen.messages or backlog.MESSAGES,
            token=self.token,
            system=self.system,
        )
        with StatusLine(plain_every_s=2) as status:
            result = backlog.run(plan, self.kafka, status, self.stop)
        print("\n".join(details.details(result)))
        self._keep(result)

    def _keep(self, result: Result) -> None:
        """Keep a result at once, so that an error in the next test does not lose it."""
        self.tests.append(result)
        self.failures += not (result.is_success or result.is_stopped)

    def check_thresholds(self) -> None:
        """Print which thresholds were kept and which were crossed."""
        self.thresholds = thresholds.check(self.args.threshold, self.tests)
        for outcome in self.thresholds:
            print(outcome)

    def compare_with(self, before: earlier.Earlier) -> None:
        """Print what is worse than in the earlier run; each regression counts as a failure.

        Raises:
            UserError: no test can be compared.
        """
        lines, compared = earlier.regressions(before, self.tests, self.args.margin / 100)
        if not compared:
            raise UserError(earlier.nothing_to_compare(self.args.compare))
        print("\n".join(f"REGRESSION {line}" for line in lines) or f"no regression in {compared} tests")
        self.failures += len(lines)

    def write_results(self) -> None:
        """Write the files of ``--output`` and ``--report``; one that cannot be written counts as a failure."""
        args = self.args
        report = Report(
            environment=results.environment(args.topic, self.kafka.bootstrap_servers),
            tests=self.tests,
            comparison=self.comparison,
            thresholds=self.thresholds,
        )
        if args.output:
            self.failures += not outputs.save(args.output, results.encode(report), "results")
        if args.report:
            self.failures += not outputs.save(args.report, render(report), "report")

    @property
    def status(self) -> int:
        """The exit status."""
        if any(not outcome.ok for outcome in self.thresholds):
            return thresholds.EXIT_STATUS
        return 1 if self.failures else 0


def show(table: object) -> None:
    # A pipe has no width, so lines are not folded there.
    Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False).print(table)
