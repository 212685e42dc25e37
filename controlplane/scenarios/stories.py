"""Stories: what is done to a fleet at which second, and what the control plane is expected to do by when.

A story is a YAML file: the load clients make, a timeline of deeds (a fault, other load) and expectations, and the limits
by which it is judged. Called by the demo, the acceptance tests and everything that plays trouble; never plays anything
itself. Times are seconds from the first deed. Pure, except that `shipped` reads the files of this package.
"""

import functools
from importlib import resources
from typing import Annotated, Literal

import pydantic

from controlplane import strictyaml
from controlplane.domain import errors, findings, outcomes, policies, rungs
from controlplane.scenarios import samples as smp

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
    """The smallest fleet the story makes sense on, and the nodes that could be started beside it."""

    nodes: int = pydantic.Field(ge=1, le=16)
    spare: int = pydantic.Field(default=0, ge=0, le=16)


class Past(_Part):
    """Days of arrivals before the story, requests a second: `rate` all day, and `peak_rate` for `peak_seconds`, daily.

    The peak begins at the very minute of the story's first deed, and the calendar of the service knows it as `event`.
    """

    days: int = pydantic.Field(ge=2, le=28)
    rate: float = pydantic.Field(gt=0, le=500)
    peak_rate: float = pydantic.Field(gt=0, le=500)
    peak_seconds: float = pydantic.Field(ge=60, le=43_200)
    event: NodeName


class Stream(_Part):
    """What the clients of one level do: an open loop of `rate` requests a second for answers of `max_tokens`."""

    rate: float = pydantic.Field(gt=0, le=500)
    max_tokens: int = pydantic.Field(default=12, ge=1, le=256)


class Traffic(_Part):
    """What clients do at a time, by service level.

    Where `is_cached` is false, clients refuse cached answers, so that each one costs the engine its work.
    """

    levels: dict[smp.Level, Stream] = pydantic.Field(min_length=1)
    is_cached: bool = True

    @property
    def rate(self) -> float:
        """Requests a second of all levels together."""
        return sum(stream.rate for stream in self.levels.values())

    @property
    def max_tokens(self) -> int:
        """The longest answer that anybody asks for."""
        return max(stream.max_tokens for stream in self.levels.values())


class Load(Traffic):
    """What clients do before anything happens, and until the timeline says otherwise. The prompts are fixed ones."""

    prompts: int = pydantic.Field(default=40, ge=1, le=40)


class Limits(_Part):
    """What the clients of each level must see. A wrong answer is an error; a refusal (429) is counted apart."""

    error_ratio: float = pydantic.Field(ge=0, le=1)
    rejected_ratio: float = pydantic.Field(default=0.01, ge=0, le=1)
    latency_p99_seconds: float = pydantic.Field(gt=0)

    def are_kept_by(self, seen: smp.Measure) -> bool:
        """Say whether what was seen lies inside; where nothing was answered nobody knows, and that is no."""
        if seen.error_ratio is None or seen.p99_seconds is None or seen.rejected_ratio is None:
            return False
        if seen.error_ratio > self.error_ratio or seen.rejected_ratio > self.rejected_ratio:
            return False
        return seen.p99_seconds <= self.latency_p99_seconds


class Held(_Part):
    """What one level must see in the middle of the story, between two seconds."""

    level: smp.Level
    from_seconds: Seconds
    until_seconds: Seconds
    limits: Limits


class Inject(_Part):
    """A fault of the node's fault injection, by its name there."""

    fault: str = pydantic.Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")
    node: NodeName
    params: dict[str, pydantic.JsonValue] = pydantic.Field(default_factory=dict[str, pydantic.JsonValue])


class Expect(_Part):
    """One thing that should show: an incident, an act of a runbook, a run's verdict, a rung of the ladder or more, or so
    many nodes in service or more.

    Without `node` it is about the service as a whole. `opened_by` names the only source that may open the incident.
    """

    node: NodeName | Literal[""] = ""
    incident: findings.FaultClass | None = None
    opened_by: str | None = None
    runbook: str | None = None
    verdict: outcomes.Verdict | None = None
    rung: int | None = pydantic.Field(default=None, ge=1, le=rungs.TOP)
    in_service: int | None = pydantic.Field(default=None, ge=1, le=32)

    @pydantic.model_validator(mode="after")
    def _is_one_thing(self) -> "Expect":
        words = (self.incident, self.runbook, self.verdict, self.rung, self.in_service)
        if sum(word is not None for word in words) != 1:
            raise ValueError("expects exactly one of incident, runbook, verdict, rung and in_service")
        if self.opened_by is not None and self.incident is None:
            raise ValueError("opened_by says who opens an incident, and none is expected here")
        return self

    @property
    def place(self) -> str:
        """The node, or the service."""
        return self.node or "the service"

    def __str__(self) -> str:
        if self.incident is not None:
            by = f", opened by {self.opened_by}" if self.opened_by else ""
            return f"an incident of {self.incident} on {self.place}{by}"
        if self.runbook is not None:
            return f"{self.runbook} acts on {self.place}"
        if self.verdict is not None:
            return f"a run on {self.place} ends {self.verdict}"
        if self.in_service is not None:
            return f"{self.in_service} nodes in service"
        return rungs.describe(self.rung or 0)


