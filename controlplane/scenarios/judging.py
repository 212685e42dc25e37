"""How a scenario ended, from what clients saw and from what control plane and fleet show. Pure.

The verdict here is the clients': `recovered` needs right answers in time for every level at the end of the scenario, and
what the story promises a level in its middle. Whether the control plane says the same is one of the expectations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from controlplane.domain import findings, outcomes, policies, rungs
from controlplane.scenarios import samples as smp
from controlplane.scenarios import stories


@dataclass(frozen=True, slots=True)
class SeenIncident:
    """An incident as the control plane's API shows it."""

    id: str
    fault: findings.FaultClass
    node: str
    opened_at: datetime
    opened_by: str
    sentence: str = ""


@dataclass(frozen=True, slots=True)
class SeenRun:
    """A run as the control plane's API shows it. `acted_at` is None until its first effect.

    `num_lost` are the requests that a shrinking run cut off; None for other runs, and before it is known.
    """

    id: str
    runbook: str
    node: str
    state: str
    created_at: datetime
    acted_at: datetime | None = None
    verdict: outcomes.Verdict | None = None
    sentence: str = ""
    num_lost: int | None = None


@dataclass(frozen=True, slots=True)
class SeenFleet:
    """The fleet as its gateway and nodes show it: the rung of the ladder, what is not in full service, and how many nodes
    get requests.
    """

    rung: int = 0
    limited: tuple[str, ...] = ()
    in_service: int = 0

    def complaints(self) -> tuple[str, ...]:
        """Return what keeps the fleet from being whole; empty when it is."""
        degraded = (f"the service is on {rungs.describe(self.rung)}",) if self.rung else ()
        return (*degraded, *self.limited)


@dataclass(frozen=True, slots=True)
class Seen:
    """What was shown since the first deed, or since the story began where it has a past.

    `rung_at` is when the service was first seen on a rung or a higher one, `in_service_at` when so many nodes or more were
    first seen in service.
    """

    incidents: tuple[SeenIncident, ...] = ()
    runs: tuple[SeenRun, ...] = ()
    fleet: SeenFleet = SeenFleet()
    rung_at: Mapping[int, datetime] = field(default_factory=dict[int, datetime])
    in_service_at: Mapping[int, datetime] = field(default_factory=dict[int, datetime])

    @property
    def num_lost(self) -> int | None:
        """Requests that shrinking cut off; None where nothing shrank."""
        counts = [run.num_lost for run in self.runs if run.num_lost is not None]
        return sum(counts) if counts else None


@dataclass(frozen=True, slots=True)
class Met:
    """An expectation that came true, `at_seconds` after the first deed; `is_in_time` compares with its deadline."""

    entry: stories.By
    at_seconds: float
    is_in_time: bool
    by: str


@dataclass(frozen=True, slots=True)
class Missed:
    """An expectation that did not come true; `seen` is what was there instead."""

    entry: stories.By
    seen: str


@dataclass(frozen=True, slots=True)
class HeldSeen:
    """What one level saw in the middle of the story, where the story promises it something."""

    held: stories.Held
    seen: smp.Measure

    @property
    def is_kept(self) -> bool:
        """True when the promise was kept."""
        return self.held.limits.are_kept_by(self.seen)


@dataclass(frozen=True, slots=True)
class Clients:
    """What clients saw before, during and after. `recovered_seconds` is when the last bad answer was behind them.

    `is_felt` says whether the trouble hurt them at all: recovering from nothing proves nothing.
    """

    verdict: outcomes.Verdict
    is_felt: bool
    recovered_seconds: float | None
    before: smp.Stretch
    during: smp.Stretch
    after: smp.Stretch
    held: tuple[HeldSeen, ...] = ()


def meet(entry: stories.By, seen: Seen, *, injected_at: datetime, now: datetime) -> Met | Missed:
    """Say whether an expectation is met by what is seen.

    A verdict is dated by when it was seen, because runs say when they acted and not when they were judged.
    """
    found = _find(entry.expect, seen)
    if found is None:
        return Missed(entry, _describe(seen))
    at, by = found
    seconds = ((at or now) - injected_at).total_seconds()
    return Met(entry, round(seconds, 3), seconds <= entry.by_seconds, by)


def _find(wanted: stories.Expect, seen: Seen) -> tuple[datetime | None, str] | None:
    if wanted.incident is not None:
        incidents = [i for i in seen.incidents if is_meant(wanted, i)]
        return min(((i.opened_at, f"{i.id}, by {i.opened_by}") for i in incidents), default=None)
    if wanted.rung is not None:
        at = seen.rung_at.get(wanted.rung)
        return None if at is None else (at, "the gateway")
    if wanted.in_service is not None:
        at = seen.in_service_at.get(wanted.in_service)
        return None if at is None else (at, "the gateway")
    runs = [run for run in seen.runs if run.node == wanted.node]
    if wanted.runbook is not None:
        acts = [(r.acted_at, r.id) for r in runs if r.runbook == wanted.runbook and r.acted_at is not None]
        return min(acts, default=None)
    judged = [run.id for run in runs if run.verdict is wanted.verdict]
    return (None, judged[-1]) if judged else None


def is_meant(wanted: stories.Expect, incident: SeenIncident) -> bool:
    """Say whether this is the incident that a story expects."""
    if incident.fault is not wanted.incident or incident.node != wanted.node:
        return False
    return wanted.opened_by in (None, incident.opened_by)


