"""V1-V18 as questions in plain SQL and to the contract; none of them asks the product whether it is right."""

import hashlib
import json
from collections import Counter, defaultdict
from datetime import date
from typing import Any

import pytest
import sqlalchemy as sa

from core.canonical import b64u
from core.errors import TracebondError
from ledger.database import Database
from tests.finance.world import FinanceWorld
from tests.properties.finance_world import ITEMS, LOT, LOT_CAPACITY, inside, rows

LIVE = "('RESERVED', 'SIGNED', 'CHAIN_PENDING', 'ACTIVE', 'RELEASING', 'ENFORCING')"
CLAIMED = (
    "SELECT g.item, c.quantity FROM fin_claims c JOIN fin_goods g ON g.goods_key = c.goods_key "
    "WHERE c.receipt = :receipt"
)
LIVE_ITEMS = (
    "SELECT g.item FROM fin_claims c JOIN fin_goods g ON g.goods_key = c.goods_key WHERE c.is_live AND g.kind <> 'LOT'"
)
STATEFUL = ("fin_receipts", "fin_applications", "fin_pledges", "fin_facilities", "fin_loans", "fin_margin_calls")
APPEND_ONLY = ("fin_command_log", "fin_command_keys", "fin_approvals", "fin_entries", "fin_postings", "fin_policies",
               "fin_quotes", "fin_payments", "fin_accruals", "fin_provisions")  # fmt: skip


def check_claims(world: FinanceWorld) -> None:
    """V1 in the database: claims within capacity, one live pledge a receipt, and no unit under two of them."""
    db = world.database
    over = rows(
        db,
        "SELECT g.item, g.capacity, g.claimed, COALESCE((SELECT SUM(c.quantity) FROM fin_claims c WHERE c.goods_key = "
        "g.goods_key AND c.is_live), 0) AS live FROM fin_goods g",
    )
    for item, capacity, claimed, live in over:
        assert live == claimed <= capacity, item
        assert capacity == (LOT_CAPACITY * 10**6 if item == LOT else 1), item
    held: Counter[str] = Counter()
    pledged = rows(db, f"SELECT receipt, COUNT(*) AS n FROM fin_pledges WHERE state IN {LIVE} GROUP BY receipt")
    for receipt, count in pledged:
        assert count == 1, receipt
        item = rows(db, "SELECT item FROM fin_receipts WHERE id = :receipt", receipt=receipt)[0][0]
        own = {name for name, _ in rows(db, CLAIMED, receipt=receipt)} - {LOT}
        # A receipt that was split off claims less than what is packed in its thing, never anything else.
        assert item in own <= inside(item)
        held.update(own)
    assert all(count == 1 for count in held.values()), held


def check_claims_on_chain(world: FinanceWorld) -> None:
    """V1 on the chain: what the contract counts stays within capacity too."""
    registry = world.ctx.registry
    for item in ITEMS:
        assert registry.claimed(world.ctx.goods_key(item)) in (0, 1), item
    assert (
        registry.claimed(world.ctx.goods_key(LOT))
        <= LOT_CAPACITY * 10**6
        == registry.capacity(world.ctx.goods_key(LOT))
    )


def check_books(db: Database) -> None:
    """V4: each entry balances, so do all together; nothing is dated after the business date."""
    sides = rows(
        db,
        "SELECT e.number, e.debit_minor, e.credit_minor, SUM(p.debit_minor), SUM(p.credit_minor), COUNT(*), "
        "MAX(p.lines), COUNT(DISTINCT e.currency) FROM fin_entries e LEFT JOIN fin_postings p ON p.entry = e.number "
        "GROUP BY e.number, e.debit_minor, e.credit_minor",
    )
    for number, debit, credit, debits, credits_, count, lines, currencies in sides:
        assert debit == credit == debits == credits_ > 0, number
        assert (count, currencies) == (lines, 1), number
    today = rows(db, "SELECT value FROM fin_settings WHERE name = 'business_date'")[0][0]
    assert not rows(db, "SELECT number FROM fin_entries WHERE business_date > :today", today=today)


def check_control_accounts(db: Database) -> None:
    """V5: what the loans, margin and sales say is what the control accounts say, for each bank."""
    books: dict[tuple[str, str], int] = defaultdict(int)
    for lender, account, minor in rows(
        db,
        "SELECT e.lender, p.account, SUM(p.debit_minor - p.credit_minor) FROM fin_postings p JOIN fin_entries e "
        "ON e.number = p.entry GROUP BY e.lender, p.account",
    ):
        books[lender, account] = minor
    own: dict[tuple[str, str], int] = defaultdict(int)
    for lender, balance, interest, overpaid in rows(
        db,
        "SELECT f.lender, SUM(l.balance), SUM(l.interest_due), SUM(l.overpaid) FROM fin_loans l JOIN fin_facilities f "
        "ON f.id = l.facility WHERE l.state <> 'WRITTEN_OFF' GROUP BY f.lender",
    ):
        own[lender, "1303"], own[lender, "1132"], own[lender, "2241"] = balance, interest, -overpaid
    for lender, costs in rows(
        db,
        "SELECT f.lender, SUM(s.costs + s.surplus - s.surplus_paid) FROM fin_sales s JOIN fin_facilities f "
        "ON f.id = s.facility GROUP BY f.lender",
    ):
        own[lender, "2241"] -= costs
    for lender, cash in rows(db, "SELECT lender, SUM(margin_cash) FROM fin_facilities GROUP BY lender"):
        own[lender, "2002"] = -cash
    for lender, account in {*own, *books}:
        if account in ("1303", "1132", "2241", "2002"):
            assert books[lender, account] == own[lender, account], (lender, account)
    totals: Counter[str] = Counter()
    for (lender, _), minor in books.items():
        totals[lender] += minor
    assert not any(totals.values())


