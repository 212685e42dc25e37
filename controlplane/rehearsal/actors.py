"""Everybody whom a rehearsal replaces: the actions, the guard, whoever is told. They note what they were asked.

Built by `play` for one case. An action answers in the words of the test, with the real action's declaration: whether
it can be undone and repeated, and which parameters it takes. Async; nothing here waits, the clock jumps.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

import jsonschema
from jsonschema.exceptions import ValidationError

from actions import api
from controlplane import strictyaml
from controlplane.domain import errors, outcomes, plans
from controlplane.rehearsal import files, fleet, jumping, models

_OK = models.Answer()
# An action that asks to be tried later names a time; this one is short beside every wait we ship.
_LATER_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Called:
    """One call of an action."""

    step: str
    action: str
    params: Mapping[str, outcomes.Json]


@dataclass(slots=True)
class Notes:
    """What happened, in order: calls, undos, whom people were told through, which runbooks were to follow."""

    acts: list[Called] = field(default_factory=list[Called])
    undone: list[str] = field(default_factory=list[str])
    told: list[str] = field(default_factory=list[str])
    follow_ups: list[str] = field(default_factory=list[str])


class Script:
    """What the actions of one case answer, call by call; the answers of a step that is called more often end with ok."""

    def __init__(self, case: files.Case) -> None:
        self._left = {("apply", step): list(answers) for step, answers in case.answers.items()}
        self._left |= {("undo", step): list(answers) for step, answers in case.undos.items()}
        self._newest: dict[str, models.Answer] = {}

    def next(self, verb: str, step: str) -> models.Answer:
        """Return the answer to this call."""
        left = self._left.get((verb, step))
        answer = left.pop(0) if left else _OK
        if verb == "apply":
            self._newest[step] = answer
        return answer

    def newest(self, step: str) -> models.Answer:
        """Return what the newest call of a step was answered: a look finds what that says."""
        return self._newest.get(step, _OK)


@dataclass(frozen=True, slots=True)
class Stage:
    """What the actors of one case share."""

    case: files.Case
    clock: jumping.JumpingClock
    fleet: fleet.Fleet
    script: Script
    notes: Notes


class ScriptedAction:
    """Implements `actions.api.Action` with the declaration of a real one."""

    def __init__(self, spec: api.ActionSpec, stage: Stage) -> None:
        self._spec = spec
        self._stage = stage

    @property
    def spec(self) -> api.ActionSpec:
        """What the real action declares."""
        return self._spec

    async def blast(self, params: api.Params, scope: api.Scope) -> plans.BlastRadius:
        """Return the node, or all of them; as out of service where the action destroys."""
        del params
        touched = (scope.node,) if scope.node else tuple(self._stage.fleet.nodes(scope.service))
        unavailable = touched if self._spec.is_destructive else ()
        return plans.BlastRadius(touched, unavailable, self._spec.is_destructive)

    async def plan(self, params: api.Params, scope: api.Scope) -> tuple[plans.Change, ...]:
        """Return no difference, for there is no target; refuse parameters that the real action does not take."""
        del scope
        validator: Any = jsonschema.Draft202012Validator(dict(self._spec.parameters))
        for error in cast("Iterable[ValidationError]", validator.iter_errors(dict(params))):
            raise errors.InvalidInputError(error.message[:300], place=strictyaml.dotted(tuple(error.absolute_path)))
        return ()

    async def apply(self, params: api.Params, context: api.ActionContext) -> api.ActionResult:
        """Answer as the test says."""
        stage = self._stage
        stage.notes.acts.append(Called(context.step, self._spec.name, dict(params)))
        answer = stage.script.next("apply", context.step)
        is_late = self._pass_time(answer, context)
        if _has_effect(answer):
            stage.fleet.took_effect(context.step)
        return _answered(answer, context, is_late=is_late)

    async def probe(self, params: api.Params, context: api.ActionContext) -> api.Probed:
        """Find what the test says of the newest call."""
        del params
        answer = self._stage.script.newest(context.step)
        if answer.found == "applied":
            return api.Applied(api.ActionResult(answer.says or "it is there", dict(answer.data)))
        if answer.found == "not_applied":
            return api.NotApplied(answer.says or "it is not there")
        return api.CannotTell(answer.says or "nobody can tell")

    async def undo(self, params: api.Params, context: api.ActionContext, result: api.ActionResult) -> api.ActionResult:
        """Answer as the test says."""
        del params, result
        answer = self._stage.script.next("undo", context.step)
        is_late = self._pass_time(answer, context)
        answered = _answered(answer, context, is_late=is_late)
        self._stage.notes.undone.append(context.step)
        return answered

    def _pass_time(self, answer: models.Answer, context: api.ActionContext) -> bool:
        """Let the call take its time, and say whether that was too long."""
        takes = context.timeout_seconds if answer.answer == "timeout" else answer.takes
        self._stage.clock.jump(min(takes, context.timeout_seconds))
        return answer.answer == "timeout" or takes > context.timeout_seconds


def _has_effect(answer: models.Answer) -> bool:
    return answer.answer in {"ok", "partly"} or answer.found == "applied"


def _answered(answer: models.Answer, context: api.ActionContext, *, is_late: bool) -> api.ActionResult:
    """Return or raise what the answer is to the one who called."""
    said = answer.says or f"{context.step}: {answer.answer}, says the test"
    if is_late:
        raise TimeoutError
    if answer.answer == "refuse":
        raise errors.GiveUpError(said)
    if answer.answer == "later":
        raise errors.RetryLaterError(said, delay_seconds=_LATER_SECONDS)
    if answer.answer == "partly":
        raise errors.PartlyDoneError(said)
    if answer.answer == "unknown":
        raise errors.OutcomeUnknownError(said)
    return api.ActionResult(said, dict(answer.data))


class Bystanders:
    """The guard, who lets everything pass, and those who are told or asked when a run has ended."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes

    async def recheck(self, plan: plans.Plan, run_id: str) -> outcomes.Allowed | outcomes.Denied:
        """Allow it: what the guard says depends on the fleet it guards, and has tests of its own."""
        del plan, run_id
        return outcomes.Allowed(())

    async def escalate(self, incident_id: str, service: str, node: str, to: str, sentence: str) -> None:
        """Note who is told."""
        del incident_id, service, node, sentence
        self._notes.told.append(to)

    async def ask(self, run_id: str, service: str, node: str, to: str, sentence: str, until: datetime) -> None:
        """Note who is told that an approval is wanted."""
        del run_id, service, node, sentence, until
        self._notes.told.append(to)

    async def follow_up(self, plan: plans.Plan, runbook: str, dedup_key: str) -> str:
        """Note which runbook follows; it is not rehearsed along."""
        del plan, dedup_key
        self._notes.follow_ups.append(runbook)
        return "run_not_rehearsed"
