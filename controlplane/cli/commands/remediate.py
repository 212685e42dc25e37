"""`dsctl remediate`: look, ask, act, follow. What was shown is what runs: the plan's hash goes with the order."""

from typing import Annotated, Any

import typer

from controlplane.cli import client, failures, following, options, output, planned, state
from controlplane.cli.commands import nodes

_MAYBE_STORED = "The run may have been stored: look at `dsctl runs list` before ordering it again."


def remediate(
    context: typer.Context,
    runbook: Annotated[str, typer.Argument(metavar="RUNBOOK", help="The runbook to carry out.")],
    service: Annotated[str | None, typer.Option("--service", help="The service it is for.")] = None,
    node: Annotated[str | None, typer.Option("--node", help="The node it is for: `node`, or `service/node`.")] = None,
    given: Annotated[list[str] | None, typer.Option("--input", help="An input as name=value; may be repeated.")] = None,
    reason: options.Reason = "",
    wait_timeout: options.WaitTimeout = "15m",
    form: options.Form = output.Output.TABLE,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change and stop.")] = False,
    yes: options.Yes = False,
    wait: options.Wait = True,
) -> None:
    """Carry out a runbook on a service or a node: shows the plan, asks, acts and follows to the verdict."""
    settings = options.state_of(context)
    seconds = options.duration(wait_timeout)
    http = client.Client(settings)
    body: dict[str, Any] = {"runbook": runbook, "reason": reason, "inputs": options.inputs(given or [])}
    body |= _target(http, service, node)
    preview = http.post("/plans", body)
    if dry_run:
        output.show(form, preview, describe(preview), [preview["plan"]["target"]])
        return
    is_table = form is output.Output.TABLE
    (output.tell if is_table else output.say)(describe(preview))
    if not yes:
        _ask(preview, settings)
    run_id = _submit(http, body, preview["plan"]["hash"])
    if not wait:
        output.show(form, {"run_id": run_id}, run_id, [run_id])
        return
    (output.tell if is_table else output.say)(f"\n{run_id}")
    code = following.follow(http, run_id, seconds, is_quiet=not is_table)
    found = http.get(f"/runs/{client.segment(run_id)}")
    output.show(form, found, following.ending(found), [run_id])
    raise typer.Exit(code)


def _target(http: client.Client, service: str | None, node: str | None) -> dict[str, str]:
    if node is not None:
        owner, name = nodes.locate(http, node, service)
        return {"service": owner, "node": name}
    if service is None:
        raise failures.usage("say what to remediate", hint="Add --service SERVICE or --node NODE.")
    return {"service": service}


def _ask(preview: dict[str, Any], settings: state.State) -> None:
    """Ask for a yes; a plan the guard refuses is not worth the question."""
    plan, guard = preview["plan"], preview["guard"]
    runbook, target = plan["request"]["runbook"], plan["target"]
    if not guard["is_allowed"]:
        raise failures.CliError(
            f"{runbook} on {target} would be refused: {guard['sentence']}",
            exit_code=failures.Exit.REFUSED,
            code="refused",
            hint=f"The gate is {guard['gate']}; try again when it would pass.",
        )
    options.confirm(output.clean(f"Carry out {runbook} on {target}?"), settings)


def _submit(http: client.Client, body: dict[str, Any], plan_hash: str) -> str:
    """Order the run under a key of its own, so that a repeat after a broken connection makes no second run."""
    import secrets

    try:
        return http.post("/runs", body | {"expected_hash": plan_hash}, key=secrets.token_hex(16))["run_id"]
    except failures.UnreachableError as error:
        error.hint = _MAYBE_STORED
        raise
    except KeyboardInterrupt as error:
        said = "interrupted while the run was being ordered"
        raise failures.CliError(
            said, exit_code=failures.Exit.INTERRUPTED, code="interrupted", hint=_MAYBE_STORED
        ) from error


def describe(preview: dict[str, Any]) -> str:
    """Return the steps of a plan, the difference it would make and the guard's answers, for people."""
    plan, guard = preview["plan"], preview["guard"]
    blast = plan["blast"]
    changes = [[c["target"], c["what"], c["before"], c["after"]] for c in plan["changes"]]
    answers = [[a["gate"], "pass" if a["is_passed"] else "REFUSE", a["sentence"]] for a in guard["answers"]]
    out_of_service = ", ".join(output.clean(name) for name in blast["unavailable"]) or "nothing"
    return "\n".join(
        [
            output.clean(f"{plan['request']['runbook']} on {plan['target']} (plan {plan['hash'][:12]})"),
            "",
            planned.steps(plan),
            "",
            output.table(["TARGET", "WHAT", "BEFORE", "AFTER"], changes) if changes else "Nothing would change.",
            "",
            f"Out of service meanwhile: {out_of_service}",
            "",
            output.table(["GATE", "ANSWER", "WHY"], answers),
        ]
    )
