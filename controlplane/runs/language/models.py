"""The runbook document as people write it: fields, types and bounds, nothing about the fleet.

Called by `library` (which reads the files) and by `planning` (which reads the values). What needs knowledge of
actions, signals or other runbooks is checked in `checks`. Pure values, safe to share.
"""

import re
import reprlib
from typing import Annotated, Literal, Self

import pydantic

from controlplane import durations
from controlplane.domain import lanes, outcomes

# A step that would take longer than a day belongs into a schedule, not into a remediation.
MAX_SECONDS = 86_400.0


def _duration(text: object) -> float:
    seconds = durations.parse(text, max_seconds=MAX_SECONDS)
    if not seconds:
        raise ValueError(f"{text!r} is no time at all; a duration here is longer than 0")
    return seconds


Duration = Annotated[float, pydantic.BeforeValidator(_duration), pydantic.WithJsonSchema(durations.JSON_SCHEMA)]
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_INPUT_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


def _named(pattern: re.Pattern[str]) -> pydantic.WithJsonSchema:
    return pydantic.WithJsonSchema({"type": "string", "pattern": f"^{pattern.pattern}$"})


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(f"{text!r} is no name; use at most 63 lower-case letters, digits and '-', as in flush-cache")
    return text


def _input_name(text: str) -> str:
    if not _INPUT_NAME.fullmatch(text):
        raise ValueError(f"{text!r} is no input name; use lower-case letters, digits and '_', as in max_nodes")
    return text


