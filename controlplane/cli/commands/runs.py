"""`dsctl runs`: what was done, is being done, and stopping it."""

from typing import Annotated, Any

import typer

from controlplane.cli import client, following, options, output

app = typer.Typer(help="Runs: what was done and is being done.", no_args_is_help=True, rich_markup_mode=None)

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
    changes = [[c["target"], c["what"], c["before"], c["after"]] for c in plan["changes"]]
    lines = [
        following.ending(run),
        f"runbook {run['runbook']} on {run['target']}, asked for by {output.clean(run['requested_by'])}",
        f"reason: {output.clean(plan['request']['reason']) or '-'}",
        f"steps: {', '.join(step['name'] for step in plan['steps'])}",
        "",
        output.table(["TARGET", "WHAT", "BEFORE", "AFTER"], changes),
    ]
    return "\n".join(lines)


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
