"""Incidents: one per (service, fault class, target); alerts and findings about the same trouble merge into it."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from controlplane.domain import findings as fnd
from controlplane.domain import outcomes


class IncidentState(StrEnum):
    """States of an incident; closed is final, escalated waits for a person or for the trouble to end."""

    OPEN = "open"
    ACTING = "acting"
    VERIFYING = "verifying"
    CLOSED = "closed"
    ESCALATED = "escalated"


@dataclass(frozen=True, slots=True)
class IncidentKey:
    """What makes two findings the same incident. `node` is empty for the whole service."""

    service: str
    fault: fnd.FaultClass
    node: str = ""

    def __str__(self) -> str:
        return f"{self.service}/{self.node}:{self.fault}" if self.node else f"{self.service}:{self.fault}"


@dataclass(frozen=True, slots=True)
class Incident:
    """One incident. `finding` is the newest and worst finding; `opened_by` the source of the first one.

    `quiet_since` is set while no source reports the trouble any more; `gone_since` while, besides, its target is not
    there any more; `run_id` is the latest run.
    """

    id: str
    key: IncidentKey
    state: IncidentState
    severity: fnd.Severity
    opened_at: datetime
    updated_at: datetime
    opened_by: str
    finding: fnd.Finding
    sources: tuple[str, ...] = ()
    attempts: int = 0
    run_id: str | None = None
    quiet_since: datetime | None = None
    gone_since: datetime | None = None
    closed_at: datetime | None = None
    verdict: outcomes.Verdict | None = None
    sentence: str = ""

    @property
    def is_final(self) -> bool:
        """True when nothing will change this incident any more."""
        return self.state is IncidentState.CLOSED
