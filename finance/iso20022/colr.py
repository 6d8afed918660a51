"""colr: the bank's margin call (003), the proposal to meet it (007), and the exchange of pledged goods (010).

Party A is the lender, party B the borrower, both by GLN. Goods are "other collateral": a warehouse receipt, known by
its pledge, with the net collateral value that the lender's valuation gives it.
"""

from dataclasses import dataclass
from datetime import date
from typing import Any, Final

import sqlalchemy as sa
from xsdata.models.datatype import XmlDate

from core.canonical import b64u
from core.errors import Conflict, Rejected
from core.identifiers import gln_of
from core.money import Money
from finance.cover import cover_of
from finance.iso20022.forms import MARGIN_CALL, PROPOSAL, SUBSTITUTION, Form, amount, render
from finance.iso20022.pain import message_id
from finance.model import Call, Context
from finance.states import LIVE_PLEDGES
from finance.tables import facilities, margin_calls, pledges
from ledger.database import Tx

_EXPOSURE: Final = "SLOA"  # secured loan


@dataclass(frozen=True)
class Goods:
    """A pledged warehouse receipt with its net collateral value."""

    pledge: str
    receipt: str
    value: Money


def margin_call_message(tx: Tx, lender: str, call: str) -> bytes:
    """The colr.003 of a margin call in its present version.

    Raises:
        Rejected: ``no_such_call``.
    """
    row, facility = _call(tx, lender, call)
    form = MARGIN_CALL.classes
    result = form.Result1(
        due_to_pty_a=amount(MARGIN_CALL, Money(row.amount)),
        addtl_inf=f"Margin call {row.id}, version {row.version}, due {row.due.isoformat()}, state {row.state}",
    )
    request = form.MarginCallRequestV05(
        tx_id=_call_id(row), oblgtn=_obligation(MARGIN_CALL, facility, row.opened),
        mrgn_call_rslt=form.MarginCallResult3(mrgn_call_rslt=form.MarginCallResult2Choice(mrgn_call_amt=result)),
    )  # fmt: skip
    return render(form.Document(mrgn_call_req=request), MARGIN_CALL)


def proposal_message(tx: Tx, ctx: Context, lender: str, call: str, pledge: str, *, at: Call) -> bytes:
    """The colr.007 by which further pledged goods are proposed on an open margin call.

    Raises:
        Rejected: ``no_such_call``, ``no_such_pledge``. Conflict: ``call_closed``, ``pledge_not_active``.
    """
    row, facility = _call(tx, lender, call)
    if row.state not in ("OPEN", "NOTIFIED", "PARTIALLY_CURED"):
        raise Conflict("This margin call is closed.", code="call_closed")
    goods = _goods(tx, ctx, facility, pledge, at)
    form = PROPOSAL.classes
    delivered = form.Collateral55(
        mrgn_call_req_id=_call_id(row), othr_coll=[_other(PROPOSAL, "OtherCollateral9", goods)]
    )
    move = form.CollateralMovement6Choice(coll_mvmnt_drctn=form.CollateralMovement13(dlvr=delivered))
    details = form.CollateralProposal7(
        vartn_mrgn=form.CollateralMovement12(agrd_amt=amount(PROPOSAL, Money(row.amount)), mvmnt_drctn=[move])
    )
    proposal = form.CollateralProposalV06(
        tx_id=message_id(f"colr.007/{row.id}/{row.version}/{pledge}"),
        oblgtn=_obligation(PROPOSAL, facility, at.business_date),
        tp_and_dtls=form.Proposal6(
            coll_prpsl_tp=form.ProposalType1Code.INIT,
            coll_prpsl=form.CollateralProposal6Choice(coll_prpsl_dtls=details),
        ),
    )
    return render(form.Document(coll_prpsl=proposal), PROPOSAL)


