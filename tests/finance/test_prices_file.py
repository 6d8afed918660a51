"""Price files: a stale, missing, zero or out-of-band price is refused row by row, and a bad file changes nothing."""

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from core.errors import TracebondError
from finance.eod import put
from finance.policy import load_policy
from finance.prices import PriceRow, import_prices, preview_prices, price_lines
from finance.tables import quotes
from ledger.database import Database
from tests.finance.test_eod import DAY, NOW
from tests.finance.world import BANK, BORROWER, GTIN, MAKER_OF_BANK, OTHER_OFFICER

POLICY = load_policy()
PRODUCT = f"https://id.gs1.org/01/{GTIN}"
HEAD = "product,category,unit,as_of,price,cost,source,median"


def row(**change: str) -> str:
    values = {
        "product": PRODUCT, "category": "rice", "unit": "TNE", "as_of": DAY.isoformat(), "price": "4000",
        "cost": "4100", "source": "exchange", "median": "4000",
    }  # fmt: skip
    return ",".join((values | change).values())


def file(*rows: str) -> bytes:
    return "\r\n".join([HEAD, *rows]).encode()


@pytest.fixture
def books(sqlite_database: Database) -> Database:
    with sqlite_database.transaction() as tx:
        put(tx, "business_date", DAY.isoformat())
    return sqlite_database


def preview(books: Database, data: bytes) -> list[PriceRow]:
    with books.reading() as tx:
        return preview_prices(tx, POLICY, BANK, data, now=NOW)


def take(books: Database, data: bytes, key: str = "k", who: Any = MAKER_OF_BANK) -> dict[str, Any]:
    with books.transaction() as tx:
        return import_prices(tx, SimpleNamespace(policy=POLICY), who, data=data, key=key, reason="feed", now=NOW)


def stored(books: Database) -> list[tuple[Any, ...]]:
    with books.reading() as tx:
        query = sa.select(quotes.c.lender, quotes.c.as_of, quotes.c.price_e6, quotes.c.median_e6, quotes.c.number)
        return [tuple(one) for one in tx.execute(query.order_by(quotes.c.number))]


def ago(days: int) -> str:
    return (DAY - timedelta(days=days)).isoformat()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, ""),
        ({"as_of": ago(7)}, ""),
        ({"as_of": ago(8)}, "stale_price"),
        ({"as_of": ago(-1)}, "future_price"),
        ({"as_of": "2026-02-30"}, "bad_date"),
        ({"price": ""}, "missing_price"),
        ({"cost": ""}, "missing_price"),
        ({"price": "0"}, "zero_price"),
        ({"cost": "0"}, "zero_price"),
        ({"price": "-1"}, "bad_number"),
        ({"price": "4e3"}, "bad_number"),
        ({"price": "4000.0000001"}, "bad_number"),
        ({"price": "5200"}, ""),
        ({"price": "5200.01"}, "price_out_of_band"),
        ({"price": "2799.99"}, "price_out_of_band"),
        ({"median": ""}, "price_out_of_band"),
        ({"category": "gold"}, "unknown_category"),
        ({"product": "https://id.gs1.org/01/09521321000019"}, "check_digit"),
        ({"unit": ""}, "bad_row"),
        ({"source": "a,b"}, "bad_row"),
    ],
)
def test_a_row_is_judged_by_the_rules_of_valuation(books: Database, change: dict[str, str], code: str) -> None:
    [judged] = preview(books, file(row(**change)))

    if code == "check_digit":
        assert judged.code
    else:
        assert judged.code == code, judged.message


def test_the_median_is_the_bank_s_own_and_not_the_feed_s(books: Database) -> None:
    take(books, file(row(as_of=ago(6), price="4000"), row(as_of=ago(5), price="4100"), row(as_of=ago(4), price="4400")))

    # 30 % above the median 4,100 is 5,330; that the feed calls 9,000 its median does not help.
    rows = preview(books, file(row(price="5330", median="9000"), row(price="5330.01", median="9000")))

    assert [one.code for one in rows] == ["", "price_out_of_band"]
    assert rows[0].median == 4_100
    assert "median 4100" in price_lines(rows)[0]
    assert price_lines(rows)[1].startswith("line 3: refused, price_out_of_band")


def test_a_file_with_one_bad_row_changes_nothing(books: Database) -> None:
    with pytest.raises(TracebondError) as caught:
        take(books, file(row(), row(price="0")))

    assert caught.value.code == "bad_rows"
    assert "line 3" in caught.value.message
    assert stored(books) == []


def test_prices_are_taken_once_for_one_bank(books: Database) -> None:
    data = file(row(price="4000.5"), row(price="4001", as_of=ago(1)))

    first, again = take(books, data), take(books, data)
    with pytest.raises(TracebondError):
        take(books, data, who=BORROWER, key="other")
    take(books, data, who=OTHER_OFFICER, key="other")

    assert first == again
    assert [one for one in stored(books) if one[0] == BANK] == [
        (BANK, DAY, 4_000_500_000, 4_000_000_000, 1),
        (BANK, DAY - timedelta(days=1), 4_001_000_000, 4_000_000_000, 2),
    ]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "bad_csv"),
        (HEAD.encode(), "bad_csv"),
        (b"product,price\r\nx,1", "bad_csv"),
        (file(row()).replace(b"median", b"colour"), "bad_csv"),
        (b"\xff\xfe", "bad_csv"),
        (file('"unclosed'), "bad_csv"),
        (b"x" * (4 * 1024 * 1024 + 1), "too_large"),
        (file(*[row()] * 20_001), "too_large"),
    ],
)
def test_a_file_that_is_no_price_file_is_refused_whole(books: Database, data: bytes, code: str) -> None:
    with pytest.raises(TracebondError) as caught:
        preview(books, data)

    assert caught.value.code == code
