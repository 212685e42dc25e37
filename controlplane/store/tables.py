"""The tables of the store, for SQLite and PostgreSQL alike.

Read by the repositories, by the run engine's ledger and by the migrations' tests, which prove that the migrated
schema equals this one. Values that only code reads live in JSON documents; what queries ask for has a column.
"""

from datetime import UTC, datetime

import sqlalchemy as sa

# A stable naming scheme, so that migrations can name what they change on either database.
_NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
METADATA = sa.MetaData(naming_convention=_NAMES)


class UtcTime(sa.types.TypeDecorator[datetime]):
    """Timezone-aware UTC on both databases; SQLite keeps text without a zone, which sorts by time."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Refuse naive times, and convert the others to UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a naive time cannot be stored: {value!r}")
        aware = value.astimezone(UTC)
        return aware.replace(tzinfo=None) if dialect.name == "sqlite" else aware

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Give every time its zone back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if dialect.name == "sqlite" else value.astimezone(UTC)


NOTIFICATION = sa.Table(
    "notification",
    METADATA,
    sa.Column("idempotency_key", sa.String, primary_key=True),
    sa.Column("received_at", UtcTime, nullable=False, index=True),
    sa.Column("source", sa.String, nullable=False),
    sa.Column("receiver", sa.String, nullable=False),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("document", sa.JSON, nullable=False),
)

ALERT = sa.Table(
    "alert",
    METADATA,
    sa.Column("source", sa.String, primary_key=True),
    sa.Column("fingerprint", sa.String, primary_key=True),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("starts_at", UtcTime, nullable=False),
    sa.Column("ends_at", UtcTime),
    sa.Column("received_at", UtcTime, nullable=False),
    sa.Column("document", sa.JSON, nullable=False),
    sa.Index("ix_alert_status_received_at", "status", "received_at"),
)

INCIDENT = sa.Table(
    "incident",
    METADATA,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("service", sa.String, nullable=False),
    sa.Column("fault", sa.String, nullable=False),
    sa.Column("node", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("opened_at", UtcTime, nullable=False),
    sa.Column("updated_at", UtcTime, nullable=False),
    sa.Column("closed_at", UtcTime),
    sa.Column("document", sa.JSON, nullable=False),
    sa.Index("ix_incident_state_opened_at", "state", "opened_at"),
    sa.Index("ix_incident_service_opened_at", "service", "opened_at"),
)
# Two incidents with one key would be two remediations of one trouble; the database refuses the second.
sa.Index(
    "uq_incident_unclosed_key",
    INCIDENT.c.service,
    INCIDENT.c.fault,
    INCIDENT.c.node,
    unique=True,
    sqlite_where=INCIDENT.c.state != "closed",
    postgresql_where=INCIDENT.c.state != "closed",
)

INCIDENT_NOTE = sa.Table(
    "incident_note",
    METADATA,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("incident_id", sa.String, sa.ForeignKey("incident.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("text", sa.String, nullable=False),
)

DECISION = sa.Table(
    "decision",
    METADATA,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("at", UtcTime, nullable=False, index=True),
    sa.Column("incident_id", sa.String),
    sa.Column("service", sa.String, nullable=False),
    sa.Column("target", sa.String, nullable=False),
    sa.Column("runbook", sa.String, nullable=False),
    sa.Column("policy", sa.String),
    sa.Column("outcome", sa.String, nullable=False),
    sa.Column("sentence", sa.String, nullable=False),
    sa.Column("plan_id", sa.String),
    sa.Column("run_id", sa.String),
    sa.Column("answers", sa.JSON, nullable=False),
    # One that repeats itself is one row: how often it was given, and since when.
    sa.Column("times", sa.Integer, nullable=False, server_default="1"),
    sa.Column("since", UtcTime),
    sa.Index("ix_decision_incident_id_at", "incident_id", "at"),
    sa.Index("ix_decision_service_at", "service", "at"),
    sa.Index("ix_decision_run_id", "run_id"),
)

AUTOMATION_BRAKE = sa.Table(
    "automation_brake",
    METADATA,
    sa.Column("who", sa.String, primary_key=True),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("at", UtcTime, nullable=False),
)

AUTOMATION_BREAKER = sa.Table(
    "automation_breaker",
    METADATA,
    sa.Column("service", sa.String, primary_key=True),
    sa.Column("is_open", sa.Boolean, nullable=False),
    sa.Column("tripped_at", UtcTime, nullable=False),
    sa.Column("sentence", sa.String, nullable=False),
    sa.Column("nodes", sa.JSON, nullable=False),
    sa.Column("reset_at", UtcTime),
    sa.Column("reset_by", sa.String, nullable=False),
    sa.Column("reset_reason", sa.String, nullable=False),
)

API_TOKEN = sa.Table(
    "api_token",
    METADATA,
    sa.Column("sha256", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("role", sa.String, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("expires_at", UtcTime),
    sa.Column("last_used_at", UtcTime),
    sa.Column("revoked_at", UtcTime),
)
# A name says who acted; it may be given again only after its token was revoked.
sa.Index(
    "uq_api_token_live_name",
    API_TOKEN.c.name,
    unique=True,
    sqlite_where=API_TOKEN.c.revoked_at.is_(None),
    postgresql_where=API_TOKEN.c.revoked_at.is_(None),
)

RUN = sa.Table(
    "run",
    METADATA,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("runbook", sa.String, nullable=False),
    sa.Column("runbook_digest", sa.String, nullable=False),
    sa.Column("service", sa.String, nullable=False),
    sa.Column("node", sa.String, nullable=False),
    sa.Column("target", sa.String, nullable=False),
    sa.Column("incident_id", sa.String),
    sa.Column("dedup_key", sa.String, unique=True),
    sa.Column("plan", sa.JSON, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("cursor", sa.JSON, nullable=False),
    # The slot on the target while the run is not final; NULL afterwards, which frees the target.
    sa.Column("slot", sa.Integer),
    sa.Column("wake_at", UtcTime, nullable=False),
    sa.Column("owner", sa.String),
    # Fencing: the token grows with each claim, the revision with each commit of the owner.
    sa.Column("token", sa.Integer, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("num_events", sa.Integer, nullable=False),
    sa.Column("is_cancel_requested", sa.Boolean, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("acted_at", UtcTime),
    sa.Column("ended_at", UtcTime),
    sa.Column("verdict", sa.String),
    sa.Column("sentence", sa.String, nullable=False),
    # The policy that asked for it; NULL where a person did.
    sa.Column("policy", sa.String),
    # The step that asks people, while the run waits for them.
    sa.Column("awaits", sa.String),
    # With `awaits`, so that looking for due runs does not read every run that waits for people.
    sa.Index("ix_run_state_wake_at_awaits", "state", "wake_at", "awaits"),
    sa.Index("ix_run_service_created_at", "service", "created_at"),
    sa.Index("ix_run_runbook_ended_at", "runbook", "ended_at"),
    # The ledgers ask at every tick for what has ended since.
    sa.Index("ix_run_ended_at", "ended_at"),
    # The guard asks with every risky plan for what has ended lately on its service.
    sa.Index("ix_run_service_ended_at", "service", "ended_at"),
    sa.Index("ix_run_incident_id_created_at", "incident_id", "created_at"),
)
# The limit per target is an index: a race for a target ends in a refused insert, never in two runs.
sa.Index(
    "uq_run_target_slot",
    RUN.c.target,
    RUN.c.slot,
    unique=True,
    sqlite_where=RUN.c.slot.is_not(None),
    postgresql_where=RUN.c.slot.is_not(None),
)

RUN_EVENT = sa.Table(
    "run_event",
    METADATA,
    sa.Column("run_id", sa.String, sa.ForeignKey("run.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("step", sa.String, nullable=False),
    sa.Column("token", sa.Integer, nullable=False),
    sa.Column("data", sa.JSON, nullable=False),
)

# What a run owes: an escalation to deliver, a follow-up to submit. Written with the end, or the question, itself.
RUN_ERRAND = sa.Table(
    "run_errand",
    METADATA,
    sa.Column("run_id", sa.String, sa.ForeignKey("run.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("argument", sa.String, nullable=False),
    sa.Column("sentence", sa.String, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("due_at", UtcTime, nullable=False),
    sa.Column("done_at", UtcTime),
    sa.Index("ix_run_errand_done_at_due_at", "done_at", "due_at"),
)

# What people answered; the key is what makes a person's first answer the only one.
RUN_APPROVAL = sa.Table(
    "run_approval",
    METADATA,
    sa.Column("run_id", sa.String, sa.ForeignKey("run.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("step", sa.String, primary_key=True),
    sa.Column("who", sa.String, primary_key=True),
    sa.Column("is_approved", sa.Boolean, nullable=False),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("plan_hash", sa.String, nullable=False),
    sa.Column("at", UtcTime, nullable=False),
)

# How far policies may go by their record; nothing is ever changed here, the newest line of a policy holds.
TRUST_ENTRY = sa.Table(
    "trust_entry",
    METADATA,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("policy", sa.String, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("who", sa.String, nullable=False),
    sa.Column("why", sa.String, nullable=False),
    sa.Column("before", sa.String, nullable=False),
    sa.Column("mode", sa.String, nullable=False),
)

REPLICA = sa.Table(
    "replica",
    METADATA,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("started_at", UtcTime, nullable=False),
    sa.Column("lease_until", UtcTime, nullable=False),
)

LEADER = sa.Table(
    "leader",
    METADATA,
    sa.Column("role", sa.String, primary_key=True),
    sa.Column("holder", sa.String, nullable=False),
    sa.Column("lease_until", UtcTime, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
)
