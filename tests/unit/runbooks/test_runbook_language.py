"""What a runbook may say, and how everything else is refused when it is loaded."""

import pydantic
import pytest

from controlplane.domain import errors
from controlplane.runs.language import library, models
from tests.support import runbooks


def parse(text: str, **kwargs: object) -> library.Runbook:
    return library.parse(text, source="books/x.yaml", words=runbooks.words())


def test_a_good_runbook_says_what_it_says() -> None:
    """Units are resolved and defaults filled in."""
    book = parse(runbooks.GOOD)
    assert (book.name, book.summary) == ("scale-out", "Add nodes ahead of demand")
    assert book.spec.steps[0].timeout == 120
    assert book.spec.steps[1].wait is not None
    assert book.spec.steps[1].wait.timeout == 600
    assert book.spec.verify is not None
    assert (book.spec.verify.within, book.spec.verify.hold) == (300, 120)
    assert book.spec.inputs["replicas"].is_required
    assert not book.spec.inputs["pace"].is_required


@pytest.mark.parametrize(
    ("right", "wrong", "place", "reason"),
    [
        ("dsctl/v1", "dsctl/v2", "x.yaml:1", "apiVersion"),
        ("kind: Runbook", "kind: Policy", "x.yaml:2", "kind"),
        ("name: scale-out", "name: Scale Out", "x.yaml:3", "is no name"),
        ("action: scale", "acton: scale", "x.yaml:10", "did you mean 'action'"),
        ("timeout: 2m", "timeout: 120", "x.yaml:10", "write hours, minutes"),
        ("timeout: 2m", "timeout: 99h", "x.yaml:10", "too long"),
        ("timeout: 2m", "attempts: 11", "x.yaml:10", "less than or equal to 10"),
        ("name: settle", "name: grow", "x.yaml:11", "exists already"),
        ("action: scale", "action: scael", "x.yaml:10", "did you mean 'scale'"),
        ("{replicas: ", "{replica: ", "x.yaml:10", "did you mean 'replicas'"),
        ('{replicas: "${inputs.replicas}", ', "{", "x.yaml:10", "parameter 'replicas' is missing"),
        ('"${inputs.replicas}"', "many", "x.yaml:10", "is not of type 'integer'"),
        ("default: slow", "default: fat", "x.yaml:8", "must be one of slow, fast"),
        ("minimum: 1", "minimun: 1", "x.yaml:7", "unknown field 'minimun'"),
        ("type: integer", "type: int", "x.yaml:7", "'integer'"),
        ("{type: service}", "{type: service, minimum: 1}", "x.yaml:6", "belong to numbers"),
        ("maximum: 64}", "required: false}", "x.yaml:7", "needs a 'default'"),
        ("${inputs.pace}", "${inputs.pase}", "x.yaml:10", "did you mean 'pace'"),
        ("${inputs.pace}", "${inputs['pase']}", "x.yaml:10", "did you mean 'pace'"),
        ("${inputs.pace}", "${inputs.pace +}", "x.yaml:10", "expression"),
        ("${inputs.pace}", "${plan.pace}", "x.yaml:10", "no plan yet"),
        ("${inputs.pace}", "at ${inputs.pace}", "x.yaml:10", "mixes text"),
        ("${inputs.pace}", "${signal('queue_depth')}", "x.yaml:10", "signal"),
        (">= inputs.replicas", ">= inputs.replica", "x.yaml:11", "did you mean 'replicas'"),
        ("ready_nodes() >= inputs.replicas", "ready_nodes()", "x.yaml:11", "not true or false"),
        ("ready_nodes() >= inputs.replicas", "signal('queue_dept') < 1.0", "x.yaml:11", "did you mean 'queue_depth'"),
        (", timeout: 10m", "", "x.yaml:11", "needs a 'timeout'"),
        ("timeout: 10m", "timeout: 10m, seconds: 3", "x.yaml:11", "either 'until'"),
        ("wait: {until", "action: scale, wait: {until", "x.yaml:11", "exactly one of 'action', 'wait'"),
        ("[latency_p99, queue_depth]", "[latency_p9]", "x.yaml:12", "did you mean 'latency_p99'"),
        ("[latency_p99, queue_depth]", "[]", "x.yaml:12", "at least 1 item"),
        ("hold: 2m", "hold: 6m", "x.yaml:12", "longer than 'within'"),
        ("untouched-nodes", "all-nodes", "x.yaml:12", "untouched-nodes"),
        ("{undo: grow}", "{undo: gorw}", "x.yaml:13", "did you mean 'grow'"),
        ("{undo: grow}", "{undo: settle}", "x.yaml:13", "is a wait"),
        ("{undo: grow}", "{undo: grow, run: other}", "x.yaml:13", "exactly one"),
        ("spec:", "spec:\n  steps: []", "x.yaml:10", "given twice"),
    ],
)
def test_mistakes_are_refused_with_place_and_reason(right: str, wrong: str, place: str, reason: str) -> None:
    """Each refusal names file and line, and says what to write instead."""
    assert right in runbooks.GOOD
    with pytest.raises(errors.InvalidInputError) as caught:
        parse(runbooks.GOOD.replace(right, wrong, 1))
    assert reason in str(caught.value)
    assert caught.value.place.startswith(f"books/{place}")


def test_undo_of_what_cannot_be_undone_is_refused() -> None:
    """The ladder after a failure must be able to keep its promise."""
    words = runbooks.words(runbooks.Recording(is_reversible=False))
    with pytest.raises(errors.InvalidInputError, match="'scale' is not reversible"):
        library.parse(runbooks.GOOD, source="x.yaml", words=words)


def test_a_default_that_no_action_accepts_is_refused() -> None:
    """An input's known values are tried against the parameter they become."""
    text = runbooks.GOOD.replace("type: integer, minimum: 1, maximum: 64", "type: string, default: many")
    with pytest.raises(errors.InvalidInputError, match="'many' is not of type 'integer'"):
        parse(text)


def test_two_inputs_for_one_target_are_refused() -> None:
    """Both would be filled with the same node."""
    text = runbooks.GOOD.replace("inputs:", "inputs:\n    a: {type: node}\n    b: {type: node}", 1)
    with pytest.raises(errors.InvalidInputError, match="second input of type node"):
        parse(text)


def test_quoted_text_is_not_taken_for_an_input() -> None:
    """`inputs.x` inside a string of an expression reads nothing."""
    parse(runbooks.GOOD.replace("${inputs.pace}", "${inputs.pace == 'inputs.other' ? 'a' : 'b'}"))


def test_the_digest_follows_the_content_not_the_layout() -> None:
    """Comments and order change nothing, a changed number does."""
    book = parse(runbooks.GOOD)
    assert parse("# a remark\n" + runbooks.GOOD).digest == book.digest
    assert parse(runbooks.GOOD.replace("maximum: 64", "maximum: 65")).digest != book.digest


@pytest.mark.parametrize("text", ["", "2", "m2", "1m 30s", "1s1m", "-1s", "0s", "1.5h", "25h", "\u0669s"])
def test_only_durations_are_durations(text: str) -> None:
    """Everything else is refused with an example."""
    with pytest.raises(ValueError, match=r"duration"):
        pydantic.TypeAdapter[float](models.Duration).validate_python(text)
