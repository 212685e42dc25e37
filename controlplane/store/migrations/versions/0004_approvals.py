"""What people answer runs that ask them; and the step a run waits at, so that waiting for people costs nothing."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table, the column, and the index that knows of the column."""
    op.create_table(
        "run_approval",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("step", sa.String(), nullable=False),
        sa.Column("who", sa.String(), nullable=False),
        sa.Column("is_approved", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("plan_hash", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_run_approval_run_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "step", "who", name=op.f("pk_run_approval")),
    )
    op.add_column("run", sa.Column("awaits", sa.String(), nullable=True))
    op.drop_index("ix_run_state_wake_at", table_name="run")
    op.create_index("ix_run_state_wake_at_awaits", "run", ["state", "wake_at", "awaits"], unique=False)
