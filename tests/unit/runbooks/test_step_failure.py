"""What a runbook may say about the failure of one of its steps."""

from pathlib import Path

import pytest

from controlplane.domain import errors
from controlplane.runs.language import library
from tests.support import runbooks

GROW = "  - {name: grow, action: scale, with: {replicas: 2}"


def text(*steps: str, name: str = "a") -> str:
    lines = [
        "apiVersion: dsctl/v1",
        "kind: Runbook",
        f"metadata: {{name: {name}, summary: A test's}}",
        "spec:",
        "  steps:",
        *(f"  {step}" for step in steps),
    ]
    return "\n".join(lines) + "\n"


def test_a_step_may_have_edges_of_its_own_or_may_fail() -> None:
    """Both are kept as written; a wait may fail too."""
    book = library.parse(
        text(
            f"{GROW}, on_failure: [{{undo: grow}}, {{escalate: oncall}}]}}",
            '  - {name: warm, wait: {until: "ready_nodes() >= 2", timeout: 1m}, continue_on_failure: true}',
        ),
        source="a.yaml",
        words=runbooks.words(),
    )
    grow, warm = book.spec.steps
    assert [(edge.undo, edge.escalate) for edge in grow.on_failure or ()] == [("grow", None), (None, "oncall")]
    assert (warm.continue_on_failure, warm.on_failure) == (True, None)


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (
            f"{GROW}, on_failure: [{{undo: shrink}}]}}",
            r"spec\.steps\[0\]\.on_failure\[0\]\.undo: no step is named 'shrink'",
        ),
        (f"{GROW}, on_failure: [], continue_on_failure: true}}", "either 'on_failure' or 'continue_on_failure'"),
        (f"{GROW}, on_failure: [{{undo: grow, run: x}}]}}", "exactly one of 'undo', 'run' and 'escalate'"),
        (f"{GROW}, on_failure: continue}}", r"spec\.steps\[0\]\.on_failure"),
        (f"{GROW}, continue_on_failure: sometimes}}", r"spec\.steps\[0\]\.continue_on_failure"),
    ],
)
def test_what_cannot_work_is_refused_at_load(step: str, reason: str) -> None:
    """With file, line and path, before anything runs."""
    with pytest.raises(errors.InvalidInputError, match=reason):
        library.parse(text(step), source="a.yaml", words=runbooks.words())


def test_follow_ups_of_steps_are_checked_like_the_runbooks(tmp_path: Path) -> None:
    """They must exist and must not run in a circle."""
    shipped = runbooks.write(tmp_path / "shipped")
    missing = runbooks.write(tmp_path / "missing", text(f"{GROW}, on_failure: [{{run: b}}]}}"))
    with pytest.raises(
        errors.InvalidInputError, match=r"spec\.steps\[0\]\.on_failure\[0\]\.run: no runbook is named 'b'"
    ):
        library.load(runbooks.words(), shipped=shipped, user=missing)
    circle = runbooks.write(
        tmp_path / "circle",
        text(f"{GROW}, on_failure: [{{run: b}}]}}"),
        text(f"{GROW}, on_failure: [{{run: a}}]}}", name="b"),
    )
    with pytest.raises(errors.InvalidInputError, match="in a circle"):
        library.load(runbooks.words(), shipped=shipped, user=circle)
