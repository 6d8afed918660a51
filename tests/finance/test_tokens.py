"""Payment tokens: limits to the fen and to the second, one effect for one key, and rivals at once pass no limit."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa

from core.errors import Conflict, Rejected, TracebondError
from finance import token_vault, tokens
from finance.journal import trial_balance
from finance.model import Actor, Context
from finance.tables import borrowers
from ledger.database import Database
from tests.finance.world import BANK, BORROWER, CHECKER, MAKER_OF_BANK, OTHER_OFFICER, OWNER, actor

# 2026-03-02 10:00 in Shanghai, a Monday.
NOW = 1_772_416_800
DAY_S = 86_400
NUMBER = "6222021234567890123"
SHOP = actor("urn:tracebond:partner:7", "partner/7", "partner")
OTHER_SHOP = actor("urn:tracebond:partner:8", "partner/8", "partner")


@dataclass
class Desk:
    """A bank with one borrower's account in the vault."""

    database: Database
    account: str = ""
    clock: int = NOW
    count: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def ctx(self) -> Context:
        return Context(bytes(range(32)), None, None, None, None)  # type: ignore[arg-type]

    def do(self, command: Any, who: Actor, **arguments: Any) -> dict[str, Any]:
        with self.lock:
            self.count += 1
            number = self.count
        values = {"key": f"k{number}", "reason": "test", "now": self.clock} | arguments
        with self.database.transaction() as tx:
            return dict(command(tx, self.ctx, who, **values))

    def issue(self, who: Actor = BORROWER, **change: Any) -> str:
        values: dict[str, Any] = {
            "account": self.account, "partner": "partner/7", "purpose": "DISBURSE", "merchants": ["mill"],
            "per_payment": "100.00", "per_day": "250.00", "total": "600.00", "payments": 50, "window": "",
            "valid_from": NOW, "valid_until": NOW + 90 * DAY_S,
        } | change  # fmt: skip
        values.setdefault("secret", (self.count + 1).to_bytes(24))
        return str(self.do(tokens.issue_token, who, **values)["token"])

    def pay(self, token: str, amount: str, who: Actor = SHOP, **change: Any) -> dict[str, Any]:
        values = {"purpose": "DISBURSE", "merchant": "mill", "reference": f"order {self.count}"} | change
        return self.do(tokens.spend_token, who, token=token, amount=amount, **values)

    def rows(self, statement: str) -> list[Any]:
        with self.database.reading() as tx:
            return list(tx.execute(sa.text(statement)).all())


def opened(database: Database) -> Desk:
    desk = Desk(database)
    with database.transaction() as tx:
        row = {
            "lender": BANK, "org": OWNER, "legal_name": "Mill Ltd", "controller": "the owner", "has_account": True,
            "features": "{}", "controller_features": "{}",
        }  # fmt: skip
        tx.execute(borrowers.insert().values({name: row[name] for name in row if name in borrowers.c}))
    link = desk.do(token_vault.link_account, MAKER_OF_BANK, borrower=OWNER, number=NUMBER, seed=bytes(28))
    desk.account = link["account"]
    return desk


@pytest.fixture
def desk(database: Database) -> Desk:
    return opened(database)


@pytest.fixture
def quick(sqlite_database: Database) -> Desk:
    return opened(sqlite_database)


def code_of(error: pytest.ExceptionInfo[TracebondError]) -> str:
    return str(error.value.code)


