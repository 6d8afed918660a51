"""Messages, records, entries, tiles, checkpoints, map, register, followers and states."""

from alembic import op

from ledger import tables

revision = "ledger_0001"
down_revision = None
branch_labels = ("ledger",)
depends_on = None


def upgrade() -> None:
    """Create the tables of this revision and the triggers that refuse changes to what was logged."""
    connection = op.get_bind()
    tables.metadata.create_all(connection, tables=list(tables.FIRST), checkfirst=False)
    for statement in tables.append_only_ddl(connection.dialect.name):
        connection.exec_driver_sql(statement)
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("CREATE SEQUENCE arrivals AS bigint START 1")
    names = ({"name": name, "value": 0} for name in ("arrival", "register", "epoch"))
    connection.execute(tables.counters.insert(), list(names))


def downgrade() -> None:
    """Refused: a log is not dropped by a downgrade."""
    raise NotImplementedError("the log's first revision has no way back")
