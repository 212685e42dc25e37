"""Benchmark `burst`: 200 findings at once, on as many nodes of one service, from stored to acted on.

First with a runbook that heals a node where it stands, so that all of them may be answered at once; then with one that
takes it out of service, of which the policy lets a tenth be out at any moment. Dispatched is a run whose first step was
started; the time counts from the moment the alerts were stored and includes that the loop waits for more of them.
The number of nodes out is counted by the fleet itself at every effect.
"""

import argparse
import asyncio
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa

from benchmarks import burst_fleet as fleets
from benchmarks import burst_loop, runner
from controlplane.domain import outcomes, policies, runs
from controlplane.store import tables

_NUM_NODES = 200
_ALLOWED_PERCENT = 10.0
# The first loop waits for all; the second one is looked at while a few rounds of nodes go out and come back.
_PATIENCE_SECONDS = 90.0
_TURNS_SECONDS = 15.0
_LOOK_SECONDS = 0.1
# Longer than the burst, as it would be in a fleet; shorter where nodes have to come back.
_WATCH_SECONDS = {"heal": 60.0, "eject": 2.0}
_AUTO = policies.Mode.AUTO


@dataclass(frozen=True, slots=True)
class Seen:
    """What one burst came to: seconds until each run's first step, ascending; those refused for the blast radius."""

    seconds: tuple[float, ...]
    refused: int
    max_out: int
    ticks: int
    first_tick_s: float


def add_options(parser: argparse.ArgumentParser) -> None:
    """Let the size be chosen; tests take a small one."""
    parser.add_argument("--nodes", type=int, default=_NUM_NODES, help="findings, one a node")
    parser.add_argument("--turns-seconds", type=float, default=_TURNS_SECONDS, help="how long ejecting is watched")


def measure(context: runner.Context) -> dict[str, runner.Figure]:
    """Return the figures of both runbooks."""
    nodes: int = context.options.nodes
    healed = _burst("heal", nodes, _PATIENCE_SECONDS)
    context.say(f"heal: {_told(healed)}")
    ejected = _burst("eject", nodes, context.options.turns_seconds)
    context.say(f"eject: {_told(ejected)}")
    allowed = allowed_out(nodes)
    first = ejected.seconds[:allowed]
    return {
        "targets": nodes,
        "findings": nodes,
        "dispatched": len(healed.seconds),
        "dispatch_p50_s": _p50(healed.seconds),
        "dispatch_p99_s": p99(healed.seconds),
        "p50_s": _p50(healed.seconds),
        "p99_s": p99(healed.seconds),
        "max_s": max(healed.seconds, default=None),
        "tick_s": healed.first_tick_s,
        "blast_radius_exceeded": max(0, ejected.max_out - allowed),
        "eject": {
            "allowed": allowed,
            "max_out": ejected.max_out,
            "dispatched": len(ejected.seconds),
            "refused": ejected.refused,
            "p50_s": _p50(first),
            "p99_s": p99(first),
            "ticks": ejected.ticks,
        },
    }


def _told(seen: Seen) -> str:
    first, last = (
        (f"{one:.2f} s" for one in (seen.seconds[0], seen.seconds[-1])) if seen.seconds else ("never", "never")
    )
    return f"{len(seen.seconds)} dispatched, from {first} to {last}; {seen.refused} refused, at most {seen.max_out} out"


def allowed_out(nodes: int) -> int:
    """Return how many nodes may be out at once."""
    return max(1, int(nodes * _ALLOWED_PERCENT / 100))


def _burst(runbook: str, nodes: int, seconds: float) -> Seen:
    with tempfile.TemporaryDirectory(prefix="dsctl-burst-") as folder:
        return asyncio.run(burst(Path(folder), runbook, nodes, seconds))


async def burst(folder: Path, runbook: str, nodes: int, seconds: float) -> Seen:
    """Store one alert a node, all at once, and look until each led to a run, or for `seconds`."""
    limit = policies.MaxUnavailable(percent=_ALLOWED_PERCENT, nodes=nodes)
    offered = (burst_loop.policy(runbook, limit, mode=_AUTO),)
    async with burst_loop.running(folder, nodes, offered, watch_seconds=_WATCH_SECONDS[runbook]) as rig:
        await rig.loop.start()
        while not rig.reports:
            await rig.clock.sleep(_LOOK_SECONDS)
        await rig.store.alerts.store(fleets.notification("burst", fleets.alerts(rig.fleet.names, rig.clock.now())))
        stored_at, until = rig.clock.now(), rig.clock.monotonic() + seconds
        rig.loop.wake()
        while len(starts := await _starts(rig)) < nodes and rig.clock.monotonic() < until:
            await rig.clock.sleep(_LOOK_SECONDS)
        return Seen(
            seconds=tuple((at - stored_at).total_seconds() for at in starts),
            refused=await _num_refused(rig),
            max_out=rig.fleet.max_out,
            ticks=len(rig.reports),
            first_tick_s=next((one.duration_seconds for one in rig.reports if one.lines), 0.0),
        )


async def _starts(rig: burst_loop.Rig) -> Sequence[datetime]:
    """Return when the first step of each run was started, in order."""
    event = tables.RUN_EVENT.c
    first = sa.func.min(event.at, type_=event.at.type)
    query = sa.select(first).where(event.kind == runs.RunEventKind.STEP_STARTED).group_by(event.run_id)
    return sorted(await rig.store.database.read(lambda connection: connection.execute(query).scalars().all()))


async def _num_refused(rig: burst_loop.Rig) -> int:
    """Return for how many incidents a refusal because of the blast radius is stored."""
    denied = await rig.store.decisions.find(limit=100_000)
    gate = outcomes.Gate.BLAST_RADIUS
    return len({one.incident_id for one in denied if one.outcome == "denied" and one.answers[-1].gate is gate})


def _p50(seconds: Sequence[float]) -> float | None:
    return statistics.median(seconds) if seconds else None


def p99(seconds: Sequence[float]) -> float | None:
    """Return the value that one in a hundred exceeds: of 200 the 198th."""
    return seconds[max(0, -(-len(seconds) * 99 // 100) - 1)] if seconds else None
