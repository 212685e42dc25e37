"""What the gates are asked with, and the few words they share.

`facts` fills a `Context`, `guard` hands it to each gate. Frozen values and pure functions; it reads nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from controlplane.domain import (
    alerting,
    breakers,
    capacity,
    outcomes,
    owners,
    plans,
    policies,
    runs,
    services,
    windows,
)
from controlplane.domain import approvals as apr
from controlplane.domain import incidents as inc

# The tick runs every 15 s; a view or a list of silences older than four of them says nothing about now.
MAX_VIEW_AGE_SECONDS = 60.0
MAX_SILENCES_AGE_SECONDS = 60.0
RATE_WINDOW_SECONDS = 3600.0
# No target is scraped so seldom that its newest reading is older than this and still counts as fresh.
RECENT_SECONDS = 300.0
# More names than this in the numbers of an answer help nobody.
_MAX_NAMES = 20


@dataclass(frozen=True, slots=True)
class Ran:
    """A run that has ended or acted, with seconds since it last did; never negative, however the clock was set."""

    run: runs.Run
    seconds_ago: float


@dataclass(frozen=True, slots=True)
class Context:
    """Everything the gates may know, read at one instant.

    `unfinished` and `history` leave out the run being asked about; `recent` are runs of the service that ended lately,
    whatever their runbook; `tried` those of the incident, None where what is stored cannot be read. `is_reported` says
    whether some source still reports the incident. `is_acting` is true right before an effect, false at planning;
    `has_acted` when that run already had an effect; `step` is where it stands.

    `claims` are what others own or hold of what the plan touches, None where that could not be told. `outlook` is the
    newest one of the service's capacity, None where nobody plans it. `breaker` is None where it never tripped.
    `approvals` are what people answered, `skipped` the steps that the run left out.
    """

    now: datetime
    service: services.Service
    view: windows.FleetView | None
    paused: Mapping[str, str] = field(default_factory=dict[str, str])
    incident: inc.Incident | None = None
    is_reported: bool = True
    silences: alerting.Silences | None = None
    unfinished: tuple[runs.Run, ...] = ()
    history: tuple[Ran, ...] = ()
    recent: tuple[runs.Run, ...] = ()
    has_acted: bool = False
    is_acting: bool = False
    step: int = 0
    tried: tuple[runs.Run, ...] | None = ()
    breaker: breakers.Breaker | None = None
    breaker_limits: breakers.Limits = field(default_factory=breakers.Limits)
    claims: tuple[owners.Claim, ...] | None = ()
    outlook: capacity.Outlook | None = None
    approvals: tuple[apr.Approval, ...] = ()
    skipped: frozenset[str] = frozenset()


def passes(gate: outcomes.Gate, sentence: str, **numbers: outcomes.Json) -> outcomes.GateAnswer:
    """Return a yes with its numbers."""
    return outcomes.GateAnswer(gate, True, sentence, numbers)


def refuses(gate: outcomes.Gate, sentence: str, hint: str, **numbers: outcomes.Json) -> outcomes.GateAnswer:
    """Return a no with its numbers, and what would change it."""
    return outcomes.GateAnswer(gate, False, sentence, numbers, hint)


def is_automatic(plan: plans.Plan) -> bool:
    """Say whether a policy asks, and no person."""
    return plan.request.policy is not None


def is_risky(plan: plans.Plan) -> bool:
    """True when being wrong about the state of the fleet would cost data or capacity."""
    return plan.blast.is_destructive or bool(plan.blast.unavailable)


def view_of(plan: plans.Plan, context: Context) -> windows.ServiceView | None:
    """Return what was seen of the plan's service."""
    return None if context.view is None else context.view.services.get(plan.request.service)


def known_out(view: windows.ServiceView | None) -> frozenset[str]:
    """Return the nodes that are known to be down or kept out: nothing is taken from them any more."""
    return frozenset() if view is None else frozenset(name for name, node in view.nodes.items() if node.is_out)


def taken_elsewhere(plan: plans.Plan, context: Context) -> frozenset[str]:
    """Return the nodes that other unfinished runs of the service take out of service."""
    return frozenset(
        name
        for run in context.unfinished
        if run.plan.request.service == plan.request.service and not is_asking(run)
        for name in run.plan.blast.unavailable
    )


def is_asking(run: runs.Run) -> bool:
    """Say whether a run waits for people before its first effect: it takes nothing yet, and is asked again before it does.

    What it would take must not keep others from being repaired for as long as nobody answers.
    """
    return run.acted_at is None and run.question is not None


def allowed_unavailable(limit: policies.MaxUnavailable, units: int) -> int:
    """Return how many of `units` serving units may be unavailable at once.

    >>> allowed_unavailable(policies.MaxUnavailable(percent=10, nodes=3), 25)
    2
    """
    return min(limit.nodes, max(1, math.floor(limit.percent * units / 100)))


def names(found: Sequence[str] | frozenset[str]) -> list[outcomes.Json]:
    """Return names as a bounded list for the numbers of an answer."""
    return [*sorted(found)[:_MAX_NAMES]]


def at_clock(instant: datetime) -> str:
    """Return an instant as sentences say it."""
    return f"{instant:%Y-%m-%d %H:%M:%S} UTC"
