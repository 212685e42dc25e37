"""How a browser comes in: the API's rights, asked for the token that its session stands for, and answers it can show.

Every page is a `PageRoute`, which is the API's guarded route with three differences: the token comes from a cookie's
session when there is no header, errors become pages, and each answer carries the policy that lets a page load nothing
but this server's own files. Async; one request per task.
"""

import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, cast
from urllib.parse import parse_qsl, quote

import fastapi
from fastapi import exceptions, responses

from controlplane.api import guarded, problems
from controlplane.console import rendering, sessions, stream
from controlplane.domain import errors

COOKIE = "dsctl_session"
SIGN_IN = "/sign-in"
# No inline script or style, no foreign address, no framing.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_MAX_FIELDS = 8
_EVENT_STREAM = "text/event-stream"

_Handler = Callable[[fastapi.Request], Coroutine[Any, Any, fastapi.Response]]
# What a route may raise that has a problem; everything else is a bug, and the application answers it.
_TOLD = (problems.ProblemError, errors.DsctlError, exceptions.RequestValidationError)


@dataclass(frozen=True, slots=True)
class Console:
    """What the pages share, besides the house."""

    sessions: sessions.Sessions
    rendering: rendering.Rendering
    streams: stream.Streams = field(default_factory=stream.Streams)


class PageRoute(guarded.GuardedRoute):
    """A guarded route for people with a browser."""

    body_type: ClassVar[str] = "application/x-www-form-urlencoded"

    def authorization(self, request: fastapi.Request) -> str | None:
        """Return the header if there is one, or what the cookie's session stands for."""
        header = request.headers.get("authorization")
        token = None if header else _console(request).sessions.token(request.cookies.get(COOKIE, ""))
        return f"Bearer {token}" if token else header

    def get_route_handler(self) -> _Handler:
        """Wrap the guarded handler; its errors become pages."""
        inner = super().get_route_handler()

        async def handle(request: fastapi.Request) -> fastapi.Response:
            try:
                answer = await inner(request)
            except _TOLD as error:
                answer = _answer(request, error)
            answer.headers["Content-Security-Policy"] = POLICY
            return answer

        return handle


def _console(request: fastapi.Request) -> Console:
    return cast("Console", request.app.state.console)


async def find_console(request: fastapi.Request) -> Console:
    """Return what the application's pages share."""
    return _console(request)


InConsole = Annotated[Console, fastapi.Depends(find_console)]


def _answer(request: fastapi.Request, error: Exception) -> fastapi.Response:
    """Return an error as the API words it: as a page, or as it is to what reads no pages."""
    problem = _problem(error)
    if request.headers.get("accept", "").startswith(_EVENT_STREAM):
        return problem
    if problem.status_code == problems.UNAUTHORIZED.status and request.method == "GET":
        return responses.RedirectResponse(f"{SIGN_IN}?next={quote(request.url.path)}", status_code=303)
    said = json.loads(bytes(problem.body))
    html = _console(request).rendering.page("problem.html", title=said["title"], detail=said["detail"])
    kept = {name: problem.headers[name] for name in ("retry-after",) if name in problem.headers}
    return responses.HTMLResponse(html, problem.status_code, headers=kept)


def _problem(error: Exception) -> responses.Response:
    if isinstance(error, problems.ProblemError):
        return problems.of_http(error)
    if isinstance(error, errors.DsctlError):
        return problems.of_error(error)
    return problems.of_validation(cast("exceptions.RequestValidationError", error))


async def form(request: fastapi.Request) -> dict[str, str]:
    """Return the fields of a posted form; raises ProblemError for what is none."""
    try:
        text = (await request.body()).decode("utf-8")
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict"))
    except ValueError as error:
        raise problems.ProblemError(problems.MALFORMED, "The form cannot be read; reload the page.") from error


def remember(answer: fastapi.Response, request: fastapi.Request, session_id: str) -> None:
    """Give the browser its session: out of reach of scripts, and sent on requests from our own pages only."""
    answer.set_cookie(COOKIE, session_id, httponly=True, samesite="strict", secure=request.url.scheme == "https")


def forget(answer: fastapi.Response, request: fastapi.Request) -> None:
    """Take the session away from the browser."""
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=request.url.scheme == "https")
