"""Routes that read: incidents, decisions, nodes, capacity, and which signals can be read at all. Handlers only."""

from typing import Annotated

import fastapi

from controlplane.api import asks, guarded, wire, wire_capacity
from controlplane.api.rights import Right
from controlplane.domain import errors, incidents, windows
from controlplane.observe import coverage

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
    home: guarded.House,
    incident_id: asks.Name | None = None,
    run_id: asks.Name | None = None,
    service: asks.Name | None = None,
    node: asks.Name | None = None,
    limit: Limit = 100,
) -> wire.Items[wire.Decision]:
    """Answers of decide and guard, newest first: why something was done, and why not. `node` goes with `service`."""
    if node is not None and service is None:
        raise errors.InvalidInputError("names a node of which service? give service, too", place="node")
    target = None if node is None else f"{service}/{node}"
    found = await home.decisions.find(
        incident_id=incident_id, run_id=run_id, service=service, target=target, limit=limit + 1
    )
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
    rows = [row for one in view.services.values() for row in coverage.of(one)]
    return wire.Items(items=[wire.SignalCoverage.model_validate(row) for row in rows])


async def list_outlooks(home: guarded.House, service: asks.Name | None = None) -> wire.Items[wire_capacity.Outlook]:
    """What is foretold and planned for each service whose nodes dsctl may start; 503 before the first look."""
    _view(home.ticks.view())
    found = home.ticks.outlooks()
    if service is not None and service not in found:
        known = ", ".join(sorted(found)) or "none"
        raise errors.NotFoundError(f"capacity of service {service!r} is not planned; it is for {known}")
    kept = [one for name, one in sorted(found.items()) if service in (None, name)]
    return wire.Items(items=[wire_capacity.Outlook.of(one) for one in kept])


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
    guarded.Route("GET", "/api/v1/capacity", Right.VIEWER, list_outlooks),
)
