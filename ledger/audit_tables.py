"""What the audit remembers between runs."""

from typing import Final

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, Table, Text

from ledger.tables import metadata

_BIG = BigInteger().with_variant(Integer(), "sqlite")

# One row for each audit that found nothing wrong: how far it came, the roots it computed itself, and when. `arrival`
# is the highest one it saw. Nothing in it is believed without being held against tiles, checkpoint and chain again.
audit_points: Final = Table(
    "audit_points",
    metadata,
    Column("number", _BIG, primary_key=True, autoincrement=True),
    Column("size", _BIG, nullable=False),
    Column("root", LargeBinary, nullable=False),
    Column("map_root", LargeBinary, nullable=False),
    Column("frontier", LargeBinary, nullable=False),
    Column("arrival", _BIG, nullable=False),
    Column("kind", Text, nullable=False),
    Column("audited_s", _BIG, nullable=False),
)

TABLES: Final = (audit_points,)
