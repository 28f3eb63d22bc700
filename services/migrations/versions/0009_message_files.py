"""Files that messages carry, and the ways from a file to who may read it."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, UUID

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Extend the schemas `chat` and `agent`."""
    op.add_column("messages", sa.Column("file_ids", ARRAY(UUID), comment="NULL of one without files."), schema="chat")
    op.create_table(
        "message_files",
        sa.Column("room_id", UUID, primary_key=True),
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("file_id", UUID, primary_key=True),
        sa.ForeignKeyConstraint(
            ["room_id", "sequence"],
            ["chat.messages.room_id", "chat.messages.sequence"],
            name="fk_message_files_room_id_sequence",
            ondelete="CASCADE",
        ),
        schema="chat",
    )
    # With the room, so that the rooms of one reader are looked up in it however often a file was posted.
    op.create_index("ix_message_files_file_id_room_id", "message_files", ["file_id", "room_id"], schema="chat")
    op.create_index("ix_input_files_file_id", "input_files", ["file_id"], schema="agent")


def downgrade() -> None:
    """Refuse: the history goes forward only."""
    raise RuntimeError("migrations go forward only")
