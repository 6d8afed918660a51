"""The places that refused messages keep in their keys' chains."""

import sqlalchemy as sa
from alembic import op

from core.records import read_record
from ledger.chains import take_refusals
from ledger.tables import entries, records, refused_messages

revision = "ledger_0003_refused"
down_revision = "ledger_0002_chain_tx"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table, and fill it from the records that are in the log already."""
    connection = op.get_bind()
    refused_messages.create(connection)
    query = sa.select(records.c.raw).join(entries, entries.c.arrival == records.c.arrival)
    found = connection.execute(query.where(records.c.t == "refusal").order_by(entries.c.leaf)).scalars().all()
    take_refusals(connection, [read_record(bytes(raw)).payload for raw in found])


def downgrade() -> None:
    """Drop the table: all of it follows from the log."""
    refused_messages.drop(op.get_bind())
