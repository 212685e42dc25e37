"""Approvals: what people answered a run that asks before it goes on."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Approval:
    """One person's answer to one step, the only one that counts: nobody answers twice.

    `who` is the name of a token; `plan_hash` the plan it was given for.
    """

    run_id: str
    step: str
    who: str
    is_approved: bool
    reason: str
    plan_hash: str
    at: datetime
