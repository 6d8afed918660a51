"""Claim codes of devices."""

from alembic import op

from ingest import claim_tables

revision = "claims_0001"
down_revision = None
branch_labels = ("claims",)
depends_on = ("ledger_0002_chain_tx",)


def upgrade() -> None:
    """Create the tables of this revision."""
    claim_tables.metadata.create_all(op.get_bind(), tables=list(claim_tables.FIRST), checkfirst=False)


def downgrade() -> None:
    """Drop the tables of this revision."""
    claim_tables.metadata.drop_all(op.get_bind(), tables=list(claim_tables.FIRST))
