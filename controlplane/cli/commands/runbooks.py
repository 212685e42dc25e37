"""`dsctl runbooks`: the remedies at hand, and checking a new one before it is installed."""

from pathlib import Path
from typing import Annotated

import typer

from controlplane.cli import client, failures, options, output

app = typer.Typer(help="Runbooks: the remedies at hand.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_runbooks(context: typer.Context, form: options.Form = output.Output.TABLE) -> None:
    """List runbooks."""
    found = client.Client(options.state_of(context)).get("/runbooks")
    rows = [[book["name"], book["summary"], book["digest"][:12]] for book in found["items"]]
    output.show(form, found, output.table(["NAME", "SUMMARY", "DIGEST"], rows), [b["name"] for b in found["items"]])


@app.command("get")
def get_runbook(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The runbook's name.")],
    form: options.Form = output.Output.TABLE,
) -> None:
    """Print a runbook's text."""
    found = client.Client(options.state_of(context)).get(f"/runbooks/{client.segment(name)}")
    output.show(form, found, output.clean_lines(found["source"].rstrip()), [found["name"]])


@app.command("validate")
def validate_runbook(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="File with one runbook.")],
    form: options.Form = output.Output.TABLE,
) -> None:
    """Check a runbook's file against the server's actions and signals; nothing is installed."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise failures.usage(f"{file} cannot be read: {error}") from error
    http = client.Client(options.state_of(context))
    found = http.post("/runbooks/validate", {"text": text, "source": file.name})
    output.show(form, found, f"{file} is a valid runbook: {output.clean(found['name'])}", [found["name"]])
