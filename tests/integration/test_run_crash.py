"""kill -9 at every named point of the protocol, on either database, with real processes and an oracle outside the engine."""

import asyncio
import multiprocessing
import multiprocessing.context
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane import clock
from controlplane.domain import outcomes, plans, runs
from controlplane.runs import failpoints
from controlplane.store import database as db
from controlplane.store import house
from tests.support import postgres, run_victim
from tests.support import runs as support
from tests.support import store as stores

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

Kind = runs.RunEventKind
Point = failpoints.Point
# How often each point is passed by a run of action, wait (parked once), action.
PASSES = {
    Point.AFTER_CLAIM: 2,
    Point.BEFORE_EFFECT: 2,
    Point.AFTER_EFFECT: 2,
    Point.IN_COMMIT: 4,
    Point.AFTER_COMMIT: 4,
    Point.AT_WAIT: 1,
}
CASES = [(point, count) for point, passes in PASSES.items() for count in range(1, passes + 1)]


@pytest.fixture(scope="module")
def victims() -> multiprocessing.context.ForkServerContext:
    """Start processes from a server that has imported everything once; each is a process of its own to kill."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.run_victim"])
    return context


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield stores.sqlite_url(tmp_path)
        return
    with postgres.database(request.getfixturevalue("postgres_server")) as made:
        yield made


def _run_victim(
    victims: multiprocessing.context.ForkServerContext,
    url: str,
    folder: Path,
    reentry: plans.Reentry,
    armed: str = "",
) -> int | None:
    process = victims.Process(target=run_victim.main, args=(url, folder, reentry, armed))
    process.start()
    process.join(60)
    return process.exitcode


def _read(url: str) -> tuple[runs.Run, list[runs.RunEvent]]:
    async def read() -> tuple[runs.Run, list[runs.RunEvent]]:
        store = house.open_house(db.DatabaseSettings(url), clock.SystemClock())
        try:
            (run,) = await store.runs.find()
            return run, list(await store.runs.events(run.id))
        finally:
            store.close()

    return asyncio.run(read())


def _check(run: runs.Run, events: list[runs.RunEvent], effects: list[tuple[str, int]]) -> None:
    keys = [key for key, _ in effects]
    first, second = f"{run.id}:one", f"{run.id}:two"
    assert run.state is outcomes.RunState.SUCCEEDED, run.sentence
    assert list(dict.fromkeys(keys)) == [first, second], "each step acted, in order, under its own key"
    for key in (first, second):
        announced = [one for one in events if one.kind is Kind.STEP_STARTED and one.data.get("key") == key]
        assert keys.count(key) <= len(announced), f"{key} acted more often than it was announced"
    for step in ("one", "ready", "two"):
        finished = [one for one in events if one.kind is Kind.STEP_FINISHED and one.step == step]
        assert len(finished) == 1, f"{step} finished {len(finished)} times"
    tokens = [one.token for one in events]
    assert tokens == sorted(tokens), "an older owner wrote after a newer one"
    assert [one.kind for one in events].count(Kind.ENDED) == 1


@pytest.mark.parametrize(("point", "count"), CASES, ids=str)
@pytest.mark.parametrize("reentry", [plans.Reentry.IDEMPOTENT, plans.Reentry.PROBE])
def test_run_survives_a_kill_at_every_point(
    victims: multiprocessing.context.ForkServerContext,
    url: str,
    tmp_path: Path,
    point: Point,
    count: int,
    reentry: plans.Reentry,
) -> None:
    """After the kill a restarted process ends the run: in order, nothing unannounced, and with a probe nothing twice."""
    assert _run_victim(victims, url, tmp_path, reentry, f"{point}:{count}") == -9
    assert _run_victim(victims, url, tmp_path, reentry) == 0
    effects = support.read_notes(tmp_path / "effects")
    _check(*_read(url), effects)
    if reentry is plans.Reentry.PROBE:
        assert len(effects) == 2


def test_run_survives_one_kill_after_another(
    victims: multiprocessing.context.ForkServerContext, url: str, tmp_path: Path
) -> None:
    """Five processes die in turn at different points of one run; the sixth ends it."""
    for armed in ("after_claim:1", "before_effect:1", "after_effect:1", "in_commit:1", "at_wait:1"):
        assert _run_victim(victims, url, tmp_path, plans.Reentry.IDEMPOTENT, armed) == -9
    assert _run_victim(victims, url, tmp_path, plans.Reentry.IDEMPOTENT) == 0
    _check(*_read(url), support.read_notes(tmp_path / "effects"))
