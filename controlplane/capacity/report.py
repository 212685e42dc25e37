"""Says what a capacity plan means for incidents: too few nodes, too many, or that nobody can tell.

Called by the tick. Two sources speak: `prophet` for nodes that only the forecast calls for, `capacity` for everything
that is seen now. An incident that one of them opened becomes quiet when the nodes are there, and stays open while
neither can speak. Pure.
"""

from collections.abc import Iterator, Sequence

from controlplane import phrases
from controlplane.domain import capacity
from controlplane.domain import findings as fnd

CAPACITY, PROPHET = "capacity", "prophet"
_SIGNAL = "request_rate"


def findings_of(plan: capacity.CapacityPlan | capacity.NoPlan) -> Sequence[fnd.Finding | fnd.NotReady]:
    """Return what the plan reports; nothing when there are as many nodes as there should be.

    The forecast and what is seen may both call for nodes; then both say so.
    """
    if isinstance(plan, capacity.NoPlan):
        reason = fnd.NotReadyReason.SIGNAL_UNKNOWN
        return [fnd.NotReady(source, plan.service, reason, plan.sentence) for source in (CAPACITY, PROPHET)]
    if plan.desired > plan.present:
        severity = fnd.Severity.CRITICAL if plan.unmet else fnd.Severity.WARNING
        return [_finding(plan, fnd.FaultClass.SURGE, severity, source) for source in _sources(plan)]
    if plan.desired < plan.present:
        return [_finding(plan, fnd.FaultClass.SURPLUS, fnd.Severity.INFO, CAPACITY)]
    return []


def _sources(plan: capacity.CapacityPlan) -> Iterator[str]:
    if plan.is_predicted:
        yield PROPHET
    if not plan.is_predicted or plan.reactive > plan.present:
        yield CAPACITY


def _finding(plan: capacity.CapacityPlan, kind: fnd.FaultClass, severity: fnd.Severity, source: str) -> fnd.Finding:
    """Numbers that the plan was made without are left out: nodes may be added by the queue alone."""
    is_known = any(need.name == "arrivals" for need in plan.needs)
    return fnd.Finding(
        kind=kind,
        service=plan.service,
        node="",
        signal=_SIGNAL,
        severity=severity,
        source=source,
        at=plan.at,
        summary=f"{plan.service} has {phrases.count(plan.present, 'node')} and should have {plan.desired}: {plan.sentence}",
        observed=plan.demand_rps if is_known else None,
        expected=plan.present * plan.node_rps if is_known else None,
    )
