"""Alarms as rows: what episodes make of them, what people do with them, and what is to be told to others."""

import json
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import sqlalchemy as sa

from core.canonical import b64u, dump_json, sha256
from core.errors import Conflict, Rejected
from ingest.alarms_rules import Episode, Reading, Rule, episodes, stored_rule
from ingest.alarms_tables import alarm_deliveries, alarm_rules, alarms, sensor_readings
from ledger.database import Tx
from ledger.state import items_at

RAISED, ACKNOWLEDGED, CLEARED = "raised", "acknowledged", "cleared"
BY_RULE: Final = "rule"
WINDOW_MS: Final = 48 * 3_600_000  # ours: how far back what came late is judged with what was there before
READINGS_MAX: Final = 20_000
GOODS_MAX: Final = 500
HISTORY_MAX: Final = 200
DEADLINE_MS: Final = 3 * 86_400_000


class Book:
    """The alarms of one run, as of one moment."""

    def __init__(self, tx: Tx, now_ms: int) -> None:
        self._tx, self._now_ms = tx, now_ms

    def judge(self, rule: Rule, device: str, *, since_ms: int, goods: Sequence[str]) -> None:
        """Make the alarms of a rule and a device what its readings say, from a moment on."""
        start_ms = since_ms - WINDOW_MS
        mine = alarms.select().where(alarms.c.rule == rule.id, alarms.c.device == device)
        mine = mine.where(alarms.c.end_ms.is_(None) | (alarms.c.end_ms >= start_ms)).order_by(alarms.c.start_ms)
        rows = self._tx.execute(mine).all()
        start_ms = min([start_ms, *(row.start_ms for row in rows)])
        readings = [one for one in self._readings(rule, device, start_ms) if rule.concerns(device, one.place)]
        found = episodes(rule, readings, self._now_ms)
        left = list(rows)
        for episode in found:
            row = next((one for one in left if _overlaps(one, episode)), None)
            if row is not None:
                left.remove(row)
                self._renew(rule, row, episode, goods)
            elif episode.end_ms is None or episode.end_ms >= self._since(rule):
                self._raise(rule, device, episode, goods, readings)
        for row in left:
            if row.state != CLEARED and row.end_ms is None:
                self._change(rule, row, CLEARED, BY_RULE, "late data", end_ms=self._now_ms)

    def _since(self, rule: Rule) -> int:
        query = sa.select(alarm_rules.c.created_ms).where(alarm_rules.c.id == rule.id)
        return int(self._tx.execute(query).scalar_one())

    def _readings(self, rule: Rule, device: str, start_ms: int) -> list[Reading]:
        found = sensor_readings.c
        query = sa.select(found.at_ms, found.value, found.second, found.place).where(
            found.device == device, found.measurement == rule.measurement, found.at_ms >= start_ms
        )
        query = query.order_by(found.at_ms.desc(), found.ev.desc()).limit(READINGS_MAX)
        rows = self._tx.execute(query).all()
        return [Reading(row.at_ms, Decimal(row.value), Decimal(row.second), row.place) for row in reversed(rows)]

    def _raise(
        self, rule: Rule, device: str, episode: Episode, goods: Sequence[str], readings: Sequence[Reading]
    ) -> None:
        place = next((one.place for one in reversed(readings) if one.at_ms <= episode.raised_ms), "")
        name = b64u(sha256(f"{rule.id}\x00{device}\x00{episode.start_ms}".encode())[:15])
        if self._tx.execute(sa.select(alarms.c.id).where(alarms.c.id == name)).first() is not None:
            return
        row = {
            "id": name, "rule": rule.id, "device": device, "org": rule.org, "place": place, "state": RAISED,
            "start_ms": episode.start_ms, "raised_ms": episode.raised_ms, "end_ms": None, "cleared_by": "",
            "details": _json(episode.details()), "goods": _json(self._goods(place, episode, goods)),
            "history": _json([[self._now_ms, RAISED, BY_RULE, ""]]), "changed_ms": self._now_ms, "raise_event": "",
            "clear_event": "",
        }  # fmt: skip
        self._tx.execute(alarms.insert().values(row))
        made = alarm(self._tx, name)
        tell(self._tx, rule, made, RAISED, self._now_ms)
        if episode.end_ms is not None:
            self._change(rule, made, CLEARED, BY_RULE, "", end_ms=episode.end_ms)

    def _goods(self, place: str, episode: Episode, named: Sequence[str]) -> list[str]:
        """The goods concerned: what the readings name, and what stood in the place then."""
        there: list[str] = []
        if place:
            found = items_at(self._tx, place, limit=GOODS_MAX)
            there = [one.id for one in found if one.last.device_ms <= (episode.end_ms or episode.raised_ms)]
        return list(dict.fromkeys([*named, *there]))[:GOODS_MAX]

    def _renew(self, rule: Rule, row: Any, episode: Episode, goods: Sequence[str]) -> None:
        values: dict[str, Any] = {"start_ms": episode.start_ms, "raised_ms": episode.raised_ms}
        values["details"] = _json(episode.details())
        known = json.loads(row.goods)
        values["goods"] = _json(list(dict.fromkeys([*known, *goods]))[:GOODS_MAX])
        if any(getattr(row, name) != value for name, value in values.items()):
            values["changed_ms"] = self._now_ms
            self._tx.execute(alarms.update().where(alarms.c.id == row.id).values(values))
        if episode.end_ms is not None and row.state != CLEARED:
            self._change(rule, row, CLEARED, BY_RULE, "", end_ms=episode.end_ms)
        elif episode.end_ms is not None and row.end_ms != episode.end_ms:
            self._tx.execute(alarms.update().where(alarms.c.id == row.id).values(end_ms=episode.end_ms))
        elif episode.end_ms is None and row.state == CLEARED and row.cleared_by == BY_RULE:
            self._change(rule, row, RAISED, BY_RULE, "late data", end_ms=None)

    def _change(self, rule: Rule, row: Any, state: str, who: str, note: str, *, end_ms: int | None) -> None:
        change(self._tx, rule, row, state, who=who, note=note, now_ms=self._now_ms, end_ms=end_ms)


