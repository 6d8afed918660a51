"""The logs of the contract: frozen ones and successors."""

from alembic import op

from ledger.chain_logs import TABLES

revision = "anchoring_0001"
down_revision = None
branch_labels = ("anchoring",)
depends_on = ("ledger_0002_chain_tx",)


def upgrade() -> None:
    """Create the table."""
    for table in TABLES:
        table.create(op.get_bind())
