"""`dsctl automation`: the kill switch."""

from typing import Annotated, Any

import typer

from controlplane.cli import client, options, output

app = typer.Typer(help="Automation: the kill switch.", no_args_is_help=True, rich_markup_mode=None)


@app.command("status")
def show_status(context: typer.Context, form: options.Form = output.Output.TABLE) -> None:
    """Say whether automation may act."""
    _show(form, client.Client(options.state_of(context)).get("/automation"))


@app.command("pause")
def pause(
    context: typer.Context,
    reason: Annotated[str, typer.Option("--reason", help="Why automation stands still.")],
    form: options.Form = output.Output.TABLE,
) -> None:
    """Hold automation back, now; runs stop before their next effect."""
    _show(form, client.Client(options.state_of(context)).post("/automation/pause", {"reason": reason}))


@app.command("resume")
def resume(
    context: typer.Context,
    who: Annotated[str | None, typer.Option("--who", help="Whose brake to release; default your own.")] = None,
    *,
    everyone: Annotated[bool, typer.Option("--all", help="Release every brake.")] = False,
    form: options.Form = output.Output.TABLE,
) -> None:
    """Release a brake; automation acts again when none is left."""
    body: dict[str, Any] = {"everyone": everyone} | ({"who": who} if who else {})
    _show(form, client.Client(options.state_of(context)).post("/automation/resume", body))


def _show(form: output.Output, found: dict[str, Any]) -> None:
    brakes = [[brake["who"], brake["reason"]] for brake in found["brakes"]]
    word = "paused" if found["is_paused"] else "active"
    human = f"automation is {word}" + (f"\n\n{output.table(['WHO', 'REASON'], brakes)}" if brakes else "")
    output.show(form, found, human, [brake["who"] for brake in found["brakes"]])
