"""Expressions: checked when loaded, typed when resolved, and never a guess about what is unknown."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from controlplane import expressions
from controlplane.domain import errors
from controlplane.domain import signals as sig
from controlplane.expressions import Kind
from tests.support import builders

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)


def readings(**known: float) -> Callable[[str], sig.Reading]:
    def signal(name: str) -> sig.Reading:
        return sig.Value(known[name], NOW) if name in known else builders.unknown()

    return signal


def is_true(expression: str, **variables: object) -> bool:
    return expressions.Conditions().is_true(expression, variables)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ('finding.signal == "queue_depth" && finding.severity in ["warning", "critical"]', True),
        ("finding.score > 1", False),
        ("finding.score >= 1.0", True),
        ('finding.labels["team"] == "search"', True),
        ('"dsctl_runbook" in finding.labels', False),
        ('signal("queue_depth") > 4', True),
        ("signal(finding.signal) > 4.5", True),
        ("ready_nodes() >= 2 && service.min_ready == 1", True),
        ('now() < timestamp("2030-01-01T00:00:00Z")', True),
        ("incident.age > 60 && incident.attempts < 3", True),
        ('finding.signal == "other" && signal("missing") > 1', False),
    ],
)
def test_conditions_see_their_variables_and_readers(expression: str, expected: bool) -> None:
    """A policy's condition sees finding, incident, service and the three functions."""
    expressions.check(expression, Kind.POLICY_CONDITION)
    found = is_true(
        expression,
        finding={"signal": "queue_depth", "severity": "critical", "score": 1.0, "labels": {"team": "search"}},
        incident={"age": 61.0, "attempts": 1},
        service={"name": "chat", "min_ready": 1},
        signal=readings(queue_depth=5.0),
        ready_nodes=lambda: 2,
        now=lambda: NOW,
    )
    assert found is expected


@pytest.mark.parametrize(
    "expression",
    [
        'signal("missing") > 1',
        'signal("missing") == 0',
        'signal("missing") > 1 || true',
        'true || false ? signal("missing") < 9 || true : true',
        '[1].all(x, signal("missing") > x) || true',
    ],
)
def test_an_unknown_reading_holds_and_is_never_zero(expression: str) -> None:
    """Whatever the rest of the condition says, a reading that was asked for and is unknown makes it an error."""
    with pytest.raises(errors.InvalidInputError, match="signal 'missing' is unknown: last scrape is too old"):
        is_true(expression, signal=readings())


def test_a_reading_that_is_no_number_is_unknown() -> None:
    """NaN from a reader is not compared."""
    with pytest.raises(errors.InvalidInputError, match="unknown"):
        is_true('signal("odd") > 1 || true', signal=readings(odd=float("nan")))


def test_a_reader_that_refuses_makes_the_condition_hold() -> None:
    """`ready_nodes()` over a fleet nobody can count is an error, also where `||` would not need it."""

    def refuse() -> int:
        raise errors.InvalidInputError("how many nodes are ready is unknown")

    with pytest.raises(errors.InvalidInputError, match="how many nodes are ready is unknown"):
        is_true("ready_nodes() > 1 || true", ready_nodes=refuse)


@pytest.mark.parametrize(
    ("expression", "variables", "reason"),
    [
        ("1", {}, "gave 1, not true or false"),
        ("inputs.flag", {"inputs": {"flag": "true"}}, "not true or false"),
        ("inputs.gone == 1", {"inputs": {}}, "Key not found"),
        ("plan.desired > 1", {}, "plan is unknown"),
        ("finding.observed > 1.0", {"finding": {"observed": None}}, "finding.observed is unknown"),
        ("1 / 0 == 1", {}, "divide by zero"),
        ("ready_nodes() > 1", {}, r"ready_nodes\(\) cannot be asked here"),
        ("inputs.big > 1", {"inputs": {"big": 2**70}}, "out of range"),
        ("inputs.at > 1", {"inputs": {"at": object()}}, "Non-CEL value"),
        ("inputs.x + inputs.x > 1", {"inputs": {"x": "a"}}, "overload"),
    ],
)
def test_whatever_is_not_true_or_false_is_an_error(expression: str, variables: dict[str, object], reason: str) -> None:
    """Errors and values of other types never count as false, nor as true."""
    with pytest.raises(errors.InvalidInputError, match=reason):
        is_true(expression, **variables)


