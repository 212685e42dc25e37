"""Runs of one incident, newest first, and of one service, by their end: both are asked for with every plan."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the indexes, and drop the one that the first of them begins with."""
    op.create_index("ix_run_incident_id_created_at", "run", ["incident_id", "created_at"], unique=False)
    op.create_index("ix_run_service_ended_at", "run", ["service", "ended_at"], unique=False)
    op.drop_index("ix_run_incident_id", "run")
