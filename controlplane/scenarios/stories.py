"""Stories: what is done to a fleet at which second, and what the control plane is expected to do by when.

A story is a YAML file: the load clients make, a timeline of injections and expectations, and the limits by which its
end is judged. Called by the demo, the acceptance tests and everything that plays trouble; never plays anything
itself. Times are seconds from the first injection. Pure, except that `shipped` reads the files of this package.
"""

import functools
from importlib import resources
from typing import Annotated, Literal

import pydantic

from controlplane import strictyaml
from controlplane.domain import errors, findings, outcomes, policies

# A story is played on the machine of whoever asks; nobody means an hour of it.
MAX_WINDOW_SECONDS = 3600.0

Seconds = Annotated[float, pydantic.Field(ge=0, le=MAX_WINDOW_SECONDS)]
NodeName = Annotated[str, pydantic.Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
PlayedMode = Literal[policies.Mode.AUTO, policies.Mode.OBSERVE]
BOTH: tuple[PlayedMode, ...] = (policies.Mode.AUTO, policies.Mode.OBSERVE)


class _Part(pydantic.BaseModel):
    """A part of a story: unknown fields are refused, values never change."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class FleetNeeds(_Part):
    """The smallest fleet the story makes sense on."""

    nodes: int = pydantic.Field(ge=1, le=16)


class Load(_Part):
    """What clients do all the time: an open loop of `rate_per_second`, over `prompts` different prompts."""

    rate_per_second: float = pydantic.Field(gt=0, le=500)
    users: int = pydantic.Field(default=4, ge=1, le=100)
    prompts: int = pydantic.Field(default=40, ge=1, le=40)
    max_tokens: int = pydantic.Field(default=12, ge=1, le=256)


class Limits(_Part):
    """What clients must see for the story to have ended well. A wrong answer is an error."""

    error_ratio: float = pydantic.Field(ge=0, le=1)
    latency_p99_seconds: float = pydantic.Field(gt=0)


class Inject(_Part):
    """A fault of the node's fault injection, by its name there."""

    fault: str = pydantic.Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")
    node: NodeName
    params: dict[str, pydantic.JsonValue] = pydantic.Field(default_factory=dict[str, pydantic.JsonValue])


class Expect(_Part):
    """One thing the control plane should show: an incident, an act of a runbook, or a run's verdict."""

    node: NodeName
    incident: findings.FaultClass | None = None
    runbook: str | None = None
    verdict: outcomes.Verdict | None = None

    @pydantic.model_validator(mode="after")
    def _is_one_thing(self) -> "Expect":
        named = [word for word in (self.incident, self.runbook, self.verdict) if word is not None]
        if len(named) != 1:
            raise ValueError("expects exactly one of incident, runbook and verdict")
        return self

    def __str__(self) -> str:
        if self.incident is not None:
            return f"an incident of {self.incident} on {self.node}"
        if self.runbook is not None:
            return f"{self.runbook} acts on {self.node}"
        return f"a run on {self.node} ends {self.verdict}"


class At(_Part):
    """At this second, do it."""

    at_seconds: Seconds
    inject: Inject


class By(_Part):
    """By this second it should have happened, when the story is played in one of `modes`."""

    by_seconds: Seconds
    expect: Expect
    modes: tuple[PlayedMode, ...] = BOTH


def _kind(entry: object) -> str:
    """Tell the two kinds of entries apart by what they do, so that a refusal speaks of the right one."""
    return "at" if isinstance(entry, At) or (isinstance(entry, dict) and "inject" in entry) else "by"


Entry = Annotated[Annotated[At, pydantic.Tag("at")] | Annotated[By, pydantic.Tag("by")], pydantic.Discriminator(_kind)]


class Spec(_Part):
    """The story itself. Before the first injection come `warm_seconds` of load, in which caches fill, and then
    `before_seconds`, which are measured.
    """

    fleet: FleetNeeds
    load: Load
    limits: Limits
    warm_seconds: Seconds = 0.0
    before_seconds: Seconds = 10.0
    window_seconds: Seconds
    after_seconds: Seconds = 10.0
    timeline: tuple[Entry, ...] = pydantic.Field(min_length=1)

    @pydantic.model_validator(mode="after")
    def _fits_the_window(self) -> "Spec":
        if not any(isinstance(entry, At) and entry.at_seconds == 0 for entry in self.timeline):
            raise ValueError("nothing is injected at second 0, and every time counts from the first injection")
        latest = max(entry.at_seconds if isinstance(entry, At) else entry.by_seconds for entry in self.timeline)
        if latest + self.after_seconds > self.window_seconds:
            raise ValueError(
                f"the last entry of the timeline is at {latest:g} s and {self.after_seconds:g} s are measured "
                f"afterwards: window_seconds must be at least {latest + self.after_seconds:g}"
            )
        return self


class Metadata(_Part):
    """The story's short name, as S4, and one line for people."""

    id: str = pydantic.Field(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,30}$")
    title: str = pydantic.Field(min_length=1, max_length=100)


class Story(_Part):
    """One story file."""

    api_version: Literal["dsctl/v1"] = pydantic.Field(alias="apiVersion")
    kind: Literal["Story"]
    metadata: Metadata
    spec: Spec

    @property
    def id(self) -> str:
        """The short name."""
        return self.metadata.id

    def injections(self) -> tuple[At, ...]:
        """Return what is done, in the order of time."""
        return tuple(sorted((e for e in self.spec.timeline if isinstance(e, At)), key=lambda e: e.at_seconds))

    def expectations(self, mode: policies.Mode) -> tuple[By, ...]:
        """Return what should happen in this mode, in the order of time."""
        wanted = (e for e in self.spec.timeline if isinstance(e, By) and mode in e.modes)
        return tuple(sorted(wanted, key=lambda e: e.by_seconds))


def parse(text: str, *, source: str) -> Story:
    """Return the story in `text`; raises InvalidInputError with the line that is wrong."""
    return strictyaml.parse(Story, text, source=source)


@functools.cache
def shipped() -> tuple[Story, ...]:
    """Return the stories that come with the package, in the order of their ids."""
    folder = resources.files("controlplane.scenarios") / "stories"
    files = [entry for entry in folder.iterdir() if entry.name.endswith(".yaml")]
    read = [parse(entry.read_text(encoding="utf-8"), source=f"stories/{entry.name}") for entry in files]
    return tuple(sorted(read, key=lambda story: story.id))


def choose(ids: tuple[str, ...], *, every: bool) -> tuple[Story, ...]:
    """Return the shipped stories with these ids, or all of them; raises NotFoundError naming those there are."""
    known = {story.id: story for story in shipped()}
    missing = [wanted for wanted in ids if wanted not in known]
    if missing:
        raise errors.NotFoundError(f"no scenario {', '.join(missing)}; there are {', '.join(known)}")
    return tuple(known[wanted] for wanted in ids) if ids and not every else tuple(known.values())
