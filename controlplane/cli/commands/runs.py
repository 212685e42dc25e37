"""`dsctl runs`: what was done, is being done, stopping it, and agreeing to it. What was shown is what is agreed to."""

from typing import Annotated, Any

import typer

from controlplane.cli import client, failures, following, options, output
from controlplane.cli.commands import approvals

app = typer.Typer(help="Runs: what was done and is being done.", no_args_is_help=True, rich_markup_mode=None)

_UNFINISHED = ("queued", "running", "waiting")

RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")]


@app.command("list")
def list_runs(
    context: typer.Context,
    service: options.Service = None,
    status: Annotated[str | None, typer.Option("--status", help="Only runs in this state, or `unfinished`.")] = None,
    incident: Annotated[str | None, typer.Option("--incident", help="Only runs for this incident.")] = None,
    limit: options.Limit = 50,
    form: options.Form = output.Output.TABLE,
) -> None:
    """List runs, newest first."""
    unfinished = status == "unfinished"
    query: dict[str, Any] = {"service": service, "incident_id": incident, "limit": limit}
    query |= {"unfinished": True} if unfinished else {"state": status}
    found = client.Client(options.state_of(context)).get("/runs", query)
    rows = [
        [run["id"], run["runbook"], run["target"], run["state"], run["verdict"], output.age(run["created_at"])]
        for run in found["items"]
    ]
    human = output.table(["NAME", "RUNBOOK", "TARGET", "STATE", "VERDICT", "AGE"], rows)
    output.show(form, found, human, [run["id"] for run in found["items"]])


@app.command("get")
def get_run(context: typer.Context, run: RunId, form: options.Form = output.Output.TABLE) -> None:
    """Show a run, its plan and how it ended."""
    found = client.Client(options.state_of(context)).get(f"/runs/{client.segment(run)}")
    output.show(form, found, _describe(found), [found["id"]])


def _describe(run: dict[str, Any]) -> str:
    plan = run["plan"]
    lines = [
        following.ending(run),
        f"runbook {run['runbook']} on {run['target']}, asked for by {output.clean(run['requested_by'])}",
        f"reason: {output.clean(plan['request']['reason']) or '-'}",
        f"steps: {', '.join(step['name'] for step in plan['steps'])}",
        *[_question(one) for one in run["approvals"]],
        "",
        _difference(plan),
    ]
    return "\n".join(lines)


def _question(approval: dict[str, Any]) -> str:
    """Return one step that asks people, with what they said."""
    said = [f"{one['who']} {'approved' if one['is_approved'] else 'rejected'}" for one in approval["answers"]]
    until = f", expires {approval['expires_at']}" if approval["is_pending"] else ""
    return output.clean(
        f"{approval['step']}: {approvals.agreed(approval)}{until} ({', '.join(said) or 'no answer yet'})"
    )


def _difference(plan: dict[str, Any]) -> str:
    changes = [[c["target"], c["what"], c["before"], c["after"]] for c in plan["changes"]]
    return output.table(["TARGET", "WHAT", "BEFORE", "AFTER"], changes)


@app.command("events")
def list_events(context: typer.Context, run: RunId, form: options.Form = output.Output.TABLE) -> None:
    """Show the log of a run."""
    found = client.Client(options.state_of(context)).get(f"/runs/{client.segment(run)}/events")
    human = "\n".join(following.line(event) for event in found["items"])
    output.show(form, found, human, [str(event["number"]) for event in found["items"]])


@app.command("watch")
def watch_run(
    context: typer.Context,
    run: RunId,
    wait_timeout: options.WaitTimeout = "15m",
    form: options.Form = output.Output.TABLE,
) -> None:
    """Follow a run to its end; the exit code says how it ended."""
    http = client.Client(options.state_of(context))
    is_table = form is output.Output.TABLE
    code = following.follow(http, run, options.duration(wait_timeout), is_quiet=not is_table)
    found = http.get(f"/runs/{client.segment(run)}")
    output.show(form, found, following.ending(found), [found["id"]])
    raise typer.Exit(code)


@app.command("approve")
def approve_run(
    context: typer.Context,
    run: RunId,
    reason: options.Reason = "",
    form: options.Form = output.Output.TABLE,
    *,
    yes: options.Yes = False,
) -> None:
    """Agree to what a run asks: shows the plan, asks, and agrees to exactly that plan."""
    settings = options.state_of(context)
    http = client.Client(settings)
    found = http.get(f"/runs/{client.segment(run)}")
    _refuse_silent(found)
    shown = "\n".join([_describe(found), "", f"plan {output.clean(found['plan']['hash'])}"])
    (output.tell if form is output.Output.TABLE else output.say)(shown)
    if not yes:
        options.confirm(output.clean(f"Approve {found['runbook']} on {found['target']}?"), settings)
    _answer(http, found, form, approve=True, reason=reason)


@app.command("reject")
def reject_run(
    context: typer.Context,
    run: RunId,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept with the run, which ends cancelled.")],
    form: options.Form = output.Output.TABLE,
) -> None:
    """Refuse what a run asks; one refusal ends it."""
    http = client.Client(options.state_of(context))
    found = http.get(f"/runs/{client.segment(run)}")
    _refuse_silent(found)
    _answer(http, found, form, approve=False, reason=reason)


def _refuse_silent(run: dict[str, Any]) -> None:
    """Raise CliError for a run that asks nobody: there is no use in a question about it."""
    if run["state"] in _UNFINISHED and run["approvals"]:
        return
    asks = f"it is {run['state']}" if run["approvals"] else "none of its steps does"
    hint = "What waits for people: dsctl approvals list"
    raise failures.CliError(f"{run['id']} asks nobody: {asks}", code="conflict", hint=hint)


def _answer(http: client.Client, run: dict[str, Any], form: output.Output, *, approve: bool, reason: str) -> None:
    seen = next((one["step"] for one in run["approvals"] if one["is_pending"]), "")
    body = {"approve": approve, "reason": reason, "plan_hash": run["plan"]["hash"], "step": seen}
    try:
        found = http.post(f"/runs/{client.segment(run['id'])}/approval", body)
    except failures.CliError as error:
        error.hint = f"Look at it: dsctl runs get {run['id']}" if error.code == "conflict" else error.hint
        raise
    said = f"{run['id']} {'approved' if approve else 'rejected'}; follow it: dsctl runs watch {run['id']}"
    output.show(form, found, said, [found["id"]])


@app.command("cancel")
def cancel_run(
    context: typer.Context,
    run: RunId,
    reason: options.Reason = "",
    form: options.Form = output.Output.TABLE,
) -> None:
    """Ask a run to stop after its current step; what it has done stays done."""
    http = client.Client(options.state_of(context))
    found = http.post(f"/runs/{client.segment(run)}/cancel", {"reason": reason})
    output.show(form, found, f"{found['id']} was asked to stop; it is {found['state']}", [found["id"]])
