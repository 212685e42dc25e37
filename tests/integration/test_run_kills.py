"""Sixty kills on each database, with everything else that goes wrong in between: no promise of the engine is broken.

The benchmark `crash` with a fixed seed; `python -m benchmarks crash --kills 1000` is the same for longer.
"""

import pytest

from benchmarks import crash, crash_harness, postgres

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

KILLS = 60
SEED = 7


def _check(report: crash_harness.Report) -> None:
    assert report.verdict.sentences == []
    assert report.verdict.is_clean
    assert report.kills >= KILLS
    assert report.runs >= KILLS // 2, "too few runs were under way for the kills to say anything"


def test_sixty_kills_on_sqlite_break_no_promise() -> None:
    """One replica: kills at fail points and at random, a full disk, a locked file, write errors, pauses, a wrong clock."""
    _check(crash.harass("sqlite", KILLS, SEED, print))


def test_sixty_kills_on_postgresql_break_no_promise(postgres_server: postgres.Server) -> None:
    """Three replicas: kills, pauses beyond the lease, successors beside the paused, cut sessions, a server that crashes."""
    _check(crash.harass("postgres", KILLS, SEED, print, postgres_server))
