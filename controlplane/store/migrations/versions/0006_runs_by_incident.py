"""The guard, the ledger and the loop ask for the runs of one incident, newest first: they get an index."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the index."""
    op.create_index("ix_run_incident_id_created_at", "run", ["incident_id", "created_at"], unique=False)
