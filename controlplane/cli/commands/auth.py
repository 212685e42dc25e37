"""`dsctl auth`: tokens and who one is."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from controlplane.cli import client, options, output

app = typer.Typer(help="Tokens of the API.", no_args_is_help=True, rich_markup_mode=None)
tokens = typer.Typer(help="Make, list and revoke tokens.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(tokens, name="token")


class Role(StrEnum):
    """Roles a token may have; the API's list, kept here because importing it is slow (a test compares them)."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    ADMIN = "admin"
    EVENTS = "events"


TokenName = Annotated[str, typer.Argument(metavar="NAME", help="The token's name.")]


@app.command("whoami")
def whoami(context: typer.Context, form: options.Form = output.Output.TABLE) -> None:
    """Say whose token is sent."""
    found = client.Client(options.state_of(context)).get("/whoami")
    output.show(form, found, output.clean(f"{found['name']} ({found['role']})"), [found["name"]])


@tokens.command("create")
def create_token(
    context: typer.Context,
    name: TokenName,
    role: Annotated[Role, typer.Option("--role", help="What its holder may do.")],
    expires: Annotated[str | None, typer.Option("--expires", help="Stops working after, such as 30d.")] = None,
    form: options.Form = output.Output.TABLE,
) -> None:
    """Make a token and print it; it is not shown again."""
    body: dict[str, Any] = {"name": name, "role": role.value}
    if expires is not None:
        body["expires_at"] = _after(options.duration(expires))
    found = client.Client(options.state_of(context)).post("/tokens", body)
    output.show(form, found, found["token"], [found["name"]])


def _after(seconds: float) -> str:
    from datetime import timedelta

    from controlplane import clock

    return (clock.SystemClock().now() + timedelta(seconds=seconds)).isoformat()


@tokens.command("list")
def list_tokens(context: typer.Context, form: options.Form = output.Output.TABLE) -> None:
    """List tokens, without their secrets."""
    found = client.Client(options.state_of(context)).get("/tokens")
    rows = [
        [token["name"], token["role"], token["expires_at"], token["revoked_at"], output.age(token["created_at"])]
        for token in found["items"]
    ]
    human = output.table(["NAME", "ROLE", "EXPIRES", "REVOKED", "AGE"], rows)
    output.show(form, found, human, [token["name"] for token in found["items"]])


@tokens.command("revoke")
def revoke_token(context: typer.Context, name: TokenName) -> None:
    """Make a token stop working at once."""
    client.Client(options.state_of(context)).delete(f"/tokens/{client.segment(name)}")
    output.say(f"token {name} is revoked")