def change(
    tx: Tx, rule: Rule, row: Any, state: str, *, who: str, note: str, now_ms: int, end_ms: int | None
) -> None:  # fmt: skip
    """Move an alarm to a state, with who did it and when; what others are to know is put down in the same step."""
    history = [*json.loads(row.history), [now_ms, state, who, note]][-HISTORY_MAX:]
    values = {
        "state": state, "history": _json(history), "changed_ms": now_ms, "end_ms": end_ms,
        "cleared_by": who if state == CLEARED else "",
    }  # fmt: skip
    tx.execute(alarms.update().where(alarms.c.id == row.id).values(values))
    if state != ACKNOWLEDGED:
        tell(tx, rule, alarm(tx, row.id), state, now_ms)


def acknowledge(tx: Tx, alarm_id: str, *, org: str | None, who: str, note: str, now_ms: int) -> Any:
    """A person has seen the alarm.

    Args:
        org: whose alarms the person may touch; None for all.

    Raises:
        Rejected: ``no_such_alarm``. Conflict: ``alarm_cleared``.
    """
    row = _own(tx, alarm_id, org)
    if row.state == CLEARED:
        raise Conflict("The alarm is cleared already.", code="alarm_cleared")
    if row.state != ACKNOWLEDGED:
        change(tx, rule_of(tx, row.rule), row, ACKNOWLEDGED, who=who, note=note, now_ms=now_ms, end_ms=row.end_ms)
    return alarm(tx, alarm_id)


def clear(tx: Tx, alarm_id: str, *, org: str | None, who: str, note: str, now_ms: int) -> Any:
    """A person ends the alarm; it does not come back for the episode that it is about.

    Raises:
        Rejected: ``no_such_alarm``.
    """
    row = _own(tx, alarm_id, org)
    if row.state != CLEARED:
        change(tx, rule_of(tx, row.rule), row, CLEARED, who=who, note=note, now_ms=now_ms, end_ms=row.end_ms)
    return alarm(tx, alarm_id)


def add_rule(tx: Tx, rule: Rule, *, secret: str, who: str, now_ms: int) -> None:
    """Store a rule."""
    tx.execute(
        alarm_rules.insert().values(
            id=rule.id, org=rule.org, name=rule.name, kind=rule.kind, definition=rule.definition(), hook=rule.hook,
            secret=secret, is_active=1, created_ms=now_ms, created_by=who, ended_ms=None, ended_by="",
        )
    )  # fmt: skip


def end_rule(tx: Tx, rule_id: str, *, org: str | None, who: str, now_ms: int) -> None:
    """A rule judges nothing any more; its open alarms are cleared by who ended it.

    Raises:
        Rejected: ``no_such_rule``.
    """
    row = tx.execute(sa.select(alarm_rules).where(alarm_rules.c.id == rule_id)).one_or_none()
    if row is None or (org is not None and row.org != org):
        raise Rejected("There is no such alarm rule.", code="no_such_rule")
    tx.execute(
        alarm_rules.update().where(alarm_rules.c.id == rule_id).values(is_active=0, ended_ms=now_ms, ended_by=who)
    )
    for one in tx.execute(sa.select(alarms).where(alarms.c.rule == rule_id, alarms.c.state != CLEARED)).all():
        change(tx, stored_rule(row), one, CLEARED, who=who, note="rule ended", now_ms=now_ms, end_ms=one.end_ms)


