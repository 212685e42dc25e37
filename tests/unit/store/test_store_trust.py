"""Deeds and trust in the database: which runs count, what outlasts a restart, and what earlier databases held."""

import contextlib
import dataclasses
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from controlplane.domain import outcomes, plans, policies, trust
from controlplane.engine import autonomy
from controlplane.runs import ledger
from controlplane.store import database as db
from controlplane.store import house, tables
from controlplane.store import trust as repository
from tests.support import builders as b
from tests.support import store as support
from tests.support.clock import START, FakeClock

Mode = policies.Mode
State, Verdict = outcomes.RunState, outcomes.Verdict
ACTED = START + timedelta(seconds=10)


async def end(store: house.House, run_id: str, request: plans.PlanRequest, **values: Any) -> None:
    """Store a run as the ledger does, and let it end: recovered a minute after the start, unless told otherwise."""
    plan = b.plan(dataclasses.replace(request, dedup_key=run_id))
    defaults: dict[str, Any] = {
        "state": State.SUCCEEDED,
        "slot": None,
        "acted_at": ACTED,
        "ended_at": START + timedelta(seconds=60),
        "verdict": Verdict.RECOVERED,
    }

    def write(connection: sa.Connection) -> None:
        ledger.submit(connection, run_id, plan, START)
        at = tables.RUN.c.id == run_id
        connection.execute(tables.RUN.update().where(at).values(defaults | values))

    await store.database.write(write)


async def test_a_run_that_acted_and_ended_is_a_deed(store: house.House) -> None:
    """With the policy that asked and the beginning of its incident, which may be gone or have never been."""
    await store.incidents.save(b.incident(opened_at=START - timedelta(seconds=30)), "opened")
    await end(store, "run_1", b.request())
    await end(store, "run_2", b.manual(service="search"), verdict=None, state=State.FAILED)
    first, second = await store.trust.deeds()
    assert first == trust.Deed(
        run_id="run_1",
        runbook="flush-cache",
        service="chat",
        policy="cache-poisoned",
        verdict=Verdict.RECOVERED,
        acted_at=ACTED,
        ended_at=START + timedelta(seconds=60),
        opened_at=START - timedelta(seconds=30),
    )
    assert (second.policy, second.service, second.verdict, second.opened_at) == (None, "search", None, None)


@pytest.mark.parametrize(
    "values",
    [
        {"state": State.CANCELLED, "verdict": None},
        {"acted_at": None, "state": State.FAILED, "verdict": None},
        {"ended_at": None, "state": State.RUNNING, "verdict": None},
    ],
)
async def test_other_runs_are_none(store: house.House, values: dict[str, Any]) -> None:
    """Cancelled by somebody, ended before any effect, or not ended yet."""
    await end(store, "run_1", b.request(), **values)
    assert await store.trust.deeds() == ()


