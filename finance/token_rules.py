"""What a payment token allows, as pure functions: its controls, and the reason why a payment is refused."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from core.errors import Conflict, Rejected
from core.money import Money, parse_money
from finance.commandlog import shanghai_date

PURPOSES: Final = ("DISBURSE", "REPAY", "FEE", "MARGIN")
"""What a token may be for (requirements C-2)."""
DAY_S: Final = 86_400
YEARS_S: Final = 3 * 366 * DAY_S
"""A token lives three years at most, our own choice: the account behind it should be looked at again."""
COUNT_MAX: Final = 1_000_000
MERCHANTS_MAX: Final = 200
NAME_MAX: Final = 64
REVERSAL_DAYS: Final = 30
"""How long a payment can be reversed, our own choice: then a token that is used up is closed for good."""
_SHANGHAI_S: Final = 8 * 3_600


@dataclass(frozen=True)
class Controls:
    """The limits of a token; amounts in fen, the window in seconds of the day in Shanghai.

    Attributes:
        merchants: who may be paid, sorted; empty for every merchant of the partner.
        window_from_s: first second of the day on which it works; later than ``window_until_s`` over midnight.
        window_until_s: first second of the day on which it works no more; equal to the first: all day.
        valid_from_s: first unix second on which it works; ``valid_until_s`` the first on which it works no more.
    """

    merchants: tuple[str, ...]
    per_payment: int
    per_day: int
    total: int
    count_max: int
    window_from_s: int
    window_until_s: int
    valid_from_s: int
    valid_until_s: int

    def columns(self) -> dict[str, Any]:
        """As columns of the token's row."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {
            "merchants": json.dumps(self.merchants, ensure_ascii=False)
        }


def read_controls(
    *, merchants: Sequence[str], per_payment: str, per_day: str, total: str, payments: int, window: str,
    valid_from: int, valid_until: int,
) -> Controls:  # fmt: skip
    """Controls as they come from outside.

    Args:
        window: ``HH:MM-HH:MM`` in Shanghai; empty for all day.

    Raises:
        Rejected: ``bad_amount``, ``bad_limits``, ``bad_count``, ``bad_window``, ``bad_validity``, ``bad_merchant``.
    """
    once = parse_money(per_payment, pointer="per_payment").minor
    daily = parse_money(per_day, pointer="per_day").minor
    whole = parse_money(total, pointer="total").minor
    if not once <= daily <= whole:
        raise Rejected("A payment's limit is at most the day's, and that at most the total.", code="bad_limits",
                       pointer="per_payment" if once > daily else "per_day")  # fmt: skip
    if type(payments) is not int or not 1 <= payments <= COUNT_MAX:
        raise Rejected(f"A token pays 1 to {COUNT_MAX} times.", code="bad_count", pointer="payments")
    if type(valid_from) is not int or type(valid_until) is not int or not 0 <= valid_from < valid_until:
        raise Rejected("A token ends after it begins; give unix seconds.", code="bad_validity", pointer="valid_until")
    if valid_until - valid_from > YEARS_S:
        raise Rejected("A token lives three years at most.", code="bad_validity", pointer="valid_until")
    first, last = _window(window)
    return Controls(_merchants(merchants), once, daily, whole, payments, first, last, valid_from, valid_until)


@dataclass(frozen=True)
class Payment:
    """What a partner asks for: an amount in fen, for a purpose, to a merchant, at a unix second."""

    amount: int
    purpose: str
    merchant: str
    now: int


