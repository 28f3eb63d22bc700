"""Agents' revisions, and when deleted agents are gone for good."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP, UUID

revision = "0007"
down_revision = "0006"

TIME = TIMESTAMP(timezone=True)


def upgrade() -> None:
    """Extend the schema `agent`."""
    op.add_column(
        "agents",
        sa.Column("purge_time", TIME, comment="When a deleted agent is to be removed for good."),
        schema="agent",
    )
    # Nobody could take these deletions back so far.
    op.execute("UPDATE agent.agents SET purge_time = now() + interval '30 days' WHERE delete_time IS NOT NULL")
    op.create_index(
        "ix_agents_purge_time",
        "agents",
        ["purge_time"],
        schema="agent",
        postgresql_where=sa.text("purge_time IS NOT NULL"),
    )
    op.create_table(
        "revisions",
        sa.Column("agent_id", UUID, sa.ForeignKey("agent.agents.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("revision", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("model_name", sa.Text, nullable=False),
        sa.Column("system_prompt", sa.Text, nullable=False),
        sa.Column("config", JSONB, nullable=False),
        sa.Column("is_active", sa.Boolean, nullable=False),
        sa.Column("create_time", TIME, nullable=False, comment="When the agent became this."),
        schema="agent",
    )
    # What agents were before was not kept.
    op.execute(
        "INSERT INTO agent.revisions"
        " (agent_id, revision, name, description, model_name, system_prompt, config, is_active, create_time)"
        " SELECT id, revision, name, description, model_name, system_prompt, config, is_active, update_time"
        " FROM agent.agents"
    )


def downgrade() -> None:
    """Refuse: the history goes forward only."""
    raise RuntimeError("migrations go forward only")
