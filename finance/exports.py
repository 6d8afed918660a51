"""What a bank takes away as files: applications, loans, schedule, journal, balances, provisions, calls, commands."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import IO, Any, Final

import sqlalchemy as sa

from core.canonical import b64u
from core.errors import Rejected
from core.money import Money, parse_money
from finance.journal import account_names, control_differences, trial_balance
from finance.sheets import Cell, Sheet, write_csv, write_xlsx
from finance.tables import (
    applications,
    command_log,
    entries,
    facilities,
    loans,
    margin_calls,
    postings,
    provisions,
    schedule_lines,
)
from ledger.database import Tx

FORMATS: Final = ("csv", "xlsx")
_PART: Final = 2_000  # rows that the database hands over at a time
Row = Sequence[Cell]


def export(tx: Tx, kind: str, lender: str, *, form: str, file: IO[bytes], now: int, lang: str = "en") -> None:
    """Write one export of a bank into a file.

    Args:
        lender: canonical id of the bank; nothing of another bank is in the file.
        form: csv or xlsx.
        now: unix seconds, the file's time of making.

    Raises:
        Rejected: ``unknown_export``, ``unknown_format``, ``too_many_rows``.
    """
    if form not in FORMATS:
        raise Rejected(f"An export is {' or '.join(FORMATS)}.", code="unknown_format", pointer="format")
    sheet = export_sheet(tx, kind, lender, lang=lang)
    if form == "csv":
        write_csv(sheet, file)
    else:
        write_xlsx([sheet], file, title=f"{kind} {lender}", made_at=utc(now))


def export_sheet(tx: Tx, kind: str, lender: str, *, lang: str = "en") -> Sheet:
    """One export of a bank as a table whose rows are read from the database as they are taken.

    Raises:
        Rejected: ``unknown_export``.
    """
    found = _EXPORTS.get(kind)
    if found is None:
        raise Rejected(f"The exports are {', '.join(_EXPORTS)}.", code="unknown_export", pointer="kind")
    heads, rows = found
    return Sheet(kind, [_HEADS[name][lang != "zh"] for name in heads.split()], rows(tx, lender))


def utc(at_s: int) -> datetime:
    """Unix seconds as the time that a cell holds: UTC without its zone."""
    return datetime.fromtimestamp(at_s, UTC).replace(tzinfo=None)


def _rows(tx: Tx, query: sa.Select[Any]) -> Iterator[Any]:
    yield from tx.execute(query.execution_options(yield_per=_PART))


def _applications(tx: Tx, lender: str) -> Iterator[Row]:
    own = sa.select(applications).where(applications.c.lender == lender)
    for row in _rows(tx, own.order_by(applications.c.created_s, applications.c.id)):
        decision: Mapping[str, Any] = json.loads(row.decision).get("decision") or {}
        yield (
            row.id, utc(row.created_s), row.borrower, Money(row.amount), row.tenor_days, row.purpose, row.state,
            decision.get("grade"), _text(decision.get("confidence")), _money(decision.get("borrowing_base")),
            _money(decision.get("limit")), _text(decision.get("ltv")), decision.get("outcome"),
            ", ".join(str(reason.get("code", "")) for reason in decision.get("reasons", ())), row.maker,
            utc(row.expires_s), row.note, decision.get("policy"), b64u(bytes(row.terms_hash)),
        )  # fmt: skip


def _loans(tx: Tx, lender: str) -> Iterator[Row]:
    query = (
        sa.select(loans, facilities.c.borrower, facilities.c.rate_e10, facilities.c.day_count)
        .join(facilities, facilities.c.id == loans.c.facility)
        .where(facilities.c.lender == lender)
    )
    for row in _rows(tx, query.order_by(loans.c.id)):
        yield (
            row.id, row.facility, row.borrower, row.started, Money(row.principal), Money(row.balance),
            Money(row.interest_due), Money(row.suspended), Money(row.overpaid), row.overdue_days,
            row._mapping["class"], row.state, f"{row.rate_e10 // 10**8}.{row.rate_e10 % 10**8:08d}", row.day_count,
            row.accrued_to,
        )  # fmt: skip


def _schedule(tx: Tx, lender: str) -> Iterator[Row]:
    query = (
        sa.select(schedule_lines)
        .join(loans, loans.c.id == schedule_lines.c.loan)
        .join(facilities, facilities.c.id == loans.c.facility)
        .where(facilities.c.lender == lender)
        .order_by(schedule_lines.c.loan, schedule_lines.c.number)
    )
    amounts = ("principal", "interest", "principal_paid", "interest_grown", "interest_paid", "penalty",
               "penalty_paid", "fee", "fee_paid")  # fmt: skip
    for row in _rows(tx, query):
        values: Mapping[str, Any] = row._mapping
        provisional = "provisional" if row.is_provisional else ""
        yield (row.loan, row.number, row.due, row.rolled, provisional, *(Money(values[name]) for name in amounts))


def _journal(tx: Tx, lender: str) -> Iterator[Row]:
    names = account_names(tx)
    query = (
        sa.select(entries, postings.c.line, postings.c.account, postings.c.debit_minor.label("debit"),
                  postings.c.credit_minor.label("credit"))
        .join(postings, postings.c.entry == entries.c.number)
        .where(entries.c.lender == lender)
        .order_by(entries.c.number, postings.c.line)
    )  # fmt: skip
    for row in _rows(tx, query):
        yield (
            row.number, row.line, row.business_date, utc(row.at_s), row.kind, row.reference, row.loan, row.account,
            " / ".join(names.get(row.account, ("", ""))), Money(row.debit), Money(row.credit), row.currency,
        )  # fmt: skip


def _trial_balance(tx: Tx, lender: str) -> Iterator[Row]:
    names, differences = account_names(tx), control_differences(tx, lender)
    sums = trial_sums(tx, lender)
    for code in sorted({*sums, *differences}):
        debit, credit = sums.get(code, (Money(0), Money(0)))
        yield (
            code, *names.get(code, ("", "")), debit, credit, debit - credit, differences.get(code, Money(0)),
        )  # fmt: skip


def trial_sums(tx: Tx, lender: str) -> dict[str, tuple[Money, Money]]:
    """By account what was debited and credited in all."""
    query = (
        sa.select(postings.c.account, sa.func.sum(postings.c.debit_minor), sa.func.sum(postings.c.credit_minor))
        .join(entries, entries.c.number == postings.c.entry)
        .where(entries.c.lender == lender)
        .group_by(postings.c.account)
    )
    return {code: (Money(int(debit)), Money(int(credit))) for code, debit, credit in tx.execute(query)}


def books_state(tx: Tx, lender: str) -> dict[str, Any]:
    """The trial balance with its sum, and where control accounts differ from the loans (V4, V5)."""
    balance, differences = trial_balance(tx, lender), control_differences(tx, lender)
    names = account_names(tx)
    sums = trial_sums(tx, lender)
    return {
        "accounts": [
            {"code": code, "name": names.get(code, ("", "")), "debit": sums[code][0].minor,
             "credit": sums[code][1].minor, "balance": balance[code].minor,
             "difference": differences.get(code, Money(0)).minor}
            for code in sorted(balance)
        ],
        "total": sum(value.minor for value in balance.values()),
        "differences": {code: value.minor for code, value in differences.items()},
    }  # fmt: skip


def _provisions(tx: Tx, lender: str) -> Iterator[Row]:
    query = sa.select(provisions).where(provisions.c.lender == lender)
    for row in _rows(tx, query.order_by(provisions.c.business_date, provisions.c["class"])):
        yield (row.business_date, row._mapping["class"], Money(row.balance), Money(row.amount))


def _margin_calls(tx: Tx, lender: str) -> Iterator[Row]:
    query = (
        sa.select(margin_calls, facilities.c.borrower)
        .join(facilities, facilities.c.id == margin_calls.c.facility)
        .where(facilities.c.lender == lender)
    )
    for row in _rows(tx, query.order_by(margin_calls.c.opened, margin_calls.c.id)):
        yield (
            row.id, row.facility, row.borrower, row.version, Money(row.amount), row.opened, row.due, row.recovered,
            row.state,
        )  # fmt: skip


def _command_log(tx: Tx, lender: str) -> Iterator[Row]:
    query = sa.select(command_log).where(command_log.c.org == lender).order_by(command_log.c.number)
    for row in _rows(tx, query):
        yield (
            row.number, utc(row.at_s), row.business_date, row.name, row.person, row.user, row.reason, row.policy,
            row.key, row.body, row.result, b64u(bytes(row.row_hash)),
        )  # fmt: skip


def _money(text: Any) -> Money | None:
    return None if text is None else parse_money(str(text), is_zero_allowed=True)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


_EXPORTS: Final[Mapping[str, tuple[str, Callable[[Tx, str], Iterator[Row]]]]] = {
    "applications": (
        "application created borrower amount tenor purpose state grade confidence base limit ltv outcome reasons "
        "maker expires note policy terms_hash", _applications),
    "loans": (
        "loan facility borrower started principal balance interest_due suspended overpaid overdue class state rate "
        "day_count accrued_to", _loans),
    "schedule": (
        "loan line due rolled provisional principal interest principal_paid interest_grown interest_paid penalty "
        "penalty_paid fee fee_paid", _schedule),
    "journal": (
        "entry line business_date booked kind reference loan account account_name debit credit currency", _journal),
    "trial-balance": ("account name_zh name_en debit credit balance difference", _trial_balance),
    "provisions": ("business_date class balance provision", _provisions),
    "margin-calls": ("call facility borrower version amount opened due recovered state", _margin_calls),
    "command-log": (
        "number at business_date command person user reason policy key body result row_hash", _command_log),
}  # fmt: skip
KINDS: Final = tuple(_EXPORTS)
"""The names of the exports."""

_HEADS: Final[Mapping[str, tuple[str, str]]] = {
    "account": ("科目", "Account"), "account_name": ("科目名称", "Account name"),
    "accrued_to": ("计息至", "Accrued to"),
    "amount": ("金额(元)", "Amount (CNY)"), "application": ("申请", "Application"), "at": ("时间(UTC)", "Time (UTC)"),
    "balance": ("余额(元)", "Balance (CNY)"), "base": ("可借基数(元)", "Borrowing base (CNY)"),
    "body": ("命令内容", "Body"), "booked": ("记账时间(UTC)", "Booked (UTC)"), "borrower": ("借款企业", "Borrower"),
    "business_date": ("营业日", "Business date"), "call": ("追加通知", "Margin call"), "class": ("五级分类", "Class"),
    "command": ("命令", "Command"), "confidence": ("证据可信度", "Confidence"),
    "created": ("提出(UTC)", "Created (UTC)"),
    "credit": ("贷方(元)", "Credit (CNY)"), "currency": ("币种", "Currency"), "day_count": ("计息基础", "Day count"),
    "debit": ("借方(元)", "Debit (CNY)"), "difference": ("与明细差额(元)", "Difference from loans (CNY)"),
    "due": ("到期日", "Due"), "entry": ("分录", "Entry"), "expires": ("有效至(UTC)", "Expires (UTC)"),
    "facility": ("授信", "Facility"), "fee": ("费用(元)", "Fee (CNY)"), "fee_paid": ("已付费用(元)", "Fee paid (CNY)"),
    "grade": ("等级", "Grade"), "interest": ("计划利息(元)", "Planned interest (CNY)"),
    "interest_due": ("应收利息(元)", "Interest due (CNY)"), "interest_grown": ("应计利息(元)", "Interest grown (CNY)"),
    "interest_paid": ("已付利息(元)", "Interest paid (CNY)"), "key": ("幂等键", "Idempotency key"),
    "kind": ("类型", "Kind"), "limit": ("额度(元)", "Limit (CNY)"), "line": ("行", "Line"), "loan": ("贷款", "Loan"),
    "ltv": ("质押率", "Loan to value"), "maker": ("经办", "Maker"), "name_en": ("英文名称", "Name (English)"),
    "name_zh": ("中文名称", "Name (Chinese)"), "note": ("备注", "Note"), "number": ("序号", "Number"),
    "opened": ("发出日", "Opened"), "outcome": ("结论", "Outcome"), "overdue": ("逾期天数", "Days overdue"),
    "overpaid": ("多付(元)", "Overpaid (CNY)"), "penalty": ("罚息(元)", "Penalty (CNY)"),
    "penalty_paid": ("已付罚息(元)", "Penalty paid (CNY)"), "person": ("人员", "Person"),
    "policy": ("政策版本", "Policy"), "principal": ("本金(元)", "Principal (CNY)"),
    "principal_paid": ("已付本金(元)", "Principal paid (CNY)"), "provision": ("准备金(元)", "Provision (CNY)"),
    "provisional": ("暂定", "Provisional"), "purpose": ("用途", "Purpose"), "rate": ("年利率(%)", "Rate (% a year)"),
    "reason": ("理由", "Reason"), "reasons": ("主要理由", "Reasons"), "recovered": ("价格回升日", "Recovered"),
    "reference": ("参考号", "Reference"), "result": ("结果", "Result"), "rolled": ("顺延至", "Rolled to"),
    "row_hash": ("行哈希", "Row hash"), "started": ("放款日", "Started"), "state": ("状态", "State"),
    "suspended": ("未入账利息(元)", "Suspended interest (CNY)"), "tenor": ("期限(天)", "Tenor (days)"),
    "terms_hash": ("条款哈希", "Terms hash"), "user": ("用户", "User"), "version": ("版本", "Version"),
}  # fmt: skip
