"""Named queries, subscriptions, deliveries, dropped page tokens."""

from alembic import op

from api.epcis.query_tables import TABLES

revision = "queries_0002"
down_revision = "queries_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    for table in TABLES:
        table.create(op.get_bind())
