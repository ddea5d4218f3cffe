"""Usage of classes that few calls have: sound, pictures, web searches."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    # Neither engine rewrites a row for it; the hashes of those that are there leave it out.
    op.add_column("ai_usage_log", sa.Column("other_usage", sa.Text(), server_default="", nullable=False))
