"""What the API needs from the rest of the house, as one frozen value of ports.

`wiring` fills it with the real ones, tests with fakes. The protocols here are those that only surfaces need;
what several rooms share stands in `controlplane.domain.ports`. No behaviour, no concurrency of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from controlplane import telemetry
from controlplane.domain import alerting, outcomes, ports, remediation, ticks, trust


class Principal(Protocol):
    """Who a valid token stands for. `role` is one of `rights.Role`."""

    @property
    def name(self) -> str:
        """The name people gave the token; it is written into every audit line."""
        ...

    @property
    def role(self) -> str:
        """What its holder may do."""
        ...


class TokenInfo(Protocol):
    """A token as it may be listed: everything but the secret."""

    @property
    def name(self) -> str:
        """Unique name."""
        ...

    @property
    def role(self) -> str:
        """What its holder may do."""
        ...

    @property
    def created_at(self) -> datetime:
        """When it was made, UTC."""
        ...

    @property
    def expires_at(self) -> datetime | None:
        """When it stops working, UTC; None for never."""
        ...

    @property
    def last_used_at(self) -> datetime | None:
        """About when it was last sent, UTC."""
        ...

    @property
    def revoked_at(self) -> datetime | None:
        """When somebody made it useless, UTC."""
        ...


class Tokens(Protocol):
    """API tokens. Only hashes are kept: a secret is shown once, when it is made."""

    async def verify(self, token: str) -> Principal | None:
        """Return whose token it is; None for unknown, revoked and expired ones."""
        ...

    async def create(self, name: str, role: str, expires_at: datetime | None = None) -> str:
        """Make a token and return its secret; raises ConflictError when the name is taken."""
        ...

    async def list(self) -> Sequence[TokenInfo]:
        """Return every token that was ever made, newest first."""
        ...

    async def revoke(self, name: str) -> None:
        """Make a token stop working at once; raises NotFoundError."""
        ...


class RunbookEntry(Protocol):
    """A loaded runbook."""

    @property
    def name(self) -> str:
        """Unique name."""
        ...

    @property
    def summary(self) -> str:
        """One line on what it is for."""
        ...

    @property
    def source(self) -> str:
        """The YAML itself."""
        ...

    @property
    def digest(self) -> str:
        """Hash of the source."""
        ...


class Runbooks(Protocol):
    """The runbooks that plans are made from."""

    @property
    def runbooks(self) -> Mapping[str, RunbookEntry]:
        """All of them by name."""
        ...

    def get(self, name: str) -> RunbookEntry:
        """Return one; raises NotFoundError."""
        ...


class RunbookParser(Protocol):
    """Checks the text of a runbook as if it were to be loaded."""

    def __call__(self, text: str, *, source: str) -> RunbookEntry:
        """Return the runbook; raises InvalidInputError with the line. Blocks for up to two seconds."""
        ...


class RunControl(Protocol):
    """What people may do to a run under way."""

    async def cancel(self, run_id: str, who: str) -> outcomes.RunState:
        """Ask a run to stop after its current step, and return its state now; raises NotFoundError."""
        ...

    async def answer(
        self, run_id: str, who: str, *, is_approved: bool, reason: str, plan_hash: str, step: str = ""
    ) -> None:
        """Keep a person's answer to the question `step`, else to the run's next one, and wake the run if it waits for it.

        Raises NotFoundError, and ConflictError for an answer that may not count, with the reason.
        """
        ...


@dataclass(frozen=True, slots=True)
class Check:
    """One answer of the readiness checks; `hint` says what to do about a failed one.

    A required check that fails makes `/readyz` answer 503; the others are for `dsctl doctor`.
    """

    name: str
    is_ok: bool
    detail: str
    hint: str = ""
    is_required: bool = True


class Readiness(Protocol):
    """Looks at what the control plane depends on: database, Prometheus, Alertmanager, migrations."""

    async def check(self) -> Sequence[Check]:
        """Return one answer per dependency within two seconds; never raises for a dependency that is down."""
        ...


class IntakeParser(Protocol):
    """Reads the body of a webhook."""

    def __call__(self, body: bytes, *, source: str) -> alerting.Notification:
        """Return the notification; raises InvalidInputError with a text for the sender. Pure."""
        ...


@dataclass(frozen=True, slots=True)
class House:
    """Everything the API speaks to. `max_pending_webhooks` bounds the notifications being stored at once."""

    clock: ports.Clock
    incidents: ports.IncidentStore
    runs: ports.RunStore
    run_control: RunControl
    decisions: ports.DecisionStore
    alerts: ports.AlertStore
    automation: ports.AutomationStore
    remediator: remediation.Remediator
    ticks: ticks.TickFeed
    runbooks: Runbooks
    parse_runbook: RunbookParser
    tokens: Tokens
    readiness: Readiness
    telemetry: telemetry.Telemetry
    trustees: trust.Trustees
    parse_notification: IntakeParser
    max_pending_webhooks: int = 64
