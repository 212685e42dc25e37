"""Options and arguments that several commands share, and how their values are read. Pure but for the prompt."""

import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from controlplane.cli import failures, output, state

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(s|m|h|d)?")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
# Ten years: no token and no wait is meant to last longer, and calendars end at some point.
_MAX_SECONDS = 3_650 * 86_400


def _remember_form(context: typer.Context, form: output.Output) -> output.Output:
    """Errors, too, are printed in the form asked for."""
    context.ensure_object(state.State).form = form
    return form


Form = Annotated[
    output.Output, typer.Option("--output", "-o", callback=_remember_form, help="How the answer is printed.")
]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept with what is done.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most so many.")]
Service = Annotated[str | None, typer.Option("--service", help="Only this service.")]
Config = Annotated[
    Path | None, typer.Option("--config", envvar="DSCTL_CONFIG", help="Settings file; default dsctl.yaml if present.")
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the run to its end.")]
WaitTimeout = Annotated[str, typer.Option("--wait-timeout", help="How long to follow, such as 90s or 15m.")]


def state_of(context: typer.Context) -> state.State:
    """Return the global options."""
    return context.ensure_object(state.State)


def duration(text: str) -> float:
    """Return seconds.

    >>> duration("15m"), duration("2.5")
    (900.0, 2.5)
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        raise failures.usage(f"{text!r} is not a duration", hint="Write it as 30s, 15m, 2h or 1d.")
    seconds = float(found[1]) * _UNITS[found[2] or "s"]
    if seconds > _MAX_SECONDS:
        raise failures.usage(f"{text[:20]!r} is longer than ten years", hint="Write it as 30s, 15m, 2h or 1d.")
    return seconds


def inputs(pairs: list[str]) -> dict[str, Any]:
    """Return the inputs of a runbook from `name=value` pairs; a value that is JSON counts as JSON, else as text.

    >>> inputs(["replicas=6", "reason=night", "dry=true"])
    {'replicas': 6, 'reason': 'night', 'dry': True}
    """
    import json

    found: dict[str, Any] = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        if not name or not sign:
            raise failures.usage(f"input {pair!r} is not name=value")
        if name in found:
            raise failures.usage(f"input {name!r} is given twice")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def confirm(question: str, settings: state.State) -> None:
    """Ask on the terminal; raises CliError for anything but yes, and when there is nobody to ask."""
    if not settings.is_interactive or not sys.stdin.isatty():
        hint = "Pass --yes to go on without being asked, or --dry-run to look only."
        raise failures.usage("this needs a yes and there is no terminal to ask on", hint=hint)
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise failures.CliError("nothing was done: the answer was no", code="declined")
