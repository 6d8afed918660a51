"""Monitoring: what the goods and the market say about a running facility, and what follows from it (formula 11).

The health of a facility is computed anew from evidence, prices and its loans; a pure rule names the events; each change
is a row of the command log. Runs when goods' history has grown, and at least daily.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Final

import sqlalchemy as sa

from core.canonical import canonical_bytes
from core.errors import Unavailable
from core.money import Money, parse_money
from finance.calendar import after_business_days
from finance.commandlog import business_date, by_itself
from finance.cover import cover_of, end_call, ltv_holds, open_call
from finance.exits import lapse_offers
from finance.journal import INCOME, RECEIVABLE, Entry, post
from finance.loanbook import read_loans, write_loans
from finance.model import Actor, Call, Context
from finance.policy import Policy
from finance.reconcile import freeze_mismatches
from finance.reviews import review_limits
from finance.states import OPEN_LOANS, step
from finance.tables import facilities, loans, margin_calls, payments, quotes, reversals
from ledger.database import Database, Tx
from ledger.itemmap import proof_size

WATCHED: Final = ("ACTIVE", "WATCH", "FROZEN", "EXPIRED", "TERMINATED")
HOUR_S: Final = 3_600


@dataclass(frozen=True)
class Health:
    """A facility's cover as of now.

    Attributes:
        base: the borrowing base, margin cash included; ``net`` the goods' whole net value.
        knock_outs: codes of what takes the goods' value away at once: recall, failed proof, unauthorised movement ...
        is_ltv_kept: at most 75 % of the gross value is lent, or the controller's guarantee of it is active.
    """

    base: Money
    net: Money
    exposure: Money
    is_eligible: bool
    knock_outs: tuple[str, ...]
    overdue_days: int
    is_ltv_kept: bool = True

    def stored(self) -> dict[str, Any]:
        """As JSON, for command log and margin call."""
        return {
            "base": self.base.text(), "net": self.net.text(), "exposure": self.exposure.text(),
            "is_eligible": self.is_eligible, "knock_outs": list(self.knock_outs), "overdue_days": self.overdue_days,
            "is_ltv_kept": self.is_ltv_kept,
        }  # fmt: skip


@dataclass(frozen=True)
class CallStanding:
    """An open margin call: how much, until when, and since when the base covers the exposure again."""

    amount: Money
    due: date
    recovered: date | None
    is_paid_for: bool


def verdict(health: Health, call: CallStanding | None, policy: Policy, today: date) -> tuple[str, ...]:
    """What follows for facility and margin call, in the order in which it happens.

    Events: ``freeze``, ``watch``, ``clear``; ``call`` (open, or raise to more), ``cured``, ``recovering``,
    ``recovered``, ``breached``; ``default``.
    """
    found: list[str] = []
    owes = health.exposure.minor
    if health.knock_outs:
        found.append("freeze")
    is_short = owes > health.base.minor
    if is_short and (call is None or owes - health.base.minor > call.amount.minor):
        found.append("call")
    if call is not None and not is_short:
        found += _ending(call, policy, today)
    is_due = call is not None and is_short and today > call.due
    if is_due:
        found.append("breached")
    if is_due or health.overdue_days > policy.integer("monitoring", "overdue_days"):
        found.append("default")
    is_close = owes > policy.number("monitoring", "watch") * health.base.minor
    ends = call is None or bool({"cured", "recovered"} & set(found))
    if is_close or is_short or not health.is_ltv_kept:
        found.append("watch")
    elif ends and health.is_eligible:
        found.append("clear")
    return tuple(found)


def _ending(call: CallStanding, policy: Policy, today: date) -> list[str]:
    if call.is_paid_for:
        return ["cured"]
    if call.recovered is None:
        return ["recovering"]
    waited = (today - call.recovered).days
    return ["recovered"] if waited >= policy.integer("monitoring", "hysteresis_days") else []


def health_of(tx: Tx, ctx: Context, facility: Any, *, now: int) -> Health:
    """A facility's cover, computed from the evidence, prices and loans of this moment.

    Raises:
        Unavailable: the log or the chain cannot be read.
    """
    call = Call(
        Actor("tracebond", "tracebond", facility.lender), "monitoring", "monitoring", now, business_date(tx, now)
    )
    cover = cover_of(tx, ctx, facility, call=call, purpose=None)
    own = sa.select(
        sa.func.coalesce(sa.func.sum(loans.c.balance + loans.c.interest_due + loans.c.suspended), 0),
        sa.func.coalesce(sa.func.max(loans.c.overdue_days), 0),
    ).where(loans.c.facility == facility.id, loans.c.state.in_(OPEN_LOANS))
    owes, late = tx.execute(own).one()
    exposure = Money(int(owes))
    return Health(
        cover.base + Money(facility.margin_cash), cover.net, exposure, cover.is_eligible, cover.knock_outs, int(late),
        is_ltv_kept=ltv_holds(tx, ctx, facility.id, exposure, cover.gross),
    )  # fmt: skip


def monitor(db: Database, ctx: Context, *, now: int) -> list[tuple[str, tuple[str, ...]]]:
    """Judge every running facility, each in a transaction of its own: (facility, events) where something followed.

    A facility whose evidence cannot be read now is left for the next run; drawing on it is refused meanwhile anyway.
    """
    with db.reading() as tx:
        query = sa.select(facilities.c.id).where(facilities.c.state.in_(WATCHED)).order_by(facilities.c.id)
        idents = list(tx.execute(query).scalars())
    found = []
    for ident in idents:
        try:
            with db.transaction() as tx:
                events = monitor_one(tx, ctx, ident, now=now)
        except Unavailable:
            continue
        if events:
            found.append((ident, events))
    return found


def monitor_one(tx: Tx, ctx: Context, ident: str, *, now: int) -> tuple[str, ...]:
    """Judge one facility and carry out what follows; the events that changed something."""
    facility = tx.execute(sa.select(facilities).where(facilities.c.id == ident).with_for_update()).one()
    if facility.state not in WATCHED:
        return ()
    today = business_date(tx, now)
    health, call = health_of(tx, ctx, facility, now=now), open_call(tx, ident)
    events = verdict(health, _standing(call, health), ctx.policy, today)
    changes = _Changes(facility.state, call, health, today, ctx.policy)
    happened = [event for event in events if changes.apply(event)]
    if not happened:
        return ()

    def act(_: Call) -> Mapping[str, Any]:
        changes.write(tx, facility, now)
        return {"facility": ident, "state": changes.state, "events": happened}

    by_itself(tx, ctx, name="monitor", org=facility.lender, subject=f"monitoring {ident}", now=now,
              body={"facility": ident, "from": facility.state, "version": facility.version,
                    "health": health.stored(), "events": happened}, act=act)  # fmt: skip
    return tuple(happened)


class _Changes:
    """Collects what one judgement changes; illegal steps raise, steps that change nothing are left out."""

    def __init__(self, state: str, call: Any, health: Health, today: date, policy: Policy) -> None:
        self.state, self.call, self.health, self.today, self.policy = state, call, health, today, policy
        self.new_call: dict[str, Any] | None = None
        self.call_values: dict[str, Any] = {}
        self.is_default = False

    def apply(self, event: str) -> bool:
        if event in ("freeze", "watch", "clear"):
            return self._facility(event)
        if event == "default":
            self.is_default = True
            if self.state == "ACTIVE":
                self.state = step("facility", self.state, "watch")
            self.state = step("facility", self.state, "default")
            return True
        return self._call(event)

    def _facility(self, event: str) -> bool:
        wanted = {"freeze": ("ACTIVE", "WATCH"), "watch": ("ACTIVE",), "clear": ("WATCH",)}[event]
        if self.state not in wanted:
            return False
        self.state = step("facility", self.state, event)
        return True

    def _call(self, event: str) -> bool:
        short = Money(self.health.exposure.minor - self.health.base.minor)
        if event == "call" and self.call is None:
            due = after_business_days(self.today, self.policy.integer("monitoring", "cure_business_days")).date
            # The borrower sees the call on its page in the same moment: that is the notice.
            state = step("margin_call", "OPEN", "notice")
            self.new_call = {"amount": short.minor, "opened": self.today, "due": due, "state": state, "version": 1}
        elif event == "call":
            self.call_values |= {"amount": short.minor, "version": self.call.version + 1, "recovered": None}
        elif event == "recovering":
            self.call_values["recovered"] = self.today
        else:
            names = {"cured": "cured", "recovered": "recovered", "breached": "due_passed"}
            self.call_values["state"] = step("margin_call", self.call.state, names[event])
        return True

    def write(self, tx: Tx, row: Any, now: int) -> None:
        facility = row.id
        more = facilities.c.version + 1
        tx.execute(facilities.update().where(facilities.c.id == facility).values(state=self.state, version=more))
        base = canonical_bytes(self.health.stored()).decode()
        if self.new_call is not None:
            earlier = sa.select(sa.func.count()).select_from(margin_calls).where(margin_calls.c.facility == facility)
            number = tx.execute(earlier).scalar_one() + 1
            values = {"id": f"{facility}-M{number}", "facility": facility, "base": base}
            tx.execute(margin_calls.insert().values(values | self.new_call))
        elif self.call_values:
            tx.execute(
                margin_calls.update().where(margin_calls.c.id == self.call.id).values(self.call_values | {"base": base})
            )
        if self.is_default:
            # A call that is still open asks for less than what is due now.
            end_call(tx, facility, "due_passed")
            default_loans(tx, row, today=self.today, now=now)


def default_loans(tx: Tx, facility: Any, *, today: date, now: int) -> None:
    """Make all loans of a facility due; income that was not collected is taken back and stays a claim."""
    query = sa.select(loans.c.id).where(
        loans.c.facility == facility.id, loans.c.state.in_(("ACTIVE", "OVERDUE", "NON_ACCRUAL"))
    )
    for loan in read_loans(tx, list(tx.execute(query.order_by(loans.c.id)).scalars()), is_locked=True):
        standing = replace(loan.standing, state=step("loan", loan.standing.state, "default"))
        after = replace(loan, standing=standing, suspended=loan.suspended + loan.receivable, receivable=0)
        write_loans(tx, [(loan, after)])
        if loan.receivable:
            back = Money(loan.receivable)
            entry = Entry("non_accrual", f"default/{loan.id}", {INCOME: back}, {RECEIVABLE: back})
            post(tx, entry, lender=facility.lender, business_date=today, today=today, now=now, loan=loan.id)


def _standing(call: Any, health: Health) -> CallStanding | None:
    if call is None:
        return None
    before = _read(json.loads(call.base)["exposure"])
    is_paid_for = call.state == "PARTIALLY_CURED" or health.exposure < before
    return CallStanding(Money(call.amount), call.due, call.recovered, is_paid_for)


def _read(text: str) -> Money:
    return parse_money(text, is_zero_allowed=True)


class Watch:
    """Judges all facilities whenever something they rest on has changed, and at least every hour."""

    def __init__(self, db: Database, ctx: Context) -> None:
        self._db, self._ctx = db, ctx
        self._seen: tuple[Any, ...] = ()
        self._last_s = 0

    def step(self, now: int) -> bool:
        """Judge if it is time to; whether anything followed."""
        with self._db.reading() as tx:
            seen = (proof_size(tx), business_date(tx, now), *_counts(tx))
        if seen == self._seen and now - self._last_s < HOUR_S:
            return False
        wrong: list[str] = []
        if now - self._last_s >= HOUR_S:
            # Draws read the chain anyway; a pledge that it does not bear stops the whole facility (V12).
            wrong = freeze_mismatches(self._db, self._ctx, now=now)
        self._seen, self._last_s = seen, now
        moved = monitor(self._db, self._ctx, now=now)
        reviewed = review_limits(self._db, self._ctx, now=now)
        with self._db.transaction() as tx:
            lapsed = lapse_offers(tx, self._ctx, now=now)
        return bool(moved or wrong or reviewed or lapsed)


_WATCHED_TABLES: Final = (quotes, payments, reversals, loans)


def _counts(tx: Tx) -> tuple[int, ...]:
    asked = [sa.select(sa.func.count()).select_from(table).scalar_subquery() for table in _WATCHED_TABLES]
    return tuple(tx.execute(sa.select(*asked)).one())
