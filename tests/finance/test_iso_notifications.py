"""camt.054 as banks send it: credits become repayments once, and what does not fit waits for a person."""

from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from core.errors import TracebondError
from finance.casetables import payment_exceptions
from finance.eod import put
from finance.iso20022.camt import REASONS, exceptions_of, import_notifications, read_credits, resolve_exception
from finance.journal import control_differences
from finance.model import Actor
from finance.policy import load_policy
from finance.tables import command_log, entries, loans, payments
from ledger.database import Database
from tests.finance.test_eod import DAY, NOW, lend
from tests.finance.world import BANK, CHECKER, MAKER_OF_BANK, OTHER_OFFICER, actor

CTX = SimpleNamespace(policy=load_policy())


def entry(
    amount: str, *details: str, reference: str | None = None, currency: str = "CNY", side: str = "CRDT",
    status: str = "BOOK", more: str = "",
) -> str:  # fmt: skip
    own = f"<AcctSvcrRef>{reference}</AcctSvcrRef>" if reference else ""
    inside = f"<NtryDtls>{''.join(details)}</NtryDtls>" if details else ""
    return (
        f'<Ntry><Amt Ccy="{currency}">{amount}</Amt><CdtDbtInd>{side}</CdtDbtInd>{more}<Sts><Cd>{status}</Cd></Sts>'
        f"<BookgDt><Dt>2026-03-02</Dt></BookgDt>{own}<BkTxCd><Prtry><Cd>X</Cd></Prtry></BkTxCd>{inside}</Ntry>"
    )


def detail(reference: str | None, amount: str | None, loan: str, *, structured: bool = True) -> str:
    refs = f"<Refs><AcctSvcrRef>{reference}</AcctSvcrRef></Refs>" if reference else ""
    money = f'<Amt Ccy="CNY">{amount}</Amt><CdtDbtInd>CRDT</CdtDbtInd>' if amount else ""
    about = f"<Strd><CdtrRefInf><Ref>{loan}</Ref></CdtrRefInf></Strd>" if structured else f"<Ustrd> {loan} </Ustrd>"
    return f"<TxDtls>{refs}{money}<RmtInf>{about}</RmtInf></TxDtls>"


def paid(reference: str, amount: str, loan: str = "a-L1", **more: Any) -> str:
    return entry(amount, detail(reference, None, loan), **more)


def notice(*found: str) -> bytes:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.054.001.08"><BkToCstmrDbtCdtNtfctn><GrpHdr>'
        "<MsgId>M1</MsgId><CreDtTm>2026-03-02T09:00:00+08:00</CreDtTm></GrpHdr><Ntfctn><Id>N1</Id>"
        f"<Acct><Id><Othr><Id>6222</Id></Othr></Id></Acct>{''.join(found)}</Ntfctn></BkToCstmrDbtCdtNtfctn></Document>"
    ).encode()


