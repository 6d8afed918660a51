"""Commands around a loan: consent, ways out of an application, cover, corrections. Each has its own POST.

A row of ``_ROWS`` is a route: its path, who may call it, the body, the command, and the name under which the command
takes the id in the path.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from api.consoles import case_rows
from api.consoles.commands import Command, Flag, Names, Run, Whole, context_of, fields, fresh_key, run
from api.consoles.common import done, plain, show
from api.forms import read_input
from api.items import json_response
from api.language import language_of
from api.policy import BANK_CHECKER, BANK_STAFF, BORROWER, CUSTODIAN, Policy, Routes, identity
from api.services import Services
from finance import closing, consents, corrections, exits, guarantees, receipts, reviews, screening, substitution
from finance.register import statement


class ConsentIn(Command):
    """Who may use data of which sources, for what, how long."""

    lender: str
    purpose: str
    sources: Names
    days: Whole


class ReturnIn(Command):
    """Why an application goes back."""

    reason_code: str


class AgainIn(Command):
    """What is asked for when an application is submitted again."""

    amount: str
    tenor_days: Whole
    repayment: str = "bullet"


class ListIn(Command):
    """A list of names as CSV."""

    text: str


class ClearIn(Command):
    """Whether the names are others."""

    is_cleared: Flag


class ClearedIn(ClearIn):
    """The proposal about the names that is approved."""

    request: str
    proposal: str


class GuaranteeIn(Command):
    """A signed guarantee."""

    guarantor: str
    amount: str
    document_hash: str


class MortgageIn(Command):
    """A mortgage with its appraisal."""

    title: str
    value: str
    appraised: str
    appraiser: str
    document_hash: str


class StateIn(Command):
    """ACTIVE, REJECTED or RELEASED."""

    state: str


class SettledIn(StateIn):
    """The proposal on a guarantee or mortgage that is approved."""

    request: str
    proposal: str


class GoodsIn(Command):
    """More goods."""

    goods_item: str


class SplitIn(Command):
    """The things or containers into which a receipt is split."""

    parts: Names


class InsteadIn(Command):
    """The pledge that takes the place."""

    instead: str


class SubstituteIn(InsteadIn):
    """The proposal of a substitution that is approved."""

    request: str
    proposal: str


class FeeIn(Command):
    """A fee."""

    amount: str


class PrepayIn(Command):
    """Exactly what is owed today, with the payment's own reference."""

    amount: str
    reference: str


class ReversalIn(Command):
    """The payment that did not hold."""

    reference: str


class ClaimIn(Command):
    """What a fault of the platform cost."""

    amount: str
    grounds: str


class PayIn(Command):
    """Pay or reject."""

    is_paid: Flag


class PaidIn(PayIn):
    """The proposal on a claim that is approved."""

    request: str
    proposal: str


@dataclass(frozen=True)
class _Row:
    path: str
    policy: Policy
    body: type[Command]
    command: Run
    takes: str
    summary: str