def _number(value: outcomes.Json) -> int | float | None:
    """Return a finite number within bounds, None for anything else; true and false are no numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) <= MAX_NUMBER else None  # a comparison with NaN is false


def _show(value: object) -> str:
    return reprlib.repr(value)


Name = Annotated[str, pydantic.AfterValidator(_name), _named(_NAME)]
InputName = Annotated[str, pydantic.AfterValidator(_input_name), _named(_INPUT_NAME)]
InputType = Literal["service", "node", "integer", "number", "string", "boolean", "enum", "duration"]

# Names of services and nodes come from labels; a person cannot read more than this anyway.
MAX_TEXT = 1024
# What fits into a notification and is still read.
MAX_PROMPT = 500
# Beyond 2^53 a number is no longer the same number in every JSON reader (RFC 8259, section 6).
MAX_NUMBER = 2**53
DEFAULT_ACTION_TIMEOUT_SECONDS = 60.0
# One repeat after a refusal that certainly did nothing, one after a probe that found nothing.
DEFAULT_ATTEMPTS = 3
# People who are called at night answer within the hour or not at all; a fleet must not wait for the morning.
DEFAULT_EXPIRY_SECONDS = 3600.0


class _Document(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=False)


class Input(_Document):
    """One input of a runbook: its type, its bounds, and its default when it may be left out."""

    type: InputType
    description: str = ""
    values: tuple[str, ...] = pydantic.Field(default=(), strict=False)
    default: bool | int | float | str | None = None
    minimum: float | str | None = None
    maximum: float | str | None = None
    required: bool | None = None

    @property
    def is_required(self) -> bool:
        """True when the caller must give a value: unless said otherwise, whatever has no default."""
        return self.default is None if self.required is None else self.required

    @pydantic.model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.type == "enum") != bool(self.values):
            raise ValueError("'values' belongs to inputs of type enum, which must list at least one")
        if self.type not in _MEASURED and (self.minimum is not None or self.maximum is not None):
            raise ValueError(
                f"'minimum' and 'maximum' belong to numbers and durations, not to an input of type {self.type}"
            )
        for bound in (self.minimum, self.maximum):
            self._bound(bound)
        if self.required is False and self.default is None and self.type not in {"service", "node"}:
            raise ValueError("an input that may be left out needs a 'default' (only service and node may be empty)")
        if self.default is not None:
            self.check(self.default)
        return self

    def _bound(self, bound: float | str | None) -> float | None:
        """Return a bound as a number: seconds, for a duration, which is written as one."""
        if bound is None:
            return None
        if isinstance(bound, str) is not (self.type == "duration"):
            raise ValueError(f"{_show(bound)} cannot bound an input of type {self.type}; write it as its values are")
        return _seconds(bound) if isinstance(bound, str) else bound

    def value(self, given: outcomes.Json) -> outcomes.Json:
        """Return what steps see of a value: seconds of a duration, else the value itself. Raises as `check` does."""
        self.check(given)
        return _seconds(given) if self.type == "duration" else given

    def check(self, value: outcomes.Json) -> None:
        """Raise ValueError when `value` does not fit the type and bounds; says nothing about the fleet."""
        if self.type in {"integer", "number"}:
            self._check_number(value)
        elif self.type == "duration":
            self._check_bounds(_seconds(value), "s")
        elif self.type == "boolean":
            if not isinstance(value, bool):
                raise ValueError(f"expects true or false, got {_show(value)}")
        elif not isinstance(value, str):
            raise ValueError(f"expects text, got {_show(value)}")
        else:
            self._check_text(value)

    def _check_number(self, value: outcomes.Json) -> None:
        number = _number(value)
        if number is None or (self.type == "integer" and not isinstance(number, int)):
            kind = "an integer" if self.type == "integer" else "a number"
            raise ValueError(f"expects {kind} of at most {MAX_NUMBER}, got {_show(value)}")
        self._check_bounds(number)

    def _check_bounds(self, number: float, unit: str = "") -> None:
        least, most = self._bound(self.minimum), self._bound(self.maximum)
        if least is not None and number < least:
            raise ValueError(f"must be at least {least:g}{unit}, got {number}{unit}")
        if most is not None and number > most:
            raise ValueError(f"must be at most {most:g}{unit}, got {number}{unit}")

    def _check_text(self, value: str) -> None:
        if len(value) > MAX_TEXT:
            raise ValueError(f"has {len(value)} characters; at most {MAX_TEXT} are accepted")
        if not value.isprintable():
            raise ValueError(f"holds characters that cannot be printed: {_show(value)}")
        if self.values and value not in self.values:
            raise ValueError(f"must be one of {', '.join(self.values)}; got {_show(value)}")


# Types with an order.
_MEASURED = frozenset({"integer", "number", "duration"})


def _seconds(value: outcomes.Json) -> float:
    """Return the seconds of a duration as people write it, or of the number that an earlier plan made of it."""
    if isinstance(value, str):
        return durations.parse(value, max_seconds=MAX_SECONDS)
    number = _number(value)
    if number is None or not 0 <= number <= MAX_SECONDS:
        raise ValueError(f"expects a duration such as 90s or 5m, at most {MAX_SECONDS / 3600:g}h; got {_show(value)}")
    return float(number)


class Wait(_Document):
    """A wait for a condition, bounded by `timeout`, or for a plain number of seconds."""

    until: str | None = None
    timeout: Duration | None = None
    seconds: Annotated[float, pydantic.Field(gt=0, le=MAX_SECONDS)] | None = None

    @pydantic.model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.until is None) == (self.seconds is None):
            raise ValueError("a wait has either 'until' with 'timeout', or 'seconds'")
        if (self.until is None) != (self.timeout is None):
            raise ValueError("'until' needs a 'timeout', and 'timeout' needs an 'until'")
        return self


class Approval(_Document):
    """A question to people: the run goes on once `quorum` of them agree; it ends when one refuses or time is over.

    `prompt` is text, or one whole `${expression}` that gives text.
    """

    prompt: Annotated[str, pydantic.StringConstraints(min_length=1, max_length=MAX_PROMPT)]
    quorum: Annotated[int, pydantic.Field(ge=1, le=10)] = 1
    expires: Duration = DEFAULT_EXPIRY_SECONDS


def _exactly_one(*fields: str) -> pydantic.ConfigDict:
    """Tell editors what the model's own check refuses otherwise."""
    return pydantic.ConfigDict(json_schema_extra={"oneOf": [{"required": [name]} for name in fields]})


class FailureEdge(_Document):
    """One rung after failure; exactly one of the three is given. `undo: all` undoes whatever took effect, newest first."""

    model_config = _exactly_one("undo", "run", "escalate")

    undo: str | None = None
    run: str | None = None
    escalate: Annotated[str, pydantic.StringConstraints(min_length=1, max_length=200)] | None = None

    @pydantic.model_validator(mode="after")
    def _is_one(self) -> Self:
        if [self.undo, self.run, self.escalate].count(None) != 2:  # noqa: PLR2004 - three fields, one is given
            raise ValueError("each entry of on_failure has exactly one of 'undo', 'run' and 'escalate'")
        return self


