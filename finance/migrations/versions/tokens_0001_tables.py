"""Payment tokens: the vault of accounts, tokens and spends."""

from alembic import op

from finance import token_tables

revision = "tokens_0001"
down_revision = None
branch_labels = ("tokens",)
depends_on = ("finance_0001",)


def upgrade() -> None:
    """Create the tables of this revision."""
    token_tables.metadata.create_all(op.get_bind(), tables=list(token_tables.FIRST), checkfirst=False)


def downgrade() -> None:
    """Refused: spends are money, and are not dropped by a downgrade."""
    raise NotImplementedError("spends have no way back")
