"""pain.001: the bank's order to pay out a draw, margin cash that goes back, or the surplus of a sale.

Each order follows from what the journal or a sale already says; made again, it has the same bytes and the same ids,
by which the paying system knows a repetition. Account numbers stay in the bank's vault: the order names accounts by
reference, which the vault resolves.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final

import sqlalchemy as sa
from xsdata.models.datatype import XmlDate, XmlDateTime

from core.canonical import sha256
from core.errors import Conflict, Rejected
from core.identifiers import gln_of
from core.money import Money
from finance.iso20022.forms import PAYMENT, amount, render
from finance.journal import DEPOSITS, MARGIN, PAYABLE
from finance.tables import borrowers, entries, facilities, loans, sales
from ledger.database import Tx

_INSTRUCTED: Final = "ActiveOrHistoricCurrencyAndAmount"


@dataclass(frozen=True)
class Order:
    """One credit transfer.

    Attributes:
        ident: what is paid, unique for ever; at most 35 characters.
        debit: reference of the account that pays.
        at_s: unix seconds when the payment was decided.
    """

    ident: str
    lender: str
    borrower: str
    money: Money
    debit: str
    purpose: str
    day: date
    at_s: int


def draw_order(tx: Tx, lender: str, loan: str) -> bytes:
    """The pain.001 that pays a draw out.

    Raises:
        Rejected: ``no_such_loan``.
    """
    own = (loans.c.id == loan) & (facilities.c.lender == lender)
    query = sa.select(loans, facilities.c.borrower).join(facilities, facilities.c.id == loans.c.facility).where(own)
    row = tx.execute(query).one_or_none()
    entry = _entry(tx, lender, f"draw/{loan}")
    if row is None or entry is None:
        raise Rejected("There is no such loan.", code="no_such_loan", pointer="loan")
    debit = f"{DEPOSITS}/{row.facility}"
    return _render(tx, Order(loan, lender, row.borrower, Money(entry.debit_minor), debit, f"Draw {loan}",
                             entry.business_date, entry.at_s))  # fmt: skip


def margin_order(tx: Tx, lender: str, number: int) -> bytes:
    """The pain.001 that pays margin cash back, by the number of its journal entry.

    Raises:
        Rejected: ``no_such_entry``: there is none, or it is no margin return.
    """
    own = (entries.c.number == number) & (entries.c.lender == lender) & (entries.c.kind == "margin_return")
    entry = tx.execute(sa.select(entries).where(own)).one_or_none()
    if entry is None:
        raise Rejected("There is no such margin return.", code="no_such_entry", pointer="entry")
    facility = entry.reference.split("/")[1]
    order = Order(f"margin-{number}", lender, _borrower(tx, facility), Money(entry.debit_minor),
                  f"{MARGIN}/{facility}", f"Margin return {facility}", entry.business_date, entry.at_s)  # fmt: skip
    return _render(tx, order)


def surplus_order(tx: Tx, lender: str, sale: str) -> bytes:
    """The pain.001 that pays the surplus of an enforcement sale to the borrower.

    Raises:
        Rejected: ``no_such_sale``. Conflict: ``nothing_due`` where the sale left no surplus.
    """
    own = (sales.c.id == sale) & (facilities.c.lender == lender)
    query = sa.select(sales, facilities.c.borrower).join(facilities, facilities.c.id == sales.c.facility).where(own)
    row, entry = tx.execute(query).one_or_none(), _entry(tx, lender, f"sale/{sale}")
    if row is None or entry is None:
        raise Rejected("There is no such sale.", code="no_such_sale", pointer="sale")
    if not row.surplus:
        raise Conflict("This sale left no surplus.", code="nothing_due")
    order = Order(f"surplus-{sale}", lender, row.borrower, Money(row.surplus), f"{PAYABLE}/{row.facility}",
                  f"Surplus of sale {sale}", row.business_date, entry.at_s)  # fmt: skip
    return _render(tx, order)


def message_id(ident: str) -> str:
    """A message's id: the same for the same subject, 35 characters at most."""
    return f"TB-{sha256(ident.encode()).hex()[:32]}"


def time_of(at_s: int) -> XmlDateTime:
    """Unix seconds as the UTC time of a message."""
    return XmlDateTime.from_datetime(datetime.fromtimestamp(at_s, UTC))


def _render(tx: Tx, order: Order) -> bytes:
    query = sa.select(borrowers.c.legal_name).where(
        borrowers.c.lender == order.lender, borrowers.c.org == order.borrower
    )
    name = tx.execute(query).scalar_one_or_none() or ""
    return render(_document(order, name[:140] or None), PAYMENT)


def _document(order: Order, name: str | None) -> Any:
    form = PAYMENT.classes
    ident, total = message_id(f"pain.001/{order.lender}/{order.ident}"), Decimal(order.money.text())
    transfer = form.CreditTransferTransaction34(
        pmt_id=form.PaymentIdentification6(instr_id=ident, end_to_end_id=order.ident),
        amt=form.AmountType4Choice(instd_amt=amount(PAYMENT, order.money, _INSTRUCTED)),
        cdtr=_party(order.borrower, name),
        cdtr_acct=_account(f"{DEPOSITS}/{gln_of(order.borrower)}"),
        rmt_inf=form.RemittanceInformation16(ustrd=[order.purpose]),
    )
    payment = form.PaymentInstruction30(
        pmt_inf_id=ident, pmt_mtd=form.PaymentMethod3Code.TRF, nb_of_txs="1", ctrl_sum=total,
        reqd_exctn_dt=form.DateAndDateTime2Choice(dt=XmlDate.from_date(order.day)),
        dbtr=_party(order.lender, None), dbtr_acct=_account(order.debit),
        dbtr_agt=form.BranchAndFinancialInstitutionIdentification6(
            fin_instn_id=form.FinancialInstitutionIdentification18(
                othr=form.GenericFinancialIdentification1(
                    id=gln_of(order.lender), schme_nm=form.FinancialIdentificationSchemeName1Choice(prtry="GLN")
                )
            )
        ),
        cdt_trf_tx_inf=[transfer],
    )  # fmt: skip
    header = form.GroupHeader85(
        msg_id=ident, cre_dt_tm=time_of(order.at_s), nb_of_txs="1", ctrl_sum=total, initg_pty=_party(order.lender, None)
    )
    return form.Document(
        cstmr_cdt_trf_initn=form.CustomerCreditTransferInitiationV09(grp_hdr=header, pmt_inf=[payment])
    )


def _party(org: str, name: str | None) -> Any:
    form = PAYMENT.classes
    other = form.GenericOrganisationIdentification1(
        id=gln_of(org), schme_nm=form.OrganisationIdentificationSchemeName1Choice(prtry="GLN"), issr="GS1"
    )
    ident = form.Party38Choice(org_id=form.OrganisationIdentification29(othr=[other]))
    return form.PartyIdentification135(nm=name, id=ident)


def _account(reference: str) -> Any:
    form = PAYMENT.classes
    other = form.GenericAccountIdentification1(
        id=reference, schme_nm=form.AccountSchemeName1Choice(prtry="VAULT-REFERENCE")
    )
    return form.CashAccount38(id=form.AccountIdentification4Choice(othr=other), ccy="CNY")


def _entry(tx: Tx, lender: str, reference: str) -> Any | None:
    own = (entries.c.reference == reference) & (entries.c.lender == lender)
    return tx.execute(sa.select(entries).where(own)).one_or_none()


def _borrower(tx: Tx, facility: str) -> str:
    return str(tx.execute(sa.select(facilities.c.borrower).where(facilities.c.id == facility)).scalar_one())
