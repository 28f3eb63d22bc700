"""Uploads that can be resumed, labels, deletions that can be taken back, and quotas."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import BYTEA, JSONB, TIMESTAMP, UUID

revision = "0010"
down_revision = "0009"

TIME = TIMESTAMP(timezone=True)
NO_LABELS = sa.text("'{}'")


def upgrade() -> None:
    """Let uploads go on in other processes, parts be given up, and every user's use be counted."""
    _uploads()
    _parts()
    _files()
    op.create_table(
        "usage",
        sa.Column("user_id", UUID, sa.ForeignKey("auth.users.id", ondelete="RESTRICT"), primary_key=True),
        sa.Column("bytes", sa.BigInteger, nullable=False, comment="Of all parts of uploads that are not discarded."),
        sa.Column("files", sa.BigInteger, nullable=False, comment="Uploads that are not discarded."),
        schema="file",
    )
    op.create_table(
        "reserved_parts",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("expire_time", TIME, nullable=False, comment="When it is given up, or was."),
        sa.Column("is_given_up", sa.Boolean, nullable=False, server_default=sa.false()),
        schema="file",
    )
    op.create_index("ix_reserved_parts_expire_time", "reserved_parts", ["expire_time"], schema="file")
    op.execute(
        "INSERT INTO file.usage (user_id, bytes, files)"
        " SELECT u.user_id, coalesce(sum(p.bytes), 0), count(*) FROM file.uploads u"
        " LEFT JOIN (SELECT upload_id, sum(size_bytes) AS bytes FROM file.parts GROUP BY upload_id) p"
        " ON p.upload_id = u.id WHERE u.state IN ('OPEN', 'STORED') GROUP BY u.user_id"
    )


def _uploads() -> None:
    for column in (
        sa.Column("filename", sa.Text, nullable=False, server_default=""),
        sa.Column("content_type", sa.Text, nullable=False, server_default=""),
        sa.Column("size_bytes", sa.BigInteger, comment="As declared."),
        sa.Column("sha256", BYTEA, comment="As declared."),
        sa.Column("crc32c", sa.BigInteger, comment="As declared; unsigned, 32 bits."),
        sa.Column("labels", JSONB, nullable=False, server_default=NO_LABELS),
        sa.Column("resumable", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("request_id", UUID),
        sa.Column("draft_digest", BYTEA, comment="What came with the request_id."),
        sa.Column("epoch", sa.BigInteger, nullable=False, server_default="0", comment="One more with each writer."),
        sa.Column("persisted_size", sa.BigInteger, nullable=False, server_default="0", comment="Durable from 0 on."),
        sa.Column("expire_time", TIME, comment="When it is given up while it is open."),
    ):
        op.add_column("uploads", column, schema="file")
    op.execute("UPDATE file.uploads SET expire_time = update_time + interval '1 hour'")
    op.alter_column("uploads", "expire_time", nullable=False, schema="file")
    op.drop_constraint("ck_uploads_state", "uploads", schema="file")
    op.create_check_constraint(
        "ck_uploads_state", "uploads", "state IN ('OPEN', 'STORED', 'DISCARDED', 'REMOVED')", schema="file"
    )
    op.drop_index("ix_uploads_not_stored", "uploads", schema="file")
    op.create_index(
        "ix_uploads_not_stored",
        "uploads",
        ["state", "expire_time"],
        schema="file",
        postgresql_where="state <> 'STORED'",
    )
    op.create_index("ix_uploads_user_id_id", "uploads", ["user_id", "id"], schema="file")
    op.create_index(
        "uq_uploads_user_id_request_id",
        "uploads",
        ["user_id", "request_id"],
        unique=True,
        schema="file",
        postgresql_where="request_id IS NOT NULL",
    )


def _parts() -> None:
    op.add_column("parts", sa.Column("dead_time", TIME, comment="When it was given up."), schema="file")
    # A part that was given up stays, so that its bytes are found, beside the one that takes its place.
    op.drop_constraint("pk_parts", "parts", schema="file")
    op.create_primary_key("pk_parts", "parts", ["upload_id", "offset_bytes", "key"], schema="file")
    op.create_index(
        "ix_parts_dead_time", "parts", ["dead_time"], schema="file", postgresql_where="dead_time IS NOT NULL"
    )


def _files() -> None:
    for column in (
        sa.Column("crc32c", sa.BigInteger, comment="Unsigned, 32 bits; none for files from before it was kept."),
        sa.Column("sniffed_content_type", sa.Text, nullable=False, server_default=""),
        sa.Column("labels", JSONB, nullable=False, server_default=NO_LABELS),
        sa.Column("revision", sa.BigInteger, nullable=False, server_default="1"),
        sa.Column("update_time", TIME),
        sa.Column("purge_time", TIME, comment="When a deleted one is gone for good."),
    ):
        op.add_column("files", column, schema="file")
    op.execute("UPDATE file.files SET update_time = create_time, purge_time = delete_time + interval '1 day'")
    op.alter_column("files", "update_time", nullable=False, schema="file")
    op.drop_index("ix_files_user_id_id", "files", schema="file")
    op.create_index("ix_files_user_id_id", "files", ["user_id", "id"], schema="file")
    op.drop_index("ix_files_delete_time", "files", schema="file")
    op.create_index(
        "ix_files_purge_time", "files", ["purge_time"], schema="file", postgresql_where="purge_time IS NOT NULL"
    )


def downgrade() -> None:
    """Refuse: the history goes forward only."""
    raise RuntimeError("migrations go forward only")
