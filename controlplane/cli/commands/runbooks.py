"""`dsctl runbooks`: the remedies at hand; checking, testing and trying out new ones before they are installed.

`validate`, `test` and `schema` work in this process and need no server; the rest asks one.
"""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from controlplane.cli import client, failures, local, options, output
from controlplane.cli.commands import nodes, remediate

app = typer.Typer(help="Runbooks: the remedies at hand.", no_args_is_help=True, rich_markup_mode=None)

_LOCAL_HINT = "docs/runbooks.md says how runbooks are written, docs/runbooks-testing.md how they are tested."


class Schema(StrEnum):
    """Kinds of files that have a schema."""

    RUNBOOK = "runbook"
    RUNBOOK_TEST = "runbook-test"
    POLICY = "policy"
    SERVICES = "services"


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
def validate_runbooks(
    context: typer.Context,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Files of runbooks or of their tests, or folders of them.")
    ],
    form: options.Form = output.Output.TABLE,
    *,
    on_server: Annotated[
        bool, typer.Option("--server", help="Check runbooks against the server's actions and signals instead.")
    ] = False,
) -> None:
    """Check files of runbooks and tests, without a server; prints file, line, column and reason of each fault."""
    missing = [str(file) for file in files if not file.exists()]
    if missing:
        raise failures.usage(f"{', '.join(missing)} cannot be read: no such file or folder")
    with local.translated(_LOCAL_HINT):
        reports = _ask_server(context, files) if on_server else _check_here(files)
    lines = [line for report in reports for line in _findings(report)]
    output.show(
        form,
        {"apiVersion": "dsctl/v1", "items": reports},
        "\n".join(output.clean(line) for line in lines),
        [report["path"] for report in reports if report["complaints"]],
    )
    if any(report["complaints"] for report in reports):
        raise typer.Exit(failures.Exit.ERROR)


def _check_here(files: list[Path]) -> list[dict[str, Any]]:
    from controlplane.rehearsal import checking

    return [asdict(report) for report in checking.check(files)]


def _ask_server(context: typer.Context, files: list[Path]) -> list[dict[str, Any]]:
    http = client.Client(options.state_of(context))
    return [_ask_about(http, file) for path in files for file in _expand(path)]


def _expand(path: Path) -> list[Path]:
    return sorted(path.glob("*.yaml")) if path.is_dir() else [path]


def _ask_about(http: client.Client, file: Path) -> dict[str, Any]:
    """Return the server's report on one file; what the server cannot read is a complaint, all else an error."""
    report: dict[str, Any] = {"path": str(file), "kind": "Runbook", "name": "", "complaints": []}
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return report | {"complaints": [f"{file}: cannot be read: {error}"]}
    try:
        return report | {"name": http.post("/runbooks/validate", {"text": text, "source": str(file)})["name"]}
    except failures.CliError as error:
        if error.code != "invalid":
            raise
        return report | {"complaints": [str(error)]}


def _findings(report: dict[str, Any]) -> list[str]:
    kinds = {"Runbook": "a valid runbook", "RunbookTest": "a valid test of a runbook"}
    return list(report["complaints"]) or [f"{report['path']} is {kinds[report['kind']]}: {report['name']}"]


@app.command("plan")
def plan_runbook(
    context: typer.Context,
    runbook: Annotated[str, typer.Argument(metavar="NAME", help="The runbook's name.")],
    service: Annotated[str | None, typer.Option("--service", help="The service it would be for.")] = None,
    node: Annotated[str | None, typer.Option("--node", help="The node it would be for: `node`, or `service/node`.")] = (
        None
    ),
    given: Annotated[list[str] | None, typer.Option("--input", help="An input as name=value; may be repeated.")] = None,
    form: options.Form = output.Output.TABLE,
) -> None:
    """Show what a runbook would do and change now, and what the guard says to it; nothing is done."""
    http = client.Client(options.state_of(context))
    if node is not None:
        service, node = nodes.locate(http, node, service)
    elif service is None:
        raise failures.usage("say what it would be for", hint="Add --service SERVICE or --node NODE.")
    body: dict[str, Any] = {"runbook": runbook, "service": service, "inputs": options.inputs(given or [])}
    preview = http.post("/plans", body | ({"node": node} if node else {}))
    output.show(form, preview, remediate.describe(preview), [preview["plan"]["target"]])


@app.command("test")
def rehearse_runbooks(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE...]", help="Files or folders of tests; without any, those of shipped runbooks."),
    ] = None,
    runbooks: Annotated[
        Path | None,
        typer.Option("--runbooks", help="Folder of your runbooks; default: the one around a test's folder `tests`."),
    ] = None,
    form: options.Form = output.Output.TABLE,
    *,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print the log of runs that went well, too.")
    ] = False,
) -> None:
    """Rehearse runbooks on a fleet that a file describes, without a server; an hour takes less than a second."""
    with local.translated(_LOCAL_HINT):
        from controlplane import telemetry
        from controlplane.rehearsal import rehearse

        telemetry.configure_logging("error", "console")
        results = rehearse.rehearse(files or [rehearse.SHIPPED], runbooks=runbooks)
    bad = [one for one in results if not one.is_good]
    lines = [line for one in results for line in _outcome(one, is_verbose=verbose)]
    lines.append(f"{len(results) - len(bad)} of {len(results)} went as expected")
    output.show(
        form,
        {"apiVersion": "dsctl/v1", "items": [asdict(one) for one in results]},
        "\n".join(output.clean(line) for line in lines),
        [f"{one.file}: {one.name}" for one in bad],
    )
    if bad or not results:
        raise typer.Exit(failures.Exit.ERROR)


def _outcome(result: Any, *, is_verbose: bool) -> list[str]:
    """Return what is said of one case: a line, and for one that went wrong the differences and the run's log."""
    told = f"{'ok  ' if result.is_good else 'FAIL'}  {result.file}: {result.name} ({result.seconds:.0f} s of a run)"
    details = [f"        {line}" for line in result.log] if is_verbose or not result.is_good else []
    return [told, *(f"      {line}" for line in result.differences), *details]


@app.command("schema")
def print_schema(
    kind: Annotated[Schema, typer.Argument(metavar="[KIND]", help="runbook, runbook-test, policy or services.")] = (
        Schema.RUNBOOK
    ),
) -> None:
    """Print the JSON Schema of a kind of file, for editors that check while one types."""
    from controlplane.cli import schemas

    output.tell(schemas.text(kind.value).rstrip())
