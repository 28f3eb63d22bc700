"""Rooms, their members and messages, and who is connected to them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import BYTEA, TIMESTAMP, UUID

revision = "0005"
down_revision = "0004"

TIME = TIMESTAMP(timezone=True)


def upgrade() -> None:
    """Create the schema `chat`."""
    op.execute("CREATE SCHEMA chat")
    op.create_table(
        "rooms",
        sa.Column("id", UUID, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("user_id", UUID, sa.ForeignKey("auth.users.id", ondelete="RESTRICT"), nullable=False),
        sa.Column("last_sequence", sa.BigInteger, nullable=False, comment="Counts the room's events, without holes."),
        sa.Column("member_count", sa.Integer, nullable=False),
        sa.Column("create_time", TIME, nullable=False),
        sa.Column("request_id", UUID, comment="What the caller named the creation."),
        sa.Column("draft_digest", BYTEA, comment="SHA-256 of what that request asked for."),
        sa.UniqueConstraint("user_id", "request_id", name="uq_rooms_user_id_request_id"),
        schema="chat",
        # Every message updates its room: with room to spare on each page, that touches no index (HOT).
        postgresql_with={"fillfactor": 50},
    )
    op.create_table(
        "members",
        sa.Column("id", UUID, primary_key=True, comment="Sorts by time of joining."),
        sa.Column("room_id", UUID, sa.ForeignKey("chat.rooms.id", ondelete="CASCADE"), nullable=False),
        sa.Column("user_id", UUID, sa.ForeignKey("auth.users.id", ondelete="RESTRICT"), nullable=False),
        sa.Column("join_time", TIME, nullable=False),
        sa.UniqueConstraint("room_id", "user_id", name="uq_members_room_id_user_id"),
        schema="chat",
    )
    op.create_index("ix_members_room_id_id", "members", ["room_id", "id"], schema="chat")
    op.create_index("ix_members_user_id_room_id", "members", ["user_id", "room_id"], schema="chat")
    op.create_table(
        "messages",
        sa.Column("id", UUID, primary_key=True),
        sa.Column("room_id", UUID, sa.ForeignKey("chat.rooms.id", ondelete="CASCADE"), nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("user_id", UUID, sa.ForeignKey("auth.users.id", ondelete="RESTRICT"), nullable=False),
        sa.Column("client_message_id", sa.Text, nullable=False, comment="The sender's own name for it."),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("create_time", TIME, nullable=False),
        sa.UniqueConstraint("room_id", "sequence", name="uq_messages_room_id_sequence"),
        sa.UniqueConstraint("room_id", "user_id", "client_message_id", name="uq_messages_client_message_id"),
        schema="chat",
    )
    op.create_index("ix_messages_user_id", "messages", ["user_id"], schema="chat")
    op.create_table(
        "processes",
        sa.Column("id", UUID, primary_key=True),
        sa.Column("expire_time", TIME, nullable=False, index=True, comment="Renewed while the process lives."),
        schema="chat",
    )
    op.create_table(
        "connections",
        sa.Column("id", UUID, primary_key=True),
        sa.Column("room_id", UUID, sa.ForeignKey("chat.rooms.id", ondelete="CASCADE"), primary_key=True, index=True),
        sa.Column("user_id", UUID, nullable=False),
        sa.Column(
            "process_id", UUID, sa.ForeignKey("chat.processes.id", ondelete="CASCADE"), nullable=False, index=True
        ),
        schema="chat",
    )


def downgrade() -> None:
    """Refuse: the history goes forward only."""
    raise RuntimeError("migrations go forward only")