def test_each_limit_holds_to_the_fen(desk: Desk) -> None:
    token = desk.issue()

    with pytest.raises(Conflict) as above:
        desk.pay(token, "100.01")
    desk.pay(token, "100.00")
    desk.pay(token, "100.00")
    with pytest.raises(Conflict) as today:
        desk.pay(token, "50.01")
    last = desk.pay(token, "50.00")
    desk.clock += DAY_S
    for amount in ("100.00", "100.00", "50.00"):
        desk.pay(token, amount)
    desk.clock += DAY_S
    with pytest.raises(Conflict) as whole:
        desk.pay(token, "100.01")
    desk.pay(token, "100.00", reference="fits exactly")
    with pytest.raises(Conflict) as total:
        desk.pay(token, "0.01")

    assert [code_of(error) for error in (above, today, whole, total)] == [
        "over_payment_limit", "over_day_limit", "over_payment_limit", "over_total_limit",
    ]  # fmt: skip
    assert (last["left_today"], last["left_total"]) == ("0.00", "350.00")
    assert desk.rows("SELECT spent_total, count FROM fin_tokens") == [(60_000, 7)]


def test_a_token_pays_as_often_as_it_may(quick: Desk) -> None:
    token = quick.issue(payments=2)
    quick.pay(token, "1.00")
    quick.pay(token, "1.00")

    with pytest.raises(Conflict) as error:
        quick.pay(token, "1.00")

    assert code_of(error) == "over_count_limit"


def test_a_token_works_from_its_first_second_to_before_its_last(quick: Desk) -> None:
    token = quick.issue(valid_from=NOW + 10, valid_until=NOW + 20)
    codes = []
    for second in (9, 10, 19, 20):
        quick.clock = NOW + second
        try:
            codes.append(quick.pay(token, "1.00")["state"])
        except Conflict as error:
            codes.append(error.code)

    assert codes == ["token_not_yet_valid", "AUTHORISED", "AUTHORISED", "token_expired"]


@pytest.mark.parametrize(
    ("window", "second", "is_open"),
    [
        # Seconds from 10:00 in Shanghai.
        ("10:00-11:00", -1, False), ("10:00-11:00", 0, True), ("10:00-11:00", 3_599, True),
        ("10:00-11:00", 3_600, False), ("22:00-09:00", 12 * 3_600, True), ("22:00-09:00", -3_600, False),
        ("22:00-09:00", -3_601, True), ("", 7, True),
    ],
)  # fmt: skip
def test_a_token_works_in_its_window_of_the_day(quick: Desk, window: str, second: int, is_open: bool) -> None:
    token = quick.issue(window=window, valid_from=NOW - DAY_S)
    quick.clock = NOW + second

    if is_open:
        assert quick.pay(token, "1.00")["state"] == "AUTHORISED"
    else:
        with pytest.raises(Conflict, match="time of the day"):
            quick.pay(token, "1.00")


def test_a_token_pays_its_purpose_its_merchants_and_its_partner_alone(quick: Desk) -> None:
    token, anybody = quick.issue(), quick.issue(merchants=[])
    codes = []
    for change in ({"purpose": "FEE"}, {"merchant": "bakery"}, {"who": OTHER_SHOP}):
        with pytest.raises(Rejected) as error:
            quick.pay(token, "1.00", **change)
        codes.append(code_of(error))
    with pytest.raises(Rejected) as person:
        quick.pay(token, "1.00", who=BORROWER)

    assert codes == ["wrong_purpose", "wrong_merchant", "no_such_token"]
    assert code_of(person) == "not_allowed"
    assert quick.pay(anybody, "1.00", merchant="bakery")["state"] == "AUTHORISED"


def test_the_account_s_holder_and_its_bank_alone_make_and_change_tokens(quick: Desk) -> None:
    own, the_bank_s = quick.issue(), quick.issue(MAKER_OF_BANK)
    refused = []
    for who in (OTHER_OFFICER, actor("https://id.gs1.org/417/9521321000056", "maker", "borrower"), SHOP):
        with pytest.raises(Rejected) as error:
            quick.issue(who)
        refused.append(code_of(error))
        with pytest.raises(Rejected):
            quick.do(tokens.suspend_token, who, token=own)
    with pytest.raises(Rejected) as keeper:
        quick.do(tokens.suspend_token, actor(OWNER, "keeper", "custodian"), token=own)

    assert refused == ["no_such_account"] * 3
    assert code_of(keeper) == "not_allowed"
    assert quick.do(tokens.suspend_token, CHECKER, token=own)["state"] == "SUSPENDED"
    assert quick.do(tokens.suspend_token, BORROWER, token=the_bank_s)["state"] == "SUSPENDED"


