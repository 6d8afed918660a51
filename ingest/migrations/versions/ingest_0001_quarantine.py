"""Quarantine, refusals and promises."""

from alembic import op

from ingest import tables

revision = "ingest_0001"
down_revision = None
branch_labels = ("ingest",)
depends_on = "ledger_0001"


def upgrade() -> None:
    """Create the tables of this revision."""
    connection = op.get_bind()
    tables.metadata.create_all(connection, tables=list(tables.FIRST), checkfirst=False)
    connection.execute(tables.quarantine_totals.insert().values(one=1, rows=0, bytes=0))


def downgrade() -> None:
    """Drop the tables of this revision."""
    tables.metadata.drop_all(op.get_bind(), tables=list(tables.FIRST))