@pytest.mark.parametrize(
    ("expression", "kind", "reason"),
    [
        ("finding.signl == 'a'", Kind.POLICY_CONDITION, "undeclared reference to 'finding.signl'"),
        ("finding.signal == 1", Kind.POLICY_CONDITION, "no matching overload"),
        ("finding.signal ==", Kind.POLICY_CONDITION, "Syntax error"),
        ("", Kind.POLICY_CONDITION, "Syntax error"),
        ("finding.signal", Kind.POLICY_CONDITION, "gives STRING, not true or false"),
        ("signal('queue_depth')", Kind.WAIT_CONDITION, "gives DYN, not true or false"),
        ("signal(1) > 1", Kind.WAIT_CONDITION, "no matching overload"),
        ("finding.signal == 'a'", Kind.WAIT_CONDITION, "undeclared reference"),
        ("inputs.a == 1", Kind.POLICY_CONDITION, "undeclared reference"),
        ("ready_nodes() + 1", Kind.STEP_INPUT, "undeclared reference"),
        ("system('reboot') == 0", Kind.POLICY_CONDITION, "undeclared reference to 'system'"),
        ("__import__('os') == 0", Kind.POLICY_CONDITION, "undeclared reference"),
        ('"\ud800" == "a"', Kind.POLICY_CONDITION, "characters that no text has"),
        ("\x00", Kind.POLICY_CONDITION, "Syntax error"),
        ("true && " * 500 + "true", Kind.POLICY_CONDITION, "at most 2000"),
        ("(" * 60 + "true" + ")" * 60, Kind.POLICY_CONDITION, "recursion"),
    ],
)
def test_what_can_never_work_is_refused_when_it_is_loaded(expression: str, kind: Kind, reason: str) -> None:
    """Syntax, misspelt variables, types and size are checked before anything runs."""
    with pytest.raises(errors.InvalidInputError, match=reason):
        expressions.check(expression, kind)


def test_evaluation_is_bounded() -> None:
    """Nested loops end at the iteration budget instead of keeping the loop busy."""
    many = "[" + ",".join("1" * 100) + "]"
    with pytest.raises(errors.InvalidInputError, match="budget"):
        is_true(f"{many}.all(a, {many}.all(b, {many}.all(c, a + b + c < 5)))")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("${inputs.replicas}", 3),
        ("${inputs.replicas + 1}", 4),
        ("${inputs.replicas > 2}", True),
        ("${inputs.ratio}", 0.5),
        ("${inputs.nothing}", None),
        ("${'node-' + inputs.name}", "node-a"),
        ("${{'deep': [inputs.name, {'x': 1.5}]}}", {"deep": ["a", {"x": 1.5}]}),
        ("${timestamp('2026-01-01T00:00:00Z')}", "2026-01-01T00:00:00+00:00"),
        ("literal", "literal"),
        ("$inputs.replicas {}", "$inputs.replicas {}"),
        (["${inputs.name}", 7, None], ["a", 7, None]),
        ({"with": {"tier": "${inputs.name}"}}, {"with": {"tier": "a"}}),
        (True, True),
    ],
)
def test_templates_give_typed_values(template: object, expected: object) -> None:
    """`${...}` keeps the type of its expression; every other string is literal."""
    inputs = {"replicas": 3, "ratio": 0.5, "name": "a", "nothing": None}
    found = expressions.resolve(template, {"inputs": inputs})  # type: ignore[arg-type]  # JSON of mixed depth
    assert found == expected
    assert type(found) is type(expected)


def test_text_in_a_variable_is_never_an_expression() -> None:
    """An alert label that looks like an expression stays the text it is."""
    hostile = "${signal('x')}"
    assert expressions.resolve("${inputs.node}", {"inputs": {"node": hostile}}) == hostile


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("a-${inputs.x}", "mixes text"),
        ("${inputs.x}${inputs.x}", "mixes text"),
        ("${inputs.x", "mixes text"),
        ("${1.0 / 0.0}", "not a finite number"),
        ("${duration('5s')}", "no JSON value"),
        ("${b'raw'}", "no JSON value"),
        ("${inputs.gone}", "Key not found"),
        ("${}", "Syntax error"),
    ],
)
def test_templates_that_give_no_value_are_refused(template: str, reason: str) -> None:
    """A parameter is resolved to a JSON value or not at all."""
    with pytest.raises(errors.InvalidInputError, match=reason):
        expressions.resolve(template, {"inputs": {"x": 1}})


def test_checking_a_template_names_the_place() -> None:
    """The message says which of the nested values is wrong."""
    with pytest.raises(errors.InvalidInputError) as refused:
        expressions.check_template({"a": 1, "b": [True, {"c": "${inputs.}"}]}, Kind.STEP_INPUT)
    assert refused.value.place == "b[1].c"
    expressions.check_template({"b": ["${inputs.x}", "text", None]}, Kind.STEP_INPUT)


def test_matches_is_anchored_and_linear() -> None:
    """Silence matchers are matched as Alertmanager does, and a pattern made to backtrack costs nothing."""
    assert expressions.matches("node-.*", "node-a")
    assert not expressions.matches("node", "node-a")
    assert not expressions.matches("(a+)+b", "a" * 5000)
    with pytest.raises(errors.InvalidInputError):
        expressions.matches("(", "a")


def test_signals_that_are_spelt_out_are_found() -> None:
    """Loading can check the names of signals, whichever quotes are used."""
    found = expressions.signals_named("""signal("a") > 1 && signal( 'b' ) < 2 || signal(finding.signal) > 0""")
    assert found == {"a", "b"}


def test_service_variables_are_the_declared_ones() -> None:
    """What a service offers to expressions compiles."""
    service = builders.service(minimum=2)
    assert is_true('service.name == "chat" && service.min_ready == 2', service=expressions.service_variables(service))