def refuse(token: Any, payment: Payment) -> None:
    """Return if this token may pay such a payment now, whatever its amount.

    Raises:
        Conflict: ``token_suspended``, ``token_revoked``, ``token_expired``, ``token_exhausted``,
            ``token_not_yet_valid``, ``outside_window``.
        Rejected: ``wrong_purpose``, ``wrong_merchant``.
    """
    if token.state != "ACTIVE":
        raise Conflict(f"This token is {token.state.lower()}.", code=f"token_{token.state.lower()}")
    if payment.purpose != token.purpose:
        raise Rejected(f"This token is for {token.purpose} alone.", code="wrong_purpose", pointer="purpose")
    allowed = json.loads(token.merchants)
    if allowed and payment.merchant not in allowed:
        raise Rejected("This token does not pay this merchant.", code="wrong_merchant", pointer="merchant")
    if payment.now < token.valid_from_s:
        raise Conflict("This token is not valid yet.", code="token_not_yet_valid")
    if payment.now >= token.valid_until_s:
        raise Conflict("This token is valid no longer.", code="token_expired")
    if not in_window(payment.now, token.window_from_s, token.window_until_s):
        raise Conflict("This token does not work at this time of the day.", code="outside_window")


def over_limit(token: Any, *, amount: int, today: date) -> Conflict | None:
    """Why an amount does not fit into what is left, None where it does."""
    left = left_of(token, today)
    if amount > token.per_payment:
        return _over("payment", token.per_payment)
    if amount > left.day:
        return _over("day", left.day)
    if amount > left.total:
        return _over("total", left.total)
    if left.payments == 0:
        return Conflict("This token has paid as often as it may.", code="over_count_limit")
    return None


@dataclass(frozen=True)
class Left:
    """What a token still pays: today, in all (fen), and how often."""

    day: int
    total: int
    payments: int


def left_of(token: Any, today: date) -> Left:
    """What is left of the limits of a token on a date in Shanghai."""
    spent = token.spent_day if token.day >= today else 0
    return Left(max(0, token.per_day - spent), token.total - token.spent_total, token.count_max - token.count)


def is_used_up(token: Any) -> bool:
    """Whether nothing can be paid before something is reversed."""
    return bool(token.spent_total >= token.total or token.count >= token.count_max)


def in_window(now: int, first: int, last: int) -> bool:
    """Whether a unix second lies in a window of the day in Shanghai."""
    second = (now + _SHANGHAI_S) % DAY_S
    if first == last:
        return True
    return first <= second < last if first < last else second >= first or second < last


def window_text(first: int, last: int) -> str:
    """A window as people write it, "" for all day."""
    if first == last:
        return ""
    return "-".join(f"{value // 3600:02d}:{value % 3600 // 60:02d}" for value in (first, last))


def today_of(now: int) -> date:
    """The date whose limit a payment counts against: Shanghai's, since tokens work on every day of the year."""
    return shanghai_date(now)


def _over(kind: str, left: int) -> Conflict:
    words = {"payment": "a single payment", "day": "this day", "total": "this token in all"}
    return Conflict(f"At most {Money(left).text()} is left for {words[kind]}.", code=f"over_{kind}_limit",
                    pointer="amount")  # fmt: skip


def _window(text: str) -> tuple[int, int]:
    if not text:
        return 0, 0
    parts = text.split("-")
    values = [_second(part) for part in parts]
    if len(values) != 2 or None in values or values[0] == values[1]:
        raise Rejected("Write a window as HH:MM-HH:MM.", code="bad_window", pointer="window")
    return values[0] or 0, values[1] or 0


def _second(text: str) -> int | None:
    hours, colon, minutes = text.partition(":")
    if not (colon and len(hours) == len(minutes) == 2 and text.isascii() and (hours + minutes).isdigit()):
        return None
    if int(hours) > 23 or int(minutes) > 59:
        return None
    return int(hours) * 3_600 + int(minutes) * 60


def _merchants(names: Sequence[str]) -> tuple[str, ...]:
    if len(names) > MERCHANTS_MAX or any(not _is_name(name) for name in names):
        raise Rejected(f"Name at most {MERCHANTS_MAX} merchants, each by 1 to {NAME_MAX} characters.",
                       code="bad_merchant", pointer="merchants")  # fmt: skip
    return tuple(sorted({name.strip() for name in names}))


def _is_name(name: str) -> bool:
    return 0 < len(name.strip()) <= NAME_MAX and name.isprintable()
