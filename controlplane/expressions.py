"""CEL behind one small door: conditions of policies and waits, and `${...}` in inputs and parameters.

Called by policy and runbook loading (`check`, `check_template`), by decide and runs (`Conditions`) and by
planning (`resolve`). Every expression is type-checked when it is loaded; when it is evaluated, anything but a
clean result raises InvalidInputError and the caller holds. Text from alerts is only ever a value here, never an
expression. No I/O. Concurrency: plain functions; one evaluation binds its readers to the calling context, so
threads and tasks do not see each other's.

Bounds: an expression has at most MAX_CHARACTERS characters; the CEL library stops at 32 nested levels and at
10,000 iterations, and its regular expressions (RE2) take linear time.
"""

import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import cast

from cel_expr_python import cel

from controlplane.domain import errors, outcomes
from controlplane.domain import services as svc
from controlplane.domain import signals as sig

# The longest condition in our library has 120 characters; a person cannot review more than this.
MAX_CHARACTERS = 2000

# Compiling takes about 1 ms, evaluating 6 microseconds; a fleet has some hundred expressions at most.
_COMPILED_KEPT = 1024

_TEMPLATE = re.compile(r"\$\{(.*)\}", re.DOTALL)
_MISSING = re.compile(r'No value with name "([^"]+)" found')
_STATUS = re.compile(r"^[A-Z_]+: (ERROR: )?| \[[A-Z_]+\]$")
_SIGNAL_CALL = re.compile(r"""\bsignal\(\s*(?:"([^"\\]*)"|'([^'\\]*)')\s*\)""")

_FACTS = cel.Type.Map(cel.Type.STRING, cel.Type.DYN)
_FINDING = {
    "finding.kind": cel.Type.STRING,
    "finding.service": cel.Type.STRING,
    "finding.node": cel.Type.STRING,
    "finding.target": cel.Type.STRING,
    "finding.signal": cel.Type.STRING,
    "finding.severity": cel.Type.STRING,
    "finding.source": cel.Type.STRING,
    "finding.score": cel.Type.DYN,  # numbers are DYN, so that `score > 1` and `score > 1.0` both compile
    "finding.observed": cel.Type.DYN,
    "finding.expected": cel.Type.DYN,
    "finding.labels": cel.Type.Map(cel.Type.STRING, cel.Type.STRING),
}
_INCIDENT = {
    "incident.id": cel.Type.STRING,
    "incident.severity": cel.Type.STRING,
    "incident.age": cel.Type.DYN,
    "incident.attempts": cel.Type.INT,
}
_SERVICE = {"service.name": cel.Type.STRING, "service.min_ready": cel.Type.INT}
_PLAN = {"plan": _FACTS}
_INPUTS = {"inputs": _FACTS}
_ALL = {**_FINDING, **_INCIDENT, **_SERVICE, **_PLAN, **_INPUTS}
# Objects whose fields are declared one by one, so that a misspelt field is refused when it is loaded.
_OBJECTS = frozenset(name.partition(".")[0] for name in _ALL if "." in name)


class Kind(StrEnum):
    """Where an expression stands: it decides which variables and functions it sees and what it must give."""

    POLICY_CONDITION = "policy condition"
    POLICY_INPUT = "policy input"
    WAIT_CONDITION = "wait condition"
    STEP_CONDITION = "step condition"
    STEP_INPUT = "step parameter"

    @property
    def is_condition(self) -> bool:
        """True when the expression must give true or false."""
        return self in {Kind.POLICY_CONDITION, Kind.WAIT_CONDITION, Kind.STEP_CONDITION}


_VARIABLES: Mapping[Kind, Mapping[str, cel.Type]] = {
    Kind.POLICY_CONDITION: {**_FINDING, **_INCIDENT, **_SERVICE, **_PLAN},
    Kind.POLICY_INPUT: {**_FINDING, **_INCIDENT, **_SERVICE, **_PLAN},
    Kind.WAIT_CONDITION: {**_INPUTS, **_SERVICE, **_PLAN},
    Kind.STEP_CONDITION: {**_INPUTS, **_SERVICE, **_PLAN},
    Kind.STEP_INPUT: {**_INPUTS, **_SERVICE, **_PLAN},
}


