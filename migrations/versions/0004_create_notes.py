"""Create notes

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "notes",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("title", sa.String(50), nullable=False),
        sa.Column("description", sa.String(50), nullable=False),
        sa.Column(
            "created_date",
            postgresql.TIMESTAMP(timezone=True, precision=0),
            server_default=sa.text("date_trunc('second', now())"),
            nullable=False,
        ),
        sa.CheckConstraint("char_length(title) >= 3", name="notes_title_long_enough"),
        sa.CheckConstraint("char_length(description) >= 3", name="notes_description_long_enough"),
        sa.PrimaryKeyConstraint("id", name="notes_pkey"),
    )


def downgrade() -> None:
    op.drop_table("notes")
