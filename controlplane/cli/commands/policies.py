"""`dsctl policies`: how far each policy may go by itself, and the record that says so."""

from typing import Annotated, Any

import typer

from controlplane.cli import client, options, output

app = typer.Typer(help="Policies: how far each goes, and its record.", no_args_is_help=True, rich_markup_mode=None)
Name = Annotated[str, typer.Argument(help="The policy's name.")]


@app.command("list")
def list_policies(context: typer.Context, form: options.Form = output.Output.TABLE) -> None:
    """List policies: mode of the file, mode in force, and how many runs recovered."""
    found = client.Client(options.state_of(context)).get("/policies")
    rows = [
        [one["name"], one["runbook"], one["mode"], one["effective"], *_record(one["ledger"])] for one in found["items"]
    ]
    headings = ["NAME", "RUNBOOK", "MODE", "IN FORCE", "RUNS", "RECOVERED", "MEDIAN"]
    notes = [note for one in found["items"] for note in _notes(one)]
    human = "\n".join([output.table(headings, rows), *(["", *notes] if notes else [])])
    output.show(form, found, human, [one["name"] for one in found["items"]])


@app.command("get")
def get_policy(context: typer.Context, name: Name, form: options.Form = output.Output.TABLE) -> None:
    """Show one policy's modes, its demotion, what is proposed, and its record by service."""
    found = client.Client(options.state_of(context)).get(f"/policies/{client.segment(name)}")
    output.show(form, found, _described(found), [found["name"]])


@app.command("reset")
def reset_policy(
    context: typer.Context,
    name: Name,
    reason: Annotated[str, typer.Option("--reason", help="Why it may be trusted again; kept.")],
    form: options.Form = output.Output.TABLE,
) -> None:
    """Lift a policy's demotion; its runs count anew from now on."""
    found = client.Client(options.state_of(context)).post(f"/policies/{client.segment(name)}/reset", {"reason": reason})
    output.show(form, found, _described(found), [found["name"]])


def _described(one: dict[str, Any]) -> str:
    modes = [[one["mode"], one["ceiling"], one["effective"], one["runbook"], ", ".join(one["services"])]]
    lines = [output.table(["MODE", "CEILING", "IN FORCE", "RUNBOOK", "SERVICES"], modes), *_notes(one)]
    if one["counts_from"]:
        lines.append(f"counted since {output.clean(one['counts_from'])}")
    rows = [
        ["its own runs", *_record(one["ledger"])],
        *([f"  on {service}", *_record(ledger)] for service, ledger in one["ledger_of"].items()),
        ["its runbook, whoever asked", *_record(one["runbook_ledger"])],
    ]
    return "\n".join([*lines, "", output.table(["RECORD", "RUNS", "RECOVERED", "MEDIAN"], rows)])


def _notes(one: dict[str, Any]) -> list[str]:
    """Return what a person should know beside the numbers."""
    if one["demotion"]:
        said = f"{one['demotion']['sentence']}; `dsctl policies reset {one['name']}` lifts it"
        return [output.clean(said)]
    return [output.clean(f"policy {one['name']} {one['proposal']['sentence']}")] if one["proposal"] else []


def _record(ledger: dict[str, Any]) -> list[object]:
    """Return runs, the share that recovered with its interval, and the median time to recover."""
    share, times = ledger["success"], ledger["to_recover"]
    said = f"{share['ratio']:.0%} ({share['low']:.0%} to {share['high']:.0%})" if share else None
    return [ledger["runs"], said, f"{times['median']:.0f}s" if times else None]
