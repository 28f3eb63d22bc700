"""Files."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import BYTEA, TIMESTAMP, UUID

revision = "0004"
down_revision = "0003"

TIME = TIMESTAMP(timezone=True)


def upgrade() -> None:
    """Create the schema `file`."""
    op.execute("CREATE SCHEMA file")
    op.create_table(
        "uploads",
        sa.Column("id", UUID, primary_key=True),
        sa.Column("user_id", UUID, sa.ForeignKey("auth.users.id", ondelete="RESTRICT"), nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("create_time", TIME, nullable=False),
        sa.Column("update_time", TIME, nullable=False, comment="The last sign of life while it is open."),
        sa.CheckConstraint("state IN ('OPEN', 'STORED', 'DISCARDED')", name="ck_uploads_state"),
        schema="file",
    )
    # The sweep looks at the few that are not stored, and never at the many that are.
    op.create_index(
        "ix_uploads_not_stored",
        "uploads",
        ["state", "update_time"],
        schema="file",
        postgresql_where="state <> 'STORED'",
    )
    op.create_table(
        "parts",
        sa.Column("upload_id", UUID, sa.ForeignKey("file.uploads.id", ondelete="RESTRICT"), nullable=False),
        sa.Column("offset_bytes", sa.BigInteger, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("crc32c", sa.BigInteger, nullable=False, comment="Unsigned, 32 bits."),
        sa.Column("key", sa.Text, nullable=False, comment="Its name in the store."),
        sa.PrimaryKeyConstraint("upload_id", "offset_bytes", name="pk_parts"),
        sa.CheckConstraint("offset_bytes >= 0", name="ck_parts_offset_bytes"),
        sa.CheckConstraint("size_bytes > 0", name="ck_parts_size_bytes"),
        schema="file",
    )
    op.create_table(
        "files",
        sa.Column("id", UUID, primary_key=True),
        sa.Column("user_id", UUID, sa.ForeignKey("auth.users.id", ondelete="RESTRICT"), nullable=False),
        sa.Column("upload_id", UUID, sa.ForeignKey("file.uploads.id", ondelete="RESTRICT"), nullable=False),
        sa.Column("filename", sa.Text, nullable=False),
        sa.Column("content_type", sa.Text, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", BYTEA, nullable=False),
        sa.Column("create_time", TIME, nullable=False),
        sa.Column("delete_time", TIME),
        sa.UniqueConstraint("upload_id", name="uq_files_upload_id"),
        sa.CheckConstraint("size_bytes >= 0", name="ck_files_size_bytes"),
        sa.CheckConstraint("octet_length(sha256) = 32", name="ck_files_sha256"),
        schema="file",
    )
    op.create_index(
        "ix_files_user_id_id", "files", ["user_id", "id"], schema="file", postgresql_where="delete_time IS NULL"
    )
    op.create_index(
        "ix_files_delete_time", "files", ["delete_time"], schema="file", postgresql_where="delete_time IS NOT NULL"
    )


def downgrade() -> None:
    """Refuse: the history goes forward only."""
    raise RuntimeError("migrations go forward only")
