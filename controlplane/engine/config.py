"""Policy files: what people write, checked as a whole, as `domain.policies` values.

Called when the service starts and by `dsctl server check-config`. All files are taken or none: the first thing that is wrong
raises with its file, line and reason, and the policies in force stay. Never reads files itself; never guesses.
Pure functions.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import pydantic

from controlplane import durations, expressions, strictyaml
from controlplane.domain import errors, lanes, policies, rungs

# Every service in services.yaml, those added later included.
ALL_SERVICES = "*"

# Longer holds and cooldowns are far more likely a slip of the pen than meant.
_MAX_DURATION_SECONDS = 7 * 86400.0
# A ladder that steps faster than this could not see what its last step did.
_SHORTEST_STEP_SECONDS = 1.0
_PACE = policies.Ladder()
_ASKED = policies.ApprovalRule()
# More people than anybody has awake at night; a larger number is a slip of the pen.
_MAX_QUORUM = 10


def _duration(text: object) -> float:
    return durations.parse(text, max_seconds=_MAX_DURATION_SECONDS)


Duration = Annotated[float, pydantic.BeforeValidator(_duration), pydantic.WithJsonSchema(durations.JSON_SCHEMA)]
Name = Annotated[str, pydantic.StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)


class _Metadata(_Strict):
    name: Name


class _MaxUnavailable(_Strict):
    percent: float = pydantic.Field(default=10.0, gt=0, le=100)
    nodes: int = pydantic.Field(default=1, ge=0)


class _Guard(_Strict):
    cooldown: Duration = 300.0
    max_per_hour: int = pydantic.Field(default=6, ge=1)
    max_attempts: int = pydantic.Field(default=3, ge=1)
    max_unavailable: _MaxUnavailable = _MaxUnavailable()


class _Ladder(_Strict):
    up_above: float = pydantic.Field(default=_PACE.up_above, gt=0, le=10)
    up_after: Duration = _PACE.up_after_seconds
    settle: Duration = _PACE.settle_seconds
    down_below: float = pydantic.Field(default=_PACE.down_below, gt=0, le=10)
    down_after: Duration = _PACE.down_after_seconds
    top: int = pydantic.Field(default=_PACE.top, ge=1, le=rungs.TOP)

    @pydantic.model_validator(mode="after")
    def _has_two_marks(self) -> Self:
        if self.down_below >= self.up_above:
            raise ValueError(f"down_below {self.down_below:g} must be below up_above {self.up_above:g}")
        if min(self.up_after, self.down_after) < _SHORTEST_STEP_SECONDS:
            raise ValueError(f"up_after and down_after must be at least {_SHORTEST_STEP_SECONDS:g}s")
        return self


class _Approval(_Strict):
    quorum: int = pydantic.Field(default=_ASKED.quorum, ge=1, le=_MAX_QUORUM)
    # Nobody can look at a plan in less time than that.
    expires: Duration = pydantic.Field(default=_ASKED.expires_seconds, ge=10.0)


class _Spec(_Strict):
    services: list[str] = pydantic.Field(min_length=1)
    when: str
    runbook: str
    # Not strict: the file holds the word, the model the enum.
    mode: Annotated[policies.Mode, pydantic.Strict(strict=False)]
    hold: Duration = 0.0
    repeats: bool = False
    inputs: dict[str, pydantic.JsonValue] = pydantic.Field(default_factory=dict)
    guard: _Guard = _Guard()
    ladder: _Ladder | None = None
    approval: _Approval = _Approval()


class _Policy(_Strict):
    apiVersion: Literal["dsctl/v1"]  # noqa: N815 - the name in the file, as in Kubernetes
    kind: Literal["Policy"]
    metadata: _Metadata
    spec: _Spec


# For whoever makes the JSON Schema of policy files.
DOCUMENT: type[pydantic.BaseModel] = _Policy


@dataclass(frozen=True, slots=True)
class Known:
    """The names a policy may refer to; `signals` are the canonical ones of the catalogue, `runbooks` tell their lanes."""

    services: Collection[str]
    runbooks: Mapping[str, lanes.Lane]
    signals: Collection[str]


def load(
    files: Mapping[str, str], known: Known, *, ceiling: policies.Mode = policies.Mode.AUTO
) -> tuple[policies.Policy, ...]:
    """Return the policies of all `files` (name to text), in the order of the file names: the first match decides.

    `ceiling` is the setting `mode`: no policy goes further than that. Raises InvalidInputError.
    """
    loaded: dict[str, tuple[str, policies.Policy]] = {}
    for source in sorted(files):
        policy = _load_one(files[source], source, known, ceiling)
        if policy.name in loaded:
            raise errors.InvalidInputError(
                f"policy {policy.name!r} is already defined in {loaded[policy.name][0]}; rename or remove one",
                place=source,
            )
        loaded[policy.name] = (source, policy)
    return tuple(policy for _, policy in loaded.values())


def capped(mode: policies.Mode, ceiling: policies.Mode) -> policies.Mode:
    """Return the more careful of the two modes.

    >>> capped(policies.Mode.AUTO, policies.Mode.SUGGEST).value
    'suggest'
    """
    order = list(policies.Mode)
    return min(mode, ceiling, key=order.index)


def _load_one(text: str, source: str, known: Known, ceiling: policies.Mode) -> policies.Policy:
    document = strictyaml.read(text, source=source)
    written = strictyaml.check(_Policy, document)
    spec = written.spec
    _check_names(spec, known, document)
    _check_expressions(spec, known, document)
    return policies.Policy(
        name=written.metadata.name,
        services=tuple(sorted(known.services)) if ALL_SERVICES in spec.services else tuple(spec.services),
        when=spec.when,
        runbook=spec.runbook,
        mode=capped(spec.mode, ceiling),
        hold_seconds=spec.hold,
        inputs=dict(spec.inputs),
        guard=_limits(spec.guard),
        ladder=_ladder(spec.ladder),
        repeats=spec.repeats,
        lane=known.runbooks[spec.runbook],
        approval=policies.ApprovalRule(spec.approval.quorum, spec.approval.expires),
        written=spec.mode,
    )


def _ladder(written: _Ladder | None) -> policies.Ladder | None:
    if written is None:
        return None
    return policies.Ladder(
        up_above=written.up_above,
        up_after_seconds=written.up_after,
        settle_seconds=written.settle,
        down_below=written.down_below,
        down_after_seconds=written.down_after,
        top=written.top,
    )


def _limits(guard: _Guard) -> policies.GuardLimits:
    return policies.GuardLimits(
        cooldown_seconds=guard.cooldown,
        max_per_hour=guard.max_per_hour,
        max_attempts=guard.max_attempts,
        max_unavailable=policies.MaxUnavailable(
            percent=guard.max_unavailable.percent, nodes=guard.max_unavailable.nodes
        ),
    )


def _check_names(spec: _Spec, known: Known, document: strictyaml.Document) -> None:
    for index, service in enumerate(spec.services):
        if service != ALL_SERVICES and service not in known.services:
            _refuse(document, ("spec", "services", index), "service", service, known.services)
    if spec.runbook not in known.runbooks:
        _refuse(document, ("spec", "runbook"), "runbook", spec.runbook, known.runbooks)


def _check_expressions(spec: _Spec, known: Known, document: strictyaml.Document) -> None:
    try:
        expressions.check(spec.when, expressions.Kind.POLICY_CONDITION)
    except errors.InvalidInputError as error:
        raise errors.InvalidInputError(f"spec.when: {error}", place=document.place(("spec", "when"))) from error
    for signal in sorted(expressions.signals_named(spec.when)):
        if signal not in known.signals:
            _refuse(document, ("spec", "when"), "signal", signal, known.signals)
    for name, template in spec.inputs.items():
        try:
            expressions.check_template(template, expressions.Kind.POLICY_INPUT)
        except errors.InvalidInputError as error:
            place = document.place(("spec", "inputs", name))
            raise errors.InvalidInputError(f"spec.inputs.{name}: {error}", place=place) from error


def _refuse(
    document: strictyaml.Document, path: strictyaml.Path, what: str, wrong: str, known: Collection[str]
) -> None:
    message = f"{strictyaml.dotted(path)}: unknown {what} {wrong!r}{strictyaml.suggest(wrong, list(known))}"
    raise errors.InvalidInputError(message, place=document.place(path))