class At(_Part):
    """At this second, do it: inject a fault, or let clients do something else from now on."""

    at_seconds: Seconds
    inject: Inject | None = None
    load: Traffic | None = None

    @pydantic.model_validator(mode="after")
    def _is_one_thing(self) -> "At":
        if (self.inject is None) == (self.load is None):
            raise ValueError("does exactly one of inject and load")
        return self

    def __str__(self) -> str:
        if self.inject is not None:
            return f"{self.inject.fault} on {self.inject.node}"
        return f"load of {self.load.rate:g}/s" if self.load else ""


class By(_Part):
    """By this second it should have happened, when the story is played in one of `modes`."""

    by_seconds: Seconds
    expect: Expect
    modes: tuple[PlayedMode, ...] = BOTH


def _kind(entry: object) -> str:
    """Tell the two kinds of entries apart by what they do, so that a refusal speaks of the right one."""
    is_done = isinstance(entry, At) or (isinstance(entry, dict) and ("inject" in entry or "load" in entry))
    return "at" if is_done else "by"


Entry = Annotated[Annotated[At, pydantic.Tag("at")] | Annotated[By, pydantic.Tag("by")], pydantic.Discriminator(_kind)]


class Spec(_Part):
    """The story itself. Before its first entry come `warm_seconds` of load, in which caches fill, and then
    `before_seconds`, which are measured. `limits` are for each level at its end, `held` for the middle.

    With a `past` the warm time lasts until the peak is due, and what the control plane does in it counts. A story that
    `is_prevented` in auto mode is one that clients then do not feel.
    """

    fleet: FleetNeeds
    load: Load
    limits: Limits
    held: tuple[Held, ...] = ()
    past: Past | None = None
    is_prevented: bool = False
    warm_seconds: Seconds = 0.0
    before_seconds: Seconds = 10.0
    window_seconds: Seconds
    after_seconds: Seconds = 10.0
    timeline: tuple[Entry, ...] = pydantic.Field(min_length=1)

    @property
    def longest_seconds(self) -> float:
        """How long the story takes at most, from the first request."""
        return self.warm_seconds + self.before_seconds + self.window_seconds

    @property
    def earliest_end_seconds(self) -> float:
        """When the story may end early at the soonest: what follows the last deed has been measured, promises are over."""
        deeds = [entry.at_seconds for entry in self.timeline if isinstance(entry, At)]
        return max(max(deeds) + self.after_seconds, *(held.until_seconds for held in self.held), 0.0)

    @pydantic.model_validator(mode="after")
    def _fits_the_window(self) -> "Spec":
        if not any(isinstance(entry, At) and entry.at_seconds == 0 for entry in self.timeline):
            raise ValueError("nothing is done at second 0, and every time counts from the first thing done")
        latest = max(
            0.0,
            *(entry.at_seconds if isinstance(entry, At) else entry.by_seconds for entry in self.timeline),
            *(held.until_seconds for held in self.held),
        )
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

    def deeds(self) -> tuple[At, ...]:
        """Return what is done, in the order of time."""
        return tuple(sorted((e for e in self.spec.timeline if isinstance(e, At)), key=lambda e: e.at_seconds))

    def injections(self) -> tuple[Inject, ...]:
        """Return the faults that are injected, in the order of time."""
        return tuple(deed.inject for deed in self.deeds() if deed.inject is not None)

    def traffic(self) -> tuple[Traffic, ...]:
        """Return everything that clients do, in the order of time."""
        return (self.spec.load, *(deed.load for deed in self.deeds() if deed.load is not None))

    def levels(self) -> tuple[smp.Level, ...]:
        """Return the service levels that clients use at any time, the best first."""
        used = {level for traffic in self.traffic() for level in traffic.levels}
        return tuple(level for level in smp.LEVELS if level in used)

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
    """Return the shipped stories with these ids, every one, or without ids those that are no variant of another.

    A variant is named after its story, as S5-wedge. Raises NotFoundError naming those there are.
    """
    known = {story.id: story for story in shipped()}
    missing = [wanted for wanted in ids if wanted not in known]
    if missing:
        raise errors.NotFoundError(f"no scenario {', '.join(missing)}; there are {', '.join(known)}")
    if every:
        return tuple(known.values())
    return tuple(known[wanted] for wanted in ids or [name for name in known if "-" not in name])
