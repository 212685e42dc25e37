"""What the clients of a scenario do, and the line they write about each request; shared by those who start them.

What clients do at a time is a file of its own, which whoever plays the story replaces when the story says so. Pure, but
for reading and writing that file.
"""

import ipaddress
import json
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pydantic

from controlplane.scenarios import samples as smp
from controlplane.scenarios import stories

OK = 200
# Half a character at the end of an answer that was cut short becomes this, and a whole one in the longer answer.
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class LoadPlan(pydantic.BaseModel):
    """Where to send what, by whose key, for how long, and where the samples go.

    `max_tokens` is the longest answer that any traffic of the story asks for; `traffic_path` holds what clients do now.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    gateway_url: str
    api_keys: dict[smp.Level, str] = pydantic.Field(min_length=1)
    prompts: tuple[str, ...] = pydantic.Field(min_length=1)
    max_tokens: int = pydantic.Field(ge=1)
    traffic_path: Path
    seconds: float = pydantic.Field(gt=0, le=7200)
    max_requests: int = pydantic.Field(default=200_000, ge=1)
    timeout_seconds: float = pydantic.Field(default=40.0, gt=0)
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


@dataclass(frozen=True, slots=True)
class Completion:
    """The part of a completion that is compared. `is_cut` says that it ended at a limit and not by itself."""

    text: str
    num_tokens: int
    is_cut: bool

    def is_the_beginning_of(self, whole: "Completion") -> bool:
        """Say whether this is the same answer, or as much of it as a lower limit allowed."""
        if self.num_tokens >= whole.num_tokens or not self.is_cut:
            return self.text == whole.text
        return whole.text.startswith(self.text.rstrip(_REPLACEMENT))


class Answer(Protocol):
    """The part of an HTTP answer that is looked at; code 0 when none came."""

    @property
    def status_code(self) -> int:
        """The HTTP status."""
        ...

    def json(self) -> Any:
        """Return the body as JSON; raises ValueError."""
        ...


def completion_of(answer: Answer) -> Completion | None:
    """Return the completion, or None when the answer has none."""
    if answer.status_code != OK:
        return None
    try:
        document = answer.json()
        choice = document["choices"][0]
        num_tokens = int(document["usage"]["completion_tokens"])
        return Completion(str(choice["text"]), num_tokens, choice["finish_reason"] == "length")
    except (ValueError, KeyError, IndexError, TypeError):
        return None


def is_wrong(answer: Answer, expected: Completion) -> bool:
    """Say whether an answer came and is another one than the engine's own, `expected`.

    A shorter one is right as far as it goes: asking for less, or a cap on lengths, cuts an answer and does not change it.
    """
    if answer.status_code != OK:
        return False
    got = completion_of(answer)
    return got is None or not got.is_the_beginning_of(expected)


def read_traffic(path: Path) -> stories.Traffic:
    """Return what clients do now; it is checked like the story it comes from."""
    return stories.Traffic.model_validate_json(path.read_text(encoding="utf-8"))


def write_traffic(path: Path, traffic: stories.Traffic) -> None:
    """Replace what clients do; they never read half of it."""
    fresh = path.with_suffix(".new")
    fresh.write_text(traffic.model_dump_json(include=set(stories.Traffic.model_fields)), encoding="utf-8")
    fresh.replace(path)


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
