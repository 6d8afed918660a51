"""What subscriptions report: deliveries made from the index by cursor, sent in order, tried again until a deadline.

Making deliveries and moving the cursor are one transaction, so that each event is reported exactly once into the
list of deliveries; sending is at least once, and every delivery has an id by which a receiver tells repeats.
"""

import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final

import sqlalchemy as sa
import structlog

from api.auth.partner_tables import PARTNER
from api.epcis.headers import ANSWER_HEADERS, EpcFormat
from api.epcis.query_answers import encoded, query_document, shown
from api.epcis.query_language import context_prefixes, read_query
from api.epcis.query_lookup import DatabaseLookup
from api.epcis.query_tables import deliveries, queries, subscriptions
from api.epcis.subscriptions_schedule import read_schedule
from api.epcis.webhooks_target import Answer, Target, post, read_target
from core.errors import Rejected
from ledger.database import Database, Tx
from ledger.queryindex_query import Order, Query
from ledger.queryindex_search import Viewer, newest, search

BATCH: Final = 100
ROUNDS_MAX: Final = 10
WAITING_MAX: Final = 1_000
SENT_MAX: Final = 20
SENDERS: Final = 8
FIRST_WAIT_MS: Final = 5_000
LONGEST_WAIT_MS: Final = 3_600_000
DEADLINE_MS: Final = 3 * 86_400_000
KEPT_MS: Final = 7 * 86_400_000
ACTIVE, STOPPED = "active", "stopped"
WAITING, DELIVERED, FAILED = "waiting", "delivered", "failed"
SIGNATURE: Final = "GS1-Signature"
DELIVERY_ID: Final = "GS1-Delivery-ID"
Send = Callable[[Target, bytes, Mapping[str, str]], Answer]
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Reporter:
    """Makes and sends the reports of all subscriptions. Run ``step`` in a loop.

    Attributes:
        random: fresh random bytes, for delivery ids.
        may_be_private: see ``webhooks_target``.
    """

    db: Database
    random: Callable[[int], bytes]
    may_be_private: bool = False
    send: Send | None = None

    def step(self, now_ms: int) -> bool:
        """Make what is due and send what waits; true when there was anything."""
        made = self.make(now_ms)
        return self.deliver(now_ms) or made

    def make(self, now_ms: int) -> bool:
        """Turn new events into deliveries, one transaction per subscription."""
        with self.db.reading() as tx:
            top = newest(tx)
            is_new = (subscriptions.c.cursor_ev < top) & subscriptions.c.next_ms.is_(None)
            is_due = subscriptions.c.next_ms <= now_ms
            query = sa.select(subscriptions.c.id).where(subscriptions.c.state == ACTIVE, is_new | is_due)
            due = list(tx.execute(query.order_by(subscriptions.c.id)).scalars())
        made = False
        for identifier in due:
            with self.db.transaction() as tx:
                made |= make_reports(tx, identifier, now_ms=now_ms, random=self.random)
        return made

    def deliver(self, now_ms: int) -> bool:
        """Send the deliveries that are due, of each subscription the oldest one."""
        due = self._due(now_ms)
        if due:
            # Side by side, so that one slow receiver does not hold up the others.
            with ThreadPoolExecutor(min(len(due), SENDERS), "report") as senders:
                list(senders.map(lambda row: self._deliver(row, now_ms), due))
        return bool(due)

    def _due(self, now_ms: int) -> list[Any]:
        first = sa.select(sa.func.min(deliveries.c.number)).where(deliveries.c.state == WAITING)
        first = first.group_by(deliveries.c.subscription)
        query = sa.select(deliveries, subscriptions.c.dest, subscriptions.c.secret)
        query = query.join(subscriptions, subscriptions.c.id == deliveries.c.subscription)
        query = query.where(deliveries.c.number.in_(first), deliveries.c.next_ms <= now_ms)
        query = query.where(subscriptions.c.state == ACTIVE).order_by(deliveries.c.next_ms).limit(SENT_MAX)
        with self.db.reading() as tx:
            return list(tx.execute(query))

    def _deliver(self, row: Any, now_ms: int) -> None:
        body = bytes(row.body)
        headers = signed_headers(row.secret, row.id, body, now_ms // 1000)
        try:
            target = read_target(row.dest, may_be_private=self.may_be_private)
        except Rejected as error:
            answer = Answer(0, error.message)
        else:
            answer = self._post(target, body, headers)
        with self.db.transaction() as tx:
            settle(tx, row, answer, now_ms=now_ms, random=self.random)
        if not answer.is_good:
            _log.info("report not taken", subscription=row.subscription, reason=answer.reason)

    def _post(self, target: Target, body: bytes, headers: Mapping[str, str]) -> Answer:
        if self.send is not None:
            return self.send(target, body, headers)
        return post(target, body, headers, may_be_private=self.may_be_private)


def make_reports(tx: Tx, identifier: str, *, now_ms: int, random: Callable[[int], bytes]) -> bool:
    """The deliveries of one subscription up to the newest event, and its cursor behind them; true when any was made.

    A receiver that takes nothing does not fill the database: at ``WAITING_MAX`` deliveries its cursor stands still.
    """
    row = tx.execute(sa.select(subscriptions).where(subscriptions.c.id == identifier).with_for_update()).one_or_none()
    if row is None or row.state != ACTIVE or not _is_welcome(tx, row):
        return False
    waiting = sa.select(sa.func.count()).where(deliveries.c.subscription == row.id, deliveries.c.state == WAITING)
    if tx.execute(waiting).scalar_one() >= WAITING_MAX:
        return False
    try:
        standing = standing_query(tx, row.owner, row.query_name)
        reports, cursor, is_done = _collect(tx, row, standing)
    except Rejected as error:
        _log.warning("subscription stopped", subscription=row.id, code=error.code, reason=error.message)
        tx.execute(subscriptions.update().where(subscriptions.c.id == row.id).values(state=STOPPED))
        return False
    change: dict[str, Any] = {"cursor_ev": cursor, "min_record_ms": now_ms}
    if row.schedule is not None and is_done:
        change["next_ms"] = read_schedule(json.loads(row.schedule)).after(now_ms)
        if not reports and row.report_if_empty:
            reports.append([])
    for events in reports:
        _enqueue(tx, row.id, _body(row, events, now_ms), len(events), now_ms=now_ms, random=random)
    tx.execute(subscriptions.update().where(subscriptions.c.id == row.id).values(change))
    return bool(reports)


def standing_query(tx: Tx, owner: str, name: str) -> Query:
    """The query of a name as a subscription asks it: everything that is new, in log order.

    Raises:
        Rejected: there is none, or it can no longer be read.
    """
    text = tx.execute(sa.select(queries.c.query).where(queries.c.owner == owner, queries.c.name == name)).scalar()
    if text is None:
        raise Rejected("The query is gone.", code="not_found")
    value = stored_query(text)
    prefixes = context_prefixes(value.pop("@context", None))
    query = read_query(list(value.items()), DatabaseLookup(tx), prefixes)
    return replace(query, order=Order(), count_limit=None, count_max=None)


def stored_query(text: str) -> dict[str, Any]:
    """The query of a stored text, its decimals exact."""
    value: dict[str, Any] = json.loads(text, parse_float=Decimal)
    return value


def signed_headers(secret: str, identifier: str, body: bytes, now_s: int) -> dict[str, str]:
    """The headers of a report; with a secret its signature: HMAC-SHA-256 over time, delivery id and body.

    A receiver computes ``v1`` over ``<t>.<GS1-Delivery-ID>.<body>`` and refuses a ``t`` that is old.
    """
    headers = {"Content-Type": "application/json", "User-Agent": "Tracebond", DELIVERY_ID: identifier, **ANSWER_HEADERS}
    if secret:
        text = f"{now_s}.{identifier}.".encode() + body
        headers[SIGNATURE] = f"t={now_s},v1={hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()}"
    return headers


def settle(tx: Tx, row: Any, answer: Answer, *, now_ms: int, random: Callable[[int], bytes]) -> None:
    """Write what became of a delivery: taken, to be tried again, smaller, or given up."""
    attempts = row.attempts + 1
    change: dict[str, Any] = {"attempts": attempts, "answer": answer.reason or str(answer.status)}
    if answer.is_good:
        # What was taken is not kept: the log has it, and an erasure has one place less to reach.
        change |= {"state": DELIVERED, "body": b""}
        seen = subscriptions.update().where(subscriptions.c.id == row.subscription)
        tx.execute(seen.values(notified_ms=now_ms))
    elif answer.status == 413 and row.events > 1:
        _halve(tx, row, now_ms=now_ms, random=random)
        return
    elif answer.status == 410:
        # The receiver says that it is gone for good.
        change["state"] = FAILED
        tx.execute(subscriptions.update().where(subscriptions.c.id == row.subscription).values(state=STOPPED))
    elif now_ms >= row.deadline_ms:
        change["state"] = FAILED
    else:
        change["next_ms"] = min(now_ms + wait_ms(attempts), max(row.deadline_ms, now_ms + 1))
    tx.execute(deliveries.update().where(deliveries.c.number == row.number).values(change))
    old = (deliveries.c.state == DELIVERED) & (deliveries.c.created_ms < now_ms - KEPT_MS)
    tx.execute(deliveries.delete().where(old, deliveries.c.subscription == row.subscription))


def wait_ms(attempts: int) -> int:
    """How long to wait after so many attempts: doubled each time, an hour at most."""
    return int(min(FIRST_WAIT_MS * 2 ** min(attempts - 1, 20), LONGEST_WAIT_MS))


def _is_welcome(tx: Tx, row: Any) -> bool:
    """Whether the partner is still let in."""
    if row.partner_id is None:
        return True
    query = sa.select(PARTNER.c.disabled_ms).where(PARTNER.c.id == row.partner_id)
    found = tx.execute(query).one_or_none()
    return found is not None and found.disabled_ms is None


def viewer_of(row: Any) -> Viewer:
    """What the subscriber of a row may see."""
    return Viewer(**json.loads(row.viewer))


def _collect(tx: Tx, row: Any, query: Query) -> tuple[list[list[dict[str, Any]]], int, bool]:
    """Batches of new events, the new cursor, and whether it has reached the newest event."""
    top, place = newest(tx), (row.cursor_ev,)
    if row.initial_ms is not None:
        query = replace(query, record_ge_ms=max(row.initial_ms, query.record_ge_ms or 0))
    form: EpcFormat = row.epc_format
    reports: list[list[dict[str, Any]]] = []
    for _ in range(ROUNDS_MAX):
        page = search(tx, query, viewer_of(row), limit=BATCH, top=top, after=place)
        if page.events:
            reports.append([shown(found, form) for found in page.events])
        if page.next is None:
            return reports, max(top, row.cursor_ev), True
        place = page.next
    return reports, int(place[0]), False


def _body(row: Any, events: list[dict[str, Any]], now_ms: int) -> bytes:
    return encoded(query_document(events, now_ms=now_ms, query_name=row.query_name, subscription=row.id))


def _enqueue(
    tx: Tx, subscription: str, body: bytes, events: int, *, now_ms: int, random: Callable[[int], bytes]
) -> None:
    row = {"id": random(16).hex(), "subscription": subscription, "events": events, "body": body, "created_ms": now_ms}
    row |= {"deadline_ms": now_ms + DEADLINE_MS, "next_ms": now_ms, "attempts": 0, "state": WAITING, "answer": ""}
    tx.execute(deliveries.insert().values(row))


def _halve(tx: Tx, row: Any, *, now_ms: int, random: Callable[[int], bytes]) -> None:
    """The receiver asks for smaller reports: the first half takes this one's place, all later ones move behind."""
    document = stored_query(bytes(row.body).decode())
    body = document["epcisBody"]["queryResults"]["resultsBody"]
    events, half = body["eventList"], len(body["eventList"]) // 2
    later = sa.select(deliveries).where(deliveries.c.subscription == row.subscription, deliveries.c.state == WAITING)
    behind = list(tx.execute(later.where(deliveries.c.number > row.number).order_by(deliveries.c.number)))
    body["eventList"] = events[:half]
    first = {"body": encoded(document), "events": half, "next_ms": now_ms, "answer": "413"}
    tx.execute(deliveries.update().where(deliveries.c.number == row.number).values(first))
    body["eventList"] = events[half:]
    _enqueue(tx, row.subscription, encoded(document), len(events) - half, now_ms=now_ms, random=random)
    for one in behind:
        tx.execute(deliveries.delete().where(deliveries.c.number == one.number))
        moved = {name: value for name, value in one._mapping.items() if name != "number"}
        tx.execute(deliveries.insert().values(moved))
