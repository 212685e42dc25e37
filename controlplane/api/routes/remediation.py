"""Routes that plan and act: dry runs, runs, their events, cancellation, approvals. Handlers only; nothing decides here."""

import asyncio
from typing import Annotated

import fastapi

from controlplane.api import asks, guarded, house, problems, wire
from controlplane.api.rights import Right
from controlplane.domain import errors, outcomes, plans, remediation, runs

_POLL_SECONDS = 0.25
_MAX_WAIT_SECONDS = 20.0

IdempotencyKey = Annotated[str | None, fastapi.Header(min_length=1, max_length=200, pattern=r"^[!-~]+$")]
Limit = Annotated[int, fastapi.Query(ge=1, le=1000)]
State = Annotated[outcomes.RunState | None, fastapi.Query(description="Only runs in this state.")]


async def preview_plan(home: guarded.House, who: guarded.Principal, body: asks.RemediationRequest) -> wire.Preview:
    """Dry run: what the runbook would change, and what the guard says to it now. Changes nothing."""
    return wire.Preview.of(await home.remediator.preview(body.to_domain(who.name)))


async def submit_run(
    home: guarded.House,
    who: guarded.Principal,
    body: asks.RunRequest,
    response: fastapi.Response,
    idempotency_key: IdempotencyKey = None,
) -> wire.Accepted:
    """Carry out a runbook. 201 with the run; 409 when the guard refuses or the plan is not `expected_hash` any more.

    With an `Idempotency-Key` the same request may be sent again: it answers 200 with the first run, as long as that
    run is kept.
    """
    request = body.to_domain(who.name, f"api:{who.name}:{idempotency_key}" if idempotency_key else None)
    earlier = await _earlier_run(home, request)
    if earlier is not None:
        return _accept(response, earlier.id, earlier.plan, is_replay=True)
    answer = await home.remediator.remediate(request, expected_hash=body.expected_hash)
    if isinstance(answer, remediation.Refused):
        # What the guard saw in the way may be the run of this very request, sent twice at the same moment.
        earlier = await _earlier_run(home, request)
        if earlier is None:
            raise problems.RefusedError(answer)
        return _accept(response, earlier.id, earlier.plan, is_replay=True)
    stored = await home.runs.get(answer.run_id)
    _refuse_other_request(stored, request)  # another request with this key may have won the race
    return _accept(response, answer.run_id, stored.plan, is_replay=stored.plan.id != answer.plan.id)


async def _earlier_run(home: house.House, request: plans.PlanRequest) -> runs.Run | None:
    """Find the run a key has made: asked before the guard, which would refuse the repeat because the run is on."""
    if request.dedup_key is None:
        return None
    found = await home.runs.find(dedup_key=request.dedup_key, limit=1)
    if not found:
        return None
    _refuse_other_request(found[0], request)
    return found[0]


def _refuse_other_request(run: runs.Run, request: plans.PlanRequest) -> None:
    """Raise ProblemError when a key comes back with another request than the one it was first sent with."""
    if request.dedup_key is not None and run.plan.request.asked != request.asked:
        raise problems.ProblemError(
            problems.KEY_REUSED,
            f"This Idempotency-Key made {run.id} ({run.plan.request.runbook} on {run.plan.target}); "
            "send a new key with a new request.",
        )


def _accept(response: fastapi.Response, run_id: str, plan: plans.Plan, *, is_replay: bool) -> wire.Accepted:
    response.status_code = 200 if is_replay else 201
    response.headers["Location"] = f"/api/v1/runs/{run_id}"
    return wire.Accepted(run_id=run_id, plan_hash=plan.hash, replayed=is_replay)


async def list_runs(
    home: guarded.House,
    service: asks.Name | None = None,
    state: State = None,
    incident_id: asks.Name | None = None,
    *,
    unfinished: bool = False,
    limit: Limit = 100,
) -> wire.Items[wire.Run]:
    """Runs, newest first; `unfinished` leaves out those that have ended."""
    wanted = "unfinished" if unfinished else state
    found = await home.runs.find(service=service, state=wanted, incident_id=incident_id, limit=limit + 1)
    return wire.Items(items=[wire.Run.of(run) for run in found[:limit]], truncated=len(found) > limit)


async def get_run(home: guarded.House, run_id: str) -> wire.RunDetail:
    """One run with its plan, and who approved or rejected it."""
    return await _detail(home, run_id)


async def _detail(home: house.House, run_id: str) -> wire.RunDetail:
    run = await home.runs.get(run_id)
    return wire.RunDetail.answered(run, await home.runs.approvals(run_id))


