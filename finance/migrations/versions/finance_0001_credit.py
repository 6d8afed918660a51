"""Command log, goods claims, receipts, applications, approvals, facilities, pledges, loans and the journal."""

from alembic import op

from finance import casetables, tables, triggers

revision = "finance_0001"
down_revision = None
branch_labels = ("finance",)
depends_on = ("ledger_0001",)

ACCOUNTS = (
    ("1303", "贷款", "Loans"),
    ("1304", "贷款损失准备", "Allowance for loan losses"),
    ("1132", "应收利息", "Interest receivable"),
    ("2011", "吸收存款", "Customer deposits"),
    ("2002", "存入保证金", "Margin deposits"),
    ("2241", "其他应付款", "Other payables"),
    ("3001", "清算资金往来", "Clearing"),
    ("6011", "利息收入", "Interest income"),
    ("6702", "信用减值损失", "Credit impairment losses"),
    ("6711", "营业外支出", "Operating losses"),
)


def upgrade() -> None:
    """Create the tables, the chart of accounts and the triggers that refuse changes."""
    connection = op.get_bind()
    tables.metadata.create_all(connection, tables=list(casetables.FIRST), checkfirst=False)
    for statement in triggers.append_only_ddl(connection.dialect.name):
        connection.exec_driver_sql(statement)
    connection.execute(
        tables.accounts.insert(), [{"code": code, "name_zh": zh, "name_en": en} for code, zh, en in ACCOUNTS]
    )


def downgrade() -> None:
    """Refused: a journal is not dropped by a downgrade."""
    raise NotImplementedError("the journal has no way back")
