"""`dsctl incidents`: what is wrong, and what happened about it."""

from typing import Annotated, Any

import typer

from controlplane.cli import client, options, output

app = typer.Typer(help="Incidents: what is wrong.", no_args_is_help=True, rich_markup_mode=None)

# A row must stay one line of a wide terminal; the sentence of a closed incident has three hundred characters.
_LINE = 90

IncidentId = Annotated[str, typer.Argument(metavar="INCIDENT", help="The incident's id.")]


@app.command("list")
def list_incidents(
    context: typer.Context,
    service: options.Service = None,
    status: Annotated[str | None, typer.Option("--status", help="Only incidents in this state.")] = None,
    limit: options.Limit = 50,
    form: options.Form = output.Output.TABLE,
) -> None:
    """List incidents, newest first."""
    query = {"service": service, "state": status, "limit": limit}
    found = client.Client(options.state_of(context)).get("/incidents", query)
    rows = [
        [one["id"], one["fault"], _target(one), one["severity"], one["state"], _brief(one["sentence"]), _age(one)]
        for one in found["items"]
    ]
    human = output.table(["NAME", "FAULT", "TARGET", "SEVERITY", "STATE", "NOW", "AGE"], rows)
    output.show(form, found, human, [one["id"] for one in found["items"]])


@app.command("get")
def get_incident(context: typer.Context, incident: IncidentId, form: options.Form = output.Output.TABLE) -> None:
    """Show an incident."""
    found = client.Client(options.state_of(context)).get(f"/incidents/{client.segment(incident)}")
    finding = found["finding"]
    rows = [
        ["state", found["state"]],
        ["now", found["sentence"]],
        ["target", _target(found)],
        ["fault", f"{found['fault']} ({found['severity']})"],
        ["finding", finding["summary"]],
        ["signal", finding["signal"]],
        ["observed", finding["observed"]],
        ["expected", finding["expected"]],
        ["sources", ", ".join(found["sources"]) or found["opened_by"]],
        ["attempts", found["attempts"]],
        ["run", found["run_id"]],
        ["verdict", found["verdict"]],
    ]
    output.show(form, found, output.table([found["id"], ""], rows), [found["id"]])


@app.command("timeline")
def show_timeline(context: typer.Context, incident: IncidentId, form: options.Form = output.Output.TABLE) -> None:
    """Show what happened to an incident, in order."""
    found = client.Client(options.state_of(context)).get(f"/incidents/{client.segment(incident)}/timeline")
    human = "\n".join(output.clean(f"{entry['at'][:19]}  {entry['note']}") for entry in found["items"])
    output.show(form, found, human, [entry["at"] for entry in found["items"]])


def _brief(sentence: str) -> str:
    """Return the beginning of a long sentence; `get` shows all of it."""
    return sentence if len(sentence) <= _LINE else f"{sentence[: _LINE - 1]}\u2026"


def _target(incident: dict[str, Any]) -> str:
    return f"{incident['service']}/{incident['node']}" if incident["node"] else incident["service"]


def _age(incident: dict[str, Any]) -> str:
    return output.age(incident["opened_at"])
