"""Alembic's way in: it runs on the connection, and inside the transaction, of ``ledger.database.upgrade``."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
context.run_migrations()