@dataclass(slots=True)
class _Readers:
    """The functions one evaluation may call, and the first refusal any of them gave."""

    variables: Mapping[str, object]
    refusal: str = ""

    def call(self, name: str, *arguments: object) -> object:
        """Call the reader; a refusal is remembered, because CEL's `||` would otherwise swallow it."""
        function = self.variables.get(name)
        try:
            if not callable(function):
                raise errors.InvalidInputError(f"{name}() cannot be asked here")
            return function(*arguments)
        except errors.DsctlError as error:
            self.refusal = self.refusal or str(error)
            raise

    def signal(self, name: str) -> float:
        """Return a reading's value; an unknown one is refused, never zero."""
        reading = self.call("signal", name)
        if isinstance(reading, sig.Value) and math.isfinite(reading.value):
            return reading.value
        self.refusal = self.refusal or f"signal {name!r} is unknown: {reading}"
        raise errors.InvalidInputError(self.refusal)


_readers: ContextVar[_Readers] = ContextVar("_readers")


def check(expression: str, kind: Kind) -> None:
    """Refuse an expression that can never work: syntax, misspelt variables, types that do not fit.

    Raises InvalidInputError.

    >>> check('finding.signal == "queue_depth"', Kind.POLICY_CONDITION)
    """
    program = _compile(expression, tuple(_VARIABLES[kind]), kind is not Kind.STEP_INPUT)
    if kind.is_condition and program.return_type() != cel.Type.BOOL:
        raise errors.InvalidInputError(
            f"{kind} {expression!r} gives {program.return_type()!r}, not true or false; compare it with something"
        )


def is_timeless(expression: str) -> bool:
    """Say whether an expression that was checked reads nothing of the fleet: its answer is the same at any time.

    >>> is_timeless("inputs.replicas > 3"), is_timeless('signal("queue_depth") > 3.0')
    (True, False)
    """
    try:
        _compile(expression, tuple(_ALL), False)
    except errors.InvalidInputError:
        return False  # it calls a function that only a running plan has
    return True


def check_template(template: outcomes.Json, kind: Kind) -> None:
    """Check every `${...}` inside a JSON value; raises InvalidInputError naming the place."""
    for place, text in _strings(template, ""):
        try:
            expression = _expression(text)
            if expression is not None:
                check(expression, kind)
        except errors.InvalidInputError as error:
            raise errors.InvalidInputError(str(error), place=place) from error


def resolve(template: outcomes.Json, variables: Mapping[str, object]) -> outcomes.Json:
    """Return `template` with every string `${expression}` replaced by the expression's typed value.

    Other strings are literal. Values are not looked at again: text that arrives in a variable stays text.
    Raises InvalidInputError when an expression fails, or gives something JSON cannot hold.

    >>> resolve({"replicas": "${inputs.replicas + 1}"}, {"inputs": {"replicas": 3}})
    {'replicas': 4}
    """
    if isinstance(template, dict):
        return {key: resolve(value, variables) for key, value in template.items()}
    if isinstance(template, list):
        return [resolve(value, variables) for value in template]
    if not isinstance(template, str):
        return template
    expression = _expression(template)
    return template if expression is None else _to_json(expression, _evaluate(expression, variables))


def signals_named(expression: str) -> frozenset[str]:
    """Return the signal names that `expression` spells out in `signal("...")`, so that typing errors are found.

    >>> sorted(signals_named('signal("queue_depth") > 3.0 && signal(finding.signal) > 1.0'))
    ['queue_depth']
    """
    return frozenset(double or single for double, single in _SIGNAL_CALL.findall(expression))


def matches(pattern: str, text: str) -> bool:
    """Say whether the whole of `text` matches an RE2 pattern: the dialect of Alertmanager, in linear time.

    Raises InvalidInputError for a pattern that is none.

    >>> matches("node-[ab]", "node-a"), matches("node-[ab]", "node-abc")
    (True, False)
    """
    found = _evaluate("inputs.text.matches(inputs.pattern)", {"inputs": {"text": text, "pattern": f"^(?:{pattern})$"}})
    return found is True


def service_variables(service: svc.Service) -> dict[str, object]:
    """Return what expressions may know of a service."""
    return {"name": service.name, "min_ready": service.min_ready}


class Conditions:
    """The `Conditions` port: stateless."""

    def is_true(self, expression: str, variables: Mapping[str, object]) -> bool:
        """Evaluate a condition.

        `variables` holds nested mappings (`finding`, `incident`, `service`, `plan`, `inputs`) and the callables
        `signal(name) -> Reading`, `ready_nodes() -> int`, `now() -> datetime`. Raises InvalidInputError when the
        result is no bool, or when a reading that was asked for is unknown: even where `||` would not need it.
        """
        value = _evaluate(expression, variables)
        if not isinstance(value, bool):
            raise errors.InvalidInputError(f"condition {expression!r} gave {value!r}, not true or false")
        return value


