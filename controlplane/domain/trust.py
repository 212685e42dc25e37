"""What a runbook has earned: the record of its runs, and how far a policy may go because of it. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from controlplane.domain import outcomes, policies


@dataclass(frozen=True, slots=True)
class Deed:
    """One run that acted and ended by itself, in the few words a ledger needs.

    `policy` is None where a person asked; `opened_at` is when its incident began, None without one.
    """

    run_id: str
    runbook: str
    service: str
    policy: str | None
    verdict: outcomes.Verdict | None
    acted_at: datetime
    ended_at: datetime
    opened_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """A share with the bounds of its 95 % interval, 0 to 1."""

    ratio: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Spread:
    """A length of time as the middle run and the slow one know it, in seconds."""

    median: float
    p90: float


@dataclass(frozen=True, slots=True)
class Ledger:
    """The record of some runs. `unjudged` ended without a verdict; they and the `unknown` ones count neither way.

    `success` is the share that recovered, of those judged; `to_recover` from the last effect to the verdict, and
    `of_incident` from the incident's beginning to it, over the runs that recovered.
    """

    runs: int = 0
    recovered: int = 0
    not_recovered: int = 0
    worse: int = 0
    unknown: int = 0
    unjudged: int = 0
    success: Share | None = None
    to_recover: Spread | None = None
    of_incident: Spread | None = None
    last_at: datetime | None = None

    @property
    def judged(self) -> int:
        """How many runs say something about the runbook."""
        return self.recovered + self.not_recovered + self.worse


@dataclass(frozen=True, slots=True)
class Book:
    """A ledger with its parts: by service, and by policy, where the empty name stands for people."""

    total: Ledger
    services: Mapping[str, Ledger] = field(default_factory=dict[str, Ledger])
    policies: Mapping[str, Ledger] = field(default_factory=dict[str, Ledger])


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When a record is good or bad; the bounds are those of the 95 % interval of the share that recovered."""

    min_runs: int = 10
    promote_above: float = 0.9
    demote_below: float = 0.5
    worse_in_a_row: int = 2


class Kind(StrEnum):
    """What was written into a policy's record of trust."""

    DEMOTED = "demoted"
    RESET = "reset"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of that record: who changed how far a policy may go, when and why.

    It went no further than `before`, and may go as far as `mode` from then on; of a reset that is auto, since nothing is
    held against it any more.
    """

    policy: str
    kind: Kind
    at: datetime
    who: str
    why: str
    before: policies.Mode
    mode: policies.Mode

    @property
    def sentence(self) -> str:
        """What people are told of a demotion."""
        return f"policy {self.policy} was taken from {self.before} to {self.mode}: {self.why}"


@dataclass(frozen=True, slots=True)
class Trust:
    """Where a policy stands by its record.

    `demotion` is in force until a person lifts it; only runs that ended after `counts_from` count for the ledger.
    """

    demotion: Entry | None = None
    counts_from: datetime | None = None


@dataclass(frozen=True, slots=True)
class Proposal:
    """A policy could be given more, by a person."""

    mode: policies.Mode
    sentence: str


@dataclass(frozen=True, slots=True)
class Standing:
    """All there is to say about how far one policy goes.

    `effective` is the least of what is `written`, the `ceiling` and the demotion. `own` is the record of the runs that the
    policy asked for; `record` that of its runbook on its services, whoever asked, on which a proposal rests.
    """

    policy: policies.Policy
    written: policies.Mode
    ceiling: policies.Mode
    trust: Trust
    effective: policies.Mode
    own: Book
    record: Ledger
    proposal: Proposal | None = None


class TrustStore(Protocol):
    """The deeds of runs, and the records of trust."""

    async def deeds(self, *, ended_since: datetime | None = None) -> tuple[Deed, ...]:
        """Return the runs that acted and ended by themselves, oldest end first; a cancelled run is none of them."""
        ...

    async def trusts(self) -> Mapping[str, Trust]:
        """Return where policies stand, by name; one that nothing was ever written about is absent."""
        ...

    async def append(self, entry: Entry) -> None:
        """Write one line, durably; it holds from then on."""
        ...


class Trustees(Protocol):
    """What the surfaces may know and change of the policies' standing."""

    async def standings(self) -> tuple[Standing, ...]:
        """Return every policy's standing, in the order in which policies are asked."""
        ...

    async def book(self, runbook: str) -> Book:
        """Return the ledger of a runbook, whoever asked for it."""
        ...

    async def reset(self, policy: str, *, who: str, why: str) -> Standing:
        """Lift what is held against a policy and count its runs anew; raises NotFoundError."""
        ...
