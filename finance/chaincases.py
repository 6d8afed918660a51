"""Cases for people: what the chain refused, where it stands now, and how it goes on.

A case is no record of its own: it is a pledge or receipt whose last chain_tx reverted, so it begins and ends with that.
"""

from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from core.canonical import b64u, unb64u
from core.errors import Conflict, Rejected
from finance.commandlog import command
from finance.enforcement import send_enforcement
from finance.inputs import exposure
from finance.lending import bank_facility
from finance.model import Actor, Call, Context
from finance.pledges import pledge_row
from finance.receiptchain import GIVE_BACK, give_back, split_again
from finance.receipts import receipt_row
from finance.states import step
from finance.tables import facilities, pledges, receipts
from ledger.chain_book import state_of
from ledger.chain_tx_tables import chain_tx
from ledger.database import Tx

APPROVAL_S: Final = 7 * 86_400
"""How long two persons' word to enforce lasts when the chain did not take it; as any approval."""
CASES_MAX: Final = 500
_REFUSED: Final = ("reverted", "lost")
_NEXT: Final = {"enforce": "retry", "settle": "retry", "cure": "retry", "release": "request_release"}


@dataclass(frozen=True)
class ChainCase:
    """Something that the chain refused and a person has to see to.

    Attributes:
        kind: pledge or receipt; ``subject`` is its id as commands take it.
        purpose: what was sent; ``reason`` the contract's own word.
        next: the command that goes on: ``retry``, or the one that asks anew.
    """

    kind: str
    subject: str
    state: str
    purpose: str
    reason: str
    since_ms: int
    next: str


def chain_cases(tx: Tx, org: str) -> list[ChainCase]:
    """The cases of an organisation, as lender or as custodian; the oldest first."""
    found = [*_of_pledges(tx, org), *_of_receipts(tx, org)]
    return sorted(found, key=lambda case: (case.since_ms, case.subject))[:CASES_MAX]


def retry_pledge(tx: Tx, ctx: Context, actor: Actor, *, pledge: str, key: str, reason: str, now: int) -> dict[str, Any]:
    """Send to the chain again what it refused of a pledge: its enforcement, its sale or its cure.

    Raises:
        Rejected: ``not_allowed``, ``no_such_pledge``.
        Conflict: ``nothing_to_retry``, ``ask_again``, ``expired``, ``disputed``, ``nothing_owed``,
            ``illegal_transition``.
    """
    actor.need("bank_checker")

    def act(call: Call) -> dict[str, Any]:
        found = pledge_row(tx, pledge)
        if found.lender != actor.org:
            raise Rejected("There is no such pledge.", code="no_such_pledge", pointer="pledge")
        facility = bank_facility(tx, actor, found.facility)
        row = pledge_row(tx, pledge, for_update=True)
        refused = _refused(tx, row.chain_tx)
        if _NEXT.get(refused.purpose) != "retry":
            raise Conflict("This is not sent again: ask for it anew.", code="ask_again")
        state = facility.state
        if refused.purpose == "enforce":
            state = _enforce_again(tx, facility, refused, now)
        sent = send_enforcement(tx, ctx, row, refused.purpose, key, now)
        return {"pledge": pledge, "facility": facility.id, "state": state, "purpose": refused.purpose, "chain_tx": sent}

    return command(
        tx, ctx, name="retry_pledge", actor=actor, key=key, reason=reason, now=now, body={"pledge": pledge}, act=act
    )


