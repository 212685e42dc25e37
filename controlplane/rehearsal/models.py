"""The document `kind: RunbookTest` as people write it: a fleet, what actions and people answer, what must come of it.

Called by `files`, which reads it, and by whoever writes its JSON Schema. What needs knowledge of runbooks or signals is
checked there or when a case is played. Pure values.
"""

from typing import Annotated, Literal, Self

import pydantic

from controlplane import durations
from controlplane.domain import outcomes
from controlplane.runs.language import models as language

# A rehearsal longer than this is of something else than a remediation.
MAX_SECONDS = 48 * 3600.0
# More is no fleet that a person can keep in mind while writing a test.
_MAX_NODES = 200
_MAX_ROWS = 10_000


def _moment(text: object) -> float:
    return durations.parse(text, max_seconds=MAX_SECONDS)


Moment = Annotated[float, pydantic.BeforeValidator(_moment), pydantic.WithJsonSchema(durations.JSON_SCHEMA)]
Text = Annotated[str, pydantic.StringConstraints(min_length=1, max_length=language.MAX_TEXT)]
Reading = Annotated[float, pydantic.Field(allow_inf_nan=False)] | Literal["unknown"]
Params = dict[str, pydantic.JsonValue]


class _Part(pydantic.BaseModel):
    """A part of a test: unknown fields are refused, values never change."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


class Service(_Part):
    """The service it happens on; objectives and thresholds are those of services.yaml, with the same defaults."""

    name: language.Name = "chat"
    min_ready: Annotated[int, pydantic.Field(ge=0, le=_MAX_NODES)] = 0
    objectives: dict[str, float] = pydantic.Field(default_factory=dict[str, float])
    thresholds: dict[str, float] = pydantic.Field(default_factory=dict[str, float])


class SignalRow(_Part):
    """From `at` on these signals have these values: on `nodes`, or on the service where none are named.

    With `after` the time counts from when that step first took effect. `up` and `in_service` are signals too.
    """

    at: Moment = 0.0
    after: Text | None = None
    nodes: Annotated[tuple[Text, ...], pydantic.Field(max_length=_MAX_NODES, strict=False)] = ()
    set: Annotated[dict[str, Reading], pydantic.Field(min_length=1)]


Word = Literal["ok", "refuse", "later", "timeout", "partly", "unknown"]


class Answer(_Part):
    """What a scripted action answers to one call: how, after how long, in which words, and what a later look finds."""

    answer: Word = "ok"
    takes: Moment = 0.0
    says: Text | None = None
    data: Params = pydantic.Field(default_factory=dict[str, pydantic.JsonValue])
    found: Literal["applied", "not_applied", "cannot_tell"] = "cannot_tell"


def _answer(value: object) -> object:
    return {"answer": value} if isinstance(value, str) else value


# A word stands for the answer without anything else.
ShortAnswer = Annotated[Answer, pydantic.BeforeValidator(_answer, json_schema_input_type=Answer | Word)]
Answers = dict[str, Annotated[tuple[ShortAnswer, ...], pydantic.Field(min_length=1, max_length=50, strict=False)]]


class Person(_Part):
    """What somebody answers to a step that asks, `at` so long after it began to."""

    step: Text
    by: Text
    answer: Literal["approve", "reject"]
    at: Moment = 0.0
    reason: str = ""


class Span(_Part):
    """How long something takes, at least and at most."""

    at_least: Moment = 0.0
    at_most: Moment = MAX_SECONDS

    @pydantic.model_validator(mode="after")
    def _is_one(self) -> Self:
        if self.at_most < self.at_least:
            raise ValueError("'at_most' is shorter than 'at_least'")
        return self


class Act(_Part):
    """One call of an action; of `with` only the parameters that are named are compared."""

    step: Text
    action: Text | None = None
    params: Params = pydantic.Field(default_factory=dict[str, pydantic.JsonValue], alias="with")


def _act(value: object) -> object:
    return {"step": value} if isinstance(value, str) else value


# The name of a step stands for its call with whatever parameters.
ShortAct = Annotated[Act, pydantic.BeforeValidator(_act, json_schema_input_type=Act | str)]
Names = Annotated[tuple[Text, ...], pydantic.Field(max_length=200, strict=False)]


class Expect(_Part):
    """What must have come of it. What is left out is not compared; an empty list says that there is nothing."""

    acts: Annotated[tuple[ShortAct, ...], pydantic.Field(max_length=200, strict=False)] | None = None
    skipped: Names | None = None
    waited: dict[str, Span] = pydantic.Field(default_factory=dict[str, Span])
    asked: dict[str, Text] = pydantic.Field(default_factory=dict[str, Text])
    undone: Names | None = None
    told: Names | None = None
    follow_ups: Names | None = None
    state: Annotated[outcomes.RunState, pydantic.Strict(strict=False)] | None = None
    verdict: Annotated[outcomes.Verdict, pydantic.Strict(strict=False)] | Literal["none"] | None = None
    says: Names = ()
    lasts: Span | None = None
    refused: Text | None = None

    @pydantic.model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("expects nothing; say at least the state the run ends in")
        if self.refused is not None and len(self.model_fields_set) > 1:
            raise ValueError("'refused' is about a plan that is not made: nothing else can be expected of it")
        return self


class Setting(_Part):
    """What is given. In `spec` it holds for all cases; a case that says something itself replaces that part of it."""

    service: Service | None = None
    node: str | None = None
    inputs: Params | None = None
    nodes: Annotated[tuple[Text, ...], pydantic.Field(min_length=1, max_length=_MAX_NODES, strict=False)] | None = None
    signals: Annotated[tuple[SignalRow, ...], pydantic.Field(max_length=_MAX_ROWS, strict=False)] | None = None
    recording: Text | None = None
    answers: Answers | None = None
    undos: Answers | None = None
    people: Annotated[tuple[Person, ...], pydantic.Field(max_length=50, strict=False)] | None = None


class Case(Setting):
    """One rehearsal of the runbook."""

    name: Text
    expect: Expect


class Spec(Setting):
    """Which runbook, on which fleet, and the cases."""

    runbook: language.Name
    cases: tuple[Case, ...] = pydantic.Field(min_length=1, max_length=100, strict=False)


class Metadata(_Part):
    """What the test is called."""

    name: language.Name
    summary: str = ""


class TestDocument(_Part):
    """A whole file of tests of one runbook."""

    __test__ = False  # the name ends a file's kind, and is no test of pytest's

    api_version: Literal["dsctl/v1"] = pydantic.Field(alias="apiVersion")
    kind: Literal["RunbookTest"]
    metadata: Metadata
    spec: Spec
