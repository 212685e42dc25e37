"""What the clients of a scenario do, and the line they write about each request; shared by those who start them. Pure."""

import ipaddress
import json
import urllib.parse
from pathlib import Path
from typing import Any, Protocol

import pydantic

from controlplane.scenarios import samples as smp

OK = 200


class LoadPlan(pydantic.BaseModel):
    """What to send, where to, for how long, and where the samples go."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    gateway_url: str
    prompts: tuple[str, ...] = pydantic.Field(min_length=1)
    max_tokens: int = pydantic.Field(ge=1)
    rate_per_second: float = pydantic.Field(gt=0, le=500)
    users: int = pydantic.Field(ge=1, le=100)
    seconds: float = pydantic.Field(gt=0, le=7200)
    max_requests: int = pydantic.Field(default=200_000, ge=1)
    timeout_seconds: float = pydantic.Field(default=10.0, gt=0)
    samples_path: Path

    @pydantic.field_validator("gateway_url")
    @classmethod
    def _is_this_machine(cls, url: str) -> str:
        host = urllib.parse.urlsplit(url).hostname or ""
        if host != "localhost" and not _is_loopback(host):
            raise ValueError(f"{host or url!r} is not this machine, and scenarios put load on nothing else")
        return url


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Answer(Protocol):
    """The part of an HTTP answer that is looked at; code 0 when none came."""

    @property
    def status_code(self) -> int:
        """The HTTP status."""
        ...

    def json(self) -> Any:
        """Return the body as JSON; raises ValueError."""
        ...


def text_of(answer: Answer) -> str | None:
    """Return the completion's text, or None when the answer has none."""
    if answer.status_code != OK:
        return None
    try:
        return str(answer.json()["choices"][0]["text"])
    except (ValueError, KeyError, IndexError, TypeError):
        return None


def sample_of(answer: Answer, expected: str, *, at: float, latency_seconds: float) -> smp.Sample:
    """Return the sample of an answered request; `expected` is the engine's own text."""
    is_wrong = answer.status_code == OK and text_of(answer) != expected
    return smp.Sample(at=at, latency_seconds=latency_seconds, code=answer.status_code, is_wrong=is_wrong)


def to_line(sample: smp.Sample) -> str:
    """Return a sample as one JSON line."""
    return json.dumps(
        {
            "at": sample.at,
            "latency_seconds": round(sample.latency_seconds, 6),
            "code": sample.code,
            "is_wrong": sample.is_wrong,
            "level": sample.level,
        }
    )


def from_line(line: str) -> smp.Sample:
    """Return the sample of a JSON line.

    >>> from_line(to_line(smp.Sample(at=1.0, latency_seconds=0.5, code=200, is_wrong=True))).is_good
    False
    """
    return smp.Sample(**json.loads(line))
