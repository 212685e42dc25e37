"""The pages: a list of runs, one run live, answering what it asks, and signing in. Handlers only; nothing is decided here.

`wiring` puts them into the application with `add`, and calls `close` when the server is to stop. Pages work without JavaScript but for live updates; a button that a
person may not press is not there. Every page but the one for signing in asks for the right to view, and answering for the
right to approve; that a form was sent from a page of ours is checked at the edge of the server, for every change.
"""

import re
from typing import Annotated
from urllib.parse import quote

import fastapi
import pydantic
from fastapi import responses

from controlplane.api import asks, guarded, house, problems, rights
from controlplane.api.rights import Right
from controlplane.console import door, parts, rendering, sessions, stream, views
from controlplane.domain import errors

RUNS = "/runs"
_MAX_RUNS = 50
# Where a sign-in may lead: to a page of ours, and to no other server.
_NEXT = re.compile(r"/runs(/[A-Za-z0-9._:-]{1,253})?")
_EVENT_NUMBER = re.compile(r"[0-9]{1,9}")
_YEAR_SECONDS = 31_536_000
# What the buttons of a question say.
_ANSWERS = {"approve": True, "reject": False}

After = Annotated[int, fastapi.Query(ge=-1, description="Only events with a greater number.")]


def add(app: fastapi.FastAPI, made: rendering.Rendering | None = None) -> None:
    """Put the pages into an application that has its house; `made` saves reading the templates again."""
    home: house.House = app.state.house
    app.state.console = door.Console(sessions.Sessions(home.clock), made or rendering.Rendering())
    guarded.add(app, ROUTES, kind=door.PageRoute, is_described=False)


def close(app: fastapi.FastAPI) -> None:
    """End the live updates of every open page, so that the server can end; called once it is to stop."""
    shared: door.Console = app.state.console
    shared.streams.close()


async def go_to_runs() -> fastapi.Response:
    """The way in."""
    return _see(RUNS)


async def list_runs(
    home: guarded.House,
    console: door.InConsole,
    who: guarded.Principal,
    service: asks.Name | None = None,
    *,
    unfinished: bool = False,
) -> fastapi.Response:
    """The newest runs."""
    wanted = "unfinished" if unfinished else None
    found = await home.runs.find(service=service, state=wanted, limit=_MAX_RUNS + 1)
    now = home.clock.now()
    html = console.rendering.page(
        "runs.html",
        who=who,
        brakes=await home.automation.paused(),
        rows=[(run, views.age(run.created_at, now)) for run in found[:_MAX_RUNS]],
        has_more=len(found) > _MAX_RUNS,
        service=service,
        unfinished=unfinished,
    )
    return responses.HTMLResponse(html)


async def show_run(
    home: guarded.House, console: door.InConsole, who: guarded.Principal, run_id: str
) -> fastapi.Response:
    """One run: where it stands, what it changes, what happened so far."""
    run = await home.runs.get(run_id)  # before the events: a final run then has its last event among them
    events = await home.runs.events(run_id)
    may_approve = rights.is_granted(who.role, Right.APPROVER)
    html = console.rendering.page(
        "run.html",
        who=who,
        may_answer=may_approve and views.may_answer(run, await home.runs.approvals(run_id), who.name),
        brakes=await home.automation.paused(),
        run=run,
        state=await parts.Parts(home, console.rendering).view(run, events),
        lines=[views.line(event) for event in events],
        last=max((event.number for event in events), default=-1),
        commands=views.commands(run),
    )
    return responses.HTMLResponse(html)


async def answer_run(
    home: guarded.House, who: guarded.Principal, run_id: str, request: fastapi.Request
) -> fastapi.Response:
    """Approve or reject what a run asks, for the plan that the page showed; leads back to the page."""
    fields = await door.form(request)
    reason = " ".join(fields.get("reason", "").split())  # a browser sends line breaks of two characters
    seen = {name: fields.get(name, "") for name in ("plan_hash", "step")}
    try:
        body = asks.ApprovalRequest.model_validate(
            {"approve": _ANSWERS.get(fields.get("answer", "")), "reason": reason, **seen}
        )
    except pydantic.ValidationError as error:
        said = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        raise errors.InvalidInputError(f"{said}; go back and answer again") from error
    await home.run_control.answer(
        run_id, who.name, is_approved=body.approve, reason=body.reason, plan_hash=body.plan_hash, step=body.step
    )
    return _see(f"{RUNS}/{quote(run_id, safe='')}")


