"""Routes of policies: how far each may go and why, what its record is, and lifting what is held against it. Handlers only."""

from controlplane.api import asks, guarded, wire, wire_policies
from controlplane.api.rights import Right
from controlplane.domain import errors


async def list_policies(home: guarded.House) -> wire.Items[wire_policies.Policy]:
    """Every policy in the order in which they are asked: its modes, its record, its demotion, what is proposed."""
    found = await home.trustees.standings()
    return wire.Items(items=[wire_policies.Policy.of(standing) for standing in found])


async def get_policy(home: guarded.House, name: str) -> wire_policies.Policy:
    """One policy with its record."""
    found = {standing.policy.name: standing for standing in await home.trustees.standings()}
    if name not in found:
        raise errors.NotFoundError(f"no policy is named {name!r}; known are {', '.join(found) or 'none'}")
    return wire_policies.Policy.of(found[name])


async def reset_policy(
    home: guarded.House, who: guarded.Principal, name: str, body: asks.ResetRequest
) -> wire_policies.Policy:
    """Lift a policy's demotion and count its runs anew from now on; kept with the name of who did it and the reason."""
    return wire_policies.Policy.of(await home.trustees.reset(name, who=who.name, why=body.reason))


async def get_runbook_ledger(home: guarded.House, name: str) -> wire_policies.RunbookLedger:
    """The record of a runbook: in all, by service, and by who asked for it."""
    runbook = home.runbooks.get(name).name
    return wire_policies.RunbookLedger.of(runbook, await home.trustees.book(runbook))


ROUTES = (
    guarded.Route("GET", "/api/v1/policies", Right.VIEWER, list_policies),
    guarded.Route("GET", "/api/v1/policies/{name}", Right.VIEWER, get_policy),
    guarded.Route("POST", "/api/v1/policies/{name}/reset", Right.OPERATOR, reset_policy),
    guarded.Route("GET", "/api/v1/runbooks/{name}/ledger", Right.VIEWER, get_runbook_ledger),
)
