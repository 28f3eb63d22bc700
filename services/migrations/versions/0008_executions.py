"""Runs of agents, and what they do."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA, JSONB, TIMESTAMP, UUID

revision = "0008"
down_revision = "0007"

TIME = TIMESTAMP(timezone=True)
TAKEN = "state IN ('RUNNING', 'CANCELLING')"
OPEN = "state IN ('QUEUED', 'RUNNING', 'CANCELLING')"


def upgrade() -> None:
    """Extend the schema `agent`."""
    op.create_table(
        "executions",
        sa.Column("id", UUID, primary_key=True),
        sa.Column("user_id", UUID, sa.ForeignKey("auth.users.id", ondelete="RESTRICT"), nullable=False),
        sa.Column("agent_id", UUID, sa.ForeignKey("agent.agents.id", ondelete="RESTRICT"), nullable=False),
        sa.Column("agent_revision", sa.BigInteger, nullable=False),
        sa.Column("conversation_id", UUID, comment="Named by the user, and of no meaning to others."),
        sa.Column("input", sa.Text, nullable=False),
        sa.Column("file_ids", ARRAY(UUID), nullable=False),
        sa.Column("max_tokens", sa.Integer),
        sa.Column("timeout_seconds", sa.Double),
        sa.Column("cancel_unwatched", sa.Boolean, nullable=False),
        sa.Column("watch_expire_time", TIME, comment="Renewed while somebody watches one that wants to be watched."),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("output", sa.Text, nullable=False, comment="Of one that has ended; before that it is in the events."),
        sa.Column("failure_reason", sa.Text, comment="Also why it is to be cancelled."),
        sa.Column("failure_message", sa.Text),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("last_sequence", sa.BigInteger, nullable=False, comment="Counts the events, without holes."),
        sa.Column("attempt", sa.Integer, nullable=False, comment="The fencing token: who has another writes nothing."),
        sa.Column("losses", sa.Integer, nullable=False, comment="Attempts whose process was lost."),
        sa.Column("appended", sa.BigInteger, nullable=False, comment="Events that this attempt's process has stored."),
        sa.Column("has_used_tools", sa.Boolean, nullable=False, comment="In this attempt."),
        sa.Column("has_events", sa.Boolean, nullable=False, comment="Until they are removed, long after its end."),
        sa.Column("lease_expire_time", TIME, comment="Renewed by the process that runs it."),
        sa.Column("create_time", TIME, nullable=False),
        sa.Column("update_time", TIME, nullable=False, comment="When it came into its state."),
        sa.Column("start_time", TIME),
        sa.Column("end_time", TIME),
        sa.Column("request_id", UUID, comment="What the caller named the creation."),
        sa.Column("draft_digest", BYTEA, comment="SHA-256 of what that request asked for."),
        sa.UniqueConstraint("user_id", "request_id", name="uq_executions_user_id_request_id"),
        schema="agent",
        # Every batch of events updates its execution: with room to spare on each page, that touches no index (HOT).
        postgresql_with={"fillfactor": 70},
    )
    for name, columns, where in (
        ("user_id_id", ["user_id", "id"], None),
        ("agent_id_id", ["agent_id", "id"], None),
        ("conversation_id", ["user_id", "conversation_id", "id"], "conversation_id IS NOT NULL"),
        ("open", ["user_id", "state"], OPEN),
        ("lease_expire_time", ["lease_expire_time"], TAKEN),
        ("watch_expire_time", ["watch_expire_time"], f"cancel_unwatched AND {OPEN}"),
        ("end_time", ["end_time"], "has_events AND end_time IS NOT NULL"),
    ):
        op.create_index(
            f"ix_executions_{name}",
            "executions",
            columns,
            schema="agent",
            postgresql_where=None if where is None else sa.text(where),
        )
    op.create_table(
        "execution_events",
        sa.Column("execution_id", UUID, sa.ForeignKey("agent.executions.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("kind", sa.Text, nullable=False, comment="state, text, tool_call, tool_result or usage."),
        sa.Column("at", sa.BigInteger, comment="Of a text: how many bytes of UTF-8 of the output stand before it."),
        sa.Column("text", sa.Text),
        sa.Column("data", JSONB, comment="What is not text."),
        sa.Column("create_time", TIME, nullable=False),
        schema="agent",
    )
    op.create_table(
        "input_files",
        sa.Column("execution_id", UUID, sa.ForeignKey("agent.executions.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("file_id", UUID, nullable=False),
        sa.Column("filename", sa.Text, nullable=False),
        sa.Column("content_type", sa.Text, nullable=False),
        sa.Column("content", BYTEA, nullable=False),
        schema="agent",
    )


def downgrade() -> None:
    """Refuse: the history goes forward only."""
    raise RuntimeError("migrations go forward only")
