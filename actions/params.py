"""Parameters of actions: one pydantic model per action gives both the check and the declared JSON Schema. Pure."""

from collections.abc import Mapping
from typing import Annotated, TypeVar, cast

import pydantic

from actions import api
from controlplane import strictyaml
from controlplane.domain import errors, outcomes

# The contract's bounds of a lease; the default outlives any verification we ship and ends within one shift.
MAX_TTL_SECONDS = 86_400
TtlSeconds = Annotated[
    float, pydantic.Field(ge=1, le=MAX_TTL_SECONDS, description="The override ends by itself after this.")
]
DEFAULT_TTL_SECONDS = 900.0


class Params(pydantic.BaseModel):
    """Base of every action's parameters: no unknown names, no coercion."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


_Model = TypeVar("_Model", bound=Params)


def parse(model: type[_Model], params: api.Params) -> _Model:
    """Return typed parameters; raises InvalidInputError whose place is the parameter."""
    try:
        return model.model_validate(dict(params))
    except pydantic.ValidationError as error:
        raise _refusal(model, error) from error


def schema(model: type[Params]) -> Mapping[str, outcomes.Json]:
    """Return the JSON Schema that the action declares."""
    return cast("Mapping[str, outcomes.Json]", model.model_json_schema())


def _refusal(model: type[Params], error: pydantic.ValidationError) -> errors.InvalidInputError:
    complaint = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = strictyaml.dotted(complaint["loc"])
    if complaint["type"] == "extra_forbidden" and len(complaint["loc"]) == 1:
        near = strictyaml.suggest(place, list(model.model_fields))
        return errors.InvalidInputError(f"unknown parameter{near}", place=place)
    return errors.InvalidInputError(complaint["msg"].removeprefix("Value error, "), place=place)