def test_suspended_tokens_pay_again_when_resumed_and_revoked_ones_never(desk: Desk) -> None:
    token = desk.issue()
    desk.do(tokens.suspend_token, BORROWER, token=token)
    with pytest.raises(Conflict) as suspended:
        desk.pay(token, "1.00")
    desk.do(tokens.resume_token, BORROWER, token=token)
    desk.pay(token, "1.00")
    desk.do(tokens.revoke_token, BORROWER, token=token)
    with pytest.raises(Conflict) as revoked:
        desk.pay(token, "1.00")

    for command in (tokens.suspend_token, tokens.resume_token, tokens.revoke_token):
        with pytest.raises(Conflict) as illegal:
            desk.do(command, BORROWER, token=token)
        assert code_of(illegal) == "illegal_transition"
    assert (code_of(suspended), code_of(revoked)) == ("token_suspended", "token_revoked")


def test_a_reversal_gives_back_money_and_limits_once(desk: Desk) -> None:
    token = desk.issue(total="250.00")
    spends = [desk.pay(token, amount)["spend"] for amount in ("100.00", "100.00", "50.00")]
    back = desk.do(tokens.reverse_spend, SHOP, spend=spends[0])
    with pytest.raises(Conflict) as twice:
        desk.do(tokens.reverse_spend, SHOP, spend=spends[0])
    with pytest.raises(Rejected) as another:
        desk.do(tokens.reverse_spend, OTHER_SHOP, spend=spends[1])

    assert back["left_total"] == "100.00"
    assert (code_of(twice), code_of(another)) == ("reversed_already", "no_such_spend")
    assert desk.pay(token, "100.00")["left_total"] == "0.00"
    desk.do(tokens.revoke_token, CHECKER, token=token)
    assert desk.do(tokens.reverse_spend, CHECKER, spend=spends[1])["state"] == "REVERSED"
    desk.clock += 31 * DAY_S
    with pytest.raises(Conflict) as late:
        desk.do(tokens.reverse_spend, SHOP, spend=spends[2])
    assert code_of(late) == "too_late"
    with desk.database.reading() as tx:
        balance = {account: money.minor for account, money in trial_balance(tx, BANK).items() if money.minor}
    assert balance == {"2011": 15_000, "3001": -15_000}


def test_a_payment_of_yesterday_taken_back_leaves_today_s_limit_alone(quick: Desk) -> None:
    token = quick.issue(per_payment="250.00")
    spend = quick.pay(token, "250.00")["spend"]
    quick.clock += DAY_S
    quick.pay(token, "200.00")
    quick.do(tokens.reverse_spend, SHOP, spend=spend)

    with pytest.raises(Conflict) as error:
        quick.pay(token, "50.01")

    assert code_of(error) == "over_day_limit"


def test_the_day_never_goes_back(quick: Desk) -> None:
    """Around midnight a payment that was asked for first may come second: it must not open the new day twice."""
    token = quick.issue(per_payment="250.00")
    quick.clock += DAY_S
    quick.pay(token, "250.00")
    quick.clock -= DAY_S

    with pytest.raises(Conflict) as error:
        quick.pay(token, "250.00")

    assert code_of(error) == "over_day_limit"