def check_schedules(db: Database) -> None:
    """V14: principal sums to principal, nothing is paid beyond it, and the balance is what is left."""
    for loan, principal, balance, planned, paid, least in rows(
        db,
        "SELECT l.id, l.principal, l.balance, SUM(s.principal), SUM(s.principal_paid), MIN(s.principal - "
        "s.principal_paid) FROM fin_loans l JOIN fin_schedule_lines s ON s.loan = l.id GROUP BY l.id, l.principal, "
        "l.balance",
    ):
        assert planned == principal, loan
        assert least >= 0, loan
        assert balance == principal - paid >= 0, loan
    charges = rows(
        db,
        "SELECT l.id FROM fin_loans l JOIN fin_schedule_lines s ON s.loan = l.id GROUP BY l.id, l.interest_due, "
        "l.suspended HAVING SUM(s.interest_grown + s.penalty + s.fee - s.interest_paid - s.penalty_paid - s.fee_paid) "
        "<> l.interest_due + l.suspended",
    )
    assert not charges
    closed = rows(db, "SELECT id FROM fin_loans WHERE state IN ('REPAID', 'OVERPAID') AND balance + interest_due + "
                      "suspended <> 0")  # fmt: skip
    assert not closed


def check_payments(db: Database) -> None:
    """V13: what a payment was spread to, overpayment included, is what came in; its entry says the same."""
    for lender, reference, amount, allocation in rows(
        db, "SELECT lender, reference, amount, allocation FROM fin_payments"
    ):
        postings = rows(
            db,
            "SELECT p.account, p.debit_minor, p.credit_minor FROM fin_postings p JOIN fin_entries e ON e.number = "
            "p.entry WHERE e.reference = :reference",
            reference=f"repayment/{lender}/{reference}",
        )
        overpaid = sum(credit for account, _, credit in postings if account == "2241")
        assert sum(part[2] for part in json.loads(allocation)) + overpaid == amount, reference
        assert sum(debit for account, debit, _ in postings if account == "2011") == amount, reference


def check_four_eyes(db: Database) -> None:
    """V7: makers approve nothing of their own, and what needs two persons has two."""
    assert not rows(db, "SELECT subject FROM fin_approvals WHERE checker = maker")
    for ident, maker, amount, decision in rows(
        db, "SELECT id, maker, amount, decision FROM fin_applications WHERE state IN ('APPROVED', 'CONTRACTED')"
    ):
        given = rows(
            db,
            "SELECT a.checker, a.decision FROM fin_approvals a JOIN fin_applications b ON b.terms_hash = a.seen_hash "
            "WHERE a.subject = :subject AND a.decision LIKE 'approve/%'",
            subject=f"application/{ident}",
        )
        if json.loads(decision)["decision"]["outcome"] == "auto_approve":
            assert amount <= 1_000_000, ident
            continue
        persons = {person for person, _ in given}
        assert len(persons) >= 2, ident
        assert maker not in persons, ident
        assert any(said == "approve/bank_checker" for _, said in given), ident
    for action, name, state in (
        ("enforcement", "enforce", "'ENFORCING', 'WRITTEN_OFF'"), ("write_off", "write_off", "'WRITTEN_OFF'"),
    ):  # fmt: skip
        lonely = rows(
            db,
            f"SELECT f.id FROM fin_facilities f WHERE f.state IN ({state}) AND NOT EXISTS (SELECT 1 FROM fin_approvals "
            f"a JOIN fin_command_log m ON m.name = :proposed AND m.person = a.maker JOIN fin_command_log c ON "
            f"c.name = :name AND c.person = a.checker AND m.org = c.org WHERE a.subject = :subject || '/' || f.id)",
            proposed=f"propose_{action}", name=name, subject=action,
        )  # fmt: skip
        assert not lonely
    released = rows(
        db,
        "SELECT p.id FROM fin_pledges p WHERE p.state IN ('RELEASING', 'RELEASED') AND NOT EXISTS (SELECT 1 FROM "
        "fin_approvals a WHERE a.subject = 'release/' || p.id)",
    )
    assert not released