class Bank:
    """A bank with two loans of 10,000.00 that takes notifications."""

    def __init__(self, database: Database) -> None:
        self.database, self.count = database, 0
        for name in "ab":
            lend(database, name, principal=1_000_000, days=90)
        with database.transaction() as tx:
            put(tx, "business_date", DAY.isoformat())

    def take(self, *found: str, who: Actor = MAKER_OF_BANK) -> dict[str, Any]:
        self.count += 1
        with self.database.transaction() as tx:
            return import_notifications(
                tx, CTX, who, data=notice(*found), key=f"k{self.count}", reason="bank file", now=NOW
            )

    def resolve(self, exception: str, action: str, who: Actor = CHECKER, **more: Any) -> dict[str, Any]:
        self.count += 1
        with self.database.transaction() as tx:
            return resolve_exception(
                tx, CTX, who, exception=exception, action=action, key=f"k{self.count}", reason="asked the payer",
                now=NOW, **more,
            )  # fmt: skip

    def open(self, lender: str = BANK) -> list[tuple[str, str, int, str]]:
        with self.database.reading() as tx:
            rows = exceptions_of(tx, lender)
        return [(row.reference, row.reason, row.amount, row.state) for row in rows]

    def balance(self, name: str) -> int:
        with self.database.reading() as tx:
            assert control_differences(tx, BANK) == {}
            return int(tx.execute(sa.select(loans.c.balance).where(loans.c.id == f"{name}-L1")).scalar_one())

    def count_of(self, table: sa.Table) -> int:
        with self.database.reading() as tx:
            return int(tx.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


@pytest.fixture
def bank(database: Database) -> Bank:
    return Bank(database)


@pytest.fixture
def small(sqlite_database: Database) -> Bank:
    return Bank(sqlite_database)


def refused(code: str, call: Any, *values: Any, **more: Any) -> None:
    with pytest.raises(TracebondError) as caught:
        call(*values, **more)
    assert caught.value.code == code


@pytest.mark.unit
def test_credits_are_read_with_reference_loan_and_exact_amount() -> None:
    data = notice(
        paid("R1", "0.1"), paid("R2", "9007199254740993.01", "b-L1"), entry("5", reference="R3"),
        entry("3.00", detail("T1", "1.00", "x", structured=False), detail("T2", "2.00", "y")),
        paid("R4", "1", side="DBIT"), paid("R5", "1", status="PDNG"),
    )  # fmt: skip

    found, passed = read_credits(data)

    assert [(one.reference, one.loan, one.minor, one.fault) for one in found] == [
        ("R1", "a-L1", 10, ""), ("R2", "b-L1", 900_719_925_474_099_301, ""), ("R3", "", 500, ""), ("T1", "x", 100, ""),
        ("T2", "y", 200, ""),
    ]  # fmt: skip
    assert passed == 2


@pytest.mark.unit
@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (paid("R", "1.00", currency="USD"), "other_currency"),
        (paid("R", "1.001"), "not_in_fen"),
        (entry("1.00", detail(None, None, "a-L1")), "no_reference"),
        (paid("R", "1.00", more="<RvslInd>true</RvslInd>"), "reversal"),
        (entry("3.00", detail("T1", "1.00", "x"), detail("T2", "1.99", "y")), "sum_differs"),
        (entry("3.00", detail("T1", "1.00", "x"), detail("T2", None, "y")), "sum_differs"),
    ],
)
def test_what_no_repayment_can_be_is_marked(body: str, fault: str) -> None:
    found, _ = read_credits(notice(body))

    assert fault in {one.fault for one in found}
    assert fault in REASONS


@pytest.mark.unit
@pytest.mark.parametrize("amount", ["-1.00", "1e3", "NaN", "１", "1,000.00", "", "1.000001", "12345678901234567890"])
def test_an_amount_that_the_schema_does_not_know_refuses_the_message(amount: str) -> None:
    refused("invalid_message", read_credits, notice(paid("R", amount)))


def test_a_credit_is_booked_once_whatever_comes_again(bank: Bank) -> None:
    first = bank.take(paid("R1", "4000.00"), paid("R2", "10000.00", "b-L1"))
    again = bank.take(paid("R1", "4000.00"), paid("R2", "10000.00", "b-L1"), paid("R2", "10000.00", "b-L1"))

    assert (first["booked"], first["duplicates"], first["exceptions"]) == (2, 0, 0)
    assert (again["booked"], again["duplicates"], again["exceptions"]) == (0, 3, 0)
    assert (bank.balance("a"), bank.balance("b"), bank.open()) == (600_000, 0, [])
    assert bank.count_of(payments) == 2


def test_one_reference_with_another_amount_or_loan_waits(bank: Bank) -> None:
    bank.take(paid("R1", "4000.00"))

    done = bank.take(paid("R1", "4000.01"), paid("R1", "4000.00", "b-L1"), paid("R1", "4000.00"))
    bank.take(paid("R1", "4000.01"))

    assert (done["booked"], done["duplicates"], done["exceptions"]) == (0, 1, 2)
    assert sorted(bank.open()) == [("R1", "amount_differs", 400_001, "OPEN"), ("R1", "loan_differs", 400_000, "OPEN")]
    assert (bank.balance("a"), bank.balance("b")) == (600_000, 1_000_000)


