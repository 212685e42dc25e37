"""Which nodes an action works on. Called by the actions; reads the directory only."""

from actions import api
from actions.node import directory
from controlplane.domain import errors, plans


def nodes(where: directory.NodeDirectory, scope: api.Scope) -> tuple[str, ...]:
    """Return the named node, or every node of the service; raises NotFoundError when there is none."""
    known = where.nodes(scope.service)
    if scope.node:
        return (one(where, scope, "this action"),)
    if not known:
        raise errors.NotFoundError(f"service {scope.service} has no nodes; check its targets")
    return tuple(known)


def one(where: directory.NodeDirectory, scope: api.Scope, action: str) -> str:
    """Return the named node; raises InvalidInputError when none is named, NotFoundError when it is unknown."""
    if not scope.node:
        raise errors.InvalidInputError(f"{action} works on one node; name it with --node", place="node")
    where.node_url(scope.service, scope.node)
    return scope.node


def still_serving(where: directory.NodeDirectory, scope: api.Scope) -> plans.BlastRadius:
    """Return the blast radius of an action that leaves its nodes in service."""
    return plans.BlastRadius(touched=nodes(where, scope))


def out_of_service(where: directory.NodeDirectory, scope: api.Scope, action: str) -> plans.BlastRadius:
    """Return the blast radius of an action that takes its one node out of service."""
    node = one(where, scope, action)
    return plans.BlastRadius(touched=(node,), unavailable=(node,), is_destructive=True)
