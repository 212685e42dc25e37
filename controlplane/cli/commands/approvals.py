"""`dsctl approvals`: what waits for people. Answers are given with `dsctl runs approve` and `dsctl runs reject`."""

from typing import Any

import typer

from controlplane.cli import client, options, output

app = typer.Typer(help="Approvals: what waits for people.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def approvals() -> None:
    """Approvals: what waits for people."""


@app.command("list")
def list_approvals(
    context: typer.Context,
    service: options.Service = None,
    limit: options.Limit = 50,
    form: options.Form = output.Output.TABLE,
) -> None:
    """List the runs that wait for people, newest first."""
    found = client.Client(options.state_of(context)).get("/approvals", {"service": service, "limit": limit})
    rows = [
        [
            one["run_id"],
            one["runbook"],
            one["target"],
            one["requested_by"],
            agreed(one),
            one["expires_at"],
            one["reason"],
        ]
        for one in found["items"]
    ]
    human = output.table(["RUN", "RUNBOOK", "TARGET", "ASKED BY", "AGREED", "EXPIRES", "WHY"], rows)
    output.show(form, found, human, [one["run_id"] for one in found["items"]])


def agreed(approval: dict[str, Any]) -> str:
    """Return how many people agreed, of how many, and who.

    >>> agreed({"quorum": 2, "answers": [{"who": "anna", "is_approved": True}]})
    '1 of 2: anna'
    """
    names = [one["who"] for one in approval["answers"] if one["is_approved"]]
    count = f"{len(names)} of {approval['quorum']}"
    return f"{count}: {', '.join(names)}" if names else count
