"""The commands that have a form with a dry run: what each acts on, its fields, and where it leads afterwards."""

from dataclasses import dataclass
from typing import Final

from api.consoles.commands import Run
from api.policy import BANK_CHECKER, BANK_STAFF, BORROWER, CUSTODIAN, Policy
from finance import (
    closing,
    corrections,
    enforcement,
    exits,
    guarantees,
    lending,
    margin,
    pledges,
    receipts,
    substitution,
    token_vault,
    tokens,
)
from finance.token_rules import PURPOSES


@dataclass(frozen=True)
class Field:
    """One input of a form.

    Attributes:
        kind: money, text, whole, date, day (a date that stands for its first second in Shanghai), names, choice,
            flag, digest, bids, partner, secret.
        choices: values of a choice.
    """

    name: str
    kind: str = "text"
    choices: tuple[str, ...] = ()
    value: str = ""
    is_needed: bool = True


@dataclass(frozen=True)
class Act:
    """A command with its form.

    Attributes:
        subject: the kind of thing it acts on (``act_facts``), "" for none.
        takes: under which name the command takes that thing's id.
        draw: (name, how many) fresh random bytes that the command takes.
        proposal: the name of the proposals which this act approves, "" for none.
        seen: members of the proposal that the command takes again, by the command's name of them.
    """

    run: Run
    policy: Policy
    subject: str
    takes: str
    fields: tuple[Field, ...]
    back: str
    draw: tuple[str, int] | None = None
    proposal: str = ""
    seen: tuple[tuple[str, str], ...] = ()
    is_proposed: bool = False


_AMOUNT: Final = Field("amount", "money")
_REFERENCE: Final = Field("reference")
_REPAYMENT: Final = Field("repayment", "choice", ("bullet", "equal_instalment", "interest_only"))
_LOAN: Final = "/bank/loans/{id}"
_APPLICATION: Final = "/bank/applications/{id}"
_FACILITIES: Final = "/bank/facilities"
_TOKENS: Final = "/bank/tokens"
_CONTROLS: Final = (
    Field("merchants", "names", is_needed=False), Field("per_payment", "money"), Field("per_day", "money"),
    Field("total", "money"), Field("payments", "whole", value="1000"), Field("window", is_needed=False),
    Field("valid_from", "day"), Field("valid_until", "day"),
)  # fmt: skip

