"""`dsctl nodes`: the fleet as it was last seen; and how a node is found by its name alone."""

from typing import Annotated, Any

import typer

from controlplane.cli import client, failures, options, output

app = typer.Typer(help="Nodes: the fleet as it was last seen.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_nodes(
    context: typer.Context, service: options.Service = None, form: options.Form = output.Output.TABLE
) -> None:
    """List nodes."""
    found = client.Client(options.state_of(context)).get("/nodes", {"service": service})
    rows = [
        [node["name"], node["service"], node["is_up"], node["address"], _known(node), output.age(node["observed_at"])]
        for node in found["items"]
    ]
    human = output.table(["NAME", "SERVICE", "UP", "ADDRESS", "SIGNALS", "AGE"], rows)
    output.show(form, found, human, [f"{node['service']}/{node['name']}" for node in found["items"]])


def _known(node: dict[str, Any]) -> str:
    readings = node["signals"].values()
    return f"{sum(reading['unknown'] is None for reading in readings)}/{len(readings)}"


@app.command("get")
def get_node(
    context: typer.Context,
    node: Annotated[str, typer.Argument(metavar="NODE", help="`node`, or `service/node`.")],
    form: options.Form = output.Output.TABLE,
) -> None:
    """Show the newest reading of every signal of a node."""
    http = client.Client(options.state_of(context))
    service, name = locate(http, node, None)
    found = http.get(f"/nodes/{client.segment(service)}/{client.segment(name)}")
    rows = [
        [signal, reading["value"], reading["unknown"], output.age(reading["at"])]
        for signal, reading in sorted(found["signals"].items())
    ]
    human = output.table(["SIGNAL", "VALUE", "UNKNOWN", "AGE"], rows)
    output.show(form, found, human, [f"{service}/{name}"])


def locate(http: client.Client, node: str, service: str | None) -> tuple[str, str]:
    """Return service and node for `node` or `service/node`; raises CliError unless exactly one is meant."""
    prefix, slash, name = node.rpartition("/")
    if slash:
        if service is not None and service != prefix:
            raise failures.usage(f"--service {service} and --node {node} name different services")
        return prefix, name
    if service is not None:
        return service, node
    owners = [one["service"] for one in http.get("/nodes")["items"] if one["name"] == node]
    if len(owners) == 1:
        return owners[0], node
    if not owners:
        raise failures.CliError(
            f"no node {node!r} is known",
            exit_code=failures.Exit.NOT_FOUND,
            code="not-found",
            hint="See `dsctl nodes list`.",
        )
    raise failures.usage(
        f"node {node!r} exists in several services: {', '.join(sorted(owners))}",
        hint=f"Write {owners[0]}/{node}, or add --service.",
    )