async def test_deeds_come_by_their_end_and_only_those_since(
    store: house.House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of very many the newest."""
    for number, seconds in ((1, 300), (2, 100), (3, 200)):
        await end(store, f"run_{number}", b.request(), ended_at=START + timedelta(seconds=seconds))
    assert [one.run_id for one in await store.trust.deeds()] == ["run_2", "run_3", "run_1"]
    since = await store.trust.deeds(ended_since=START + timedelta(seconds=200))
    assert [one.run_id for one in since] == ["run_3", "run_1"]
    monkeypatch.setattr(repository, "MAX_DEEDS", 1)
    assert [one.run_id for one in await store.trust.deeds()] == ["run_1"]


async def test_what_has_ended_since_is_found_by_an_index(store: house.House) -> None:
    """Every tick asks."""
    query = "EXPLAIN QUERY PLAN SELECT id FROM run WHERE ended_at >= '2026-01-01' ORDER BY ended_at DESC, id DESC"
    rows = await store.database.read(lambda connection: connection.execute(sa.text(query)).all())
    assert any("ix_run_ended_at" in str(row) for row in rows)


def entry(
    kind: trust.Kind, minute: int, mode: policies.Mode = policies.Mode.APPROVE, policy: str = "cache-poisoned"
) -> trust.Entry:
    return trust.Entry(policy, kind, START + timedelta(minutes=minute), "ada", "because", Mode.AUTO, mode)


async def test_the_newest_line_holds_and_outlasts_a_restart(tmp_path: Path, clock: FakeClock) -> None:
    """Each step down replaces the one before; a reset lifts it and says from when runs count."""
    down, further = entry(trust.Kind.DEMOTED, 1), entry(trust.Kind.DEMOTED, 2, Mode.SUGGEST)
    lifted, other = entry(trust.Kind.RESET, 3, Mode.AUTO), entry(trust.Kind.DEMOTED, 1, policy="bad-node")
    with support.opened(tmp_path, clock) as store:
        assert await store.trust.trusts() == {}
        for one in (down, other, further):
            await store.trust.append(one)
    with support.opened(tmp_path, clock) as store:
        assert await store.trust.trusts() == {
            "cache-poisoned": trust.Trust(further),
            "bad-node": trust.Trust(other),
        }
        await store.trust.append(lifted)
        assert (await store.trust.trusts())["cache-poisoned"] == trust.Trust(None, lifted.at)
        again = entry(trust.Kind.DEMOTED, 4)
        await store.trust.append(again)
    with support.opened(tmp_path, clock) as store:
        assert (await store.trust.trusts())["cache-poisoned"] == trust.Trust(again, lifted.at)


async def test_the_loop_from_bad_runs_to_a_reset_over_a_restart(tmp_path: Path, clock: FakeClock) -> None:
    """Two runs that made it worse take the policy back; the next process knows; a person lifts it."""
    policy = b.policy()
    with support.opened(tmp_path, clock) as store:
        for number in (1, 2):
            await end(store, f"run_{number}", b.request(), verdict=Verdict.WORSE, state=State.FAILED)
        clock.move(120)
        (taken,) = await autonomy.Autonomy(store.trust, (policy,), trust.Thresholds(), clock).review()
        assert taken.mode is Mode.APPROVE
    with support.opened(tmp_path, clock) as store:
        kept = autonomy.Autonomy(store.trust, (policy,), trust.Thresholds(), clock)
        assert [one.mode for one in await kept.review()] == [Mode.APPROVE]
        await kept.reset(policy.name, who="ada", why="mended")
        assert [one.mode for one in await kept.review()] == [Mode.AUTO]


def test_runs_of_an_earlier_database_get_the_policy_that_their_plans_name(tmp_path: Path, clock: FakeClock) -> None:
    """The migration reads it out of the plan, once."""
    url = support.sqlite_url(tmp_path)
    with support.opened(tmp_path, clock) as store:
        for number, request in ((1, b.request()), (2, b.manual(node="node-b"))):
            plan = b.plan(request)
            store.database.write_blocking(
                lambda connection, number=number, plan=plan: ledger.submit(connection, f"run_{number}", plan, START)
            )
        for statement in (
            "DROP TABLE trust_entry",
            "DROP INDEX ix_run_incident_id_created_at",
            "DROP INDEX ix_run_service_ended_at",
            "CREATE INDEX ix_run_incident_id ON run (incident_id)",
            "DROP INDEX ix_run_ended_at",
            "ALTER TABLE run DROP COLUMN policy",
            "UPDATE alembic_version SET version_num = '0004'",
        ):
            store.database.write_blocking(lambda connection, said=statement: connection.execute(sa.text(said)))
    with contextlib.closing(house.open_house(db.DatabaseSettings(url), clock)) as store:
        found = store.database.write_blocking(
            lambda connection: connection.execute(sa.select(tables.RUN.c.id, tables.RUN.c.policy)).all()
        )
    assert {row.id: row.policy for row in found} == {"run_1": "cache-poisoned", "run_2": None}
