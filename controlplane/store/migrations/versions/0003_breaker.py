"""The breaker on automation; how often a decision was given, and decisions found by service and by run."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table, the columns and the indexes."""
    op.create_table(
        "automation_breaker",
        sa.Column("service", sa.String(), nullable=False),
        sa.Column("is_open", sa.Boolean(), nullable=False),
        sa.Column("tripped_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sentence", sa.String(), nullable=False),
        sa.Column("nodes", sa.JSON(), nullable=False),
        sa.Column("reset_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reset_by", sa.String(), nullable=False),
        sa.Column("reset_reason", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("service", name=op.f("pk_automation_breaker")),
    )
    op.add_column("decision", sa.Column("times", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("decision", sa.Column("since", sa.DateTime(timezone=True), nullable=True))
    op.create_index("ix_decision_service_at", "decision", ["service", "at"], unique=False)
    op.create_index("ix_decision_run_id", "decision", ["run_id"], unique=False)
