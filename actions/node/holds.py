"""Rules that the overriding actions share: never take over what somebody else holds, and look before repeating.

Called by the actions on one node. Concurrency: async where it asks a node, otherwise pure.
"""

from actions import api
from actions.node import admin
from controlplane.domain import errors


async def state_for(nodes: admin.NodeAdmin, context: api.ActionContext, kind: str) -> admin.NodeState:
    """Return the node's state before an override of a kind.

    Raises ConflictError when an override of that kind is in force that this very step did not make: replacing it
    would end it early, and undoing ours would undo somebody else's.
    """
    scope = context.scope
    state = await nodes.state(scope.service, scope.node)
    lease = state.lease(kind)
    is_held = lease is not None or (kind == "drain" and state.is_draining)
    if is_held and await nodes.operation(scope.service, scope.node, context.idempotency_key) is None:
        ends = f"; it ends in {lease.expires_in_seconds:.0f} s" if lease else "; it has no end"
        raise errors.ConflictError(f"{scope.service}/{scope.node} is under a {kind} of somebody else{ends}")
    return state


async def probe(nodes: admin.NodeAdmin, context: api.ActionContext) -> api.Probed:
    """Ask the node whether it remembers the step's key."""
    known = await nodes.operation(context.scope.service, context.scope.node, context.idempotency_key)
    return remembered(known, context.scope.node)


def remembered(known: admin.Operation | None, who: str) -> api.Probed:
    """Turn what a process remembers into a probe's answer."""
    if known is None:
        return api.NotApplied(f"{who} does not know this call; it can be sent again")
    return api.Applied(api.ActionResult(f"{who} remembers {known.operation} (boot {known.boot_id})", known.result))
