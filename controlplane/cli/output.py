"""What commands print: tables, JSON, YAML or bare names on standard output, everything else on standard error.

Text that came from the fleet is stripped of control characters before a terminal sees it: an alert's annotation
must not move the cursor. Imports nothing heavy at the top. Prints; keeps no state.
"""

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from controlplane.cli import failures


class Output(StrEnum):
    """Forms of output."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


def clean(text: object) -> str:
    r"""Return text that cannot steer a terminal.

    >>> clean("a\x1b[2Jb")
    'a?[2Jb'
    """
    return "".join(char if char.isprintable() else " " if char in "\n\t" else "?" for char in str(text))


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return rows under headings, columns aligned by spaces.

    >>> print(table(["NAME", "UP"], [["n1", True], ["node-2", None]]))
    NAME    UP
    n1      yes
    node-2  -
    """
    lines = [list(headings), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict | list):
        return clean(json.dumps(value))
    return clean(value)


def show(form: Output, data: Any, human: str, names: Sequence[str] = ()) -> None:
    """Print `data` in the form asked for; `human` is the table, `names` are for `-o name`."""
    if form is Output.JSON:
        tell(json.dumps(data, indent=2))
    elif form is Output.YAML:
        import yaml

        tell(yaml.safe_dump(data, sort_keys=False).rstrip())
    elif form is Output.NAME:
        for name in names:
            tell(clean(name))
    else:
        tell(human)


def tell(text: str) -> None:
    """Print data."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """Print something for people that is no data."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def fail(error: failures.CliError, *, as_json: bool) -> None:
    """Print an error on standard error."""
    if as_json:
        body = {"error": {"code": error.code, "message": str(error), "hint": error.hint}}
        say(json.dumps(body))
        return
    say(f"error: {clean_lines(str(error))}")
    if error.hint:
        say(f"hint:  {clean_lines(error.hint)}")


def clean_lines(text: str) -> str:
    """Return text of several lines that cannot steer a terminal."""
    return "\n".join(clean(line) for line in text.split("\n"))


def age(since: str | None) -> str:
    """Return how long ago an instant of the API was, such as `4m`.

    >>> age(None)
    '-'
    """
    if since is None:
        return "-"
    from datetime import datetime

    from controlplane import clock

    seconds = max(0, int((clock.SystemClock().now() - datetime.fromisoformat(since)).total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
