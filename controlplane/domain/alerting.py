"""Alerts as they arrive from Alertmanager or Grafana, after validation and before anybody interprets them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

# Alerts that dsctl itself sends carry this label; intake drops them when they come back.
ORIGIN_LABEL = "dsctl_origin"
FAULT_LABEL = "dsctl_fault"
SIGNAL_LABEL = "dsctl_signal"


class AlertStatus(StrEnum):
    """Alertmanager's two states of an alert."""

    FIRING = "firing"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert of a notification. Times are UTC; `ends_at` is None while it fires."""

    fingerprint: str
    status: AlertStatus
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    starts_at: datetime
    ends_at: datetime | None = None
    generator_url: str = ""

    @property
    def name(self) -> str:
        """The alertname label."""
        return self.labels.get("alertname", "")


@dataclass(frozen=True, slots=True)
class Notification:
    """One webhook call: a group of alerts. `idempotency_key` is equal for retries of the same content."""

    source: str
    receiver: str
    group_key: str
    status: AlertStatus
    alerts: Sequence[Alert]
    idempotency_key: str
    truncated_alerts: int = 0
    external_url: str = ""


@dataclass(frozen=True, slots=True)
class Silence:
    """An active silence of Alertmanager; matchers are (name, value, is_regex, is_equal)."""

    id: str
    matchers: tuple[tuple[str, str, bool, bool], ...]
    ends_at: datetime
    created_by: str = ""
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Silences:
    """The active silences as of `read_at` (UTC)."""

    read_at: datetime
    active: tuple[Silence, ...] = field(default=())
