"""Writes the generated pages of `docs`: `python -m controlplane.cli.reference docs`.

Run by people after a change of a setting, a command or the API; tests compare the pages with the code.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from controlplane import settings
from controlplane.api import export
from controlplane.cli import failures, main, schemas


def commands() -> str:
    """Return the page `docs/cli.md`."""
    lines = [
        "# Command line",
        "",
        "`dsctl NOUN VERB`. Most commands ask the server named by `--server`, `DSCTL_SERVER`, or the context in",
        "`$XDG_CONFIG_HOME/dsctl/config.toml`, in this order; without any it is `http://127.0.0.1:8090`. The token comes",
        "from `--token-file`, `DSCTL_TOKEN`, `DSCTL_TOKEN_FILE` or the context; without any, the one the server on this",
        "machine wrote at its first start. Data goes to standard output, everything else to standard error.",
        "",
        "## Exit codes",
        "",
        "| Code | Meaning |",
        "|---|---|",
        *(f"| {code.value} | {meaning} |" for code, meaning in failures.MEANINGS.items()),
        "",
    ]
    root: Any = typer.main.get_command(main.app)
    return "\n".join([*lines, *_pages(root, "dsctl")]).rstrip() + "\n"


def _pages(command: Any, path: str) -> Iterator[str]:
    """Yield the section of a command, and of those below it."""
    inner: dict[str, Any] = getattr(command, "commands", {})
    yield from _section(command, path)
    for name, child in inner.items():
        yield from _pages(child, f"{path} {name}")


def _section(command: Any, path: str) -> Iterator[str]:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    flags = [one for one in command.params if one.param_type_name == "option" and one.name not in _COMPLETION]
    usage = " ".join([path, *(str(one.metavar or one.name.upper()) for one in arguments)])
    yield from (f"## `{path}`", "", str(command.help or "").strip(), "", f"    {usage}", "")
    if not arguments and not flags:
        return
    yield from ("| Name | Meaning | Default |", "|---|---|---|")
    for one in arguments:
        yield f"| `{one.metavar or one.name.upper()}` | {one.help or ''} | {_default(one)} |"
    for one in flags:
        names = ", ".join(f"`{name}`" for name in [*one.opts, *one.secondary_opts])
        yield f"| {names} | {one.help or ''} | {_default(one)} |"
    yield ""


_COMPLETION = ("install_completion", "show_completion")


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    return "" if value in (None, "", False, ()) or callable(value) else f"`{value}`"


def write(folder: Path) -> None:
    """Write every generated page."""
    (folder / "api").mkdir(parents=True, exist_ok=True)
    (folder / "settings.md").write_text(settings.markdown(), encoding="utf-8")
    (folder / "cli.md").write_text(commands(), encoding="utf-8")
    schemas.write(folder / "schemas")
    (folder / "api" / "openapi.json").write_text(export.text(), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
