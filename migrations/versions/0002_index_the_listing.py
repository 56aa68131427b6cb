"""Index the listing

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

INDEXES = {
    "users_username_idx": [sa.text('username COLLATE "C"'), "id"],
    "users_email_idx": [sa.text('email COLLATE "C"'), "id"],
    "users_created_date_idx": ["created_date", "id"],
    "users_active_idx": ["active", "id"],
    "users_username_prefix_idx": [sa.text('(lower(username) COLLATE "C")')],
}


def upgrade() -> None:
    # Concurrently, so that users can be written meanwhile; that cannot be done inside a transaction.
    with op.get_context().autocommit_block():
        for name, columns in INDEXES.items():
            # What an interrupted attempt left behind is an index that nothing uses.
            op.drop_index(name, "users", postgresql_concurrently=True, if_exists=True)
            op.create_index(name, "users", columns, postgresql_concurrently=True)


def downgrade() -> None:
    with op.get_context().autocommit_block():
        for name in INDEXES:
            op.drop_index(name, "users", postgresql_concurrently=True, if_exists=True)
