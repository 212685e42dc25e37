"""What the run engine is given: its settings, and the rooms it asks through ports.

Filled in by `wiring` and by tests. Pure values.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from actions import api as actions
from controlplane.domain import plans, ports

# Submits a follow-up runbook for the target of a failed plan, under a dedup key, and returns the new run's id. Raises
# GiveUpError when it was refused (the message is kept) and RetryLaterError when it should be tried again.
FollowUp = Callable[[plans.Plan, str, str], Awaitable[str]]


# Called on the event loop with the id of a run that has ended; it must not block.
OnEnded = Callable[[str], None]


class _AskNobody:
    """Leaves it to people to look for what waits for them."""

    async def ask(self, run_id: str, service: str, node: str, to: str, sentence: str, until: datetime) -> None:
        del run_id, service, node, to, sentence, until


def _ignore_end(run_id: str) -> None:
    """Nobody wants to be told."""
    del run_id


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How the engine drives. `replica_name` is stable over restarts: a new process fences the old one of its name.

    A dead replica's runs are taken over after at most lease + lease/3 + poll.
    """

    replica_name: str = "dsctl"
    lease_seconds: float = 6.0
    poll_seconds: float = 0.2
    max_active: int = 16
    grace_seconds: float = 10.0
    # How often a wait's condition is evaluated.
    wait_poll_seconds: float = 2.0
    # After a failure whose cause names no delay of its own.
    retry_seconds: float = 1.0
    max_undo_attempts: int = 3
    # A step that kills the process each time it is tried must not be tried for ever.
    max_reentries: int = 10
    # How long a step in doubt waits for the guard to allow its repeat, and how often it asks.
    doubt_patience_seconds: float = 120.0
    doubt_poll_seconds: float = 5.0
    # Verification that has not come to a verdict this long after its own limits is "unknown".
    verify_grace_seconds: float = 60.0
    # A follow-up is an answer to a failure now; later it would surprise.
    follow_up_patience_seconds: float = 600.0
    errand_timeout_seconds: float = 20.0
    max_errand_retry_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class RunPorts:
    """The rooms runs ask, and whom to tell when a run has ended."""

    clock: ports.Clock
    actions: Mapping[str, actions.Action]
    guard: ports.ActGuard
    verifier: ports.Verifier
    conditions: ports.Conditions
    facts: ports.FleetFacts
    notifier: ports.Notifier
    follow_up: FollowUp
    asker: ports.Asker = _AskNobody()  # noqa: RUF009 - it has no state
    on_ended: OnEnded = _ignore_end