def check_cover(db: Database) -> None:
    """V8 and V9: every loan had a pledge that was final; goods that were let go cover nothing that is owed."""
    bare = rows(
        db,
        "SELECT l.id FROM fin_loans l WHERE NOT EXISTS (SELECT 1 FROM fin_pledges p WHERE p.facility = l.facility AND "
        "p.final_block IS NOT NULL AND p.owner_sig IS NOT NULL AND p.custodian_sig IS NOT NULL)",
    )
    assert not bare
    uncovered = rows(
        db,
        "SELECT l.id FROM fin_loans l JOIN fin_pledges p ON p.facility = l.facility WHERE p.state IN ('RELEASING', "
        "'RELEASED') AND l.state <> 'WRITTEN_OFF' AND l.balance + l.interest_due + l.suspended > 0",
    )
    assert not uncovered


def check_command_log(db: Database, since: int) -> list[tuple[str, str]]:
    """V10: each new row is hashed as told, once on its way to the log; gives (name, text) of the new rows."""
    found = []
    new = rows(
        db,
        'SELECT number, org, key, name, person, "user", reason, policy, at_s, business_date, body, result, row_hash '
        "FROM fin_command_log WHERE number > :since ORDER BY number",
        since=since,
    )
    for row in new:
        names = ("org", "key", "name", "person", "user", "reason", "policy", "at_s", "business_date", "body", "result")
        value = dict(zip(names, row[1:12], strict=True))
        value["business_date"] = str(value["business_date"])[:10]
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert hashlib.sha256(text.encode()).digest() == bytes(row.row_hash), row.name
        found.append((str(row.name), f"{row.body} {row.result}"))
    outbox = rows(
        db,
        "SELECT COUNT(*), COALESCE(SUM(CASE WHEN l.row_hash = a.row_hash THEN 1 ELSE 0 END), 0) FROM fin_command_log l "
        "LEFT JOIN fin_audit_outbox a ON a.number = l.number WHERE l.number > :since",
        since=since,
    )
    assert outbox[0] == (len(new), len(new))
    return found


def states(db: Database) -> dict[tuple[str, str], str]:
    """The state of everything that has one, and each claim's."""
    found: dict[tuple[str, str], str] = {}
    for table in STATEFUL:
        for ident, state in rows(db, f"SELECT id, state FROM {table}"):
            found[table, ident if isinstance(ident, str) else bytes(ident).hex()] = state
    return found


def check_every_change_is_logged(
    before: dict[tuple[str, str], str], after: dict[tuple[str, str], str], logged: list[tuple[str, str]], db: Database
) -> None:
    """V10: whatever changed its state is named in a new row of the command log, its own or that of its application."""
    texts = [text for name, text in logged if name != "end_of_day"]
    is_night = any(name == "end_of_day" for name, _ in logged)
    of_receipt = {bytes(receipt).hex(): ident for receipt, ident in rows(db, "SELECT receipt, id FROM fin_pledges")}
    for (table, ident), state in after.items():
        if before.get((table, ident)) == state:
            continue
        if table == "fin_loans" and is_night:
            continue
        names = [ident[:16]]
        if table == "fin_receipts":
            names = [ident, b64u(bytes.fromhex(ident)), of_receipt.get(ident, ident)[:16]]
        assert any(name in text for name in names for text in texts), (table, ident, state)


def check_chain_agrees(world: FinanceWorld) -> None:
    """V12: with nothing on its way, receipts and pledges are in the database what they are on the chain."""
    registry = world.ctx.registry
    live: dict[str, str] = {
        bytes(receipt).hex(): state
        for receipt, state in rows(
            world.database, "SELECT receipt, state FROM fin_pledges WHERE state IN ('ACTIVE', 'ENFORCING')"
        )
    }
    for receipt, state in rows(world.database, "SELECT id, state FROM fin_receipts"):
        ident = bytes(receipt)
        on_chain = registry.pledge_of(ident).state
        assert (on_chain if on_chain in ("active", "enforcing") else None) == (
            live[ident.hex()].lower() if ident.hex() in live else None
        ), ident.hex()
        known = registry.receipt_at(ident).state
        wanted = {
            "SEALED": ("sealed",), "PLEDGED": ("sealed", "pledged"), "DELIVERED": ("delivered",), "SPLIT": ("split",),
            # Refused at once, or given back.
            "CANCELLED": ("cancelled", "none"),
            # Refused on the way: cases that wait for the custodian.
            "SPLITTING": ("splitting",), "REGISTERING": ("registering", "none"),
            "CANCELLING": ("sealed", "registering"),
        }[state]  # fmt: skip
        assert known in wanted, (ident.hex(), state, known)


def check_append_only(db: Database, table: str, verb: str) -> None:
    """What is written once cannot be changed or taken away, not even by SQL."""
    if not rows(db, f"SELECT 1 FROM {table} LIMIT 1"):
        return
    column = rows(db, f"SELECT name FROM pragma_table_info('{table}') LIMIT 1")[0][0]
    sql = f"DELETE FROM {table}" if verb == "DELETE" else f'UPDATE {table} SET "{column}" = "{column}"'
    with pytest.raises(TracebondError) as caught, db.transaction() as tx:
        tx.execute(sa.text(sql))
    assert caught.value.code == "constraint"


def as_date(value: Any) -> date:
    return value if isinstance(value, date) else date.fromisoformat(str(value)[:10])
