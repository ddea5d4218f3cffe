"""Up to which share of each cap it was told that it is spent."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("ai_budgets", sa.Column("told_percent", sa.Integer(), server_default="0", nullable=False))