class Step(_Document):
    """One step: an action with its parameters, a wait, a question to people, or the steps of another runbook.

    `when` leaves it out where the condition is false; `on_failure` is what its failure means, where not what the
    runbook says.
    """

    model_config = _exactly_one("action", "wait", "approval", "include")

    name: Name
    when: Annotated[str, pydantic.StringConstraints(min_length=1)] | None = None
    action: str | None = None
    params: dict[str, pydantic.JsonValue] = pydantic.Field(default_factory=dict[str, pydantic.JsonValue], alias="with")
    timeout: Duration | None = None
    attempts: Annotated[int, pydantic.Field(ge=1, le=10)] | None = None
    wait: Wait | None = None
    approval: Approval | None = None
    include: Name | None = None
    on_failure: Annotated[tuple[FailureEdge, ...], pydantic.Field(max_length=20, strict=False)] | None = None
    continue_on_failure: bool = False

    @pydantic.model_validator(mode="after")
    def _is_one(self) -> Self:
        kinds = {"action": self.action, "wait": self.wait, "approval": self.approval, "include": self.include}
        given = [kind for kind, one in kinds.items() if one is not None]
        if len(given) != 1:
            raise ValueError("a step has exactly one of 'action', 'wait', 'approval' and 'include'")
        if self.on_failure is not None and self.continue_on_failure:
            raise ValueError("a step has either 'on_failure' or 'continue_on_failure'")
        for name, kinds_of in _BELONGS.items():
            if getattr(self, name) and given[0] not in kinds_of:
                said = "with" if name == "params" else name
                raise ValueError(
                    f"'{said}' belongs to {' and '.join(kinds_of)}, not to {given[0]}{_WHY.get(given[0], '')}"
                )
        return self

    @property
    def kind(self) -> str:
        """What it is, in one word for messages."""
        return next(word for word in ("action", "wait", "approval", "include") if getattr(self, word) is not None)


# Which field belongs to which kinds of steps.
_BELONGS = {
    "params": ("action", "include"),
    "timeout": ("action",),
    "attempts": ("action",),
    "when": ("action", "wait", "approval"),
    "on_failure": ("action", "wait", "approval"),
    "continue_on_failure": ("action", "wait"),
}
_WHY = {
    "include": ": what is included keeps its steps' own",
    "approval": ": a refusal that stops nothing would be no question",
}


class Verify(_Document):
    """What must recover, by when, and for how long it must hold."""

    signals: tuple[str, ...] = pydantic.Field(min_length=1, max_length=20, strict=False)
    within: Duration
    hold: Duration
    control: Literal["untouched-nodes", "none"] = "untouched-nodes"

    @pydantic.model_validator(mode="after")
    def _has_time(self) -> Self:
        if self.hold > self.within:
            raise ValueError("'hold' must not be longer than 'within': the verdict would always come too early")
        return self


class Spec(_Document):
    """The body of a runbook. Runs of different lanes do not wait for each other on the same target."""

    # Not strict: the file holds the word, the model the enum.
    lane: Annotated[lanes.Lane, pydantic.Strict(strict=False)] = lanes.Lane.NODES
    inputs: dict[InputName, Input] = pydantic.Field(default_factory=dict[str, Input], max_length=50)
    steps: tuple[Step, ...] = pydantic.Field(min_length=1, max_length=50, strict=False)
    verify: Verify | None = None
    on_failure: tuple[FailureEdge, ...] = pydantic.Field(default=(), max_length=20, strict=False)


class Metadata(_Document):
    """Name and purpose. `override` says that this runbook replaces the shipped one of the same name."""

    name: Name
    summary: Annotated[str, pydantic.StringConstraints(min_length=1, max_length=200)]
    override: bool = False


class RunbookDocument(_Document):
    """A whole runbook file."""

    api_version: Literal["dsctl/v1"] = pydantic.Field(alias="apiVersion")
    kind: Literal["Runbook"]
    metadata: Metadata
    spec: Spec
