"""What a runbook says about the rest of the house: actions, signals, inputs, expressions, its own steps.

Called by `library` for every file, before any runbook of the set is accepted. Refuses at load what could only
fail in the middle of an incident: a misspelt parameter, an undo of what cannot be undone, an expression over an
input nobody declared. Pure: it asks a vocabulary that it was given.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from actions import api
from controlplane import expressions, strictyaml
from controlplane.domain import errors, outcomes
from controlplane.runs.language import models, schemas

_INPUT_BY_DOT = re.compile(r"\binputs\s*\.\s*([A-Za-z_]\w*)")
_INPUT_BY_INDEX = re.compile(r"""\binputs\s*\[\s*(?:"([^"\\]*)"|'([^'\\]*)')\s*\]""")
_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"' + r"|'(?:[^'\\]|\\.)*'")
_PLAN = re.compile(r"\bplan\s*[.\[]")
_WHOLE_INPUT = re.compile(r"\$\{\s*inputs\.([a-z][a-z0-9_]*)\s*\}")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The words a runbook may use: the actions there are, and the canonical signals that can be verified."""

    actions: Mapping[str, api.Action]
    signals: Collection[str]


def check(runbook: models.RunbookDocument, document: strictyaml.Document, words: Vocabulary) -> None:
    """Raise InvalidInputError, with file, line and path, for the first thing that cannot work."""
    checker = _Checker(runbook, document, words)
    checker.names()
    checker.inputs()
    for number, step in enumerate(runbook.spec.steps):
        checker.step(step, ("spec", "steps", number))
    checker.verify()
    checker.on_failure(runbook.spec.on_failure, ("spec", "on_failure"))
    for number, step in enumerate(runbook.spec.steps):
        checker.on_failure(step.on_failure or (), ("spec", "steps", number, "on_failure"))


class _Checker:
    """One runbook being checked; holds what every complaint needs."""

    def __init__(self, runbook: models.RunbookDocument, document: strictyaml.Document, words: Vocabulary) -> None:
        self._spec = runbook.spec
        self._document = document
        self._words = words

    def names(self) -> None:
        """Refuse two steps of one name: events, undo and keys go by it."""
        seen: set[str] = set()
        for number, step in enumerate(self._spec.steps):
            if step.name in seen:
                raise self._refuse(("spec", "steps", number, "name"), f"a step named {step.name!r} exists already")
            seen.add(step.name)

    def inputs(self) -> None:
        """Refuse a second input that would be filled from the same part of the request."""
        for kind in ("service", "node"):
            named = [name for name, one in self._spec.inputs.items() if one.type == kind]
            if len(named) > 1:
                raise self._refuse(("spec", "inputs", named[1]), f"a second input of type {kind}; one is the target")

    def step(self, step: models.Step, path: strictyaml.Path) -> None:
        """Check an action with its parameters, or the condition of a wait."""
        if step.wait is not None:
            self._wait(step.wait, (*path, "wait", "until"))
            return
        spec = self._action(step, (*path, "action")).spec
        place = (*path, "with")
        for where, text in _strings(step.params, place):
            self._template(text, where)
        schemas.check(spec.parameters, step.params, self._document, place)
        self._known_inputs_fit(spec, step, place)

    def _action(self, step: models.Step, path: strictyaml.Path) -> api.Action:
        name = step.action or ""
        action = self._words.actions.get(name)
        if action is None:
            near = strictyaml.suggest(name, list(self._words.actions))
            raise self._refuse(path, f"unknown action {name!r}{near}")
        return action

    def _wait(self, wait: models.Wait, path: strictyaml.Path) -> None:
        if wait.until is None:
            return
        self._declared(wait.until, path)
        for signal in sorted(expressions.signals_named(wait.until)):
            self._signal(signal, path)
        try:
            expressions.check(wait.until, expressions.Kind.WAIT_CONDITION)
        except errors.InvalidInputError as error:
            raise self._refuse(path, str(error)) from error

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
                schemas.check(spec.parameters, {**step.params, param: value}, self._document, place)

    def verify(self) -> None:
        """Refuse signals that nobody can verify."""
        for number, signal in enumerate(self._spec.verify.signals if self._spec.verify else ()):
            self._signal(signal, ("spec", "verify", "signals", number))

    def _signal(self, signal: str, path: strictyaml.Path) -> None:
        if signal not in self._words.signals:
            near = strictyaml.suggest(signal, list(self._words.signals))
            raise self._refuse(path, f"unknown signal {signal!r}{near}")

    def on_failure(self, edges: Sequence[models.FailureEdge], place: strictyaml.Path) -> None:
        """Refuse an undo of a step that is not there, or that cannot be undone."""
        steps = {step.name: step for step in self._spec.steps}
        for number, edge in enumerate(edges):
            if edge.undo is not None:
                self._undo(edge.undo, steps, (*place, number, "undo"))

    def _undo(self, name: str, steps: Mapping[str, models.Step], path: strictyaml.Path) -> None:
        step = steps.get(name)
        if step is None:
            raise self._refuse(path, f"no step is named {name!r}{strictyaml.suggest(name, list(steps))}")
        if step.action is None:
            raise self._refuse(path, f"step {name!r} is a wait; there is nothing to undo")
        if not self._words.actions[step.action].spec.is_reversible:
            raise self._refuse(path, f"step {name!r} cannot be undone: action {step.action!r} is not reversible")

    def _refuse(self, path: strictyaml.Path, message: str) -> errors.InvalidInputError:
        return errors.InvalidInputError(f"{strictyaml.dotted(path)}: {message}", place=self._document.place(path))


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
