"""Users, sessions and signing keys."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import BYTEA, TIMESTAMP, UUID

revision = "0002"
down_revision = "0001"

TIME = TIMESTAMP(timezone=True)


def upgrade() -> None:
    """Create the schema `auth`."""
    op.execute("CREATE SCHEMA auth")
    op.create_table(
        "users",
        sa.Column("id", UUID, primary_key=True),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("email_key", sa.Text, nullable=False, unique=True, comment="The address, case-folded."),
        sa.Column("full_name", sa.Text, nullable=False),
        sa.Column("password_hash", sa.Text, nullable=False, comment="Argon2id, in PHC string format."),
        sa.Column("create_time", TIME, nullable=False),
        sa.Column("update_time", TIME, nullable=False),
        schema="auth",
    )
    op.create_table(
        "sessions",
        sa.Column("id", UUID, primary_key=True),
        sa.Column("user_id", UUID, sa.ForeignKey("auth.users.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("device_label", sa.Text, nullable=False),
        sa.Column("create_time", TIME, nullable=False),
        sa.Column("expire_time", TIME, nullable=False),
        sa.Column("revoke_time", TIME),
        schema="auth",
    )
    op.create_table(
        "refresh_tokens",
        sa.Column("token_hash", BYTEA, primary_key=True, comment="SHA-256 of the token."),
        sa.Column(
            "session_id",
            UUID,
            sa.ForeignKey("auth.sessions.id", ondelete="CASCADE"),
            nullable=False,
            index=True,
        ),
        sa.Column("create_time", TIME, nullable=False),
        sa.Column("exchange_time", TIME, comment="When it was exchanged for its successor; a token is good once."),
        sa.Column("request_id", UUID, comment="What named the exchange."),
        schema="auth",
    )
    op.create_table(
        "signing_keys",
        sa.Column("kid", sa.Text, primary_key=True, comment="RFC 7638 thumbprint."),
        sa.Column("public_key", BYTEA, nullable=False),
        sa.Column("private_key", BYTEA, nullable=False, comment="Nonce and AES-256-GCM box of the raw private key."),
        sa.Column("create_time", TIME, nullable=False),
        schema="auth",
    )


def downgrade() -> None:
    """Refuse: the history goes forward only."""
    raise RuntimeError("migrations go forward only")
