"""The OpenAPI document of the API, with rights and problem details in it. Pure."""

from typing import Any, cast

import fastapi
from fastapi.openapi import utils

from controlplane.api import guarded, wire
from controlplane.api.rights import Right


def of(app: fastapi.FastAPI) -> dict[str, Any]:
    """Describe the routes of `app`."""
    # The version is the API's, not the package's: a release that changes no route changes no byte here.
    found = utils.get_openapi(title="dsctl", version="v1", routes=app.routes)
    schemas = found.setdefault("components", {}).setdefault("schemas", {})
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    schemas["Problem"] = wire.Problem.model_json_schema()
    found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for methods in found["paths"].values():
        for operation in methods.values():
            _complete(operation)
    return found


def _complete(operation: dict[str, Any]) -> None:
    """State what the framework cannot know: who may call, and that every error is a problem."""
    right = Right(operation[guarded.RIGHT_KEY])
    operation["security"] = [] if right is Right.PUBLIC else [{"token": []}]
    answers = cast("dict[str, Any]", operation["responses"])
    answers.pop("422", None)
    answers["default"] = {
        "description": "Problem details (RFC 9457)",
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
