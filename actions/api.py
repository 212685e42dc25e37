"""What every action is: it plans (reads), applies, can be probed after a crash, and may be undone.

Concurrency: async. An action is a stateless object that `wiring` constructs with its clients. It is absolute
(replicas = 6, never +2), so that sending it twice with one key is harmless where it says it is idempotent.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from controlplane.domain import outcomes, plans

Params = Mapping[str, outcomes.Json]


@dataclass(frozen=True, slots=True)
class ActionSpec:
    """What an action declares about itself. `parameters` is the JSON Schema of its parameters."""

    name: str
    summary: str
    reentry: plans.Reentry
    is_reversible: bool
    is_destructive: bool
    parameters: Mapping[str, outcomes.Json]


@dataclass(frozen=True, slots=True)
class Scope:
    """What an action works on; `node` is empty for the whole service."""

    service: str
    node: str = ""


@dataclass(frozen=True, slots=True)
class ActionContext:
    """One try of one step.

    `idempotency_key` is the same for every try of the step. `token` grows with each owner of the run: a target that
    keeps the highest it has seen can refuse an owner that was replaced without knowing. Ours know keys only.
    """

    run_id: str
    step: str
    attempt: int
    idempotency_key: str
    token: int
    timeout_seconds: float
    scope: Scope


@dataclass(frozen=True, slots=True)
class ActionResult:
    """What the target said; `data` is stored in the run's log and handed to `undo`."""

    sentence: str
    data: Mapping[str, outcomes.Json] = field(default_factory=dict[str, outcomes.Json])


@dataclass(frozen=True, slots=True)
class Applied:
    """Probe: the effect with this key is there."""

    result: ActionResult


@dataclass(frozen=True, slots=True)
class NotApplied:
    """Probe: the effect with this key is certainly not there; it may be sent."""

    sentence: str


@dataclass(frozen=True, slots=True)
class CannotTell:
    """Probe: nobody can say; a person has to look."""

    sentence: str


Probed = Applied | NotApplied | CannotTell


class Action(Protocol):
    """One typed action.

    `apply` raises RetryLaterError when certainly nothing happened, OutcomeUnknownError when it may have, GiveUpError
    when the target refused, PartlyDoneError when only some of several did.
    """

    @property
    def spec(self) -> ActionSpec:
        """What the action declares."""
        ...

    async def blast(self, params: Params, scope: Scope) -> plans.BlastRadius:
        """Return which nodes it touches and which it takes out of service. Reads at most the fleet's topology."""
        ...

    async def plan(self, params: Params, scope: Scope) -> tuple[plans.Change, ...]:
        """Read the target and return the difference `apply` would make; never writes."""
        ...

    async def apply(self, params: Params, context: ActionContext) -> ActionResult:
        """Do it, carrying the idempotency key."""
        ...

    async def probe(self, params: Params, context: ActionContext) -> Probed:
        """Look whether the effect with this key already happened."""
        ...

    async def undo(self, params: Params, context: ActionContext, result: ActionResult) -> ActionResult:
        """Restore what `apply` changed; raises GiveUpError when the action is not reversible."""
        ...
