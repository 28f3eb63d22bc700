"""Identity in full: user states, what is known of sessions, codes, throttles, services, revocations, the audit log."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA, JSONB, TIMESTAMP, UUID

revision = "0006"
down_revision = "0005"

TIME = TIMESTAMP(timezone=True)


def upgrade() -> None:
    """Extend the schema `auth`."""
    _extend_users_and_sessions()
    _create_codes_and_throttles()
    _create_service_accounts()
    _create_revocations()
    _create_audit_events()
    _extend_signing_keys()
    # A room that is removed must not hold up the presence writes of a process that still names it.
    op.drop_constraint("connections_room_id_fkey", "connections", schema="chat", type_="foreignkey")


def _extend_users_and_sessions() -> None:
    columns: tuple[sa.Column[Any], ...] = (
        sa.Column("is_admin", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("revision", sa.Integer, nullable=False, server_default="1", comment="Counts the user's changes."),
        sa.Column("email_verify_time", TIME),
        sa.Column("disable_time", TIME),
        sa.Column("delete_time", TIME),
        sa.Column("purge_time", TIME, comment="When a deleted user is to be removed for good."),
        sa.Column("purging", sa.Boolean, nullable=False, server_default=sa.false(), comment="The removal has begun."),
    )
    for column in columns:
        op.add_column("users", column, schema="auth")
    op.create_index(
        "ix_users_purge_time",
        "users",
        ["purge_time"],
        schema="auth",
        postgresql_where=sa.text("purge_time IS NOT NULL"),
    )
    for column in (
        sa.Column("user_agent", sa.Text, nullable=False, server_default=""),
        sa.Column("address", sa.Text, nullable=False, server_default=""),
        sa.Column("last_use_time", TIME, nullable=False, server_default=sa.func.now()),
        sa.Column(
            "last_expire_time",
            TIME,
            nullable=False,
            server_default=sa.text("now() + interval '90 days'"),
            comment="No refresh moves expire_time beyond this.",
        ),
    ):
        op.add_column("sessions", column, schema="auth")


def _create_codes_and_throttles() -> None:
    op.create_table(
        "email_codes",
        sa.Column("user_id", UUID, sa.ForeignKey("auth.users.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("purpose", sa.Text, primary_key=True, comment="What the code is good for; one a user and purpose."),
        sa.Column("code_hash", BYTEA, nullable=False, comment="SHA-256 of the code, which has 80 random bits."),
        sa.Column("create_time", TIME, nullable=False),
        sa.Column("expire_time", TIME, nullable=False, index=True),
        sa.Column("tries", sa.Integer, nullable=False, comment="How often a code was presented."),
        schema="auth",
    )
    op.create_table(
        "throttles",
        sa.Column("key", BYTEA, primary_key=True, comment="SHA-256 of what is counted: an account or an address."),
        sa.Column("failures", sa.Integer, nullable=False, comment="In succession."),
        sa.Column("last_failure_time", TIME, nullable=False, index=True),
        sa.Column("retry_time", TIME, nullable=False, comment="No attempt is allowed before."),
        schema="auth",
    )


def _create_service_accounts() -> None:
    op.create_table(
        "service_accounts",
        sa.Column("id", UUID, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("methods", ARRAY(sa.Text), nullable=False, comment="The RPCs that its tokens open."),
        sa.Column("create_time", TIME, nullable=False),
        schema="auth",
    )
    op.create_table(
        "service_secrets",
        sa.Column("secret_hash", BYTEA, primary_key=True, comment="SHA-256 of the secret, which has 256 random bits."),
        sa.Column(
            "service_account_id",
            UUID,
            sa.ForeignKey("auth.service_accounts.id", ondelete="CASCADE"),
            nullable=False,
            index=True,
        ),
        sa.Column("create_time", TIME, nullable=False),
        sa.Column("expire_time", TIME, comment="Set when a newer one was made."),
        schema="auth",
    )


def _create_revocations() -> None:
    op.create_table(
        "revocations",
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("session_ids", ARRAY(UUID), nullable=False),
        sa.Column("subject_id", UUID, nullable=False, comment="Whose sessions: a user or a service account."),
        sa.Column("create_time", TIME, nullable=False),
        sa.Column("expire_time", TIME, nullable=False, index=True, comment="When their last token has expired."),
        schema="auth",
    )
    op.create_table(
        "revocation_head",
        sa.Column("one", sa.Boolean, sa.CheckConstraint("one"), primary_key=True, server_default=sa.true()),
        sa.Column("last_sequence", sa.BigInteger, nullable=False, comment="Counts the revocations, without holes."),
        schema="auth",
    )
    op.execute("INSERT INTO auth.revocation_head (last_sequence) VALUES (0)")


def _create_audit_events() -> None:
    op.create_table(
        "audit_events",
        sa.Column("id", UUID, primary_key=True),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("create_time", TIME, nullable=False, index=True),
        # No foreign keys: what was done outlives whom it was done to.
        sa.Column("actor_id", UUID, index=True),
        sa.Column("subject_id", UUID, index=True),
        sa.Column("session_id", UUID),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("user_agent", sa.Text, nullable=False),
        sa.Column("details", JSONB, nullable=False),
        schema="auth",
    )


def _extend_signing_keys() -> None:
    for name in ("activate_time", "retire_time", "expire_time"):
        op.add_column("signing_keys", sa.Column(name, TIME), schema="auth")
    # So far the newest key signed. Two can have been made at the same moment, and one of them goes on.
    op.execute(
        "UPDATE auth.signing_keys SET activate_time = create_time"
        " WHERE kid = (SELECT kid FROM auth.signing_keys ORDER BY create_time DESC, kid LIMIT 1)"
    )
    op.execute(
        "UPDATE auth.signing_keys SET activate_time = create_time, retire_time = now(),"
        " expire_time = now() + interval '1 day' WHERE activate_time IS NULL"
    )
    op.create_index(
        "uq_signing_keys_active",
        "signing_keys",
        [sa.text("(true)")],
        unique=True,
        schema="auth",
        postgresql_where=sa.text("activate_time IS NOT NULL AND retire_time IS NULL"),
    )


def downgrade() -> None:
    """Refuse: the history goes forward only."""
    raise RuntimeError("migrations go forward only")