def retry_receipt(
    tx: Tx, ctx: Context, actor: Actor, *, receipt: str, key: str, reason: str, now: int
) -> dict[str, Any]:
    """The custodian sends again what the chain refused of a split, of a child's seal, or of giving claims back.

    Raises:
        Rejected: ``not_allowed``, ``no_such_receipt``. Conflict: ``nothing_to_retry``.
    """
    actor.need("custodian")

    def act(call: Call) -> dict[str, Any]:
        row = receipt_row(tx, unb64u(receipt, length=32), for_update=True)
        if row.custodian != actor.org:
            raise Rejected("This is another custodian's receipt.", code="not_allowed")
        if row.parent is not None and row.state == "REGISTERING":
            row = receipt_row(tx, bytes(row.parent), for_update=True)
        if row.state == "CANCELLING":
            if _refused(tx, row.chain_tx).purpose != GIVE_BACK:
                raise Conflict("Nothing waits to be sent again.", code="nothing_to_retry")
            sent = [give_back(tx, ctx, row, key=key, now=now)]
        else:
            sent = split_again(tx, ctx, row, key=key, now=now) if row.state in ("SPLITTING", "SPLIT") else []
        if not sent:
            raise Conflict("Nothing waits to be sent again.", code="nothing_to_retry")
        return {"receipt": receipt, "state": row.state, "chain_tx": sent[-1]}

    return command(
        tx, ctx, name="retry_receipt", actor=actor, key=key, reason=reason, now=now, body={"receipt": receipt}, act=act
    )


def _enforce_again(tx: Tx, facility: Any, refused: Any, now: int) -> str:
    if facility.is_disputed:
        raise Conflict("A dispute holds this facility.", code="disputed")
    if now * 1_000 - refused.created_ms > APPROVAL_S * 1_000:
        raise Conflict("The approval to enforce has expired: propose it again.", code="expired")
    if exposure(tx, facility.lender, facility.borrower).minor == 0:
        raise Conflict("Nothing is owed any more.", code="nothing_owed")
    if facility.state == "ENFORCING":
        return str(facility.state)
    state = step("facility", facility.state, "enforce")
    tx.execute(facilities.update().where(facilities.c.id == facility.id).values(state=state))
    return state


def _refused(tx: Tx, ident: int | None) -> Any:
    found = None if ident is None else state_of(tx, ident)
    if found is None or found.state not in _REFUSED:
        raise Conflict("Nothing waits to be sent again.", code="nothing_to_retry")
    return found


def _of_pledges(tx: Tx, org: str) -> list[ChainCase]:
    query = (
        sa.select(pledges.c.id, pledges.c.state, chain_tx.c.purpose, chain_tx.c.reason, chain_tx.c.changed_ms)
        .join(chain_tx, chain_tx.c.id == pledges.c.chain_tx)
        .where(
            pledges.c.lender == org, pledges.c.state.in_(("ACTIVE", "ENFORCING")), chain_tx.c.state.in_(_REFUSED),
            chain_tx.c.purpose.in_(tuple(_NEXT)),
        )
    )  # fmt: skip
    return [
        ChainCase("pledge", row.id, row.state, row.purpose, row.reason or "", row.changed_ms, _NEXT[row.purpose])
        for row in tx.execute(query.order_by(pledges.c.id).limit(CASES_MAX))
    ]


def _of_receipts(tx: Tx, org: str) -> list[ChainCase]:
    query = (
        sa.select(receipts.c.id, receipts.c.state, chain_tx.c.purpose, chain_tx.c.reason, chain_tx.c.changed_ms)
        .join(chain_tx, chain_tx.c.id == receipts.c.chain_tx)
        .where(
            receipts.c.custodian == org, chain_tx.c.state.in_(_REFUSED),
            receipts.c.state.in_(("REGISTERING", "SPLITTING", "CANCELLING", "SEALED")),
            chain_tx.c.purpose.in_(("seal", "split", GIVE_BACK, "deliver", "cancel")),
        )
    )  # fmt: skip
    return [
        ChainCase(
            "receipt", b64u(bytes(row.id)), row.state, row.purpose, row.reason or "", row.changed_ms,
            "end_receipt" if row.purpose in ("deliver", "cancel") else
            "split_receipt" if row.state == "SEALED" else "retry",
        )
        for row in tx.execute(query.order_by(receipts.c.id).limit(CASES_MAX))
    ]  # fmt: skip
