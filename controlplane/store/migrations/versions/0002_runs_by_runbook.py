"""The guard asks for the recent runs of one runbook before every effect: it gets an index."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the index."""
    op.create_index("ix_run_runbook_ended_at", "run", ["runbook", "ended_at"], unique=False)
