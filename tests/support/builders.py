"""Values for tests: everything has a default, so that a test names only what matters to it."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from controlplane.domain import (
    alerting,
    capacity,
    forecasts,
    incidents,
    outcomes,
    plans,
    policies,
    runs,
    services,
    windows,
)
from controlplane.domain import findings as fnd
from controlplane.domain import signals as sig
from tests.support.clock import START

SERVICE = "chat"
NODE = "node-a"
HEALTHY = {"cache_wrong_ratio": 0.0, "success_ratio": 1.0, "latency_p99": 0.2, "queue_depth": 0.0}


def service(name: str = SERVICE, *, minimum: int = 0, maximum: int = 8, **fields: Any) -> services.Service:
    """A service with one pool."""
    pools = (services.Pool("hot", "local", minimum, maximum),)
    defaults: dict[str, Any] = {"name": name, "profile": "dsctl", "selector": {"service": name}, "pools": pools}
    return services.Service(**defaults | fields)


def value(number: float, at: datetime = START) -> sig.Value:
    return sig.Value(number, at)


def unknown(reason: sig.UnknownReason = sig.UnknownReason.STALE) -> sig.Unknown:
    return sig.Unknown(reason)


def readings(values: Mapping[str, float | sig.Reading], at: datetime = START) -> dict[str, sig.Reading]:
    """Readings from plain numbers; a reading that is one already stays."""
    return {name: sig.Value(one, at) if isinstance(one, int | float) else one for name, one in values.items()}


def node(
    name: str = NODE,
    *,
    service: str = SERVICE,
    up: bool | sig.Unknown = True,
    at: datetime = START,
    **signals: float | sig.Reading,
) -> windows.NodeView:
    """A node; healthy signals unless told otherwise."""
    is_up = up if isinstance(up, sig.Unknown) else sig.Value(float(up), at)
    return windows.NodeView(name, service, f"{name}:8000", is_up, readings({**HEALTHY, **signals}, at))


def view(
    *nodes: windows.NodeView,
    at: datetime = START,
    service: str = SERVICE,
    signals: Mapping[str, float | sig.Reading] | None = None,
) -> windows.FleetView:
    """A fleet of one service; without nodes it has node-a and node-b, both healthy."""
    found = nodes or (node("node-a", service=service, at=at), node("node-b", service=service, at=at))
    of_service = readings({**HEALTHY, **(signals or {})}, at)
    return windows.FleetView(at, {service: windows.ServiceView(service, of_service, {one.node: one for one in found})})


def finding(**fields: Any) -> fnd.Finding:
    """Wrong answers from the cache of node-a, said by an alert."""
    defaults: dict[str, Any] = {
        "kind": fnd.FaultClass.CACHE,
        "service": SERVICE,
        "node": NODE,
        "signal": "cache_wrong_ratio",
        "severity": fnd.Severity.CRITICAL,
        "source": "alert:CacheWrongAnswers",
        "at": START,
        "summary": "the cache gives wrong answers",
        "observed": 0.4,
    }
    return fnd.Finding(**defaults | fields)


def alert(name: str = "CacheWrongAnswers", **fields: Any) -> alerting.Alert:
    """The alert behind `finding()`; `labels` are added to its own, an empty one is removed."""
    labels = {
        "alertname": name,
        "service": SERVICE,
        "node": NODE,
        "severity": "critical",
        alerting.FAULT_LABEL: "cache",
        alerting.SIGNAL_LABEL: "cache_wrong_ratio",
        **fields.pop("labels", {}),
    }
    defaults: dict[str, Any] = {
        "fingerprint": f"{name}-{labels['service']}-{labels['node']}",
        "status": alerting.AlertStatus.FIRING,
        "labels": {key: text for key, text in labels.items() if text},
        "annotations": {"summary": "the cache gives wrong answers", "observed": "0.4"},
        "starts_at": START,
    }
    return alerting.Alert(**defaults | fields)


def incident(id: str = "inc_1", **fields: Any) -> incidents.Incident:  # noqa: A002 - the field's name
    """An open incident about `finding()`."""
    found = fields.pop("finding", None) or finding()
    defaults: dict[str, Any] = {
        "id": id,
        "key": incidents.IncidentKey(found.service, found.kind, found.node),
        "state": incidents.IncidentState.OPEN,
        "severity": found.severity,
        "opened_at": START,
        "updated_at": START,
        "opened_by": found.source,
        "finding": found,
        "sources": (found.source,),
    }
    return incidents.Incident(**defaults | fields)


def policy(name: str = "cache-poisoned", **fields: Any) -> policies.Policy:
    """Flush the cache of what gives wrong answers, in mode auto."""
    defaults: dict[str, Any] = {
        "name": name,
        "services": (SERVICE,),
        "when": 'finding.signal == "cache_wrong_ratio"',
        "runbook": "flush-cache",
        "mode": policies.Mode.AUTO,
    }
    return policies.Policy(**defaults | fields)


def request(**fields: Any) -> plans.PlanRequest:
    """What `policy()` asks for `incident()`."""
    defaults: dict[str, Any] = {
        "runbook": "flush-cache",
        "service": SERVICE,
        "node": NODE,
        "requested_by": "policy:cache-poisoned",
        "incident_id": "inc_1",
        "policy": "cache-poisoned",
    }
    return plans.PlanRequest(**defaults | fields)


def manual(**fields: Any) -> plans.PlanRequest:
    """The same, asked for by a person."""
    return request(**{"requested_by": "ada", "incident_id": None, "policy": None} | fields)


def plan(request_: plans.PlanRequest | None = None, **fields: Any) -> plans.Plan:
    """A plan with one flush step that takes nothing out of service."""
    made = request_ or request()
    defaults: dict[str, Any] = {
        "id": "plan_1",
        "created_at": START,
        "request": made,
        "runbook_digest": "sha256:book",
        "runbook_source": "",
        "steps": (plans.PlannedStep("flush", plans.StepKind.ACTION, 10.0, action="flush_cache"),),
        "changes": (),
        "blast": plans.BlastRadius(touched=(made.node,) if made.node else ()),
        "verify": plans.VerifySpec(("cache_wrong_ratio",), within_seconds=120.0, hold_seconds=30.0),
        "on_failure": (plans.FailureEdge(plans.EdgeKind.ESCALATE, "cache-team"),),
        "hash": f"hash-of-{made.runbook}-{made.service}-{made.node}",
    }
    return plans.Plan(**defaults | fields)


def run(id: str = "run_1", **fields: Any) -> runs.Run:  # noqa: A002 - the field's name
    """A run in flight that has not acted yet."""
    defaults: dict[str, Any] = {
        "id": id,
        "plan": plan(),
        "state": outcomes.RunState.RUNNING,
        "step": 0,
        "created_at": START,
    }
    return runs.Run(**defaults | fields)


def ended_run(id: str = "run_1", *, at: datetime = START, **fields: Any) -> runs.Run:  # noqa: A002 - the field's name
    """A run that flushed and was seen to recover."""
    defaults: dict[str, Any] = {
        "state": outcomes.RunState.SUCCEEDED,
        "step": 1,
        "created_at": at,
        "acted_at": at,
        "ended_at": at,
        "verdict": outcomes.Verdict.RECOVERED,
        "sentence": "recovered: cache_wrong_ratio is 0",
    }
    return run(id, **defaults | fields)


def series(values: Sequence[float], *, start: datetime = START, step_seconds: float = 5.0) -> windows.Series:
    """Samples at a steady step."""
    first = start.timestamp()
    return windows.Series(tuple(first + step_seconds * number for number in range(len(values))), tuple(values))


def window(nodes: Mapping[str, Mapping[str, windows.Series]] | None = None, **fields: Any) -> windows.Window:
    """A window over the given series."""
    defaults: dict[str, Any] = {
        "service": SERVICE,
        "start": START,
        "end": START,
        "step_seconds": 5.0,
        "service_signals": {},
        "nodes": nodes or {},
    }
    return windows.Window(**defaults | fields)


def silence(*matchers: tuple[str, str, bool, bool], at: datetime = START, **fields: Any) -> alerting.Silence:
    """A silence that lasts another hour; without matchers it is about node-a."""
    defaults: dict[str, Any] = {
        "id": "sil_1",
        "matchers": matchers or (("node", NODE, False, True),),
        "ends_at": at + timedelta(hours=1),
        "created_by": "ada",
        "comment": "maintenance",
    }
    return alerting.Silence(**defaults | fields)


def capacity_plan(**fields: Any) -> capacity.CapacityPlan:
    defaults: dict[str, Any] = {
        "service": SERVICE,
        "at": START,
        "present": 3,
        "ready": 3,
        "desired": 3,
        "reactive": 3,
        "predicted": None,
        "unmet": 0,
        "pools": (capacity.PoolPlan("hot", 3, 3, 2, 8, 8),),
        "needs": (capacity.Need("arrivals", 3, "30 requests/s with 10% headroom at 11 a node", {"rps": 30.0}),),
        "gate": capacity.Gate(False, "closed: nothing is foretold"),
        "horizon_seconds": 60.0,
        "node_rps": 11.0,
        "demand_rps": 30.0,
        "sentence": "needs 3 nodes; 3 are there, 3 ready",
    }
    return capacity.CapacityPlan(**defaults | fields)


def forecast(**fields: Any) -> forecasts.Forecast:
    defaults: dict[str, Any] = {
        "service": SERVICE,
        "made_at": START,
        "fitted_at": START,
        "start": START.timestamp(),
        "step_seconds": 60.0,
        "p10": (8.0, 30.0),
        "p50": (10.0, 35.0),
        "p90": (12.0, 40.0),
        "last": 10.0,
        "accuracy": forecasts.Accuracy(60.0, 40, 0.1, 0.01, 0.8, 0.2, 0.4),
        "weights": {"prophet": 0.7, "last_value": 0.3},
    }
    return forecasts.Forecast(**defaults | fields)
