"""How a plan of the API is shown: its steps, with what they do and when they are left out. Pure."""

from collections.abc import Mapping
from typing import Any

from controlplane.cli import output


def steps(plan: Mapping[str, Any]) -> str:
    """Return the steps as a table."""
    rows = [[step["name"], _does(step), _when(step)] for step in plan["steps"]]
    return output.table(["STEP", "DOES", "WHEN"], rows)


def _does(step: Mapping[str, Any]) -> str:
    """Return what a step does.

    >>> _does({"kind": "wait", "until": "", "timeout_seconds": 30.0})
    'wait 30 s'
    """
    if step["kind"] == "wait":
        until = f" until {step['until']}, at most" if step["until"] else ""
        return f"wait{until} {step['timeout_seconds']:g} s"
    if step["kind"] == "approval":
        people = "1 person" if step["quorum"] == 1 else f"{step['quorum']} people"
        return f"ask {people} within {step['timeout_seconds']:g} s: {step['prompt']}"
    return " ".join([step["action"], *(f"{name}={value}" for name, value in step["params"].items())])


def _when(step: Mapping[str, Any]) -> str:
    """Return the condition of a step, with its answer where the request alone decides it.

    >>> _when({"when": "inputs.careful", "decided": False})
    'never: inputs.careful is false'
    """
    when, decided = step.get("when", ""), step.get("decided")
    if not when:
        return ""
    if decided is None:
        return f"if {when}"
    return f"always: {when} is true" if decided else f"never: {when} is false"