def test_an_unknown_loan_waits_and_a_person_books_it(bank: Bank) -> None:
    done = bank.take(paid("R1", "25.00", "nobody's"), entry("30.00", reference="R2"))
    [first, second] = done["waiting"]

    refused("not_allowed", bank.resolve, first, "book", who=MAKER_OF_BANK)
    refused("no_such_exception", bank.resolve, first, "book", who=actor(OTHER_OFFICER.org, "rival", "bank_checker"))
    refused("no_such_loan", bank.resolve, first, "book")
    bank.resolve(first, "book", loan="a-L1")
    bank.resolve(second, "dismiss")
    refused("resolved_already", bank.resolve, first, "book", loan="a-L1")

    assert sorted(bank.open()) == [("R1", "unknown_loan", 2_500, "BOOKED"), ("R2", "unknown_loan", 3_000, "DISMISSED")]
    assert bank.balance("a") == 997_500
    # Resolved once: the same notification does not come back.
    assert bank.take(paid("R1", "25.00", "nobody's"), entry("30.00", reference="R2"))["duplicates"] == 2
    assert bank.balance("a") == 997_500


def test_a_dearer_repetition_may_be_booked_beside_the_first(small: Bank) -> None:
    small.take(paid("R1", "10.00"))
    [waiting] = small.take(paid("R1", "11.00"))["waiting"]

    small.resolve(waiting, "book")

    assert small.balance("a") == 1_000_000 - 1_000 - 1_100


def test_a_loan_that_takes_no_payment_keeps_the_credit_waiting(small: Bank) -> None:
    small.take(paid("R1", "10000.00"))
    before = small.count_of(entries)

    done = small.take(paid("R2", "1.00"), paid("R3", "2.00", "b-L1"))

    assert (done["booked"], done["exceptions"]) == (1, 1)
    assert small.open() == [("R2", "illegal_transition", 100, "OPEN")]
    assert small.count_of(entries) == before + 1


def test_reversals_and_other_currencies_are_never_booked(small: Bank) -> None:
    done = small.take(paid("R1", "5.00"), paid("R1", "5.00", more="<RvslInd>true</RvslInd>"),
                      paid("R2", "5.00", currency="USD"))  # fmt: skip

    assert (done["booked"], done["exceptions"]) == (1, 2)
    for waiting in done["waiting"]:
        refused("cannot_book", small.resolve, waiting, "book", loan="a-L1")
    assert small.balance("a") == 999_500


def test_a_message_that_fails_changes_nothing(small: Bank) -> None:
    logged = small.count_of(command_log)

    refused("invalid_message", small.take, paid("R1", "5.00"), "<Ntry/>")

    assert (small.count_of(payments), small.count_of(payment_exceptions)) == (0, 0)
    assert small.count_of(command_log) == logged


def test_another_bank_s_loans_are_unknown(small: Bank) -> None:
    done = small.take(paid("R1", "5.00"), who=OTHER_OFFICER)

    assert done["exceptions"] == 1
    assert small.open(OTHER_OFFICER.org) == [("R1", "unknown_loan", 500, "OPEN")]
    assert small.balance("a") == 1_000_000


@pytest.mark.unit
def test_a_notification_is_read_by_its_official_schema_too() -> None:
    sound = notice(paid("r1", "5.00"))
    ways = {
        # The classes would take the first: all its parts are there, but not in the order of the schema.
        "the identification behind the account": sound.replace(b"<Id>N1</Id>", b"").replace(
            b"</Acct>", b"</Acct><Id>N1</Id>"
        ),
        "a currency in small letters": sound.replace(b'Ccy="CNY"', b'Ccy="cny"', 1),
        "a thirtieth of February": sound.replace(b"<Dt>2026-03-02</Dt>", b"<Dt>2026-02-30</Dt>"),
        "six decimals": sound.replace(b">5.00<", b">5.000001<"),
        "an unknown side": sound.replace(b"CRDT", b"BOTH", 1),
    }

    found, passed = read_credits(sound)
    assert (len(found), passed) == (1, 0)

    for name, data in ways.items():
        with pytest.raises(TracebondError) as caught:
            read_credits(data)
        assert caught.value.code == "invalid_message", name
