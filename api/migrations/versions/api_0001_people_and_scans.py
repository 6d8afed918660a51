"""Persons, users, sessions, one-time logins and scans."""

from alembic import op

from api.tables import METADATA

revision = "api_0001"
down_revision = None
branch_labels = ("api",)
depends_on = None


def upgrade() -> None:
    """Create the tables of this revision."""
    METADATA.create_all(op.get_bind(), checkfirst=False)


def downgrade() -> None:
    """Drop the tables of this revision."""
    METADATA.drop_all(op.get_bind(), checkfirst=False)