def substitution_message(tx: Tx, ctx: Context, lender: str, returned: str, delivered: str, *, at: Call) -> bytes:
    """The colr.010 that asks to return pledged goods against others of the same facility.

    Args:
        returned: the pledge that is to be released.
        delivered: the pledge that stands in its place, active by then (formula 12).

    Raises:
        Rejected: ``no_such_pledge``. Conflict: ``pledge_not_active``, ``value_too_low`` when less comes than goes.
    """
    facility = _facility_of(tx, lender, returned)
    out, come = _goods(tx, ctx, facility, returned, at), _goods(tx, ctx, facility, delivered, at)
    if out.pledge == come.pledge or come.value < out.value:
        raise Conflict("What comes must be worth at least what goes.", code="value_too_low", pointer="delivered")
    form = SUBSTITUTION.classes
    first, kind = form.CollateralSubstitutionSequence1Code.INIT, form.CollateralSubstitutionType1Code.AVMG
    request = form.CollateralSubstitutionRequestV05(
        tx_id=message_id(f"colr.010/{returned}/{delivered}"),
        oblgtn=_obligation(SUBSTITUTION, facility, at.business_date),
        coll_sbstitn_rtr=form.CollateralSubstitution7(
            coll_sbstitn_seq=first, sbstitn_rqrmnt=amount(SUBSTITUTION, out.value), coll_sbstitn_tp=kind,
            othr_coll=[_other(SUBSTITUTION, "OtherCollateral11", out)],
        ),
        coll_sbstitn_dlvr=form.CollateralSubstitution8(
            coll_sbstitn_seq=first, sbstitn_rqrmnt=amount(SUBSTITUTION, come.value), coll_sbstitn_tp=kind,
            othr_coll=[_other(SUBSTITUTION, "OtherCollateral9", come)],
        ),
    )  # fmt: skip
    return render(form.Document(coll_sbstitn_req=request), SUBSTITUTION)


def _call_id(row: Any) -> str:
    return message_id(f"colr.003/{row.id}/{row.version}")


def _call(tx: Tx, lender: str, call: str) -> tuple[Any, Any]:
    row = tx.execute(sa.select(margin_calls).where(margin_calls.c.id == call)).one_or_none()
    facility = None if row is None else _facility(tx, lender, row.facility)
    if row is None or facility is None:
        raise Rejected("There is no such margin call.", code="no_such_call", pointer="call")
    return row, facility


def _facility(tx: Tx, lender: str, ident: str) -> Any | None:
    own = (facilities.c.id == ident) & (facilities.c.lender == lender)
    return tx.execute(sa.select(facilities).where(own)).one_or_none()


def _facility_of(tx: Tx, lender: str, pledge: str) -> Any:
    ident = tx.execute(sa.select(pledges.c.facility).where(pledges.c.id == pledge)).scalar_one_or_none()
    facility = None if ident is None else _facility(tx, lender, ident)
    if facility is None:
        raise Rejected("There is no such pledge.", code="no_such_pledge", pointer="pledge")
    return facility


def _goods(tx: Tx, ctx: Context, facility: Any, pledge: str, at: Call) -> Goods:
    query = sa.select(pledges).where(pledges.c.facility == facility.id, pledges.c.state.in_(LIVE_PLEDGES))
    live = {row.id: row for row in tx.execute(query)}
    row = live.get(pledge)
    if row is None:
        raise Rejected("There is no such live pledge on this facility.", code="no_such_pledge", pointer="pledge")
    if row.state != "ACTIVE":
        raise Conflict(f"The pledge is {row.state}.", code="pledge_not_active")
    alone = cover_of(tx, ctx, facility, call=at, purpose=None, only=[pledge])
    return Goods(pledge, b64u(bytes(row.receipt)), alone.net)


def _obligation(form: Form, facility: Any, day: date) -> Any:
    kinds = form.classes
    return kinds.Obligation9(
        pty_a=_party(form, facility.lender), pty_b=_party(form, facility.borrower),
        xpsr_tp=kinds.ExposureType11Code(_EXPOSURE), valtn_dt=kinds.DateAndDateTime2Choice(dt=XmlDate.from_date(day)),
    )  # fmt: skip


def _party(form: Form, org: str) -> Any:
    kinds = form.classes
    ident = kinds.GenericIdentification36(id=gln_of(org), issr="GS1", schme_nm="GLN")
    return kinds.PartyIdentification178Choice(prtry_id=ident)


def _other(form: Form, kind: str, goods: Goods) -> Any:
    what = form.classes.OtherTypeOfCollateral3(desc=f"warehouse receipt {goods.receipt}")
    return getattr(form.classes, kind)(
        coll_id=goods.pledge[:35], othr_tp_of_coll=what, coll_val=amount(form, goods.value)
    )
