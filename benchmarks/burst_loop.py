"""The loop as `wiring` joins it, over a real SQLite store and a fleet that exists only in memory.

Used by the benchmarks `burst` and `intake`. Real are the schedule, the tick, the guard, the planner, dispatch, the run
engine and the store; the fleet, its actions, the verdicts and the people are not. Async, one event loop.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import burst_fleet as fleets
from controlplane import clock, expressions, schedule
from controlplane.domain import errors, outcomes, plans, policies, rungs, ticks
from controlplane.engine import climb, dispatch, facts, handle, keeping, look, recheck, tick
from controlplane.runs import config as run_config
from controlplane.runs import engine as run_engine
from controlplane.runs import planning
from controlplane.runs.language import checks, library
from controlplane.store import database as db
from controlplane.store import house as stores

TICK_SECONDS = 15.0
# As the settings default to.
_LEASE_SECONDS = 6.0
# The trouble and its answer: heal where it stands, or take out of service, heal, and give back.
_RUNBOOK = """\
apiVersion: dsctl/v1
kind: Runbook
metadata: {{name: {name}, summary: What a benchmark does to a node}}
spec:
  inputs: {{node: {{type: node}}}}
  steps: [{steps}]
  verify: {{signals: [cache_wrong_ratio], within: 2m, hold: 20s, control: untouched-nodes}}
  on_failure: [{{escalate: oncall}}]
"""
_HEAL = "{name: heal, action: heal, timeout: 10s}"
_EJECT = (
    "{name: eject, action: eject, timeout: 10s}, {name: rest, wait: {seconds: 1}},"
    " {name: restore, action: restore, timeout: 10s}"
)


@dataclass(frozen=True, slots=True)
class Rig:
    """Everything of one loop that a benchmark looks at."""

    clock: clock.SystemClock
    fleet: fleets.Fleet
    store: stores.House
    engine: run_engine.RunEngine
    tick: tick.Tick
    loop: schedule.Loop
    reports: list[ticks.TickReport]


class _NoGateway:
    """Implements `RungControl` for a service without a gateway."""

    async def standing(self, service: str) -> rungs.Standing:
        """Refuse: no policy here has a ladder."""
        raise errors.NotFoundError(f"{service} has no gateway")

    async def renew(self, service: str, params: Mapping[str, outcomes.Json]) -> str:
        """Refuse likewise."""
        del params
        raise errors.NotFoundError(f"{service} has no gateway")


class _NoFacts:
    """Implements `FleetFacts` for runbooks whose waits ask nothing."""

    async def variables(self, plan: plans.Plan) -> Mapping[str, object]:
        """Return nothing."""
        del plan
        return {}


async def _no_follow_up(plan: plans.Plan, runbook: str, dedup_key: str) -> str:
    raise errors.GiveUpError(f"{runbook} does not follow {plan.id} ({dedup_key})")


def policy(runbook: str, allowed: policies.MaxUnavailable, *, mode: policies.Mode) -> policies.Policy:
    """Return the policy that answers wrong answers with `runbook`, as often as it has to."""
    return policies.Policy(
        name=f"wrong-answers-{runbook}",
        services=(fleets.SERVICE,),
        when=f'finding.kind == "cache" && finding.signal == "{fleets.SIGNAL}"',
        runbook=runbook,
        mode=mode,
        guard=policies.GuardLimits(max_per_hour=100_000, max_unavailable=allowed),
    )


@asynccontextmanager
async def running(
    folder: Path, num_nodes: int, offered: Sequence[policies.Policy], *, watch_seconds: float = 30.0
) -> AsyncGenerator[Rig]:
    """Open a store in `folder` and join the rooms over it; the engine drives, the loop waits for `loop.start`.

    Runs are watched for `watch_seconds` after they have acted.
    """
    time = clock.SystemClock()
    store = stores.open_house(db.DatabaseSettings(f"sqlite:///{folder / 'dsctl.db'}"), time)
    try:
        rig = _join(time, store, fleets.Fleet(num_nodes, time), offered, watch_seconds)
        await rig.engine.start()
        try:
            yield rig
        finally:
            await rig.loop.stop()
            await rig.engine.stop()
    finally:
        store.close()


def _join(
    time: clock.SystemClock,
    store: stores.House,
    fleet: fleets.Fleet,
    offered: Sequence[policies.Policy],
    watch_seconds: float,
) -> Rig:
    managed = {fleets.SERVICE: fleets.service(len(fleet.names))}
    deeds = {verb: fleets.Deed(fleet, verb) for verb in ("heal", "eject", "restore")}
    quiet, conditions = fleets.Quiet(time), expressions.Conditions()
    gatherer = facts.Gatherer(
        facts.Sources(fleet, store.alerts, store.incidents, store.runs, store.automation, quiet), managed, time
    )
    reports: list[ticks.TickReport] = []
    loops: list[schedule.Loop] = []

    def on_ended(run_id: str) -> None:
        del run_id
        for loop in loops:
            loop.wake()

    ports = run_config.RunPorts(
        clock=time,
        actions=deeds,
        guard=recheck.Recheck(gatherer),
        verifier=fleets.Patient(time, watch_seconds),
        conditions=conditions,
        facts=_NoFacts(),
        notifier=quiet,
        follow_up=_no_follow_up,
        on_ended=on_ended,
    )
    engine = run_engine.RunEngine(store.database, ports, run_config.RunSettings(lease_seconds=_LEASE_SECONDS))
    words = checks.Vocabulary(deeds, {fleets.SIGNAL})
    texts = {name: _RUNBOOK.format(name=name, steps=steps) for name, steps in (("heal", _HEAL), ("eject", _EJECT))}
    books = {name: library.parse(text, source=name, words=words) for name, text in texts.items()}
    door = dispatch.Dispatch(
        planner=planning.RunbookPlanner(
            runbooks=library.Library(books), actions=deeds, managed=managed, where=fleet, clock=time
        ),
        gatherer=gatherer,
        keeper=keeping.Keeper(store.decisions, store.automation, time),
        submitter=engine,
    )
    hands = handle.Hands(
        incidents=store.incidents,
        runs=store.runs,
        decisions=store.decisions,
        remediator=door,
        notifier=quiet,
        conditions=conditions,
        services=managed,
        policies=tuple(offered),
        climber=climb.Climber(_NoGateway(), store.automation, store.runs, time),
    )
    leadership = schedule.Leadership(time, _LEASE_SECONDS)
    body = tick.Tick(
        eyes=look.Eyes(fleet, store.alerts, (), managed, quiet, look.Recent(time)),
        hands=hands,
        pace=handle.Pace(),
        clock=time,
        is_leader=leadership.is_held,
    )

    async def after_tick(report: ticks.TickReport) -> None:
        reports.append(report)

    async def sweep() -> int:
        return 0

    async def refit() -> Sequence[str]:
        return ()

    loop = schedule.Loop(
        schedule.Work(body, engine.lead, after_tick, body.watch, sweep, refit),
        leadership,
        time,
        tick_seconds=TICK_SECONDS,
        lease_seconds=_LEASE_SECONDS,
    )
    loops.append(loop)
    return Rig(time, fleet, store, engine, body, loop, reports)
