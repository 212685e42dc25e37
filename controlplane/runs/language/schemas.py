"""Checks parameters against the JSON Schema that an action declares, as far as a runbook tells before it runs.

Called by `checks` when a runbook is loaded. A parameter that is `${...}` has no value yet: it satisfies any
type, but its name must still be a known one, and required parameters must still be there. Pure.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import jsonschema
from jsonschema.exceptions import ValidationError

from controlplane import strictyaml
from controlplane.domain import errors, outcomes

# The library repeats the whole value in its message.
_MAX_MESSAGE = 300


def check(
    schema: Mapping[str, outcomes.Json],
    params: Mapping[str, outcomes.Json],
    document: strictyaml.Document,
    place: strictyaml.Path,
) -> None:
    """Raise InvalidInputError for the first parameter that cannot fit; `place` is where `params` stand."""
    validator: Any = jsonschema.Draft202012Validator(dict(schema))
    found = cast("Iterable[ValidationError]", validator.iter_errors(dict(params)))
    for error in found:
        path = (*place, *error.absolute_path)
        for complaint in _complaints(error):
            raise errors.InvalidInputError(f"{strictyaml.dotted(path)}: {complaint}", place=document.place(path))


def _complaints(error: ValidationError) -> Iterator[str]:
    """Yield what is wrong in plain words; nothing when only a value that is not known yet stands in the way."""
    details = cast("Mapping[str, Any]", error.schema if isinstance(error.schema, Mapping) else {})
    if error.validator == "additionalProperties":
        known = list(cast("Mapping[str, object]", details.get("properties", {})))
        unknown = next(name for name in cast("Mapping[str, object]", error.instance) if name not in known)
        yield f"unknown parameter {unknown!r}{strictyaml.suggest(unknown, known)}"
    elif error.validator == "required":
        yield f"parameter {_missing(error)!r} is missing"
    elif not has_template(cast("outcomes.Json", error.instance)):
        yield error.message[:_MAX_MESSAGE]


def _missing(error: ValidationError) -> str:
    needed = cast("list[str]", error.validator_value)
    return next(name for name in needed if name not in cast("Mapping[str, object]", error.instance))


def has_template(value: outcomes.Json) -> bool:
    """Say whether a value, or a part of it, is only known when the runbook is planned."""
    if isinstance(value, str):
        return "${" in value
    if isinstance(value, list):
        return any(has_template(part) for part in value)
    return isinstance(value, dict) and any(has_template(part) for part in value.values())