def rules_of(tx: Tx, *, org: str | None = None, kind: str = "") -> list[Rule]:
    """The active rules, of one organisation or of all."""
    query = sa.select(alarm_rules).where(alarm_rules.c.is_active == 1)
    query = query.where(alarm_rules.c.org == org) if org is not None else query
    query = query.where(alarm_rules.c.kind == kind) if kind else query
    return [stored_rule(row) for row in tx.execute(query.order_by(alarm_rules.c.created_ms, alarm_rules.c.id))]


def rule_of(tx: Tx, rule_id: str) -> Rule:
    """A rule, active or not."""
    return stored_rule(tx.execute(sa.select(alarm_rules).where(alarm_rules.c.id == rule_id)).one())


def alarm(tx: Tx, alarm_id: str) -> Any:
    """The row of an alarm.

    Raises:
        Rejected: ``no_such_alarm``.
    """
    row = tx.execute(sa.select(alarms).where(alarms.c.id == alarm_id)).one_or_none()
    if row is None:
        raise Rejected("There is no such alarm.", code="no_such_alarm")
    return row


def alarms_of(tx: Tx, *, org: str | None, is_open: bool = False, limit: int = 200) -> list[Any]:
    """Alarms, the newest first, of one organisation or of all."""
    query = sa.select(alarms)
    query = query.where(alarms.c.org == org) if org is not None else query
    query = query.where(alarms.c.state != CLEARED) if is_open else query
    return list(tx.execute(query.order_by(alarms.c.changed_ms.desc(), alarms.c.id).limit(limit)))


def count_open(tx: Tx) -> dict[str, int]:
    """How many alarms of all organisations are raised, and how many of those somebody has acknowledged."""
    query = sa.select(alarms.c.state, sa.func.count()).where(alarms.c.state != CLEARED).group_by(alarms.c.state)
    found = {str(state): int(count) for state, count in tx.execute(query)}
    return {state: found.get(state, 0) for state in (RAISED, ACKNOWLEDGED)}


def shown(row: Any, rule: Rule) -> dict[str, Any]:
    """An alarm as programs read it, in JSON and in webhooks."""
    return {
        "id": row.id, "rule": {"id": rule.id, "name": rule.name, "kind": rule.kind}, "org": row.org,
        "device": row.device, "place": row.place or None, "state": row.state, "start_ms": row.start_ms,
        "raised_ms": row.raised_ms, "end_ms": row.end_ms, "cleared_by": row.cleared_by or None,
        "measurement": rule.measurement, **json.loads(row.details), "goods": json.loads(row.goods),
        "history": [
            {"at_ms": at_ms, "state": state, "who": who, "note": note}
            for at_ms, state, who, note in json.loads(row.history)
        ],
    }  # fmt: skip


def tell(tx: Tx, rule: Rule, row: Any, what: str, now_ms: int) -> None:
    """Put down the webhook of a change; it is sent once that has committed."""
    if not rule.hook:
        return
    secret = tx.execute(sa.select(alarm_rules.c.secret).where(alarm_rules.c.id == rule.id)).scalar_one()
    number = len(json.loads(row.history))
    body: Mapping[str, Any] = {"v": 1, "what": f"alarm.{what}", "at_ms": now_ms, "alarm": shown(row, rule)}
    values = {
        "id": b64u(sha256(f"{row.id}\x00{number}".encode())[:15]), "alarm": row.id, "what": what, "hook": rule.hook,
        "secret": secret, "body": dump_json(dict(body)), "state": "waiting", "created_ms": now_ms, "next_ms": now_ms,
        "deadline_ms": now_ms + DEADLINE_MS, "attempts": 0, "answer": "",
    }  # fmt: skip
    tx.execute(alarm_deliveries.insert().values(values))


def _own(tx: Tx, alarm_id: str, org: str | None) -> Any:
    row = alarm(tx, alarm_id)
    if org is not None and row.org != org:
        raise Rejected("There is no such alarm.", code="no_such_alarm")
    return row


def _overlaps(row: Any, episode: Episode) -> bool:
    starts_before_end = episode.end_ms is None or row.start_ms <= episode.end_ms
    return starts_before_end and (row.end_ms is None or row.end_ms >= episode.start_ms)


def _json(value: Iterable[Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
