"""The command line's entry: puts the commands together and turns errors into exit codes.

Every command but a few is an HTTP client of the server (one process owns the database). Nothing heavy is imported
before a command runs: `--help` must answer at once. Blocking; one command per process.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from controlplane.cli import failures, output, state
from controlplane.cli.commands import (
    alerts,
    approvals,
    auth,
    automation,
    demo,
    doctor,
    explain,
    forecast,
    incidents,
    nodes,
    policies,
    remediate,
    runbooks,
    runs,
    server,
    version,
)

app = typer.Typer(
    name="dsctl",
    help="Keeps a fleet of GPU inference nodes inside its service levels.",
    no_args_is_help=True,
    rich_markup_mode=None,  # drawing help with rich costs more time than a whole command may take
    pretty_exceptions_enable=False,
)
app.command("remediate")(remediate.remediate)
app.command("explain")(explain.explain)
app.add_typer(runs.app, name="runs")
app.add_typer(approvals.app, name="approvals")
app.add_typer(incidents.app, name="incidents")
app.add_typer(nodes.app, name="nodes")
app.add_typer(forecast.app, name="forecast")
app.add_typer(runbooks.app, name="runbooks")
app.add_typer(policies.app, name="policies")
app.add_typer(automation.app, name="automation")
app.add_typer(alerts.app, name="alerts")
app.add_typer(auth.app, name="auth")
app.add_typer(server.app, name="server")
app.add_typer(demo.app, name="demo")
app.command("doctor")(doctor.doctor)
app.command("version")(version.version)


@app.callback()
def options(
    context: typer.Context,
    server: Annotated[str | None, typer.Option("--server", help="Address of the server.")] = None,
    token_file: Annotated[Path | None, typer.Option("--token-file", help="File that holds the API token.")] = None,
    name: Annotated[str | None, typer.Option("--context", help="Context of the configuration file.")] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds to wait for one answer.")] = 10.0,
    *,
    no_input: Annotated[bool, typer.Option("--no-input", help="Never ask.")] = False,
) -> None:
    """Keeps a fleet of GPU inference nodes inside its service levels."""
    settings = context.ensure_object(state.State)
    settings.server = server
    settings.token_file = token_file
    settings.context = name
    settings.timeout_seconds = timeout
    settings.is_interactive = not no_input


def run() -> None:
    """Run the command line and exit."""
    settings = state.State()
    try:
        app(obj=settings)
    except failures.CliError as error:
        output.fail(error, as_json=settings.form is output.Output.JSON)
        sys.exit(error.exit_code)
