"""What requests may hold. Unknown fields, control characters and numbers that are not finite are refused.

Read by the routes; the domain never sees a value that did not pass here. Values only.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Self, cast

import pydantic

from controlplane.api import rights
from controlplane.domain import outcomes, plans

Name = Annotated[
    str, pydantic.StringConstraints(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$")
]
NameOrNothing = Annotated[str, pydantic.StringConstraints(max_length=253, pattern=r"^([A-Za-z0-9][A-Za-z0-9._:-]*)?$")]
_MAX_DEPTH = 8
# C0 and C1 controls and DEL, but for tab and line break: databases, logs and terminals choke on them.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def _clean(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("holds a control character")
    return text


Text = Annotated[str, pydantic.StringConstraints(max_length=2000), pydantic.AfterValidator(_clean)]


def _plain(value: pydantic.JsonValue, depth: int = 0) -> pydantic.JsonValue:
    """Refuse what JSON readers accept and nothing behind them should see."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"is nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, str):
        _clean(value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("holds a number that is not finite")
    elif isinstance(value, dict):
        for key, inner in value.items():
            _clean(key)
            _plain(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _plain(inner, depth + 1)
    return value


Inputs = Annotated[
    dict[Annotated[str, pydantic.StringConstraints(max_length=253)], pydantic.JsonValue],
    pydantic.Field(max_length=100),
    pydantic.AfterValidator(lambda inputs: cast("dict[str, pydantic.JsonValue]", _plain(inputs))),
]


class Asked(pydantic.BaseModel):
    """Base of requests."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class RemediationRequest(Asked):
    """Which runbook on what. Without `node` the whole service is meant."""

    runbook: Name
    service: Name
    node: NameOrNothing = ""
    inputs: Inputs = pydantic.Field(default_factory=dict[str, pydantic.JsonValue])
    reason: Text = ""
    incident_id: Name | None = None

    def to_domain(self, requested_by: str, dedup_key: str | None = None) -> plans.PlanRequest:
        """Return the domain's request; who asks comes from the token, never from the body."""
        return plans.PlanRequest(
            runbook=self.runbook,
            service=self.service,
            node=self.node,
            requested_by=requested_by,
            reason=self.reason,
            inputs=cast("Mapping[str, outcomes.Json]", self.inputs),
            incident_id=self.incident_id,
            dedup_key=dedup_key,
            asked="" if dedup_key is None else self._digest(),
        )

    def _digest(self) -> str:
        """Return the hash of what is asked for; why it is asked may be worded anew."""
        asked = [self.runbook, self.service, self.node, self.inputs]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode("ascii")).hexdigest()


class RunRequest(RemediationRequest):
    """A remediation to carry out; with `expected_hash` only if the plan is still the one that was previewed."""

    expected_hash: Annotated[str, pydantic.StringConstraints(max_length=200)] | None = None


class RunbookText(Asked):
    """A runbook to check; `source` is what complaints call it."""

    text: Annotated[str, pydantic.StringConstraints(max_length=262_144)]
    source: Annotated[Text, pydantic.StringConstraints(max_length=253)] = "runbook.yaml"


class ApprovalRequest(Asked):
    """A person's answer to a run that asks; `plan_hash` and `step` are those of the plan and question looked at."""

    approve: bool
    plan_hash: Annotated[str, pydantic.StringConstraints(min_length=1, max_length=200)]
    step: NameOrNothing = ""
    reason: Text = ""

    @pydantic.model_validator(mode="after")
    def _says_why_not(self) -> Self:
        if not self.approve and not self.reason.strip():
            raise ValueError("say in `reason` why it is rejected")
        return self


class CancelRequest(Asked):
    """Why a run is to stop."""

    reason: Text = ""


class PauseRequest(Asked):
    """Why automation is to stand still."""

    reason: Annotated[Text, pydantic.StringConstraints(min_length=1)]


class ResetRequest(Asked):
    """Why a policy may be trusted again."""

    reason: Annotated[Text, pydantic.StringConstraints(min_length=1)]


class ResumeRequest(Asked):
    """Whose brake to release: `who`, one's own without it, or all."""

    who: Name | None = None
    everyone: bool = False


class BreakerReset(Asked):
    """Why automation may act again."""

    reason: Annotated[Text, pydantic.StringConstraints(min_length=1)]


def _in_utc(instant: datetime) -> datetime:
    try:
        return instant.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("lies outside the years 1 to 9999") from error


class TokenRequest(Asked):
    """A token to make."""

    name: Name
    role: rights.Role
    expires_at: Annotated[pydantic.AwareDatetime, pydantic.AfterValidator(_in_utc)] | None = None
