"""Reads services.yaml: which services are managed, what they promise, how their metrics are found.

`wiring` calls it once at start, `doctor` and the rule generator too. Pure but for `load`, which reads one file.
Every field is checked here, so that the rest of the house gets values it can trust.
"""

import functools
import re
import zoneinfo
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Self

import pydantic

from controlplane import durations, promql, strictyaml
from controlplane.domain import errors, maintenance, services

# Strict: "5" is not a number, and true is not 1.
_STRICT = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)


Ratio = Annotated[float, pydantic.Field(ge=0, le=1)]
Positive = Annotated[float, pydantic.Field(gt=0)]
# A DNS label: names of services and pools become parts of URLs, label values and file names.
Name = Annotated[str, pydantic.Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
LabelName = Annotated[str, pydantic.Field(pattern=f"^{promql.LABEL.pattern}$")]
LabelValue = Annotated[str, pydantic.Field(min_length=1, max_length=200)]

_OBJECTIVES = services.Objectives()
_THRESHOLDS = services.Thresholds()
_RULES = services.CapacityRules()
# Longer than this nothing that dsctl grows or shrinks takes; a larger number is a slip of the pen.
_MAX_DURATION_SECONDS = 86_400.0
_MAX_EVENT_SECONDS = 7 * 86_400.0
_TIME_OF_DAY = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
_DAYS = maintenance.DAYS


def _duration(text: object, max_seconds: float = _MAX_DURATION_SECONDS) -> float:
    return durations.parse(text, max_seconds=max_seconds)


def _time_of_day(value: str) -> str:
    if not _TIME_OF_DAY.fullmatch(value):
        raise ValueError(f'{value!r} is no time of day; write it as in "09:30"')
    return value


def _seconds_of(time_of_day: str) -> int:
    hours, minutes = map(int, time_of_day.split(":"))
    return (hours * 60 + minutes) * 60


def _days(value: list[str]) -> list[str]:
    for day in value:
        if day not in _DAYS:
            raise ValueError(f"{day!r} is no day of the week; they are {', '.join(_DAYS)}")
    return value


def _timezone(value: str) -> str:
    try:
        zoneinfo.ZoneInfo(value)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"{value!r} is no time zone this machine knows; write it as in Europe/Berlin") from error
    return value


def _instant(value: object) -> datetime:
    advice = 'write it in quotes and with its offset, as in "2026-11-01T22:00+01:00"'
    try:
        found = datetime.fromisoformat(value if isinstance(value, str) else "")
        if found.tzinfo is not None:
            return found.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{value!r} is no date and time; {advice}") from error
    raise ValueError(f"{value!r} does not say in which time zone; {advice}")


Duration = Annotated[float, pydantic.BeforeValidator(_duration), pydantic.WithJsonSchema(durations.JSON_SCHEMA)]
TimeOfDay = Annotated[str, pydantic.AfterValidator(_time_of_day)]
Days = Annotated[list[str], pydantic.Field(min_length=1, max_length=7), pydantic.AfterValidator(_days)]
Timezone = Annotated[str, pydantic.AfterValidator(_timezone)]
Instant = Annotated[datetime, pydantic.BeforeValidator(_instant)]


class _Objectives(pydantic.BaseModel):
    model_config = _STRICT

    latency_p99_seconds: Positive = _OBJECTIVES.latency_p99_seconds
    # An objective of 1 leaves no budget to burn, and nothing would ever meet it.
    success_ratio: Annotated[float, pydantic.Field(gt=0, lt=1)] = _OBJECTIVES.success_ratio


class _Thresholds(pydantic.BaseModel):
    model_config = _STRICT

    latency_p99_warning_seconds: Positive = _THRESHOLDS.latency_p99_warning_seconds
    pending_requests: Positive = _THRESHOLDS.pending_requests
    qps: Annotated[list[Positive], pydantic.Field(max_length=8)] = list(_THRESHOLDS.qps)
    server_error_ratio: Ratio = _THRESHOLDS.server_error_ratio
    gpu_utilization_ratio: Ratio = _THRESHOLDS.gpu_utilization_ratio
    gpu_memory_used_ratio: Ratio = _THRESHOLDS.gpu_memory_used_ratio
    cpu_usage_ratio: Ratio = _THRESHOLDS.cpu_usage_ratio
    gateway_load_ratio: Ratio = _THRESHOLDS.gateway_load_ratio
    # The ladder divides by it: at 0 a single refusal would be endless pressure.
    premium_rejected_ratio: Annotated[float, pydantic.Field(gt=0, le=1)] = _THRESHOLDS.premium_rejected_ratio
    cache_wrong_ratio: Ratio = _THRESHOLDS.cache_wrong_ratio
    cache_hit_drop_ratio: Ratio = _THRESHOLDS.cache_hit_drop_ratio

    @pydantic.field_validator("qps")
    @classmethod
    def _rising(cls, value: list[float]) -> list[float]:
        if value != sorted(set(value)):
            raise ValueError("the stages must rise, as in [5000, 8000]")
        return value


