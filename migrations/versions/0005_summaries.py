"""Create summaries

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "summaries",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("url", sa.String(2083), nullable=False),
        sa.Column("summary", sa.Text(), server_default="", nullable=False),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("attempts", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("next_attempt_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True, precision=0),
            server_default=sa.text("date_trunc('second', now())"),
            nullable=False,
        ),
        sa.CheckConstraint("state IN ('pending', 'done', 'failed')", name="summaries_state_is_known"),
        sa.CheckConstraint("(state = 'failed') = (reason IS NOT NULL)", name="summaries_failed_has_reason"),
        sa.PrimaryKeyConstraint("id", name="summaries_pkey"),
    )
    op.create_index(
        "summaries_pending_idx", "summaries", ["next_attempt_at"], postgresql_where=sa.text("state = 'pending'")
    )


def downgrade() -> None:
    op.drop_table("summaries")
