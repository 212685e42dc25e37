"""`dsctl forecast`: what is expected to arrive, how many nodes that needs, and the arithmetic behind it."""

from typing import Any

import typer

from controlplane.cli import client, options, output

app = typer.Typer(
    help="Forecasts: what will arrive, and how many nodes that needs.", no_args_is_help=True, rich_markup_mode=None
)

# A table of more steps is read by nobody; -o json has all of them.
_MAX_ROWS = 24


def _outlooks(context: typer.Context, service: str | None) -> dict[str, Any]:
    return client.Client(options.state_of(context)).get("/capacity", {"service": service})


def _names(found: dict[str, Any]) -> list[str]:
    return [one["service"] for one in found["items"]]


def _show(form: output.Output, found: dict[str, Any], sections: list[str]) -> None:
    human = "\n\n".join(sections) or "no service states pools whose nodes dsctl may start; see docs/capacity.md"
    output.show(form, found, human, _names(found))


@app.command("show")
def show_forecast(
    context: typer.Context, service: options.Service = None, form: options.Form = output.Output.TABLE
) -> None:
    """Show the expected arrivals per second with their bounds, and how good forecasts have been."""
    found = _outlooks(context, service)
    _show(form, found, [_forecast(one) for one in found["items"]])


def _forecast(outlook: dict[str, Any]) -> str:
    forecast = outlook["forecast"]
    if forecast is None:
        return f"{output.clean(outlook['service'])}: no forecast: {output.clean(outlook['no_forecast'])}"
    points = forecast["points"]
    stride = max(1, -(-len(points) // _MAX_ROWS))
    rows = [[_clock(one["at"]), one["p10"], one["p50"], one["p90"]] for one in points[::stride]]
    return "\n".join(
        [
            f"{output.clean(outlook['service'])}: now {forecast['last']:.4g} requests/s; {_accuracy(forecast)}",
            output.table(["TIME (UTC)", "P10", "P50", "P90"], rows),
        ]
    )


def _clock(instant: str) -> str:
    return instant[5:16].replace("T", " ")


def _accuracy(forecast: dict[str, Any]) -> str:
    accuracy = forecast["accuracy"]
    against = [f"{accuracy['wape_last_value']:.1%} repeating the last value"]
    if accuracy["wape_seasonal_naive"] is not None:
        against.append(f"{accuracy['wape_seasonal_naive']:.1%} repeating yesterday")
    return (
        f"error {accuracy['wape']:.1%} at {accuracy['horizon_seconds']:g} s ahead ({', '.join(against)}), "
        f"{accuracy['coverage']:.0%} between p10 and p90, fitted {output.age(forecast['fitted_at'])} ago"
    )


@app.command("plan")
def show_plan(
    context: typer.Context, service: options.Service = None, form: options.Form = output.Output.TABLE
) -> None:
    """Show how many nodes each service has and should have."""
    found = _outlooks(context, service)
    rows = [_row(one) for one in found["items"]]
    table = output.table(["SERVICE", "PRESENT", "READY", "DESIRED", "REACTIVE", "PREDICTED", "GATE"], rows)
    said = [f"{output.clean(one['service'])}: {output.clean(one['sentence'])}" for one in found["items"]]
    _show(form, found, ["\n".join([table, *said])] if rows else [])


def _row(outlook: dict[str, Any]) -> list[object]:
    plan = outlook["plan"]
    if plan is None:
        return [outlook["service"], None, None, None, None, None, None]
    gate = "open" if plan["gate"]["is_open"] else "closed"
    return [
        outlook["service"],
        *(plan[name] for name in ("present", "ready", "desired", "reactive", "predicted")),
        gate,
    ]


@app.command("explain")
def explain_plan(
    context: typer.Context, service: options.Service = None, form: options.Form = output.Output.TABLE
) -> None:
    """Show the arithmetic: every reason for a number of nodes, and whether the forecast may act."""
    found = _outlooks(context, service)
    _show(form, found, [_explanation(one) for one in found["items"]])


def _explanation(outlook: dict[str, Any]) -> str:
    name, plan = output.clean(outlook["service"]), outlook["plan"]
    lines = [f"{name}: {output.clean(outlook['sentence'])}"]
    if plan is not None:
        lines.append(f"forecast gate {output.clean(plan['gate']['sentence'])}")
        lines.append(f"looks {plan['horizon_seconds']:g} s ahead, which is one cold start")
        lines.append(
            output.table(["NEED", "NODES", "WHY"], [[n["name"], n["nodes"], n["sentence"]] for n in plan["needs"]])
        )
        pools = [
            [p["pool"], p["present"], p["desired"], p["minimum"], p["maximum"], p["placeable"]] for p in plan["pools"]
        ]
        lines.append(output.table(["POOL", "PRESENT", "DESIRED", "MIN", "MAX", "PLACEABLE"], pools))
    if outlook["forecast"] is None:
        lines.append(f"no forecast: {output.clean(outlook['no_forecast'])}")
    else:
        weights = sorted(outlook["forecast"]["weights"].items(), key=lambda one: -one[1])
        lines.append(f"forecast: {_accuracy(outlook['forecast'])}")
        lines.append("members: " + ", ".join(f"{output.clean(member)} {weight:.0%}" for member, weight in weights))
    return "\n".join(lines)