class _Pool(pydantic.BaseModel):
    model_config = _STRICT

    name: Name
    actuator: Name
    min: Annotated[int, pydantic.Field(ge=0)]
    max: Annotated[int, pydantic.Field(ge=0)]
    queue_depth_per_node: Positive | None = None
    min_ready: Annotated[int, pydantic.Field(ge=0)] | None = None
    owner: Annotated[str, pydantic.Field(max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max < self.min:
            raise ValueError(f"max {self.max} is below min {self.min}")
        if self.min_ready is not None and self.min_ready > self.max:
            raise ValueError(f"min_ready {self.min_ready} is above max {self.max}")
        return self


class _Stage(pydantic.BaseModel):
    model_config = _STRICT

    above_qps: Positive
    nodes: Annotated[int, pydantic.Field(ge=1)]
    pool: Name | None = None


class _Capacity(pydantic.BaseModel):
    model_config = _STRICT

    requests_per_second_per_node: Positive | None = _RULES.requests_per_second_per_node
    headroom_ratio: Annotated[float, pydantic.Field(ge=0, le=10)] = _RULES.headroom_ratio
    cold_start: Duration = _RULES.cold_start_seconds
    stages: Annotated[list[_Stage], pydantic.Field(max_length=8)] = []
    release_ratio: Annotated[float, pydantic.Field(gt=0, le=1)] = _RULES.release_ratio
    shrink_after: Duration = _RULES.shrink_after_seconds
    give_up: Duration = _RULES.give_up_seconds

    def rules(self) -> services.CapacityRules:
        """Return them as the planner takes them."""
        return services.CapacityRules(
            requests_per_second_per_node=self.requests_per_second_per_node,
            headroom_ratio=self.headroom_ratio,
            cold_start_seconds=self.cold_start,
            stages=tuple(services.Stage(one.above_qps, one.nodes, one.pool or "") for one in self.stages),
            release_ratio=self.release_ratio,
            shrink_after_seconds=self.shrink_after,
            give_up_seconds=self.give_up,
        )


class _Event(pydantic.BaseModel):
    model_config = _STRICT

    name: Name
    at: TimeOfDay
    lasts: Annotated[
        float,
        pydantic.BeforeValidator(functools.partial(_duration, max_seconds=_MAX_EVENT_SECONDS)),
        pydantic.WithJsonSchema(durations.JSON_SCHEMA),
    ]
    days: Days = list(_DAYS)
    timezone: Timezone = "UTC"

    def event(self) -> services.CalendarEvent:
        """Return it as the forecast takes it."""
        return services.CalendarEvent(
            name=self.name,
            at_seconds=_seconds_of(self.at),
            duration_seconds=self.lasts,
            days=_numbers(self.days),
            timezone=self.timezone,
        )


def _numbers(days: list[str]) -> tuple[int, ...]:
    return tuple(sorted({_DAYS.index(day) for day in days}))


class _Maintenance(pydantic.BaseModel):
    """Once, with `starts` and `ends`; or every week, with `from` and `to`."""

    model_config = _STRICT

    name: Name
    starts: Instant | None = None
    ends: Instant | None = None
    days: Days | None = None
    begins: Annotated[TimeOfDay | None, pydantic.Field(alias="from")] = None
    to: TimeOfDay | None = None
    timezone: Timezone | None = None

    @pydantic.model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        once, weekly = (self.starts, self.ends), (self.begins, self.to, self.days, self.timezone)
        is_once = None not in once and not any(weekly)
        is_weekly = None not in weekly[:2] and not any(once)
        if not is_once and not is_weekly:
            raise ValueError("needs starts and ends for once, or from and to, with days and timezone, for every week")
        if self.starts is not None and self.ends is not None and self.ends <= self.starts:
            raise ValueError(f"ends {self.ends} is not after starts {self.starts}")
        return self

    def window(self) -> maintenance.Window:
        """Return it as the guard takes it."""
        if self.starts is not None and self.ends is not None:
            return maintenance.Once(self.name, self.starts, self.ends)
        days = _numbers(self.days or list(_DAYS))
        begins, ends = _seconds_of(self.begins or ""), _seconds_of(self.to or "")
        return maintenance.Weekly(self.name, days, begins, ends, self.timezone or "UTC")


class _Service(pydantic.BaseModel):
    model_config = _STRICT

    name: Name
    profile: Name
    selector: Annotated[dict[LabelName, LabelValue], pydantic.Field(min_length=1, max_length=8)]
    objectives: _Objectives = _Objectives()
    thresholds: _Thresholds = _Thresholds()
    pools: list[_Pool] = []
    capacity: _Capacity = _Capacity()
    events: Annotated[list[_Event], pydantic.Field(max_length=50)] = []
    maintenance: Annotated[list[_Maintenance], pydantic.Field(max_length=50)] = []


class _File(pydantic.BaseModel):
    model_config = _STRICT

    services: Annotated[list[_Service], pydantic.Field(min_length=1)]


# For whoever makes the JSON Schema of services.yaml.
DOCUMENT: type[pydantic.BaseModel] = _File


def load(path: Path, *, profiles: Iterable[str] | None = None) -> tuple[services.Service, ...]:
    """Return the services of a file; blocks. Raises NotFoundError without the file, else as `parse`."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise errors.NotFoundError(f"cannot read services from {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise errors.InvalidInputError("is not UTF-8 text", place=str(path)) from error
    return parse(text, source=str(path), profiles=profiles)


def parse(text: str, *, source: str, profiles: Iterable[str] | None = None) -> tuple[services.Service, ...]:
    """Return the services in `text`. With `profiles`, a service that names another profile is refused.

    Raises InvalidInputError with file, line and the path of the first fault.
    """
    document = strictyaml.read(text, source=source)
    file = strictyaml.check(_File, document)
    _check_unique(document, ("services",), [one.name for one in file.services])
    _check_selectors(document, file)
    for number, one in enumerate(file.services):
        _check_unique(document, ("services", number, "pools"), [pool.name for pool in one.pools])
        _check_unique(document, ("services", number, "events"), [event.name for event in one.events])
        _check_unique(document, ("services", number, "maintenance"), [window.name for window in one.maintenance])
        _check_stages(document, number, one)
        if profiles is not None:
            _check_profile(document, number, one.profile, sorted(profiles))
    return tuple(_service(one) for one in file.services)


def _check_unique(document: strictyaml.Document, path: strictyaml.Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        if name in names[:number]:
            here = (*path, number, "name")
            message = f"{strictyaml.dotted(here)}: {name!r} is taken by {strictyaml.dotted((*path, names.index(name)))}"
            raise errors.InvalidInputError(message, place=document.place(here))


def _check_stages(document: strictyaml.Document, number: int, one: _Service) -> None:
    pools = [pool.name for pool in one.pools]
    for index, stage in enumerate(one.capacity.stages):
        if stage.pool is not None and stage.pool not in pools:
            message = (
                f"services[{number}].capacity.stages[{index}].pool: no pool {stage.pool!r}"
                f"{strictyaml.suggest(stage.pool, pools)}"
            )
            place = document.place(("services", number, "capacity", "stages", index, "pool"))
            raise errors.InvalidInputError(message, place=place)


def _check_selectors(document: strictyaml.Document, file: _File) -> None:
    """Two services over the same targets would act on each other's nodes."""
    for number, one in enumerate(file.services):
        for other in file.services[:number]:
            if one.selector.items() <= other.selector.items() or other.selector.items() <= one.selector.items():
                message = f"services[{number}].selector: selects the targets of service {other.name!r} too"
                raise errors.InvalidInputError(message, place=document.place(("services", number, "selector")))


def _check_profile(document: strictyaml.Document, number: int, name: str, known: list[str]) -> None:
    if name not in known:
        message = f"services[{number}].profile: no profile {name!r}{strictyaml.suggest(name, known)}"
        raise errors.InvalidInputError(message, place=document.place(("services", number, "profile")))


def _service(one: _Service) -> services.Service:
    limits = one.thresholds.model_dump(exclude={"qps"})
    return services.Service(
        name=one.name,
        profile=one.profile,
        selector=dict(one.selector),
        objectives=services.Objectives(**one.objectives.model_dump()),
        thresholds=services.Thresholds(**limits, qps=tuple(one.thresholds.qps)),
        pools=tuple(services.Pool(**pool.model_dump()) for pool in one.pools),
        capacity=one.capacity.rules(),
        events=tuple(event.event() for event in one.events),
        maintenance=tuple(window.window() for window in one.maintenance),
    )
