"""How a scenario ended, from what clients saw and from what the control plane shows. Pure.

The verdict here is the clients': `recovered` needs right answers in time at the end of the scenario. Whether the control
plane says the same is one of the story's expectations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from controlplane.domain import findings, outcomes, policies
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
    """A run as the control plane's API shows it. `acted_at` is None until its first effect."""

    id: str
    runbook: str
    node: str
    state: str
    created_at: datetime
    acted_at: datetime | None = None
    verdict: outcomes.Verdict | None = None
    sentence: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the control plane showed since the first injection."""

    incidents: tuple[SeenIncident, ...] = ()
    runs: tuple[SeenRun, ...] = ()


@dataclass(frozen=True, slots=True)
class Met:
    """An expectation that came true, `at_seconds` after the first injection; `is_in_time` compares with its deadline."""

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
class Clients:
    """What clients saw before, during and after. `recovered_seconds` is when the last bad answer was behind them.

    `is_felt` says whether the injection hurt them at all: recovering from nothing proves nothing.
    """

    verdict: outcomes.Verdict
    is_felt: bool
    recovered_seconds: float | None
    before: smp.Measure
    during: smp.Measure
    after: smp.Measure


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
        incidents = [i for i in seen.incidents if i.fault is wanted.incident and i.node == wanted.node]
        return min(((i.opened_at, f"{i.id}, by {i.opened_by}") for i in incidents), default=None)
    runs = [run for run in seen.runs if run.node == wanted.node]
    if wanted.runbook is not None:
        acts = [(r.acted_at, r.id) for r in runs if r.runbook == wanted.runbook and r.acted_at is not None]
        return min(acts, default=None)
    judged = [run.id for run in runs if run.verdict is wanted.verdict]
    return (None, judged[-1]) if judged else None


def _describe(seen: Seen) -> str:
    lines = [f"incident {i.fault} on {i.node or 'the service'}: {i.sentence}" for i in seen.incidents]
    lines += [f"run {r.runbook} on {r.node or 'the service'} is {r.state}: {r.sentence}" for r in seen.runs]
    return "; ".join(lines) or "neither an incident nor a run"


def judge_clients(
    story: stories.Story, samples: Sequence[smp.Sample], *, started: float, injected: float, ended: float
) -> Clients:
    """Judge what clients saw; the three times are Unix seconds.

    `after` is the last stretch of the scenario, `during` everything from the injection to the recovery, or to `after`
    where there was none.
    """
    spec = story.spec
    calm_from = max(injected, ended - spec.after_seconds)
    after = smp.measure(smp.between(samples, calm_from, ended))
    has_recovered = _is_within(spec.limits, after)
    trouble = [s.at + s.latency_seconds for s in smp.between(samples, injected, calm_from) if is_bad(spec.limits, s)]
    recovered_at = max(trouble, default=injected)
    return Clients(
        verdict=outcomes.Verdict.RECOVERED if has_recovered else outcomes.Verdict.NOT_RECOVERED,
        is_felt=bool(trouble),
        recovered_seconds=round(recovered_at - injected, 3) if has_recovered else None,
        before=smp.measure(smp.between(samples, started, injected)),
        during=smp.measure(smp.between(samples, injected, recovered_at if has_recovered else calm_from)),
        after=after,
    )


def is_bad(limits: stories.Limits, sample: smp.Sample) -> bool:
    """Say whether one request shows trouble: no right answer, or later than the promised 99th percentile."""
    return not sample.is_good or sample.latency_seconds > limits.latency_p99_seconds


def _is_within(limits: stories.Limits, seen: smp.Measure) -> bool:
    if seen.error_ratio is None or seen.p99_seconds is None:
        return False  # no request, so nobody knows: not recovered
    return seen.error_ratio <= limits.error_ratio and seen.p99_seconds <= limits.latency_p99_seconds


def complaints(mode: policies.Mode, clients: Clients, met: Sequence[Met | Missed], seen: Seen) -> tuple[str, ...]:
    """Return why the scenario did not end as it should in this mode; empty when it did.

    In observe mode nothing may act, and so the trouble must stay.
    """
    wanted = outcomes.Verdict.RECOVERED if mode is policies.Mode.AUTO else outcomes.Verdict.NOT_RECOVERED
    found = [_complaint(one) for one in met if isinstance(one, Missed) or not one.is_in_time]
    if clients.verdict is not wanted:
        found.append(f"clients saw {clients.verdict}, expected {wanted}")
    if not clients.is_felt:
        found.append("the injected trouble did not reach the clients, so nothing was shown")
    if mode is policies.Mode.OBSERVE:
        found += [f"{run.runbook} acted on {run.node} in observe mode ({run.id})" for run in seen.runs if run.acted_at]
    return tuple(found)


def _complaint(one: Met | Missed) -> str:
    expected = f"expected by {one.entry.by_seconds:g} s: {one.entry.expect}"
    if isinstance(one, Missed):
        return f"{expected}; seen: {one.seen}"
    return f"{expected}; seen only at {one.at_seconds:.1f} s ({one.by})"
