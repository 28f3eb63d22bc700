"""Agents."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import BYTEA, JSONB, TIMESTAMP, UUID

revision = "0003"
down_revision = "0002"

TIME = TIMESTAMP(timezone=True)


def upgrade() -> None:
    """Create the schema `agent`."""
    op.execute("CREATE SCHEMA agent")
    op.create_table(
        "agents",
        sa.Column("id", UUID, primary_key=True),
        sa.Column("user_id", UUID, sa.ForeignKey("auth.users.id", ondelete="RESTRICT"), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("model_name", sa.Text, nullable=False),
        sa.Column("system_prompt", sa.Text, nullable=False),
        sa.Column("config", JSONB, nullable=False),
        sa.Column("is_active", sa.Boolean, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("create_time", TIME, nullable=False),
        sa.Column("update_time", TIME, nullable=False),
        sa.Column("delete_time", TIME),
        sa.Column("request_id", UUID, comment="What the caller named the creation."),
        sa.Column("draft_digest", BYTEA, comment="SHA-256 of what that request asked for."),
        sa.UniqueConstraint("user_id", "request_id", name="uq_agents_user_id_request_id"),
        schema="agent",
    )
    op.create_index(
        "ix_agents_user_id_id", "agents", ["user_id", "id"], schema="agent", postgresql_where="delete_time IS NULL"
    )


def downgrade() -> None:
    """Refuse: the history goes forward only."""
    raise RuntimeError("migrations go forward only")
