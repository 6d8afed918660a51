"""What covers a facility: its active pledges, its mortgages and the guarantee of the actual controller."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from core.errors import Conflict
from core.money import Money, parse_money
from finance.casetables import guarantees
from finance.decision import decide
from finance.inputs import exposure, gather
from finance.model import Call, Context
from finance.ratios import ltv_passes
from finance.states import step
from finance.tables import margin_calls, pledges
from ledger.database import Tx

OPEN_CALLS: Final = ("OPEN", "NOTIFIED", "PARTIALLY_CURED")


@dataclass(frozen=True)
class Cover:
    """The goods and mortgages of a facility as they count now.

    Attributes:
        stored: inputs and decision, as a loan or a review keeps them; empty where nothing is pledged.
    """

    stored: dict[str, Any]
    base: Money
    gross: Money
    net: Money
    is_eligible: bool
    knock_outs: tuple[str, ...]

    @property
    def reasons(self) -> list[dict[str, Any]]:
        """Why it is not more, at most four."""
        return list(self.stored["decision"]["reasons"]) if self.stored else []


NOTHING = Cover({}, Money(0), Money(0), Money(0), is_eligible=False, knock_outs=())


def cover_of(
    tx: Tx, ctx: Context, facility: Any, *, call: Call, purpose: str | None, amount: Money | None = None,
    without: Sequence[str] = (), only: Sequence[str] | None = None,
) -> Cover:  # fmt: skip
    """What covers a facility at this moment.

    Args:
        purpose: as ``gather`` takes it.
        without: ids of pledges to leave out, as if they were released.
        only: ids of the only pledges to look at; mortgages are left out then.

    Raises:
        Rejected: ``consent_needed``. Unavailable: the log or the chain cannot be read.
    """
    held = [
        bytes(row.receipt)
        for row in active_pledges(tx, facility.id)
        if row.id not in without and (only is None or row.id in only)
    ]
    if not held:
        return NOTHING
    inputs = gather(
        tx, ctx, lender=facility.lender, borrower=facility.borrower, receipts=held, amount=amount or Money(0),
        tenor_days=facility.tenor_days, call=call, purpose=purpose,
        application=facility.application if only is None else None,
    )  # fmt: skip
    decision = decide(inputs, ctx.policy)
    groups = [inputs, *inputs["further"]]
    codes = {reason["code"] for group in groups for reason in group["grounds"]["knock_outs"]}
    return Cover(
        {"inputs": inputs, "decision": decision},
        _read(decision["borrowing_base"]), _read(decision["gross"]), _read(decision["net"]),
        bool(decision["eligible"]), tuple(sorted(codes)),
    )  # fmt: skip


def active_pledges(tx: Tx, facility: str) -> list[Any]:
    """The pledges that secure a facility now, the oldest first."""
    query = sa.select(pledges).where(pledges.c.facility == facility, pledges.c.state == "ACTIVE")
    return list(tx.execute(query.order_by(pledges.c.registered_s, pledges.c.id)).all())


def open_call(tx: Tx, facility: str) -> Any:
    """The facility's open margin call, or None."""
    query = sa.select(margin_calls).where(margin_calls.c.facility == facility, margin_calls.c.state.in_(OPEN_CALLS))
    return tx.execute(query).one_or_none()


def end_call(tx: Tx, facility: str, event: str) -> dict[str, str]:
    """End a margin call that is still open because its facility ends; names the call, for the command log."""
    found = open_call(tx, facility)
    if found is None:
        return {}
    state = step("margin_call", found.state, event)
    tx.execute(margin_calls.update().where(margin_calls.c.id == found.id).values(state=state))
    return {"call": found.id, "call_state": state}


def check_release(tx: Tx, ctx: Context, facility: Any, *, without: Sequence[str], call: Call) -> Cover | None:
    """Return if these pledges may go (formula 12): what stays covers what is owed; the cover that stays, if computed.

    Raises:
        Conflict: ``disputed``, ``call_open``, ``exposure_uncovered``, ``guarantee_needed``.
    """
    if facility.is_disputed:
        raise Conflict("A dispute holds this facility.", code="disputed")
    if open_call(tx, facility.id) is not None:
        raise Conflict("A margin call is open.", code="call_open")
    owed = exposure(tx, facility.lender, facility.borrower)
    if owed.minor == 0:
        return None
    after = cover_of(tx, ctx, facility, call=call, purpose=None, without=without)
    if owed > after.base + Money(facility.margin_cash):
        raise Conflict("Money is still owed on these goods.", code="exposure_uncovered")
    if not ltv_holds(tx, ctx, facility.id, owed, after.gross):
        raise Conflict("Above 75 % the controller's guarantee is needed.", code="guarantee_needed")
    return after


def ltv_holds(tx: Tx, ctx: Context, facility: str, owed: Money, gross: Money) -> bool:
    """Whether the gate lets this exposure pass: at most 75 %, or the controller's guarantee of it is active (N-8)."""
    if ltv_passes(owed, gross, ctx.policy.number("monitoring", "ltv_gate")):
        return True
    own = (guarantees.c.facility == facility) & (guarantees.c.state == "ACTIVE") & (guarantees.c.amount >= owed.minor)
    return tx.execute(sa.select(guarantees.c.id).where(own)).first() is not None


def _read(text: str) -> Money:
    return parse_money(text, is_zero_allowed=True)
