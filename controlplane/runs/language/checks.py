"""What a runbook says about the rest of the house: actions, signals, inputs, expressions, its own steps.

Called by `library` for every file, before any runbook of the set is accepted; what runbooks say about each other is
in `links`. Refuses at load what could only fail in the middle of an incident: a misspelt parameter, an undo of what
cannot be undone, an expression over an input nobody declared. Pure: it asks a vocabulary that it was given.
"""

import functools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from actions import api
from controlplane import expressions, strictyaml
from controlplane.domain import errors, outcomes
from controlplane.runs.language import models, schemas

# In the argument of an undo edge: every step that took effect and can be undone, newest first.
ALL_STEPS = "all"

_INPUT_BY_DOT = re.compile(r"\binputs\s*\.\s*([A-Za-z_]\w*)")
_INPUT_BY_INDEX = re.compile(r"""\binputs\s*\[\s*(?:"([^"\\]*)"|'([^'\\]*)')\s*\]""")
_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"' + r"|'(?:[^'\\]|\\.)*'")
_PLAN = re.compile(r"\bplan\s*[.\[]")
_FLAG = re.compile(r"\s*inputs\.([a-z][a-z0-9_]*)\s*")
_WHOLE_INPUT = re.compile(r"\$\{\s*inputs\.([a-z][a-z0-9_]*)\s*\}")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The words a runbook may use: the actions there are, and the canonical signals that can be verified."""

    actions: Mapping[str, api.Action]
    signals: Collection[str]


def check(runbook: models.RunbookDocument, document: strictyaml.Document, words: Vocabulary) -> None:
    """Raise InvalidInputError, with file, line and path, for the first thing that cannot work."""
    for complaint in complaints(runbook, document, words):
        raise complaint


def complaints(
    runbook: models.RunbookDocument, document: strictyaml.Document, words: Vocabulary
) -> Iterator[errors.InvalidInputError]:
    """Yield what cannot work, at most one complaint for each part of the runbook."""
    for part in _Checker(runbook, document, words).parts():
        try:
            part()
        except errors.InvalidInputError as error:
            yield error


class _Checker:
    """One runbook being checked; holds what every complaint needs."""

    def __init__(self, runbook: models.RunbookDocument, document: strictyaml.Document, words: Vocabulary) -> None:
        self._spec = runbook.spec
        self._document = document
        self._words = words

    def parts(self) -> Iterator[Callable[[], None]]:
        """Yield the checks, in the order of the document but for the failure edges, which may name any step."""
        yield self._names
        yield self._inputs
        for number, step in enumerate(self._spec.steps):
            place = ("spec", "steps", number)
            yield functools.partial(self._when, step, (*place, "when"))
            yield functools.partial(self._step, step, place)
        yield self._verify
        yield functools.partial(self._on_failure, self._spec.on_failure, ("spec", "on_failure"))
        for number, step in enumerate(self._spec.steps):
            yield functools.partial(self._on_failure, step.on_failure or (), ("spec", "steps", number, "on_failure"))

    def _names(self) -> None:
        """Refuse two steps of one name: events, undo and keys go by it."""
        seen: set[str] = set()
        for number, step in enumerate(self._spec.steps):
            if step.name in seen:
                raise self._refuse(("spec", "steps", number, "name"), f"a step named {step.name!r} exists already")
            seen.add(step.name)

    def _inputs(self) -> None:
        """Refuse a second input that would be filled from the same part of the request."""
        for kind in ("service", "node"):
            named = [name for name, one in self._spec.inputs.items() if one.type == kind]
            if len(named) > 1:
                raise self._refuse(("spec", "inputs", named[1]), f"a second input of type {kind}; one is the target")

    def _when(self, step: models.Step, path: strictyaml.Path) -> None:
        if step.when is not None:
            self._condition(step.when, path, expressions.Kind.STEP_CONDITION)

    def _step(self, step: models.Step, path: strictyaml.Path) -> None:
        """Check what the step does: an action with its parameters, a condition, a question, other steps."""
        if step.wait is not None and step.wait.until is not None:
            self._condition(step.wait.until, (*path, "wait", "until"), expressions.Kind.WAIT_CONDITION)
        if step.approval is not None:
            self._template(step.approval.prompt, (*path, "approval", "prompt"))
        if step.include is not None:
            self._include(step, path)
        if step.action is not None:
            self._act(step, path)

    def _act(self, step: models.Step, path: strictyaml.Path) -> None:
        spec = self._action(step, (*path, "action")).spec
        place = (*path, "with")
        self._templates(step.params, place)
        schemas.check(spec.parameters, step.params, self._document, place)
        self._known_inputs_fit(spec, step, place)

    def _action(self, step: models.Step, path: strictyaml.Path) -> api.Action:
        name = step.action or ""
        action = self._words.actions.get(name)
        if action is None:
            near = strictyaml.suggest(name, list(self._words.actions))
            raise self._refuse(path, f"unknown action {name!r}{near}")
        return action

    def _include(self, step: models.Step, path: strictyaml.Path) -> None:
        """Refuse steps after those of another runbook: what follows would depend on what that one will say one day."""
        if step is not self._spec.steps[-1]:
            raise self._refuse((*path, "include"), "only the last step may include another runbook; move it to the end")
        self._templates(step.params, (*path, "with"))

    def _condition(self, expression: str, path: strictyaml.Path, kind: expressions.Kind) -> None:
        self._declared(expression, path)
        for signal in sorted(expressions.signals_named(expression)):
            self._signal(signal, path)
        if self._is_flag(expression):
            return
        try:
            expressions.check(expression, kind)
        except errors.InvalidInputError as error:
            raise self._refuse(path, str(error)) from error

    def _is_flag(self, expression: str) -> bool:
        """Say whether a condition is nothing but an input that is true or false; CEL does not know the types of inputs."""
        found = _FLAG.fullmatch(expression)
        return found is not None and self._spec.inputs[found.group(1)].type == "boolean"

    def _templates(self, params: Mapping[str, outcomes.Json], place: strictyaml.Path) -> None:
        for where, text in _strings(dict(params), place):
            self._template(text, where)

    def _template(self, text: str, path: strictyaml.Path) -> None:
        if "${" in text:
            self._declared(text, path)
            self._without_plan(text, path)
        try:
            expressions.check_template(text, expressions.Kind.STEP_INPUT)
        except errors.InvalidInputError as error:
            raise self._refuse(path, str(error)) from error

    def _without_plan(self, text: str, path: strictyaml.Path) -> None:
        if _PLAN.search(_TEXT.sub('""', text)):
            raise self._refuse(
                path, "there is no plan yet while parameters are resolved; let the policy pass it as input"
            )

    def _declared(self, expression: str, path: strictyaml.Path) -> None:
        for name in _inputs_named(expression):
            if name not in self._spec.inputs:
                near = strictyaml.suggest(name, list(self._spec.inputs))
                raise self._refuse(path, f"input {name!r} is not declared under spec.inputs{near}")

    def _known_inputs_fit(self, spec: api.ActionSpec, step: models.Step, place: strictyaml.Path) -> None:
        """Try the values an input can be known to have: its default, and each value of an enum."""
        for param, text in step.params.items():
            found = _WHOLE_INPUT.fullmatch(text) if isinstance(text, str) else None
            source = self._spec.inputs.get(found.group(1)) if found else None
            if source is None:
                continue
            for value in {source.default, *source.values} - {None}:
                resolved = {**step.params, param: source.value(value)}
                schemas.check(spec.parameters, resolved, self._document, place)

    def _verify(self) -> None:
        """Refuse signals that nobody can verify."""
        for number, signal in enumerate(self._spec.verify.signals if self._spec.verify else ()):
            self._signal(signal, ("spec", "verify", "signals", number))

    def _signal(self, signal: str, path: strictyaml.Path) -> None:
        if signal not in self._words.signals:
            near = strictyaml.suggest(signal, list(self._words.signals))
            raise self._refuse(path, f"unknown signal {signal!r}{near}")

    def _on_failure(self, edges: Sequence[models.FailureEdge], place: strictyaml.Path) -> None:
        """Refuse an undo of a step that is not there, or that cannot be undone."""
        steps = {step.name: step for step in self._spec.steps}
        for number, edge in enumerate(edges):
            if edge.undo is not None:
                self._undo(edge.undo, steps, (*place, number, "undo"))

    def _undo(self, name: str, steps: Mapping[str, models.Step], path: strictyaml.Path) -> None:
        step = steps.get(name)
        if step is None and (name == ALL_STEPS or _is_of_include(name, steps)):
            return  # `links` looks into the included runbook
        if step is None:
            raise self._refuse(path, f"no step is named {name!r}{strictyaml.suggest(name, list(steps))}")
        if step.action is None:
            article = "a" if step.kind == "wait" else "an"
            raise self._refuse(path, f"step {name!r} is {article} {step.kind}; there is nothing to undo")
        action = self._words.actions.get(step.action)
        if action is not None and not action.spec.is_reversible:
            raise self._refuse(path, f"step {name!r} cannot be undone: action {step.action!r} is not reversible")

    def _refuse(self, path: strictyaml.Path, message: str) -> errors.InvalidInputError:
        return errors.InvalidInputError(f"{strictyaml.dotted(path)}: {message}", place=self._document.place(path))


def _is_of_include(name: str, steps: Mapping[str, models.Step]) -> bool:
    step = steps.get(name.partition(".")[0])
    return step is not None and step.include is not None and "." in name


def _inputs_named(expression: str) -> Iterator[str]:
    """Yield the inputs an expression reads; text in quotes does not count, except as an index of `inputs`."""
    yield from (double or single for double, single in _INPUT_BY_INDEX.findall(expression))
    yield from _INPUT_BY_DOT.findall(_TEXT.sub('""', expression))


def _strings(value: outcomes.Json, path: strictyaml.Path) -> Iterator[tuple[strictyaml.Path, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _strings(part, (*path, key))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _strings(part, (*path, number))