def test_one_key_pays_once_and_another_body_under_it_is_refused(desk: Desk) -> None:
    token = desk.issue()
    first = desk.pay(token, "10.00", key="once", reference="a")
    again = desk.pay(token, "10.00", key="once", reference="a")
    with pytest.raises(Rejected) as body:
        desk.pay(token, "10.01", key="once", reference="a")
    with pytest.raises(Conflict) as reference:
        desk.pay(token, "10.00", key="twice", reference="a")

    assert first == again
    assert (code_of(body), code_of(reference)) == ("idempotency_key_reused", "reference_used")
    assert desk.rows("SELECT spent_total, count FROM fin_tokens") == [(1_000, 1)]
    assert desk.rows("SELECT COUNT(*) FROM fin_command_log WHERE name = 'spend_token'") == [(1,)]


def test_changed_controls_hold_from_the_next_payment(quick: Desk) -> None:
    token = quick.issue()
    quick.pay(token, "60.00")
    new = {
        "merchants": ["bakery"], "per_payment": "20.00", "per_day": "80.00", "total": "80.00", "payments": 9,
        "window": "", "valid_from": NOW, "valid_until": NOW + DAY_S,
    }  # fmt: skip
    with pytest.raises(Conflict) as spent:
        quick.do(
            tokens.change_token, BORROWER, token=token, version=1, **(new | {"per_day": "59.99", "total": "59.99"})
        )
    quick.do(tokens.change_token, BORROWER, token=token, version=1, **new)
    with pytest.raises(Conflict) as stale:
        quick.do(tokens.change_token, BORROWER, token=token, version=1, **new)
    with pytest.raises(Conflict) as above:
        quick.pay(token, "20.01", merchant="bakery")
    with pytest.raises(Rejected) as merchant:
        quick.pay(token, "20.00")

    found = [code_of(error) for error in (spent, stale, above, merchant)]
    assert found == ["below_spent", "stale_view", "over_payment_limit", "wrong_merchant"]
    assert quick.pay(token, "20.00", merchant="bakery")["left_total"] == "0.00"


@pytest.mark.parametrize(
    ("change", "code", "pointer"),
    [
        ({"per_payment": "0"}, "bad_amount", "per_payment"), ({"total": "1.001"}, "bad_amount", "total"),
        ({"per_day": "-1.00"}, "bad_amount", "per_day"), ({"per_payment": "250.01"}, "bad_limits", "per_payment"),
        ({"per_day": "600.01"}, "bad_limits", "per_day"), ({"purpose": "GIFT"}, "unknown_purpose", "purpose"),
        ({"payments": 0}, "bad_count", "payments"), ({"window": "25:00-26:00"}, "bad_window", "window"),
        ({"window": "9-10"}, "bad_window", "window"), ({"valid_until": NOW}, "bad_validity", "valid_until"),
        ({"valid_from": 0, "valid_until": NOW}, "bad_validity", "valid_until"),
        ({"merchants": [""]}, "bad_merchant", "merchants"), ({"account": "none"}, "no_such_account", "account"),
    ],
)  # fmt: skip
def test_a_token_with_bad_controls_is_refused_with_its_field(
    quick: Desk, change: dict[str, Any], code: str, pointer: str
) -> None:
    with pytest.raises(Rejected) as error:
        quick.issue(**change)

    assert (error.value.code, error.value.pointer) == (code, pointer)
    assert quick.rows("SELECT COUNT(*) FROM fin_tokens") == [(0,)]


def test_what_is_over_expires_and_what_is_used_up_is_closed_when_nothing_can_be_reversed(quick: Desk) -> None:
    spent, old = quick.issue(per_day="100.00", total="100.00"), quick.issue(valid_until=NOW + 5)
    running = quick.issue()
    quick.pay(spent, "100.00")

    def close(days: int) -> set[str]:
        with quick.database.transaction() as tx:
            return set(tokens.close_tokens(tx, quick.ctx, now=NOW + days * DAY_S))

    assert (close(1), close(30), close(31)) == ({old}, set(), {spent})
    states = dict(quick.rows("SELECT id, state FROM fin_tokens"))
    assert states == {spent: "EXHAUSTED", old: "EXPIRED", running: "ACTIVE"}
    logged = quick.rows("SELECT name, body FROM fin_command_log WHERE person = 'tracebond' ORDER BY number")
    assert [row.name for row in logged] == ["expire_token", "exhaust_token"]


