"""Sensors and alarms: the follower that keeps readings and last states, and raises, updates and clears alarms.

What readings say is judged by device time: late data is judged with what was there before, so that an alarm does not
depend on the order in which readings came. Only silence needs the present, which comes in as an argument.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import sqlalchemy as sa

from core.errors import Unavailable
from ingest.alarms_book import Book, rules_of
from ingest.alarms_readings import GOODS, Measured, measured, name_key
from ingest.alarms_rules import Rule
from ingest.alarms_tables import alarms, sensor_readings, sensor_states
from ledger.chains import AFTER_LAST, suspects_at
from ledger.database import Database, Tx, fetch, fetch_among, run_many
from ledger.findings_book import insert
from ledger.followers import Entry, LoggedEvent, LoggedMessage, LoggedRecord, cursor
from ledger.followers import run_once as follow_once
from ledger.history import VIEWS
from ledger.queryindex import EVENTS_PER_LEAF, event_key

ALARMS: Final = "alarms"
CLIENT: Final = "alarms"
LIMIT: Final = 500
KEPT_MS: Final = 400 * 86_400_000  # ours: more than a year for yearly reports; the log keeps all
_COLUMNS: Final = ("device", "measurement", "at_ms", "ev", "number", "org", "place", "value", "second", "uom", "name64")
_STATES: Final = (
    "INSERT INTO sensor_states (scope, id, measurement, org, source, at_ms, ev, value, second, uom, place) "
    "VALUES (?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (scope, id, measurement) DO UPDATE SET org = excluded.org, "
    "source = excluded.source, at_ms = excluded.at_ms, ev = excluded.ev, value = excluded.value, "
    "second = excluded.second, uom = excluded.uom, place = excluded.place "
    "WHERE (excluded.at_ms, excluded.ev) > (sensor_states.at_ms, sensor_states.ev)"
)
Touched = dict[tuple[str, str], int]


class Alarms:
    """Follower of the log; needs the history index (cursor ``views``) to have passed its entries."""

    name = ALARMS

    def apply(self, tx: Tx, entries: Sequence[Entry]) -> None:
        """Take new readings and judge the devices that they are of.

        Raises:
            Unavailable: ``history_behind``.
        """
        if cursor(tx, VIEWS) <= entries[-1].leaf:
            raise Unavailable("The history index is still behind the log; try again.", code="history_behind")
        messages = [entry for entry in entries if isinstance(entry, LoggedMessage)]
        judged = suspects_at(tx, [message.leaf for message in messages])
        rows: list[Measured] = []
        touched: Touched = {}
        goods: dict[str, list[str]] = {}
        now_ms = 0
        for entry in entries:
            if isinstance(entry, LoggedMessage):
                now_ms = max(now_ms, entry.received_ms)
                if judged.get(entry.leaf, AFTER_LAST) == AFTER_LAST:
                    for event in entry.events if _is_told_by_others(entry) else ():
                        self._take(tx, event, rows, touched, goods)
            elif isinstance(entry, LoggedRecord) and entry.record.t in ("end", "erasure"):
                now_ms = max(now_ms, entry.received_ms)
                _store(tx, rows)
                rows = []
                _merge(touched, _taken_back(tx, entry))
        _store(tx, rows)
        _judge(tx, touched, goods, now_ms)

    def _take(
        self, tx: Tx, event: LoggedEvent, rows: list[Measured], touched: Touched, goods: dict[str, list[str]]
    ) -> None:
        if "errorDeclaration" in event.clear:
            name64 = name_key(event.org, event.event)
            if name64:
                _store(tx, rows)
                rows.clear()
                _merge(touched, _forget(tx, sensor_readings.c.name64 == name64))
            return
        found = measured(event)
        for one in found:
            key = (one.device, one.measurement)
            touched[key] = min(touched.get(key, one.at_ms), one.at_ms)
        if found:
            named = event.names(*GOODS)
            for device in {one.device for one in found}:
                goods[device] = list(dict.fromkeys([*named, *goods.get(device, ())]))[:500]
        rows += found


def run_once(database: Database, follower: Alarms, limit: int = LIMIT) -> int:
    """Let the follower take the next entries, as far as the history index has come; returns how many."""
    with database.reading() as tx:
        room = cursor(tx, VIEWS) - cursor(tx, ALARMS)
    return follow_once(database, follower, min(room, limit)) if room > 0 else 0


def run_all(database: Database, follower: Alarms | None = None, limit: int = LIMIT) -> int:
    """Run the follower until it has seen all that the history index has."""
    mine, total = follower or Alarms(), 0
    while taken := run_once(database, mine, limit):
        total += taken
    return total


def listen_for_silence(database: Database, now_ms: int) -> int:
    """Raise the alarms of devices that have said nothing for too long; returns how many devices were judged."""
    with database.reading() as tx:
        due = _silent(tx, now_ms)
    if due:
        with database.transaction() as tx:
            for rule, device in due:
                Book(tx, now_ms).judge(rule, device, since_ms=now_ms, goods=())
    return len(due)


def prune(database: Database, now_ms: int) -> int:
    """Drop readings that are older than what pages and rules look at; returns how many. The log keeps them all."""
    with database.transaction() as tx:
        return tx.execute(sensor_readings.delete().where(sensor_readings.c.at_ms < now_ms - KEPT_MS)).rowcount


def judge_again(tx: Tx, rule: Rule, now_ms: int) -> None:
    """Judge the devices of a new rule by what they last said."""
    query = sa.select(sensor_states.c.id).where(
        sensor_states.c.scope == "device", sensor_states.c.org == rule.org,
        sensor_states.c.measurement == rule.measurement,
    )  # fmt: skip
    for device in tx.execute(query.order_by(sensor_states.c.id)).scalars().all():
        Book(tx, now_ms).judge(rule, device, since_ms=now_ms, goods=())


def _silent(tx: Tx, now_ms: int) -> list[tuple[Rule, str]]:
    found = []
    for rule in rules_of(tx, kind="silence"):
        query = sa.select(sensor_states.c.id, sensor_states.c.place).where(
            sensor_states.c.scope == "device", sensor_states.c.org == rule.org,
            sensor_states.c.measurement == rule.measurement, sensor_states.c.at_ms < now_ms - rule.for_s * 1000,
        )  # fmt: skip
        told = sa.exists().where(
            alarms.c.rule == rule.id, alarms.c.device == sensor_states.c.id, alarms.c.end_ms.is_(None),
            alarms.c.start_ms == sensor_states.c.at_ms,
        )  # fmt: skip
        found += [(rule, row.id) for row in tx.execute(query.where(~told)) if rule.concerns(row.id, row.place)]
    return found


def _is_told_by_others(message: LoggedMessage) -> bool:
    """Not one of our own alarms, which would raise itself again."""
    partner = message.payload.get("on_behalf_of")
    return partner is None or partner.get("client") != CLIENT


def _store(tx: Tx, rows: Sequence[Measured]) -> None:
    insert(tx, "sensor_readings", _COLUMNS, [row.row() for row in rows])
    newest: dict[tuple[str, str, str], Measured] = {}
    for row in rows:
        for scope, name in (("device", row.device), ("place", row.place)):
            before = newest.get((scope, name, row.measurement))
            if name and (before is None or (before.at_ms, before.ev) <= (row.at_ms, row.ev)):
                newest[scope, name, row.measurement] = row
    run_many(tx, _STATES, [_state(*key, row) for key, row in sorted(newest.items(), key=lambda one: one[0])])


def _state(scope: str, name: str, measurement: str, row: Measured) -> tuple[Any, ...]:
    return (
        scope, name, measurement, row.org, row.device, row.at_ms, row.ev, str(row.value), str(row.second), row.uom,
        row.place,
    )  # fmt: skip


def _taken_back(tx: Tx, entry: LoggedRecord) -> Touched:
    """Forget the readings that a record takes back: of an ended key, or of an erased event."""
    payload = entry.record.payload
    if entry.record.t == "erasure":
        if not {"sensorElementList", "readPoint"} & set(payload["names"]):
            return {}
        return _forget(tx, sensor_readings.c.ev == event_key(payload["leaf"], payload["event"]))
    query = "SELECT s.leaf FROM suspects s JOIN keys k ON k.key_no = s.key_no "
    query += "WHERE s.reason = ? AND k.kid = ? AND s.leaf < ?"
    touched: Touched = {}
    for (leaf,) in fetch(tx, query, (AFTER_LAST, str(payload["kid"]), entry.leaf)):
        first = leaf * EVENTS_PER_LEAF
        _merge(touched, _forget(tx, sensor_readings.c.ev.between(first, first + EVENTS_PER_LEAF - 1)))
    return touched


def _forget(tx: Tx, condition: Any) -> Touched:
    rows = tx.execute(sa.select(sensor_readings).where(condition)).all()
    touched: Touched = {}
    for row in rows:
        _merge(touched, {(row.device, row.measurement): row.at_ms})
    tx.execute(sensor_readings.delete().where(condition))
    for name, column in (("device", sensor_readings.c.device), ("place", sensor_readings.c.place)):
        for subject, measurement in sorted({(getattr(row, name), row.measurement) for row in rows}):
            _renew(tx, name, column, subject, measurement)
    return touched


def _renew(tx: Tx, scope: str, column: Any, subject: str, measurement: str) -> None:
    """The last state after readings were taken back."""
    same = (sensor_states.c.scope == scope) & (sensor_states.c.id == subject)
    tx.execute(sensor_states.delete().where(same, sensor_states.c.measurement == measurement))
    query = sa.select(sensor_readings).where(column == subject, sensor_readings.c.measurement == measurement)
    row = tx.execute(query.order_by(sensor_readings.c.at_ms.desc(), sensor_readings.c.ev.desc()).limit(1)).first()
    if row is not None and subject:
        values = {"scope": scope, "id": subject, "measurement": measurement, "org": row.org, "source": row.device}
        values |= {name: getattr(row, name) for name in ("at_ms", "ev", "value", "second", "uom", "place")}
        tx.execute(sensor_states.insert().values(values))


def _merge(touched: Touched, more: Touched) -> None:
    for key, at_ms in more.items():
        touched[key] = min(touched.get(key, at_ms), at_ms)


def _judge(tx: Tx, touched: Touched, goods: dict[str, list[str]], now_ms: int) -> None:
    if not touched:
        return
    orgs = dict(_orgs(tx, {device for device, _ in touched}))
    rules = rules_of(tx)
    if not rules:
        return
    book = Book(tx, now_ms)
    for (device, measurement), since_ms in sorted(touched.items()):
        for rule in rules:
            if rule.measurement == measurement and rule.org == orgs.get(device):
                book.judge(rule, device, since_ms=since_ms, goods=goods.get(device, ()))


def _orgs(tx: Tx, devices: Iterable[str]) -> list[tuple[str, str]]:
    rows = fetch_among(tx, "SELECT id, org FROM sensor_states WHERE scope = 'device' AND id AMONG", sorted(devices))
    return [(device, org) for device, org in rows]
