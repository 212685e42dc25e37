"""`dsctl automation`: the kill switch, and the breakers that automation trips by itself."""

from typing import Annotated, Any

import typer

from controlplane.cli import client, options, output

app = typer.Typer(help="Automation: the kill switch.", no_args_is_help=True, rich_markup_mode=None)
breaker = typer.Typer(help="Breakers: where automation stopped itself.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(breaker, name="breaker")

ServiceName = Annotated[str, typer.Argument(metavar="SERVICE", help="The service whose breaker is open.")]


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


@breaker.command("list")
def list_breakers(context: typer.Context, form: options.Form = output.Output.TABLE) -> None:
    """List the breakers that ever tripped, and who reset them."""
    _show_breakers(form, client.Client(options.state_of(context)).get("/automation/breakers"))


@breaker.command("reset")
def reset_breaker(
    context: typer.Context,
    service: ServiceName,
    reason: Annotated[str, typer.Option("--reason", help="What the common cause was.")],
    form: options.Form = output.Output.TABLE,
) -> None:
    """Let automation act on a service again; only what it does from now on counts."""
    http = client.Client(options.state_of(context))
    path = f"/automation/breakers/{client.segment(service)}/reset"
    _show_breakers(form, http.post(path, {"reason": reason}))


def _show(form: output.Output, found: dict[str, Any]) -> None:
    brakes = [[brake["who"], brake["reason"]] for brake in found["brakes"]]
    word = "paused" if found["is_paused"] else "active"
    human = f"automation is {word}" + (f"\n\n{output.table(['WHO', 'REASON'], brakes)}" if brakes else "")
    if found["breakers"]:
        human += f"\n\nit stands still where a breaker is open:\n\n{_table(found['breakers'])}"
    output.show(form, found, human, [brake["who"] for brake in found["brakes"]])


def _show_breakers(form: output.Output, found: dict[str, Any]) -> None:
    human = _table(found["items"]) if found["items"] else "no breaker ever tripped"
    output.show(form, found, human, [one["service"] for one in found["items"]])


def _table(breakers: list[dict[str, Any]]) -> str:
    rows = [
        [
            one["service"],
            "open" if one["is_open"] else "closed",
            output.age(one["tripped_at"]),
            ", ".join(one["nodes"]),
            one["reset_by"] if not one["is_open"] else "",
            one["reset_reason"] if not one["is_open"] else "",
        ]
        for one in breakers
    ]
    return output.table(["SERVICE", "STATE", "TRIPPED", "NODES", "RESET BY", "REASON"], rows)
