"""JSON Schemas of the files that people write, made from the models that read them, for editors that check while one types.

Called by `dsctl runbooks schema` and by `reference`, which writes them to docs/schemas. A schema says less than the
models do: what needs other files, or two fields at once, is said by `dsctl runbooks validate`. Imports the models when
a schema is made, since they are heavy.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import pydantic


def _runbook() -> "type[pydantic.BaseModel]":
    from controlplane.runs.language import models

    return models.RunbookDocument


def _test() -> "type[pydantic.BaseModel]":
    from controlplane.rehearsal import models

    return models.TestDocument


def _policy() -> "type[pydantic.BaseModel]":
    from controlplane.engine import config

    return config.DOCUMENT


def _services() -> "type[pydantic.BaseModel]":
    from controlplane.observe import service_file

    return service_file.DOCUMENT


# Kind of file -> its model, and what people call it.
KINDS: Mapping[str, tuple["Callable[[], type[pydantic.BaseModel]]", str]] = {
    "runbook": (_runbook, "A runbook of dsctl"),
    "runbook-test": (_test, "Tests of a runbook of dsctl"),
    "policy": (_policy, "A policy of dsctl"),
    "services": (_services, "The services that dsctl manages (services.yaml)"),
}


def schema(kind: str) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a kind of file."""
    from pydantic.json_schema import GenerateJsonSchema

    class Plain(GenerateJsonSchema):
        """Without titles of fields, which repeat their names."""

        def field_title_should_be_set(self, schema: Any) -> bool:
            del schema
            return False

    model, title = KINDS[kind]
    made = model().model_json_schema(schema_generator=Plain)
    _simplify(made)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made, "title": title}


def _simplify(part: Any) -> None:
    """Leave out what nobody writes: null for what can be left out, and seconds where the file holds a duration."""
    if isinstance(part, list):
        for one in cast("list[Any]", part):
            _simplify(one)
    elif isinstance(part, dict):
        fields = cast("dict[str, Any]", part)
        for one in fields.values():
            _simplify(one)
        _drop_null(fields)
        default = fields.get("default")
        if fields.get("type") == "string" and isinstance(default, float):
            fields["default"] = f"{default:.0f}s"


def _drop_null(fields: dict[str, Any]) -> None:
    choices: list[Any] = fields.get("anyOf", [])
    if {"type": "null"} not in choices or "default" not in fields or fields["default"] is not None:
        return
    kept = [one for one in choices if one != {"type": "null"}]
    del fields["anyOf"], fields["default"]
    fields.update(kept[0] if len(kept) == 1 else {"anyOf": kept})


def text(kind: str) -> str:
    """Return the schema as the text of a file."""
    return json.dumps(schema(kind), indent=2, ensure_ascii=False) + "\n"


def write(folder: Path) -> None:
    """Write every schema into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        (folder / f"{kind}.schema.json").write_text(text(kind), encoding="utf-8")