_ROWS: Final = (
    _Row("/factory/consents", BORROWER, ConsentIn, consents.grant_consent, "", "Let a bank use data"),
    _Row("/factory/consents/{id}/withdraw", BORROWER, Command, consents.withdraw_consent, "consent",
         "Take a consent back"),
    _Row("/factory/applications/{id}/withdraw", BORROWER, Command, exits.withdraw_application, "application",
         "Take an application back"),
    _Row("/factory/applications/{id}/resubmit", BORROWER, AgainIn, exits.resubmit_application, "application",
         "Submit a returned application again"),
    _Row("/bank/applications/{id}/return", BANK_STAFF, ReturnIn, exits.return_application, "application",
         "Give an application back"),
    _Row("/bank/screening-lists", BANK_STAFF, ListIn, screening.import_list, "", "Take a list of names"),
    _Row("/bank/applications/{id}/screening-proposals", BANK_STAFF, ClearIn, exits.propose_screening, "application",
         "Propose what the names mean"),
    _Row("/bank/applications/{id}/screening", BANK_CHECKER, ClearedIn, exits.settle_screening, "application",
         "Approve what the names mean"),
    _Row("/bank/facilities/{id}/guarantees", BANK_STAFF, GuaranteeIn, guarantees.request_guarantee, "facility",
         "Enter a guarantee"),
    _Row("/bank/guarantees/{id}/proposals", BANK_STAFF, StateIn, guarantees.propose_guarantee, "guarantee",
         "Propose to activate, reject or release a guarantee"),
    _Row("/bank/guarantees/{id}/state", BANK_CHECKER, SettledIn, guarantees.settle_guarantee, "guarantee",
         "Approve what was proposed on a guarantee"),
    _Row("/bank/applications/{id}/mortgages", BANK_STAFF, MortgageIn, guarantees.request_mortgage, "application",
         "Enter a mortgage"),
    _Row("/bank/mortgages/{id}/proposals", BANK_STAFF, StateIn, guarantees.propose_mortgage, "mortgage",
         "Propose to activate, reject or release a mortgage"),
    _Row("/bank/mortgages/{id}/state", BANK_CHECKER, SettledIn, guarantees.settle_mortgage, "mortgage",
         "Approve what was proposed on a mortgage"),
    _Row("/factory/receipts/{id}/split", CUSTODIAN, SplitIn, receipts.split_receipt, "receipt", "Split a receipt"),
    _Row("/factory/facilities/{id}/pledges", BORROWER, GoodsIn, substitution.add_pledge, "facility",
         "Offer more goods"),
    _Row("/bank/pledges/{id}/substitution-proposals", BANK_STAFF, InsteadIn, substitution.propose_substitution,
         "pledge", "Propose goods for other goods"),
    _Row("/bank/pledges/{id}/substitution", BANK_CHECKER, SubstituteIn, substitution.substitute, "pledge",
         "Approve goods for other goods"),
    _Row("/bank/payments/reversals", BANK_CHECKER, ReversalIn, corrections.reverse_payment, "",
         "Take a payment back that did not hold"),
    _Row("/bank/loans/{id}/refund", BANK_CHECKER, Command, corrections.refund_overpayment, "loan",
         "Pay an overpayment back"),
    _Row("/bank/loans/{id}/fees", BANK_CHECKER, FeeIn, corrections.charge_fee, "loan", "Charge a fee"),
    _Row("/bank/sales/{id}/surplus", BANK_CHECKER, Command, corrections.pay_surplus, "sale",
         "Pay the surplus of a sale out"),
    _Row("/factory/loans/{id}/prepayment", BORROWER, PrepayIn, corrections.prepay_in_full, "loan",
         "Pay a loan in full"),
    _Row("/bank/facilities/{id}/termination", BANK_CHECKER, Command, closing.agree_termination, "facility",
         "Agree to end a facility, as the bank"),
    _Row("/factory/facilities/{id}/termination", BORROWER, Command, closing.agree_termination, "facility",
         "Agree to end a facility, as the borrower"),
    _Row("/factory/facilities/{id}/compensation-claims", BORROWER, ClaimIn, closing.claim_compensation, "facility",
         "Claim compensation"),
    _Row("/bank/compensation-claims/{id}/proposals", BANK_STAFF, PayIn, closing.propose_compensation, "claim",
         "Propose to pay or reject a claim"),
    _Row("/bank/compensation-claims/{id}/decision", BANK_CHECKER, PaidIn, closing.settle_compensation, "claim",
         "Approve the payment or rejection of a claim"),
    _Row("/bank/facilities/{id}/limit-reviews", BANK_STAFF, Command, reviews.review_limit, "facility",
         "Compute a limit anew"),
)  # fmt: skip


def install(routes: Routes) -> None:
    """Add the routes."""
    routes.get("/bank/cases", cases, BANK_STAFF, tags=["bank"])
    routes.get("/bank/register/statement", register_statement, BANK_STAFF, tags=["bank"])
    for row in _ROWS:
        is_bank = row.path.startswith("/bank/")
        name = row.command.__name__
        routes.post(
            row.path, _handler(row), row.policy, body=row.body, tags=["bank" if is_bank else "goods side"],
            summary=row.summary, name=name, operation_id=f"{'bank' if is_bank else 'goods'}_{name}",
        )  # fmt: skip


def cases(request: Request) -> Response:
    """What waits for people beside decisions: names that hold, cover, claims, reviews; and proposals to approve."""
    services: Services = request.app.state.services
    with services.db.reading() as tx:
        values = case_rows.cases(tx, identity(request).org, language_of(request))
    may_check = BANK_CHECKER.allows(identity(request))
    return show(request, "bank_cases.html", {**values, "key": fresh_key(services), "may_check": may_check})


def register_statement(request: Request, code: str) -> Response:
    """A signed statement that no pledge rests on goods as of a block, with calls that anyone can repeat."""
    services: Services = request.app.state.services
    with services.db.reading() as tx:
        found = statement(tx, context_of(services), code, now=services.now_ms() // 1_000)
    answer = json_response(plain(found))
    answer.headers["content-disposition"] = f'attachment; filename="not-pledged-{found["block"]["number"]}.json"'
    return answer


def _handler(row: _Row) -> Callable[..., Awaitable[Response]]:
    async def handle(request: Request) -> Response:
        return await _run(request, row, {})

    async def handle_one(request: Request, id: str) -> Response:  # noqa: A002 - the path's own word
        return await _run(request, row, {row.takes: id})

    return handle_one if row.takes else handle


async def _run(request: Request, row: _Row, subject: dict[str, str]) -> Response:
    given = await read_input(request, row.body)
    name = row.command.__name__
    result = await run_in_threadpool(run, request, given, name, row.command, **subject, **fields(given))
    back = "/bank/cases" if row.path.startswith("/bank/") else "/factory"
    return done(request, back, result)
