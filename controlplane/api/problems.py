"""Errors as RFC 9457 problem details: one table of kinds, and the translation of every exception into one.

Called by the route class and by the handlers that `app` registers. Never repeats a secret or the input's value.
Pure functions.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from fastapi import exceptions, responses
from starlette.exceptions import HTTPException

from controlplane.domain import errors, outcomes, remediation

# A body of a megabyte can be wrong in a hundred thousand places; nobody reads more than the first few.
_MAX_COMPLAINTS = 20


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of problem; `slug` is stable, scripts may compare it."""

    slug: str
    status: int
    title: str

    @property
    def type(self) -> str:
        """The URI that names the kind."""
        return f"urn:dsctl:problem:{self.slug}"


MALFORMED = Kind("malformed", 400, "The request cannot be read")
UNAUTHORIZED = Kind("unauthorized", 401, "No valid token")
FORBIDDEN = Kind("forbidden", 403, "The token's role is not enough")
CROSS_SITE = Kind("cross-site", 403, "A page of another site sent this request")
NOT_FOUND = Kind("not-found", 404, "There is no such thing")
METHOD = Kind("method-not-allowed", 405, "The method does not fit the path")
SLOW_BODY = Kind("slow-body", 408, "The body did not arrive in time")
CONFLICT = Kind("conflict", 409, "The state moved on")
REFUSED = Kind("refused", 409, "The guard refused")
NEEDS_HUMAN = Kind("needs-human", 409, "A person has to look first")
TOO_LARGE = Kind("too-large", 413, "The body is too large")
MEDIA_TYPE = Kind("media-type", 415, "The body is of another kind")
INVALID = Kind("invalid", 422, "The request asks for something that cannot be")
KEY_REUSED = Kind("idempotency-key-reused", 422, "The idempotency key belongs to another request")
INTERNAL = Kind("internal", 500, "An error of ours")
UNAVAILABLE = Kind("unavailable", 503, "Not able to answer now")
OVERLOADED = Kind("overloaded", 503, "Too much at once")

KINDS = (
    MALFORMED,
    UNAUTHORIZED,
    FORBIDDEN,
    CROSS_SITE,
    NOT_FOUND,
    METHOD,
    SLOW_BODY,
    CONFLICT,
    REFUSED,
    NEEDS_HUMAN,
    TOO_LARGE,
    MEDIA_TYPE,
    INVALID,
    KEY_REUSED,
    INTERNAL,
    UNAVAILABLE,
    OVERLOADED,
)

# The first match counts, so that a special error stands before the one it derives from.
_KIND_OF_ERROR: tuple[tuple[type[errors.DsctlError], Kind], ...] = (
    (errors.OverloadedError, OVERLOADED),
    (errors.RetryLaterError, UNAVAILABLE),
    (errors.InvalidInputError, INVALID),
    (errors.NotFoundError, NOT_FOUND),
    (errors.ConflictError, CONFLICT),
    (errors.GiveUpError, INVALID),
    (errors.NeedsHumanError, NEEDS_HUMAN),
    (errors.LostLeaseError, UNAVAILABLE),
)


class ProblemError(HTTPException):
    """Raised by the API's own code. Derives from HTTPException, which FastAPI lets through while it reads a body."""

    def __init__(self, kind: Kind, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(kind.status, detail, headers=dict(headers) if headers else None)
        self.kind = kind


class RefusedError(HTTPException):
    """Raised by the route that submits runs when the guard says no."""

    def __init__(self, refused: remediation.Refused) -> None:
        super().__init__(REFUSED.status)
        self.refused = refused


def response(
    kind: Kind, detail: str, *, headers: Mapping[str, str] | None = None, **more: outcomes.Json
) -> responses.Response:
    """Return the problem as an HTTP response; `more` are members beside the standard ones."""
    body = {"type": kind.type, "title": kind.title, "status": kind.status, "detail": detail, **more}
    return responses.Response(
        json.dumps(body),  # pure ASCII: a lone surrogate in a key of the sender's must not break the answer
        kind.status,
        headers={"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"} | dict(headers or {}),
        media_type="application/problem+json",
    )


def of_error(error: errors.DsctlError) -> responses.Response:
    """Translate an error of the house."""
    kind = next((kind for cls, kind in _KIND_OF_ERROR if isinstance(error, cls)), INTERNAL)
    headers: dict[str, str] = {}
    if kind.status == UNAVAILABLE.status:
        delay = error.delay_seconds if isinstance(error, errors.RetryLaterError) else 1.0
        headers["Retry-After"] = str(max(1, math.ceil(delay)))
    place = error.place if isinstance(error, errors.InvalidInputError) else ""
    return response(kind, str(error), headers=headers, place=place)


def of_refusal(refused: remediation.Refused) -> responses.Response:
    """Say which gate refused, with its numbers; the refusal itself is stored under `decision_id`."""
    answers: list[outcomes.Json] = [
        {"gate": a.gate, "is_passed": a.is_passed, "sentence": a.sentence, "numbers": dict(a.numbers), "hint": a.hint}
        for a in refused.guard.answers
    ]
    return response(
        REFUSED,
        f"{refused.plan.request.runbook} on {refused.plan.target} was refused: {refused.guard.sentence}",
        place=refused.plan.target,
        gate=refused.guard.gate,
        answers=answers,
        decision_id=refused.decision_id,
        plan_hash=refused.plan.hash,
    )


def of_http(error: HTTPException) -> responses.Response:
    """Translate what the framework or our own edge raised."""
    if isinstance(error, RefusedError):
        return of_refusal(error.refused)
    if isinstance(error, ProblemError):
        return response(error.kind, error.detail, headers=error.headers)
    texts = {
        404: (NOT_FOUND, "No such path; see /api/v1/openapi.json."),
        405: (METHOD, "This path does not answer that method; see /api/v1/openapi.json."),
    }
    kind, detail = texts.get(error.status_code, (MALFORMED, str(error.detail)))
    return response(kind, detail, headers=error.headers)


def of_validation(error: exceptions.RequestValidationError) -> responses.Response:
    """List complaints with their places; values are not repeated, they may be secrets."""
    complaints = cast("Sequence[Mapping[str, Any]]", error.errors())
    listed = [(_place(c["loc"]), str(c["msg"]).removeprefix("Value error, ")) for c in complaints[:_MAX_COMPLAINTS]]
    detail = "; ".join(f"{place}: {text}" for place, text in listed)
    if len(complaints) > len(listed):
        detail += f"; and {len(complaints) - len(listed)} more"
    is_syntax = any(c["type"] == "json_invalid" for c in complaints)
    return response(
        MALFORMED if is_syntax else INVALID,
        detail,
        place=listed[0][0] if listed else "",
        errors=[{"place": place, "detail": text} for place, text in listed],
    )


def of_bug() -> responses.Response:
    """Answer for an exception nobody translated: the log has the details, the caller does not need them.

    The server closes the connection after it; saying so keeps clients from sending their next request into it.
    """
    said = "Something failed inside dsctl; its log has the traceback."
    return response(INTERNAL, said, headers={"Connection": "close"})


def _place(path: Sequence[str | int]) -> str:
    """Return a path as people write it.

    >>> _place(("body", "inputs", "replicas"))
    'inputs.replicas'
    """
    inner = path[1:] if path and path[0] in {"body", "query", "path", "header"} and len(path) > 1 else path
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in inner).removeprefix(".")
