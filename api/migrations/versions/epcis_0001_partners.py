"""Partners and their API keys."""

from alembic import op

from api.auth.partner_tables import TABLES

revision = "epcis_0001"
down_revision = None
branch_labels = ("epcis",)
depends_on = ("ledger_0001",)


def upgrade() -> None:
    """Create the tables of this revision."""
    for table in TABLES:
        table.create(op.get_bind())


def downgrade() -> None:
    """Drop the tables of this revision."""
    for table in reversed(TABLES):
        table.drop(op.get_bind())
