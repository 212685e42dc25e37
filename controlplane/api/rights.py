"""Who may do what: roles of tokens, rights of routes, and the one check between them. Pure but for the token lookup.

Roles are a ladder (viewer, operator, approver, admin), and `events` stands beside it: a webhook token can post
events and do nothing else, and nobody else can post them.
"""

from enum import StrEnum

from controlplane.api import house, problems


class Role(StrEnum):
    """What a token may be made for."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    ADMIN = "admin"
    EVENTS = "events"


class Right(StrEnum):
    """What a route asks for."""

    PUBLIC = "public"
    TOKEN = "token"  # noqa: S105  # the word, not a secret: any valid token will do
    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    ADMIN = "admin"
    EVENTS = "events"


_LADDER = (Role.VIEWER, Role.OPERATOR, Role.APPROVER, Role.ADMIN)


def is_granted(role: str, right: Right) -> bool:
    """Say whether a token of `role` has `right`; a role nobody knows has none.

    >>> is_granted("approver", Right.OPERATOR), is_granted("events", Right.VIEWER), is_granted("admin", Right.EVENTS)
    (True, False, False)
    """
    if right in {Right.PUBLIC, Right.TOKEN}:
        return True
    if role not in _LADDER or right not in _LADDER:
        return role == right == Role.EVENTS
    return _LADDER.index(Role(role)) >= _LADDER.index(Role(right))


async def admit(tokens: house.Tokens, authorization: str | None, right: Right) -> house.Principal | None:
    """Return who asks, or None on a public route; raises ProblemError (401, 403) for who may not."""
    if right is Right.PUBLIC:
        return None
    principal = await tokens.verify(_bearer(authorization))
    if principal is None:
        raise _unauthorized("The token is unknown, revoked or expired; ask an admin for a new one.")
    if not is_granted(principal.role, right):
        raise problems.ProblemError(
            problems.FORBIDDEN,
            f"{principal.name} has the role {principal.role}, and this needs {right}; use a token of that role.",
        )
    return principal


def _bearer(authorization: str | None) -> str:
    scheme, _, secret = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise _unauthorized("Send a token in the header `Authorization: Bearer TOKEN`.")
    return secret.strip()


def _unauthorized(detail: str) -> problems.ProblemError:
    return problems.ProblemError(problems.UNAUTHORIZED, detail, headers={"WWW-Authenticate": "Bearer"})
