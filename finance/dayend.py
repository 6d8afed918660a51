"""A person asks for the end of the business date: logged under that person before the run begins."""

from typing import Any

import sqlalchemy as sa

from core.errors import Conflict
from finance.calendar import rolled
from finance.commandlog import HasPolicy, business_date, command, shanghai_date
from finance.daycount import parse_date
from finance.journal import closed_until
from finance.model import Actor, Call
from finance.tables import settings
from ledger.database import Tx


def request_end_of_day(
    tx: Tx, ctx: HasPolicy, actor: Actor, *, day: str, key: str, reason: str, now: int
) -> dict[str, Any]:
    """Ask to end the business date that the person saw; the run itself follows in its own transactions.

    Raises:
        Rejected: ``not_allowed``, ``bad_date``. Conflict: ``not_the_business_date``, ``day_not_begun``.
    """
    actor.need("bank_checker")
    asked = parse_date(day, pointer="day")

    def act(call: Call) -> dict[str, Any]:
        today = business_date(tx, now)
        if asked != today:
            raise Conflict(f"The business date is {today.isoformat()}.", code="not_the_business_date", pointer="day")
        if asked > shanghai_date(now):
            raise Conflict("This day has not begun; it cannot end.", code="day_not_begun", pointer="day")
        return {"day": asked.isoformat()}

    body = {"day": day}
    return command(tx, ctx, name="request_end_of_day", actor=actor, key=key, reason=reason, now=now, body=body, act=act)


def day_state(tx: Tx, now: int, lender: str) -> dict[str, Any]:
    """Where the end of day stands: business date, whether it is a business day, how far a broken-off run came."""
    today = business_date(tx, now)
    closed = closed_until(tx, lender)
    name = f"eod/{today.isoformat()}"
    at = tx.execute(sa.select(settings.c.value).where(settings.c.name == name)).scalar_one_or_none()
    return {
        "business_date": today.isoformat(), "calendar_date": shanghai_date(now).isoformat(),
        "is_business_day": rolled(today).date == today, "broken_off_at": at,
        "closed_until": None if closed is None else closed.isoformat(), "may_end": today <= shanghai_date(now),
    }  # fmt: skip
