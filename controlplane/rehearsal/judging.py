"""Compares what came of a case with what its test expects. Pure: every difference becomes a sentence."""

from collections.abc import Iterator, Mapping, Sequence

from controlplane import phrases
from controlplane.domain import outcomes, runs
from controlplane.rehearsal import actors, files, models, play

_Kind = runs.RunEventKind


def differences(case: files.Case, played: play.Played) -> list[str]:
    """Return how a case went other than expected; nothing when it went as the test says."""
    if case.expect.refused is not None or played.run is None:
        return list(_refusal(case.expect, played))
    return [*played.troubles, *_Judge(case, played, played.run).all()]


def _refusal(expect: models.Expect, played: play.Played) -> Iterator[str]:
    if expect.refused is None:
        yield f"no plan was made: {played.refused}"
    elif played.run is not None:
        yield f"refused: expected no plan, because {expect.refused!r}; a run was made and ended {played.run.state}"
    elif expect.refused not in played.refused:
        yield f"refused: expected {expect.refused!r} in {played.refused!r}"


class _Judge:
    """One run and what was expected of it."""

    def __init__(self, case: files.Case, played: play.Played, run: runs.Run) -> None:
        self._expect = case.expect
        self._played = played
        self._run = run

    def all(self) -> Iterator[str]:
        """Yield every difference, in the order in which one would look at a run."""
        yield from self._acts()
        yield from self._listed("skipped", self._expect.skipped, self._steps(_Kind.STEP_SKIPPED))
        yield from self._waits()
        yield from self._questions()
        yield from self._listed("undone", self._expect.undone, self._played.notes.undone)
        yield from self._listed("told", self._expect.told, self._played.notes.told)
        yield from self._listed("follow_ups", self._expect.follow_ups, self._played.notes.follow_ups)
        yield from self._ending()

    def _acts(self) -> Iterator[str]:
        expected, seen = self._expect.acts, self._played.notes.acts
        if expected is None:
            return
        if [one.step for one in expected] != [one.step for one in seen]:
            yield _said("acts", _list(one.step for one in expected), _list(one.step for one in seen))
            return
        for number, (want, call) in enumerate(zip(expected, seen, strict=True)):
            yield from _call(number, want, call)

    def _steps(self, kind: runs.RunEventKind) -> list[str]:
        return [event.step for event in self._played.events if event.kind is kind]

    def _listed(self, what: str, expected: Sequence[str] | None, seen: Sequence[str]) -> Iterator[str]:
        if expected is not None and list(expected) != list(seen):
            yield _said(what, _list(expected), _list(seen))

    def _waits(self) -> Iterator[str]:
        for step, span in self._expect.waited.items():
            lasted = self._lasted(step)
            if lasted is None:
                yield f"waited.{step}: the run never came to this step, or did not leave it"
            elif not span.at_least <= lasted <= span.at_most:
                yield _said(f"waited.{step}", _span(span), phrases.duration(lasted))

    def _lasted(self, step: str) -> float | None:
        """Return how long the run stood at a step."""
        began = [one.at for one in self._played.events if one.step == step and one.kind is _Kind.STEP_STARTED]
        left = [
            one.at
            for one in self._played.events
            if one.step == step and one.kind in {_Kind.STEP_FINISHED, _Kind.STEP_FAILED}
        ]
        return (left[-1] - began[0]).total_seconds() if began and left else None

    def _questions(self) -> Iterator[str]:
        begun = self._steps(_Kind.STEP_STARTED)
        for step, part in self._expect.asked.items():
            prompts = [one.prompt for one in self._run.plan.steps if one.name == step and step in begun]
            if not any(part in prompt for prompt in prompts):
                yield _said(f"asked.{step}", repr(part), _list(prompts))

    def _ending(self) -> Iterator[str]:
        expect, run = self._expect, self._run
        if expect.state is not None and run.state is not expect.state:
            yield _said("state", expect.state, f"{run.state}: {run.sentence}")
        verdict = "none" if run.verdict is None else run.verdict
        if expect.verdict is not None and verdict != expect.verdict:
            yield _said("verdict", expect.verdict, f"{verdict}: {run.sentence}")
        for part in expect.says:
            if part not in run.sentence:
                yield _said("says", repr(part), repr(run.sentence))
        if expect.lasts is not None and not expect.lasts.at_least <= self._played.seconds <= expect.lasts.at_most:
            yield _said("lasts", _span(expect.lasts), phrases.duration(self._played.seconds))


def _call(number: int, want: models.Act, call: actors.Called) -> Iterator[str]:
    if want.action is not None and want.action != call.action:
        yield _said(f"acts[{number}] {want.step}", f"action {want.action}", call.action)
    for name, value in want.params.items():
        if name not in call.params:
            yield f"acts[{number}] {want.step}: expected {name}={value!r}, got no {name}: {_params(call.params)}"
        elif call.params[name] != value:
            yield _said(f"acts[{number}] {want.step}", f"{name}={value!r}", repr(call.params[name]))


def _params(params: Mapping[str, outcomes.Json]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in params.items()) or "no parameters"


def _said(what: str, expected: object, seen: object) -> str:
    return f"{what}: expected {expected}, got {seen}"


def _list(names: Sequence[str] | Iterator[str]) -> str:
    return ", ".join(names) or "nothing"


def _span(span: models.Span) -> str:
    return f"{phrases.duration(span.at_least)} to {phrases.duration(span.at_most)}"
