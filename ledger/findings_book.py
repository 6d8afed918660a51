"""The findings of one run of the follower: loaded as needed, changed in memory, written at once."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from core.canonical import b64u, sha256
from ledger.database import Tx, fetch, fetch_among, is_sqlite, raw, run_many
from ledger.findings_rules import Found
from ledger.queryindex import place_of

OPEN: Final = "open"
WITHDRAWN: Final = "withdrawn"
HISTORY_MAX: Final = 50
_COLUMNS: Final = "id,code,subject,key,org,ev,events,details,state,raised_leaf,changed_leaf,cause,history"
_UPSERT: Final = (
    f"INSERT INTO findings ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (id) DO UPDATE SET "  # noqa: S608
    "events=excluded.events,details=excluded.details,state=excluded.state,changed_leaf=excluded.changed_leaf,"
    "cause=excluded.cause,history=excluded.history"
)


@dataclass
class Row:
    """A finding as stored."""

    id: str
    code: str
    subject: str
    key: bytes
    org: str
    ev: int
    events: list[int]
    details: dict[str, Any]
    state: str
    raised_leaf: int
    changed_leaf: int
    cause: str
    history: list[list[Any]] = field(default_factory=list)

    @staticmethod
    def of(row: Sequence[Any]) -> "Row":
        """A row of the table in the order of its columns."""
        values = list(row)
        values[3] = bytes(values[3])
        for place in (6, 7, 12):
            values[place] = json.loads(values[place])
        return Row(*values)

    def stored(self) -> tuple[Any, ...]:
        """The values in the order of the columns."""
        return (
            self.id, self.code, self.subject, self.key, self.org, self.ev, _json(self.events), _json(self.details),
            self.state, self.raised_leaf, self.changed_leaf, self.cause, _json(self.history),
        )  # fmt: skip


class Rows:
    """The findings that a run touches, by the key of their subject."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self._by_key: dict[bytes, dict[str, Row]] = {}
        self._changed: dict[str, Row] = {}
        self._linked: list[tuple[int, str]] = []

    def raise_one(self, key: bytes, subject: str, found: Found, leaf: int, *, is_linked: bool = False) -> None:
        """Open a finding, or open it again."""
        rows = self._of(key)
        name = finding_id(key, found)
        row = rows.get(name)
        if row is None:
            events = sorted({found.ev, *found.others})
            row = rows[name] = Row(
                name, found.code, subject, key, found.org, found.ev, events, found.details, OPEN, leaf, leaf, "",
                [[leaf, OPEN, "", found.ev]],
            )  # fmt: skip
            self._changed[name] = row
            if is_linked:
                self._linked += [(ev, name) for ev in events]
        elif row.state != OPEN or row.details != found.details:
            if row.state != OPEN:
                row.history = [*row.history, [leaf, OPEN, "", found.ev]][-HISTORY_MAX:]
            row.state, row.cause, row.changed_leaf, row.details = OPEN, "", leaf, found.details
            self._changed[name] = row

    def settle(
        self, key: bytes, subject: str, wanted: Iterable[Found], leaf: int, cause: str, cause_ev: int,
        *, is_linked: bool = False, of_events: set[int] | None = None,
    ) -> None:  # fmt: skip
        """Let exactly these findings of a subject stand; the others are withdrawn with the cause.

        Args:
            of_events: touch only findings that these events show.
        """
        standing = {finding_id(key, found): found for found in wanted}
        for name, row in self._of(key).items():
            if row.state == OPEN and name not in standing and (of_events is None or row.ev in of_events):
                row.state, row.cause, row.changed_leaf = WITHDRAWN, cause, leaf
                row.history = [*row.history, [leaf, WITHDRAWN, cause, cause_ev]][-HISTORY_MAX:]
                if cause == "erased":
                    row.details = {}
                self._changed[name] = row
        for found in standing.values():
            self.raise_one(key, subject, found, leaf, is_linked=is_linked)

    def write(self) -> None:
        """Store what has changed."""
        run_many(self._tx, _UPSERT, [row.stored() for row in self._changed.values()])
        statement = "INSERT INTO finding_links (ev, finding) VALUES (?, ?) ON CONFLICT DO NOTHING"
        run_many(self._tx, statement, self._linked)
        self._changed, self._linked = {}, []

    def _of(self, key: bytes) -> dict[str, Row]:
        found = self._by_key.get(key)
        if found is None:
            query = f"SELECT {_COLUMNS} FROM findings WHERE key = ?"  # noqa: S608 - our own names
            found = self._by_key[key] = {row[0]: Row.of(row) for row in fetch(self._tx, query, (key,))}
        return found


def finding_id(key: bytes, found: Found) -> str:
    """The id of a finding in this log: of its subject, its code and its events."""
    text = _json([found.code, b64u(key), found.ev, sorted(found.others)])
    return b64u(sha256(text.encode())[:16])


def rows_where(tx: Tx, condition: str, parameters: Sequence[Any]) -> list[Row]:
    """Findings by a condition of plain SQL."""
    query = f"SELECT {_COLUMNS} FROM findings WHERE {condition}"  # noqa: S608 - conditions are ours
    return [Row.of(row) for row in fetch(tx, query, parameters)]


def rows_among(tx: Tx, column: str, values: Sequence[Any]) -> list[Row]:
    """Findings whose column has one of these values."""
    query = f"SELECT {_COLUMNS} FROM findings WHERE {column} AMONG"  # noqa: S608 - our own names
    return [Row.of(row) for row in fetch_among(tx, query, values)]


def insert(tx: Tx, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write many new rows in the quickest way each database has."""
    if not rows:
        return
    names = ",".join(columns)
    if is_sqlite(tx):
        marks = ",".join("?" * len(columns))
        raw(tx).executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", rows)  # noqa: S608 - our own names
        return
    with raw(tx).cursor() as cursor, cursor.copy(f"COPY {table} ({names}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


def ids_of(events: Iterable[int]) -> tuple[str, ...]:
    """Events as people and pages name them: ``leaf:number``."""
    return tuple("{}:{}".format(*place_of(ev)) for ev in events)


def _json(value: Mapping[str, Any] | Sequence[Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
