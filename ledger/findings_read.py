"""What the rules found about things, for pages, JSON and finance."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from core.prefixmap import map_key
from ledger.database import Tx, fetch, fetch_among
from ledger.findings_book import OPEN, Row, ids_of, rows_among, rows_where
from ledger.findings_policy import FindingPolicy
from ledger.findings_policy import policy as current_policy
from ledger.itemfacts import LOT

SHOWN_MAX = 500


@dataclass(frozen=True)
class Finding:
    """A finding as people see it.

    Attributes:
        subject: the thing it is about; "" where it is about an event alone.
        events: ``leaf:number`` of the events it stands on. org: whose event shows it.
        state: open or withdrawn. cause: why it was withdrawn: declared_in_error, late_event, key_ended, erased.
        history: (leaf, state, cause, event) of each change.
    """

    id: str
    code: str
    severity: str
    subject: str
    org: str
    events: tuple[str, ...]
    details: dict[str, Any]
    state: str
    cause: str
    raised_leaf: int
    changed_leaf: int
    history: tuple[tuple[int, str, str, str], ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether it stands."""
        return self.state == OPEN


def about(
    tx: Tx, item_ids: Iterable[str], *, lots: Iterable[str] = (), policy: FindingPolicy | None = None
) -> list[Finding]:
    """All findings about things themselves and about the events that name them, the newest first.

    Args:
        lots: lots of theirs: what concerns a lot as a whole, not what its other items did.
    """
    keys = [map_key("item", name) for name in dict.fromkeys(item_ids)]
    whole = list(dict.fromkeys(lots))
    rows = {row.id: row for row in rows_among(tx, "key", [*keys, *(map_key("item", name) for name in whole)])}
    linked = fetch_among(tx, _LINKED, [int.from_bytes(key[:8], signed=True) for key in keys])
    for name in whole:
        linked += fetch(tx, _LINKED_LOT, (name, f'%"roles":[{LOT}]%'))
    missing = sorted({name for (name,) in linked} - rows.keys())
    rows |= {row.id: row for row in rows_among(tx, "id", missing)}
    return _shown(rows.values(), policy)


def open_about(tx: Tx, item_ids: Iterable[str], *, lots: Iterable[str] = ()) -> list[Finding]:
    """The findings that stand about things and the events that name them."""
    return [one for one in about(tx, item_ids, lots=lots) if one.is_open]


def newest(tx: Tx, *, org: str = "", limit: int = SHOWN_MAX, is_open: bool = True) -> list[Finding]:
    """The newest findings, of one organisation's events where one is given."""
    condition, values = "state = ?" if is_open else "state <> ?", ["open" if is_open else ""]
    if org:
        condition, values = condition + " AND org = ?", [*values, org]
    return _shown(rows_where(tx, f"{condition} ORDER BY changed_leaf DESC LIMIT {limit:d}", values), None)


def counts(tx: Tx) -> dict[tuple[str, str], int]:
    """How many findings there are by code and state."""
    rows = fetch(tx, "SELECT code, state, count(*) FROM findings GROUP BY code, state")
    return {(code, state): count for code, state, count in rows}


_LINKED = (
    "SELECT DISTINCT l.finding FROM item_steps s JOIN finding_links l ON l.ev = s.leaf * 1024 + s.event "
    "WHERE s.key64 AMONG"
)
# Every item of a lot steps the lot's key: the stored facts tell which events are about the lot as a whole.
_LINKED_LOT = (
    "SELECT DISTINCT l.finding FROM item_facts i JOIN finding_links l ON l.ev = i.leaf * 1024 + i.event "
    "WHERE i.id = ? AND i.fact NOT LIKE ?"
)


def _shown(rows: Iterable[Row], policy: FindingPolicy | None) -> list[Finding]:
    judged = policy or current_policy()
    found = [
        Finding(
            id=row.id,
            code=row.code,
            severity=judged.severity_of(row.code),
            subject=row.subject,
            org=row.org,
            events=ids_of(row.events),
            details=row.details,
            state=row.state,
            cause=row.cause,
            raised_leaf=row.raised_leaf,
            changed_leaf=row.changed_leaf,
            history=tuple((leaf, state, cause, ids_of([ev])[0]) for leaf, state, cause, ev in row.history),
        )
        for row in rows
    ]
    return sorted(found, key=lambda one: (-one.changed_leaf, one.code, one.id))