async def stream_run(
    home: guarded.House,
    console: door.InConsole,
    run_id: str,
    after: After = -1,
    last_event_id: Annotated[str, fastapi.Header()] = "",
) -> fastapi.Response:
    """What happens to a run from now on, as server-sent events; a browser that comes back says what it has."""
    await home.runs.get(run_id)  # an unknown run is an answer, and not a stream that ends at once
    console.streams.check()
    start = int(last_event_id) if _EVENT_NUMBER.fullmatch(last_event_id) else after
    made = parts.Parts(home, console.rendering)
    return responses.StreamingResponse(
        stream.follow(made, console.streams, run_id, start),
        media_type="text/event-stream",
        headers={"X-Accel-Buffering": "no"},  # proxies that buffer would hold news back
    )


async def ask_for_token(
    console: door.InConsole, wanted: Annotated[str, fastapi.Query(alias="next")] = RUNS
) -> fastapi.Response:
    """The form for signing in."""
    return responses.HTMLResponse(console.rendering.page("sign_in.html", wanted=_ours(wanted), complaint=""))


async def sign_in(home: guarded.House, console: door.InConsole, request: fastapi.Request) -> fastapi.Response:
    """Open a session for a token that may view."""
    fields = await door.form(request)
    wanted, token = _ours(fields.get("next", "")), fields.get("token", "").strip()
    try:
        await rights.admit(home.tokens, f"Bearer {token}", Right.VIEWER)
    except problems.ProblemError as error:
        html = console.rendering.page("sign_in.html", wanted=wanted, complaint=error.detail)
        return responses.HTMLResponse(html, error.status_code)
    console.sessions.close(request.cookies.get(door.COOKIE, ""))
    answer = _see(wanted)
    door.remember(answer, request, console.sessions.open(token))
    return answer


async def sign_out(console: door.InConsole, request: fastapi.Request) -> fastapi.Response:
    """End the session."""
    console.sessions.close(request.cookies.get(door.COOKIE, ""))
    answer = _see(door.SIGN_IN)
    door.forget(answer, request)
    return answer


async def get_asset(console: door.InConsole, name: str, v: str = "") -> fastapi.Response:
    """A file that a page loads; under the version that the page named, a browser may keep it for ever."""
    found = console.rendering.asset(name)
    kept = f"public, max-age={_YEAR_SECONDS}, immutable" if v == found.version else "no-cache"
    return responses.Response(found.content, media_type=found.media_type, headers={"Cache-Control": kept})


def _see(path: str) -> fastapi.Response:
    return responses.RedirectResponse(path, status_code=303)


def _ours(wanted: str) -> str:
    return wanted if _NEXT.fullmatch(wanted) else RUNS


ROUTES = (
    guarded.Route("GET", "/", Right.VIEWER, go_to_runs),
    guarded.Route("GET", RUNS, Right.VIEWER, list_runs),
    guarded.Route("GET", "/runs/{run_id}", Right.VIEWER, show_run),
    guarded.Route("GET", "/runs/{run_id}/events-stream", Right.VIEWER, stream_run),
    guarded.Route("POST", "/runs/{run_id}/approval", Right.APPROVER, answer_run),
    guarded.Route("GET", door.SIGN_IN, Right.PUBLIC, ask_for_token),
    guarded.Route("POST", door.SIGN_IN, Right.PUBLIC, sign_in),
    guarded.Route("POST", "/sign-out", Right.PUBLIC, sign_out),
    guarded.Route("GET", "/static/{name}", Right.PUBLIC, get_asset),
)