@functools.lru_cache(maxsize=_COMPILED_KEPT)
def _compile(expression: str, names: tuple[str, ...], has_functions: bool) -> cel.Expression:
    if len(expression) > MAX_CHARACTERS:
        raise errors.InvalidInputError(f"an expression of {len(expression)} characters; at most {MAX_CHARACTERS}")
    try:
        return _environment(names, has_functions).compile(expression)
    except (RuntimeError, TypeError) as error:
        raise errors.InvalidInputError(f"expression {expression!r}: {_complaint(error)}") from error


@functools.cache
def _environment(names: tuple[str, ...], has_functions: bool) -> cel.Env:
    functions = [
        _function("signal", cel.Type.DYN, [cel.Type.STRING], _read_signal),
        _function("ready_nodes", cel.Type.INT, [], lambda: _readers.get().call("ready_nodes")),
        _function("now", cel.Type.TIMESTAMP, [], lambda: _readers.get().call("now")),
    ]
    return cel.NewEnv(variables={name: _ALL[name] for name in names}, functions=functions if has_functions else [])


def _read_signal(name: str) -> float:
    return _readers.get().signal(name)


def _function(
    name: str, result: cel.Type, parameters: list[cel.Type], implementation: Callable[..., object]
) -> cel.FunctionDecl:
    return cel.FunctionDecl(name, [cel.Overload(f"dsctl_{name}", result, parameters, False, implementation)])


def _evaluate(expression: str, variables: Mapping[str, object]) -> object:
    program = _compile(expression, tuple(_ALL), True)
    readers = _Readers(variables)
    token = _readers.set(readers)
    try:
        result = program.eval(data=dict(_flat(variables)))
    except (RuntimeError, TypeError) as error:
        raise errors.InvalidInputError(f"expression {expression!r}: {_complaint(error)}") from error
    finally:
        _readers.reset(token)
    if readers.refusal:
        raise errors.InvalidInputError(f"expression {expression!r}: {readers.refusal}")
    if result.type() == cel.Type.ERROR or result.type() == cel.Type.UNKNOWN:
        raise errors.InvalidInputError(f"expression {expression!r}: {_spoken(str(result.plain_value()))}")
    return result.plain_value()


def _flat(variables: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Spell objects with declared fields out as `finding.kind`; a field without a value is left out, so unknown."""
    for name, value in variables.items():
        if name in _OBJECTS and isinstance(value, Mapping):
            fields = cast("Mapping[str, object]", value)
            yield from ((f"{name}.{field}", item) for field, item in fields.items() if item is not None)
        elif not callable(value):
            yield name, value


def _expression(text: str) -> str | None:
    """Return the expression of a `${...}` string, None for literal text; refuse a mixture of both."""
    if "${" not in text:
        return None
    found = _TEMPLATE.fullmatch(text)
    if found is None or "${" in found.group(1):
        raise errors.InvalidInputError(
            f"{text!r} mixes text and ${{...}}; write one expression for the whole string, such as ${{'a' + inputs.b}}"
        )
    return found.group(1)


def _strings(template: outcomes.Json, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(template, str):
        yield place, template
    elif isinstance(template, dict):
        for key, value in template.items():
            yield from _strings(value, f"{place}.{key}" if place else key)
    elif isinstance(template, list):
        for index, value in enumerate(template):
            yield from _strings(value, f"{place}[{index}]")


def _to_json(expression: str, value: object) -> outcomes.Json:
    if isinstance(value, float) and not math.isfinite(value):
        raise errors.InvalidInputError(f"expression {expression!r} gave {value}, which is not a finite number")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [_to_json(expression, item) for item in cast("list[object]", value)]
    if isinstance(value, dict):
        return {str(key): _to_json(expression, item) for key, item in cast("dict[object, object]", value).items()}
    if isinstance(value, datetime):
        return value.isoformat()
    raise errors.InvalidInputError(f"expression {expression!r} gave {value!r}, which is no JSON value")


def _complaint(error: RuntimeError | TypeError) -> str:
    """Return the library's message as one line, without its file name and drawing."""
    if isinstance(error, TypeError):  # the binding's answer to a lone surrogate
        return "holds characters that no text has"
    return _spoken(str(error).splitlines()[0]).replace("<input>:", "at ")


def _spoken(complaint: str) -> str:
    """Return a complaint of the library without its status codes; a missing value is called unknown."""
    if missing := _MISSING.search(complaint):
        return f"{missing.group(1)} is unknown"
    return _STATUS.sub("", complaint)
