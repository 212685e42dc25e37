"""The published JSON Schemas are those of the models, take what we ship, and refuse what an editor should mark."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from controlplane import strictyaml
from controlplane.cli import schemas
from controlplane.rehearsal import rehearse
from controlplane.runs.language import library

ROOT = Path(__file__).parents[3]
SERVICES = """\
services:
  - name: chat
    profile: dsctl
    selector: {service: chat}
    capacity: {cold_start: 2m}
"""


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return {kind: schemas.schema(kind) for kind in schemas.KINDS}


def shipped(kind: str) -> Iterator[str]:
    if kind == "services":
        yield SERVICES
        return
    folder = {
        "runbook": library.SHIPPED,
        "runbook-test": rehearse.SHIPPED,
        "policy": ROOT / "controlplane" / "engine" / "library",
    }[kind]
    yield from (path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.yaml")))


@pytest.mark.parametrize("kind", schemas.KINDS)
def test_published_schemas_are_in_step_with_the_models(kind: str) -> None:
    """`python -m controlplane.cli.reference docs` writes them anew."""
    assert (ROOT / "docs" / "schemas" / f"{kind}.schema.json").read_text(encoding="utf-8") == schemas.text(kind)


@pytest.mark.parametrize("kind", schemas.KINDS)
def test_what_we_ship_is_valid(kind: str, made: dict[str, Any]) -> None:
    """An editor that marks a good file would soon be ignored."""
    validator: Any = jsonschema.Draft202012Validator(made[kind])
    validator.check_schema(made[kind])
    for text in shipped(kind):
        document = strictyaml.load(text, source=kind)
        assert [error.message for error in validator.iter_errors(document)] == []


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        ("runbook", "action: set_rung", "acton: set_rung"),
        ("runbook", "timeout: 10s", "timeout: 10"),
        ("runbook", "name: degrade", "name: Degrade"),
        ("runbook", "attempts: 3", "attempts: 30"),
        ("runbook", "kind: Runbook", "kind: Runbok"),
        ("runbook", "type: integer", "type: int"),
        ("runbook-test", "state: failed", "state: lost"),
        ("runbook-test", "answers: {set: [refuse]}", "answers: {set: [refused]}"),
        ("policy", "mode: auto", "mode: never"),
        ("services", "cold_start: 2m", "cold_start: 120"),
        ("services", "profile: dsctl", "profil: dsctl"),
    ],
)
def test_mistakes_are_marked_while_one_types(kind: str, right: str, wrong: str, made: dict[str, Any]) -> None:
    """Misspelt fields, numbers where durations belong, words that are none of those there are."""
    text = next(one for one in shipped(kind) if right in one)
    document = strictyaml.load(text.replace(right, wrong, 1), source=kind)
    assert list(jsonschema.Draft202012Validator(made[kind]).iter_errors(document))