def _describe(seen: Seen) -> str:
    lines = [
        f"incident {i.fault} on {i.node or 'the service'}, opened by {i.opened_by}: {i.sentence}"
        for i in seen.incidents
    ]
    lines += [f"run {r.runbook} on {r.node or 'the service'} is {r.state}: {r.sentence}" for r in seen.runs]
    return "; ".join(lines) or "neither an incident nor a run"


def judge_clients(
    story: stories.Story, samples: Sequence[smp.Sample], *, started: float, injected: float, ended: float
) -> Clients:
    """Judge what clients saw; the three times are Unix seconds.

    `after` is the last stretch of the scenario, `during` everything from the first deed to the recovery, or to `after`
    where there was none. What was on its way when the trouble began had its share of it, and is no part of `before`.
    """
    spec = story.spec
    calm_from = max(injected, ended - spec.after_seconds)
    after = smp.measure_levels(smp.between(samples, calm_from, ended))
    held = tuple(_held(one, samples, injected) for one in spec.held)
    has_recovered = _are_well(spec, after) and all(one.is_kept for one in held)
    touched = [s for s in samples if s.at >= started and s.at + s.latency_seconds >= injected]
    calm = [s for s in smp.between(samples, started, injected) if s.at + s.latency_seconds < injected]
    trouble = [s.at + s.latency_seconds for s in smp.between(touched, started, calm_from) if is_bad(spec.limits, s)]
    recovered_at = max(trouble, default=injected)
    return Clients(
        verdict=outcomes.Verdict.RECOVERED if has_recovered else outcomes.Verdict.NOT_RECOVERED,
        is_felt=bool(trouble),
        recovered_seconds=round(recovered_at - injected, 3) if has_recovered else None,
        before=smp.measure_levels(calm),
        during=smp.measure_levels(smp.between(touched, started, recovered_at if has_recovered else calm_from)),
        after=after,
        held=held,
    )


def _held(held: stories.Held, samples: Sequence[smp.Sample], injected: float) -> HeldSeen:
    there = smp.between(samples, injected + held.from_seconds, injected + held.until_seconds)
    return HeldSeen(held, smp.measure([sample for sample in there if sample.level == held.level]))


def _are_well(spec: stories.Spec, after: smp.Stretch) -> bool:
    """Say whether every level that clients ask for from the beginning is inside the limits again."""
    return all(level in after.levels and spec.limits.are_kept_by(after.levels[level]) for level in spec.load.levels)


def is_bad(limits: stories.Limits, sample: smp.Sample) -> bool:
    """Say whether one request shows trouble: no right answer, or later than the promised 99th percentile."""
    return not sample.is_good or sample.latency_seconds > limits.latency_p99_seconds


def complaints(
    mode: policies.Mode, clients: Clients, met: Sequence[Met | Missed], seen: Seen, *, is_prevented: bool = False
) -> tuple[str, ...]:
    """Return why the scenario did not end as it should in this mode; empty when it did.

    In auto mode the fleet has to be whole again, and where the trouble is prevented clients may feel none. In observe mode
    nothing may act, and so the trouble must stay. Growing and shrinking loses no request in any mode.
    """
    wanted = outcomes.Verdict.RECOVERED if mode is policies.Mode.AUTO else outcomes.Verdict.NOT_RECOVERED
    found = [_complaint(one) for one in met if isinstance(one, Missed) or not one.is_in_time]
    if clients.verdict is not wanted:
        found.append(f"clients saw {clients.verdict}, expected {wanted}")
    if not clients.is_felt and not (is_prevented and mode is policies.Mode.AUTO):
        found.append("the injected trouble did not reach the clients, so nothing was shown")
    if seen.num_lost:
        found.append(f"shrinking cut off {seen.num_lost} requests")
    if mode is policies.Mode.AUTO:
        found += [f"at the end {text}" for text in seen.fleet.complaints()]
        found += [_broken(one) for one in clients.held if not one.is_kept]
        return tuple(found)
    acts = [run for run in seen.runs if run.acted_at]
    found += [f"{run.runbook} acted on {run.node or 'the service'} in observe mode ({run.id})" for run in acts]
    found += [f"the service was on {rungs.describe(rung)} in observe mode" for rung in seen.rung_at]
    return tuple(found)


def _broken(one: HeldSeen) -> str:
    held, limits = one.held, one.held.limits
    return (
        f"level {held.level} from {held.from_seconds:g} to {held.until_seconds:g} s: expected P99 "
        f"{limits.latency_p99_seconds:g} s, errors {limits.error_ratio:.1%}, refused {limits.rejected_ratio:.1%}; seen "
        f"P99 {_seconds(one.seen.p99_seconds)}, errors {_share(one.seen.error_ratio)}, "
        f"refused {_share(one.seen.rejected_ratio)}"
    )


def _seconds(value: float | None) -> str:
    return "unknown" if value is None else f"{value:g} s"


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"


def _complaint(one: Met | Missed) -> str:
    expected = f"expected by {one.entry.by_seconds:g} s: {one.entry.expect}"
    if isinstance(one, Missed):
        return f"{expected}; seen: {one.seen}"
    return f"{expected}; seen only at {one.at_seconds:.1f} s ({one.by})"