BANK_ACTS: Final[dict[str, Act]] = {
    "return_application": Act(exits.return_application, BANK_STAFF, "application", "application",
                              (Field("reason_code", "choice", exits.RETURN_CODES),), _APPLICATION),
    "void_pledge": Act(pledges.void_pledge, BANK_STAFF, "pledge", "pledge", (), _FACILITIES),
    "propose_substitution": Act(substitution.propose_substitution, BANK_STAFF, "pledge", "pledge",
                                (Field("instead"),), _FACILITIES, is_proposed=True),
    "substitute": Act(substitution.substitute, BANK_CHECKER, "pledge", "pledge", (), _FACILITIES,
                      proposal="propose_substitution", seen=(("instead", "in"),)),
    "reverse_payment": Act(corrections.reverse_payment, BANK_CHECKER, "payment", "reference", (), "/bank/loans"),
    "refund_overpayment": Act(corrections.refund_overpayment, BANK_CHECKER, "loan", "loan", (), _LOAN),
    "charge_fee": Act(corrections.charge_fee, BANK_CHECKER, "loan", "loan", (_AMOUNT,), _LOAN),
    "prepay_in_full": Act(corrections.prepay_in_full, BANK_STAFF, "loan", "loan", (_AMOUNT, _REFERENCE), _LOAN),
    "repay": Act(lending.repay, BANK_STAFF, "loan", "loan", (_AMOUNT, _REFERENCE), _LOAN),
    "request_guarantee": Act(guarantees.request_guarantee, BANK_STAFF, "facility", "facility",
                             (Field("guarantor"), _AMOUNT, Field("document_hash", "digest")), "/bank/cases"),
    "request_mortgage": Act(guarantees.request_mortgage, BANK_STAFF, "application", "application",
                            (Field("title"), Field("value", "money"), Field("appraised", "date"), Field("appraiser"),
                             Field("document_hash", "digest")), "/bank/cases"),
    "agree_termination": Act(closing.agree_termination, BANK_CHECKER, "facility", "facility", (), _FACILITIES),
    "set_dispute": Act(margin.set_dispute, BANK_CHECKER, "facility", "facility", (Field("is_disputed", "flag"),),
                       _FACILITIES),
    "return_margin": Act(margin.return_margin, BANK_CHECKER, "facility", "facility", (_AMOUNT,), _FACILITIES),
    "book_sale": Act(enforcement.book_sale, BANK_CHECKER, "facility", "facility",
                     (Field("bids", "bids"), Field("costs", "text", value="0.00")), _FACILITIES),
    "recover": Act(enforcement.recover, BANK_STAFF, "facility", "facility", (_AMOUNT, _REFERENCE), _FACILITIES),
    "propose_write_off": Act(enforcement.propose_write_off, BANK_STAFF, "facility", "facility", (), _FACILITIES,
                             is_proposed=True),
    "cure_enforcement": Act(enforcement.cure_enforcement, BANK_CHECKER, "facility", "facility", (), _FACILITIES),
    "link_account": Act(token_vault.link_account, BANK_STAFF, "", "",
                        (Field("borrower"), Field("number", "secret")), _TOKENS,
                        draw=("seed", token_vault.SEED_BYTES)),
    "issue_token": Act(tokens.issue_token, BANK_STAFF, "account", "account",
                       (Field("partner", "partner"), Field("purpose", "choice", PURPOSES), *_CONTROLS), _TOKENS,
                       draw=("secret", tokens.TOKEN_BYTES)),
    "change_token": Act(tokens.change_token, BANK_STAFF, "token", "token", _CONTROLS, _TOKENS),
    "suspend_token": Act(tokens.suspend_token, BANK_STAFF, "token", "token", (), _TOKENS),
    "resume_token": Act(tokens.resume_token, BANK_STAFF, "token", "token", (), _TOKENS),
    "revoke_token": Act(tokens.revoke_token, BANK_STAFF, "token", "token", (), _TOKENS),
    "reverse_spend": Act(tokens.reverse_spend, BANK_STAFF, "spend", "spend", (), _TOKENS),
}  # fmt: skip
"""Acts of a bank's people."""

GOODS_ACTS: Final[dict[str, Act]] = {
    "resubmit_application": Act(exits.resubmit_application, BORROWER, "application", "application",
                                (_AMOUNT, Field("tenor_days", "whole", value="90"), _REPAYMENT), "/factory"),
    "split_receipt": Act(receipts.split_receipt, CUSTODIAN, "receipt", "receipt", (Field("parts", "names"),),
                         "/factory"),
    "end_receipt": Act(receipts.end_receipt, CUSTODIAN, "receipt", "receipt", (Field("deliver", "flag"),), "/factory"),
    "add_pledge": Act(substitution.add_pledge, BORROWER, "facility", "facility", (Field("goods_item"),), "/factory"),
    "repay": Act(lending.repay, BORROWER, "loan", "loan", (_AMOUNT, _REFERENCE), "/factory"),
    "prepay_in_full": Act(corrections.prepay_in_full, BORROWER, "loan", "loan", (_AMOUNT, _REFERENCE), "/factory"),
    "claim_compensation": Act(closing.claim_compensation, BORROWER, "facility", "facility",
                              (_AMOUNT, Field("grounds")), "/factory"),
    "agree_termination": Act(closing.agree_termination, BORROWER, "facility", "facility", (), "/factory"),
    "set_dispute": Act(margin.set_dispute, BORROWER, "facility", "facility", (Field("is_disputed", "flag"),),
                       "/factory"),
}  # fmt: skip
"""Acts of the goods side: borrowers and custodians."""