async def answer_run(
    home: guarded.House, who: guarded.Principal, run_id: str, body: asks.ApprovalRequest
) -> wire.RunDetail:
    """Approve or reject what a run asks, for the plan of this hash. Who asked for the run cannot approve it.

    The first answer of a person counts. One that names a step counts for no other; one without, also before the run
    asks, for its next question. 409 says why an answer does not count.
    """
    await home.run_control.answer(
        run_id,
        who.name,
        is_approved=body.approve,
        reason=body.reason.strip(),
        plan_hash=body.plan_hash,
        step=body.step,
    )
    return await _detail(home, run_id)


async def list_approvals(
    home: guarded.House, service: asks.Name | None = None, limit: Limit = 100
) -> wire.Items[wire.Question]:
    """The runs that wait for people, newest first: what each asks, who answered, and when it expires."""
    found = await home.runs.find(service=service, state="asking", limit=limit + 1)
    waiting = [(run, step) for run in found[:limit] if (step := run.question) is not None]
    items = [wire.Question.of(run, step, await home.runs.approvals(run.id)) for run, step in waiting]
    return wire.Items(items=items, truncated=len(found) > limit)


async def list_run_events(
    home: guarded.House,
    run_id: str,
    after: Annotated[int, fastapi.Query(ge=-1, description="Only events with a greater number.")] = -1,
    wait_seconds: Annotated[
        float, fastapi.Query(ge=0, le=_MAX_WAIT_SECONDS, description="Wait this long for news.")
    ] = 0.0,
) -> wire.RunEvents:
    """The log of a run in order. With `wait_seconds` the answer waits for a new event or the run's end."""
    deadline = home.clock.monotonic() + wait_seconds
    while True:
        run = await home.runs.get(run_id)  # before the events: a final run then has its last event among them
        news = [event for event in await home.runs.events(run_id) if event.number > after]
        if news or run.state.is_final or home.clock.monotonic() >= deadline:
            return _events(run, news)
        await home.clock.sleep(_POLL_SECONDS)


def _events(run: runs.Run, news: list[runs.RunEvent]) -> wire.RunEvents:
    return wire.RunEvents(
        items=[wire.RunEvent.model_validate(event) for event in news],
        state=run.state,
        is_final=run.state.is_final,
        verdict=run.verdict,
        sentence=run.sentence,
    )


async def cancel_run(
    home: guarded.House, who: guarded.Principal, run_id: str, body: asks.CancelRequest
) -> wire.RunDetail:
    """Ask a run to stop after its current step. What it has done stays done."""
    run = await home.runs.get(run_id)
    if run.state.is_final:
        raise errors.ConflictError(f"{run_id} is {run.state} already; there is nothing left to stop")
    await home.run_control.cancel(run_id, f"{who.name} ({body.reason})" if body.reason else who.name)
    return await _detail(home, run_id)


async def list_runbooks(home: guarded.House) -> wire.Items[wire.RunbookCard]:
    """The runbooks, by name."""
    found = home.runbooks.runbooks
    return wire.Items(items=[wire.RunbookCard.model_validate(found[name]) for name in sorted(found)])


async def get_runbook(home: guarded.House, name: str) -> wire.Runbook:
    """One runbook with its YAML."""
    return wire.Runbook.model_validate(home.runbooks.get(name))


async def validate_runbook(home: guarded.House, body: asks.RunbookText) -> wire.Runbook:
    """Check a runbook's text as if it were to be loaded; 422 says the line. Keeps nothing."""
    entry = await asyncio.to_thread(home.parse_runbook, body.text, source=body.source)
    return wire.Runbook.model_validate(entry)


ROUTES = (
    guarded.Route("POST", "/api/v1/plans", Right.VIEWER, preview_plan),
    guarded.Route("POST", "/api/v1/runs", Right.OPERATOR, submit_run, status=201),
    guarded.Route("GET", "/api/v1/runs", Right.VIEWER, list_runs),
    guarded.Route("GET", "/api/v1/runs/{run_id}", Right.VIEWER, get_run),
    guarded.Route("GET", "/api/v1/runs/{run_id}/events", Right.VIEWER, list_run_events),
    guarded.Route("POST", "/api/v1/runs/{run_id}/cancel", Right.OPERATOR, cancel_run),
    guarded.Route("POST", "/api/v1/runs/{run_id}/approval", Right.APPROVER, answer_run),
    guarded.Route("GET", "/api/v1/approvals", Right.VIEWER, list_approvals),
    guarded.Route("GET", "/api/v1/runbooks", Right.VIEWER, list_runbooks),
    guarded.Route("GET", "/api/v1/runbooks/{name}", Right.VIEWER, get_runbook),
    guarded.Route("POST", "/api/v1/runbooks/validate", Right.VIEWER, validate_runbook),
)
