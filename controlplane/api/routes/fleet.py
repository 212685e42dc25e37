"""Routes that read: incidents, decisions, nodes, and which signals can be read at all. Handlers only."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import fastapi

from controlplane.api import asks, guarded, wire
from controlplane.api.rights import Right
from controlplane.domain import errors, incidents, windows
from controlplane.domain import signals as sig

Limit = Annotated[int, fastapi.Query(ge=1, le=1000)]


async def list_incidents(
    home: guarded.House,
    service: asks.Name | None = None,
    state: incidents.IncidentState | None = None,
    limit: Limit = 100,
) -> wire.Items[wire.Incident]:
    """Incidents, newest first."""
    found = await home.incidents.find(service=service, state=state, limit=limit + 1)
    return wire.Items(items=[wire.Incident.of(one) for one in found[:limit]], truncated=len(found) > limit)


async def get_incident(home: guarded.House, incident_id: str) -> wire.Incident:
    """One incident."""
    return wire.Incident.of(await home.incidents.get(incident_id))


async def get_incident_timeline(home: guarded.House, incident_id: str) -> wire.Items[wire.TimelineEntry]:
    """What happened to an incident, in order."""
    await home.incidents.get(incident_id)  # an unknown incident is an error, not an empty timeline
    notes = await home.incidents.timeline(incident_id)
    return wire.Items(items=[wire.TimelineEntry(at=at, note=note) for at, note in notes])


async def list_decisions(
    home: guarded.House, incident_id: asks.Name | None = None, limit: Limit = 100
) -> wire.Items[wire.Decision]:
    """Answers of decide and guard, newest first: why something was done, and why not."""
    found = await home.decisions.find(incident_id=incident_id, limit=limit + 1)
    items = [wire.Decision.model_validate(one) for one in found[:limit]]
    return wire.Items(items=items, truncated=len(found) > limit)


async def list_nodes(home: guarded.House, service: asks.Name | None = None) -> wire.Items[wire.Node]:
    """The newest view of every node; 503 before the first look at the fleet."""
    view = _view(home.ticks.view())
    nodes = [node for one in view.services.values() for node in one.nodes.values()]
    kept = [node for node in nodes if service is None or node.service == service]
    return wire.Items(items=[wire.Node.of(node, view.at) for node in kept])


async def get_node(home: guarded.House, service: str, node: str) -> wire.Node:
    """The newest view of one node."""
    view = _view(home.ticks.view())
    found = view.services.get(service)
    if found is None:
        raise errors.NotFoundError(f"no service {service!r}; known are {', '.join(sorted(view.services)) or 'none'}")
    if node not in found.nodes:
        known = ", ".join(sorted(found.nodes)) or "none"
        raise errors.NotFoundError(f"service {service} has no node {node!r}; known are {known}")
    return wire.Node.of(found.nodes[node], view.at)


async def list_signal_coverage(home: guarded.House) -> wire.Items[wire.SignalCoverage]:
    """Which signals of each service are found, stale or missing; 503 before the first look at the fleet."""
    view = _view(home.ticks.view())
    return wire.Items(items=[row for one in view.services.values() for row in coverage(one)])


def coverage(view: windows.ServiceView) -> list[wire.SignalCoverage]:
    """Judge each signal of a service by its newest readings, on the nodes or, where no node has it, on the service."""
    names = sorted({*view.signals, *(name for node in view.nodes.values() for name in node.signals)})
    return [_judge(view.service, name, _readings(view, name)) for name in names]


def _readings(view: windows.ServiceView, name: str) -> Mapping[str, sig.Reading]:
    on_nodes = {node.node: node.signals[name] for node in view.nodes.values() if name in node.signals}
    return on_nodes or {"the service": view.signals[name]}


def _judge(service: str, name: str, readings: Mapping[str, sig.Reading]) -> wire.SignalCoverage:
    unknown = {where: reading for where, reading in readings.items() if isinstance(reading, sig.Unknown)}
    found = len(readings) - len(unknown)
    detail = "; ".join(f"{where}: {reading}" for where, reading in sorted(unknown.items()))
    return wire.SignalCoverage(
        service=service,
        signal=name,
        state=_state(found, list(unknown.values())),
        found=found,
        expected=len(readings),
        detail=detail,
    )


# What one unknown reading says about its signal; the first of these states that occurs is the most telling.
_STATES = {
    sig.UnknownReason.SOURCE_UNREACHABLE: wire.SignalState.UNREACHABLE,
    sig.UnknownReason.NO_SERIES: wire.SignalState.MISSING,
    sig.UnknownReason.NOT_FINITE: wire.SignalState.MISSING,
    sig.UnknownReason.STALE: wire.SignalState.STALE,
    sig.UnknownReason.TARGET_DOWN: wire.SignalState.STALE,
    sig.UnknownReason.NOT_IN_PROFILE: wire.SignalState.UNMAPPED,
}


def _state(found: int, unknown: Sequence[sig.Unknown]) -> wire.SignalState:
    if not unknown:
        return wire.SignalState.FOUND
    if found:
        return wire.SignalState.PARTIAL
    given = {reading.reason for reading in unknown}
    return next(state for reason, state in _STATES.items() if reason in given)


def _view(view: windows.FleetView | None) -> windows.FleetView:
    if view is None:
        raise errors.RetryLaterError("the fleet has not been looked at yet; ask again after the first tick")
    return view


ROUTES = (
    guarded.Route("GET", "/api/v1/incidents", Right.VIEWER, list_incidents),
    guarded.Route("GET", "/api/v1/incidents/{incident_id}", Right.VIEWER, get_incident),
    guarded.Route("GET", "/api/v1/incidents/{incident_id}/timeline", Right.VIEWER, get_incident_timeline),
    guarded.Route("GET", "/api/v1/decisions", Right.VIEWER, list_decisions),
    guarded.Route("GET", "/api/v1/nodes", Right.VIEWER, list_nodes),
    guarded.Route("GET", "/api/v1/nodes/{service}/{node}", Right.VIEWER, get_node),
    guarded.Route("GET", "/api/v1/signals", Right.VIEWER, list_signal_coverage),
)
