"""`dsctl demo`: the product against a small fleet of its own, on this machine."""

from enum import StrEnum
from typing import Annotated

import typer

from controlplane.cli import failures, local

app = typer.Typer(help="A demonstration on this machine.", no_args_is_help=True, rich_markup_mode=None)


class DemoMode(StrEnum):
    """How far the product may go in the demo."""

    AUTO = "auto"
    OBSERVE = "observe"


@app.callback()
def demo() -> None:
    """A demonstration on this machine."""


@app.command("up")
def up(
    only: Annotated[str | None, typer.Option("--only", help="Only these stories, such as S4,S5.")] = None,
    scenarios: Annotated[str | None, typer.Option("--scenarios", help="`all` plays every story there is.")] = None,
    mode: Annotated[DemoMode, typer.Option("--mode", help="observe shows what happens when nobody acts.")] = (
        DemoMode.AUTO
    ),
    *,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running until interrupted.")] = False,
) -> None:
    """Start a fleet, play the stories, and say for each whether it recovered."""
    if scenarios not in {None, "all"}:
        raise failures.usage(f"--scenarios {scenarios!r} is not known", hint="Use --scenarios all, or --only S4.")
    names = tuple(name.strip() for name in (only or "").split(",") if name.strip())
    if only is not None and not names:
        raise failures.usage("--only names no story", hint="Name one as in --only S4, or leave it out to play all.")
    from controlplane.demo import run

    with local.translated("`dsctl demo up --help` lists the options."):
        code = run.up(only=names, mode=mode.value, keep=keep, scenarios_all=scenarios == "all")
    raise typer.Exit(code)
