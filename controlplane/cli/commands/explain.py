"""`dsctl explain`: why something was done, and above all why not, from the decisions as they were stored."""

from typing import Annotated, Any, cast

import typer

from controlplane.cli import client, options, output

_INCIDENT, _RUN = "inc_", "run_"
# A column of words before the sentence, so that refusals stand out.
_WORD = 8

What = Annotated[str, typer.Argument(metavar="WHAT", help="An incident, a run, a service, or a node as SERVICE/NODE.")]


def explain(
    context: typer.Context,
    what: What,
    last: Annotated[int, typer.Option("--last", min=1, max=1000, help="The newest so many decisions.")] = 5,
    form: options.Form = output.Output.TABLE,
) -> None:
    """Say why something was done, or why not: each decision with every gate that was asked, and what would change it."""
    found = client.Client(options.state_of(context)).get("/decisions", {**_query(what), "limit": last})
    told = [_tell(one) for one in _folded(found["items"])]
    human = "\n\n".join(told) if told else f"nothing was decided about {output.clean(what)}"
    if found["truncated"]:
        human += "\n\nthere is more: --last takes a larger number"
    output.show(form, found, human, [one["id"] for one in found["items"]])


def _query(what: str) -> dict[str, str]:
    """Return what to ask for.

    >>> _query("inc_01KD"), _query("chat/node-a")
    ({'incident_id': 'inc_01KD'}, {'service': 'chat', 'node': 'node-a'})
    """
    if what.startswith(_INCIDENT):
        return {"incident_id": what}
    if what.startswith(_RUN):
        return {"run_id": what}
    service, slash, node = what.partition("/")
    return {"service": service, "node": node} if slash else {"service": service}


def _folded(decisions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fold refusals that follow each other and say the same of the same; newest first, as they come."""
    kept: list[dict[str, Any]] = []
    for one in decisions:
        if kept and _is_same(kept[-1], one):
            newer = kept[-1]
            kept[-1] = newer | {"times": newer["times"] + one["times"], "since": one["since"] or one["at"]}
        else:
            kept.append(one)
    return kept


def _is_same(newer: dict[str, Any], older: dict[str, Any]) -> bool:
    said = ("outcome", "policy", "runbook", "target", "incident_id", "run_id")
    if newer["outcome"] == "allowed" or any(newer[name] != older[name] for name in said):
        return False
    gates = [(one["answers"] or [{"gate": one["sentence"]}])[-1]["gate"] for one in (newer, older)]
    return gates[0] == gates[1]


def _tell(decision: dict[str, Any]) -> str:
    asked = "nobody asked" if decision["outcome"] == "held" else "a person"
    who = f"policy {decision['policy']}" if decision["policy"] else asked
    about = [
        f"{name} {decision[key]}" for name, key in (("incident", "incident_id"), ("run", "run_id")) if decision[key]
    ]
    heading = f"{_time(decision['at'])}  {decision['outcome']}: {decision['runbook'] or '-'} on {decision['target']}"
    lines = [f"{heading} ({', '.join([who, *about])})", f"  {decision['sentence']}"]
    if decision["times"] > 1:
        lines.append(f"  the same {decision['times']} times since {_time(decision['since'])}")
    hints = [one["hint"] for one in decision["answers"] if one["hint"] and not one["is_passed"]]
    lines += [f"  what would change it: {hint}" for hint in hints]
    lines += [_answer(one) for one in decision["answers"]]
    return "\n".join(output.clean(line) for line in lines)


def _answer(answer: dict[str, Any]) -> str:
    word = "passed" if answer["is_passed"] else "REFUSED"
    numbers = " ".join(f"{name}={_number(value)}" for name, value in answer["numbers"].items())
    said = f"    {word.ljust(_WORD)}{answer['gate'].ljust(13)}{answer['sentence']}"
    return f"{said}  [{numbers}]" if numbers else said


def _number(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(str(one) for one in cast("list[Any]", value)) or "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _time(instant: str) -> str:
    return instant[:19].replace("T", " ")
