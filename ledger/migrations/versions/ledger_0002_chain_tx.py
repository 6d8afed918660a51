"""The chain's tables: deployments, accounts, chain_txs with their attempts, alarms, anchors."""

from alembic import op

from ledger.chain_tx_tables import TABLES

revision = "ledger_0002_chain_tx"
down_revision = "ledger_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    for table in TABLES:
        table.create(op.get_bind())
