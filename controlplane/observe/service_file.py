"""Reads services.yaml: which services are managed, what they promise, how their metrics are found.

`wiring` calls it once at start, `doctor` and the rule generator too. Pure but for `load`, which reads one file.
Every field is checked here, so that the rest of the house gets values it can trust.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Self

import pydantic

from controlplane import promql, strictyaml
from controlplane.domain import errors, services

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

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max < self.min:
            raise ValueError(f"max {self.max} is below min {self.min}")
        return self


class _Service(pydantic.BaseModel):
    model_config = _STRICT

    name: Name
    profile: Name
    selector: Annotated[dict[LabelName, LabelValue], pydantic.Field(min_length=1, max_length=8)]
    objectives: _Objectives = _Objectives()
    thresholds: _Thresholds = _Thresholds()
    pools: list[_Pool] = []


class _File(pydantic.BaseModel):
    model_config = _STRICT

    services: Annotated[list[_Service], pydantic.Field(min_length=1)]


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
        if profiles is not None:
            _check_profile(document, number, one.profile, sorted(profiles))
    return tuple(_service(one) for one in file.services)


def _check_unique(document: strictyaml.Document, path: strictyaml.Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        if name in names[:number]:
            here = (*path, number, "name")
            message = f"{strictyaml.dotted(here)}: {name!r} is taken by {strictyaml.dotted((*path, names.index(name)))}"
            raise errors.InvalidInputError(message, place=document.place(here))


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
    )
