"""The queue of background jobs: procrastinate's own schema, in a PostgreSQL schema of its own."""

from alembic import op
from procrastinate.schema import SchemaManager

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the schema `jobs` and in it what the pinned release of procrastinate asks for."""
    op.execute("CREATE SCHEMA jobs")
    op.execute("SET LOCAL search_path TO jobs")
    cursor = op.get_bind().connection.cursor()
    # Without parameters psycopg sends several statements in one go, and `%` means itself.
    cursor.execute(SchemaManager.get_schema())
    op.execute("SET LOCAL search_path TO DEFAULT")


def downgrade() -> None:
    """Refuse: the history goes forward only."""
    raise RuntimeError("migrations go forward only")
