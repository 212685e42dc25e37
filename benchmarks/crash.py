"""Benchmark `crash`: kills the run engine again and again under a stream of runs, and judges what is left.

Victims are real processes with the real engine, one on SQLite, three on PostgreSQL. Each lives until a fail point or a
random moment kills it, and is started anew; meanwhile replicas are paused for longer than their lease, replaced while they are
paused, stopped in order, left dead until others take over; databases are locked, full, cut off, restarted; clocks are set
wrong. Then everybody is left in peace until nothing moves, and the oracle compares what was accepted, stored and done.

All figures but `kills`, `runs` and the times must be 0. The seed decides what is done to whom; when it strikes, nobody can.
"""

import argparse
from collections.abc import Callable

from benchmarks import crash_harness, postgres, run_fleet, runner

DATABASES = (run_fleet.SQLITE, run_fleet.POSTGRESQL)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add how many kills, on what, and the seed."""
    parser.add_argument("--kills", type=int, default=60, help="how many processes to kill (60)")
    parser.add_argument("--database", choices=DATABASES, default=run_fleet.SQLITE)
    parser.add_argument("--seed", type=int, default=1, help="decides what is done to whom (1)")


def measure(context: runner.Context) -> dict[str, runner.Figure]:
    """Kill, judge, and return what was found."""
    options = context.options
    report = harass(options.database, options.kills, options.seed, context.say)
    for sentence in report.verdict.sentences:
        context.say(sentence)
    return report.figures()


def harass(
    kind: str, num_kills: int, seed: int, say: Callable[[str], None], server: postgres.Server | None = None
) -> crash_harness.Report:
    """Run the whole on a fresh database and return the report; about a second for each kill."""
    with run_fleet.placed(kind, server) as place:
        return crash_harness.Harness(place, kind, num_kills, seed, say).run()
