"""The JSON of policies, their standing and the ledgers, apart from the domain like all of `wire`. Used by the routes. Values only."""

from collections.abc import Mapping
from datetime import datetime

from controlplane.api import wire
from controlplane.domain import policies, trust


class Share(wire.Told):
    """A share with the bounds of its 95 % interval, 0 to 1."""

    ratio: float
    low: float
    high: float


class Spread(wire.Told):
    """Seconds: the middle run, and what nine in ten did not exceed."""

    median: float
    p90: float


class Ledger(wire.Told):
    """The record of some runs. `success` and the times are null where nothing is known; `unjudged` had no verdict.

    Times are of runs that recovered: from the last effect to the verdict, and from the incident's beginning to it.
    """

    runs: int
    recovered: int
    not_recovered: int
    worse: int
    unknown: int
    unjudged: int
    success: Share | None
    to_recover: Spread | None
    of_incident: Spread | None
    last_at: datetime | None


class RunbookLedger(wire.Versioned):
    """The record of a runbook, whoever asked; in `policies` the empty name stands for people."""

    runbook: str
    total: Ledger
    services: Mapping[str, Ledger]
    policies: Mapping[str, Ledger]

    @classmethod
    def of(cls, runbook: str, book: trust.Book) -> "RunbookLedger":
        """Read off a book."""
        return cls(
            runbook=runbook,
            total=Ledger.model_validate(book.total),
            services={name: Ledger.model_validate(one) for name, one in book.services.items()},
            policies={name: Ledger.model_validate(one) for name, one in book.policies.items()},
        )


class Demotion(wire.Told):
    """What took a policy back, until a person resets it."""

    at: datetime
    who: str
    why: str
    before: policies.Mode
    mode: policies.Mode
    sentence: str


class Proposal(wire.Told):
    """What a person could raise."""

    mode: policies.Mode
    sentence: str


class Policy(wire.Versioned):
    """How far a policy goes: `mode` of its file, `ceiling` by the setting, `effective` by these and its demotion.

    `ledger` holds the runs it asked for since `counts_from`, in all and by service; `runbook_ledger` those of its runbook
    on its services, whoever asked, on which a proposal rests.
    """

    name: str
    runbook: str
    services: list[str]
    mode: policies.Mode
    ceiling: policies.Mode
    effective: policies.Mode
    demotion: Demotion | None
    proposal: Proposal | None
    counts_from: datetime | None
    ledger: Ledger
    ledger_of: Mapping[str, Ledger]
    runbook_ledger: Ledger

    @classmethod
    def of(cls, standing: trust.Standing) -> "Policy":
        """Read off a standing."""
        demotion, proposal = standing.trust.demotion, standing.proposal
        return cls(
            name=standing.policy.name,
            runbook=standing.policy.runbook,
            services=list(standing.policy.services),
            mode=standing.written,
            ceiling=standing.ceiling,
            effective=standing.effective,
            demotion=None if demotion is None else Demotion.model_validate(demotion),
            proposal=None if proposal is None else Proposal.model_validate(proposal),
            counts_from=standing.trust.counts_from,
            ledger=Ledger.model_validate(standing.own.total),
            ledger_of={name: Ledger.model_validate(one) for name, one in standing.own.services.items()},
            runbook_ledger=Ledger.model_validate(standing.record),
        )
