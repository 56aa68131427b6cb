"""Create access tokens

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    seconds = postgresql.TIMESTAMP(timezone=True, precision=0)
    op.create_table(
        "access_tokens",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("created_date", seconds, server_default=sa.text("date_trunc('second', now())"), nullable=False),
        sa.Column("expires_at", seconds, nullable=True),
        sa.Column("last_used_at", seconds, nullable=True),
        sa.Column("revoked_at", seconds, nullable=True),
        sa.CheckConstraint("btrim(name) <> ''", name="access_tokens_name_not_blank"),
        sa.CheckConstraint("octet_length(digest) = 32", name="access_tokens_digest_is_sha256"),
        sa.CheckConstraint("cardinality(scopes) > 0", name="access_tokens_scopes_not_empty"),
        sa.PrimaryKeyConstraint("id", name="access_tokens_pkey"),
        sa.UniqueConstraint("name", name="access_tokens_name_key"),
        sa.UniqueConstraint("digest", name="access_tokens_digest_key"),
    )


def downgrade() -> None:
    op.drop_table("access_tokens")