def test_the_account_number_stands_in_the_vault_alone_and_sealed(quick: Desk) -> None:
    token = quick.issue()
    quick.pay(token, "1.00")
    again = quick.do(
        token_vault.link_account, CHECKER, borrower=OWNER, number="6222 0212 3456 7890 123", seed=b"1" * 28
    )
    with quick.database.reading() as tx:
        names = sa.inspect(tx).get_table_names()
        dump = "".join(str(tx.execute(sa.text(f'SELECT * FROM "{name}"')).all()) for name in names)
        number = token_vault.account_number(tx, quick.ctx, quick.account)

    assert again["account"] == quick.account
    assert NUMBER not in dump
    assert number == NUMBER


def test_two_tokens_of_one_account_share_nothing(quick: Desk) -> None:
    first, second = quick.issue(secret=bytes(range(24))), quick.issue(secret=bytes(range(1, 25)))

    assert first == "tbt_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX"
    assert second == "tbt_AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcY"


@pytest.fixture
def crowd(postgres_server: Any, postgres_template: str) -> Iterator[Desk]:
    from ledger.database import open_database

    url = postgres_server.create(postgres_template)
    database = open_database(url)
    yield opened(database)
    database.close()
    postgres_server.drop(url)


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        ({"per_day": "90000.00", "total": "90000.00", "payments": 21}, 21 * 700),
        ({"per_day": "90000.00", "total": "150.00"}, 147 * 100),
        ({"per_day": "140.00", "total": "90000.00"}, 140 * 100),
    ],
    ids=["count", "total", "day"],
)
def test_thirty_two_programs_at_once_spend_the_smallest_limit_and_no_fen_more(
    crowd: Desk, limits: dict[str, Any], most: int
) -> None:
    limits = {"per_payment": "100.00", "payments": 500} | limits
    if limits["total"] < limits["per_day"]:
        limits["per_day"] = limits["total"]
    token = crowd.issue(**limits)
    found: Counter[str] = Counter()

    def shop(thread: int) -> None:
        for turn in range(2):
            try:
                name = crowd.pay(token, "7.00", key=f"{thread}/{turn}", reference=f"{thread}/{turn}")["state"]
            except TracebondError as error:
                name = error.code
            with crowd.lock:
                found[name] += 1

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(shop, range(32)))

    assert sum(found.values()) == 64
    assert found["AUTHORISED"] == most // 700
    assert len(found) == 2, found
    spent = crowd.rows("SELECT SUM(amount), COUNT(*) FROM fin_token_spends")
    assert spent == [(most, most // 700)]
    assert crowd.rows("SELECT spent_total, spent_day, count FROM fin_tokens") == [(most, most, most // 700)]
    assert crowd.rows("SELECT COUNT(*) FROM fin_entries WHERE kind = 'token_spend'") == [(most // 700,)]


def test_reversals_and_payments_at_once_agree_with_what_is_left(crowd: Desk) -> None:
    token = crowd.issue(per_payment="10.00", per_day="100.00", total="100.00", payments=1_000)

    def shop(thread: int) -> None:
        for turn in range(4):
            try:
                spend = crowd.pay(token, "10.00", key=f"{thread}/{turn}", reference=f"{thread}/{turn}")["spend"]
            except Conflict:
                continue
            if turn % 2 == 0:
                crowd.do(tokens.reverse_spend, SHOP, spend=spend, key=f"{thread}/{turn}/back")

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(shop, range(32)))

    live = crowd.rows("SELECT SUM(amount), COUNT(*) FROM fin_token_spends WHERE state = 'AUTHORISED'")
    assert crowd.rows("SELECT spent_total, count FROM fin_tokens") == live
    assert live[0][0] <= 10_000
