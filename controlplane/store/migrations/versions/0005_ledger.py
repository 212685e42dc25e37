"""What runbooks have earned: which policy asked for a run, runs by their end, and how far policies may go by that."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# Earlier runs hold the policy's name inside of their plan only.
_FILL = {
    "sqlite": "UPDATE run SET policy = json_extract(plan, '$.request.policy')",
    "postgresql": "UPDATE run SET policy = plan -> 'request' ->> 'policy'",
}


def upgrade() -> None:
    """Create the column, fill it, create the index and the table."""
    op.add_column("run", sa.Column("policy", sa.String(), nullable=True))
    op.execute(_FILL[op.get_bind().dialect.name])
    op.create_index("ix_run_ended_at", "run", ["ended_at"], unique=False)
    op.create_table(
        "trust_entry",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("policy", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("who", sa.String(), nullable=False),
        sa.Column("why", sa.String(), nullable=False),
        sa.Column("before", sa.String(), nullable=False),
        sa.Column("mode", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trust_entry")),
    )
