"""The checked-in OpenAPI document is what the code says, and complete."""

import json
from pathlib import Path

import openapi_spec_validator

from controlplane.api import app, export, problems

DOCUMENT = Path(__file__).parents[3] / "docs" / "api" / "openapi.json"


def test_checked_in_document_is_current() -> None:
    """A change of the API shows in the document; `python -m controlplane.cli.reference` updates it."""
    assert DOCUMENT.read_text(encoding="utf-8") == export.text()


def test_document_is_valid_and_states_rights_and_problems() -> None:
    """Every operation says who may call it and that errors are problem details."""
    document = json.loads(DOCUMENT.read_text(encoding="utf-8"))
    openapi_spec_validator.validate(document)
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len(operations) == len(app.ROUTES)
    for operation in operations:
        assert operation["x-dsctl-right"]
        assert operation["summary"]
        assert (operation["security"] == []) == (operation["x-dsctl-right"] == "public")
        assert "application/problem+json" in operation["responses"]["default"]["content"]


def test_problem_kinds_are_distinct() -> None:
    """Scripts compare slugs, so no two kinds share one."""
    slugs = [kind.slug for kind in problems.KINDS]
    assert len(set(slugs)) == len(slugs)
