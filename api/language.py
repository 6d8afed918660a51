"""Which language a reader gets, and how times, numbers and money look in it."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Final

from babel.dates import format_date, format_datetime
from babel.numbers import format_decimal
from fastapi import Request

from api.words import LANGUAGES, say

COOKIE: Final = "lang"
_LOCALE: Final = {"zh": "zh_Hans_CN", "en": "en_GB"}
_ZONE: Final = {"zh": "zh", "zh-cn": "zh", "zh-hans": "zh", "zh-tw": "zh", "zh-hk": "zh", "en": "en"}
CHINA: Final = timezone(timedelta(hours=8))


def language_of(request: Request) -> str:
    """``zh`` or ``en``: by ``?lang``, then the cookie, then ``Accept-Language``, then English."""
    for given in (request.query_params.get("lang", ""), request.cookies.get(COOKIE, "")):
        found = _known(given)
        if found:
            return found
    return from_accept_language(request.headers.get("accept-language", ""))


def from_accept_language(header: str) -> str:
    """The best of our languages for an ``Accept-Language`` header; English when none fits (RFC 9110, 12.5.4)."""
    best, best_quality = "en", 0.0
    for part in header.split(",")[:20]:
        name, _, parameter = part.strip().partition(";")
        quality = _quality(parameter)
        found = _known(name)
        if found and quality > best_quality:
            best, best_quality = found, quality
    return best


def other_language(lang: str) -> str:
    """The language to switch to."""
    return LANGUAGES[1 - LANGUAGES.index(lang)]


def show_time(at_ms: int, lang: str, *, offset: str = "+08:00") -> str:
    """A moment as local time with its offset, to the minute."""
    moment = datetime.fromtimestamp(at_ms / 1000, UTC).astimezone(_zone(offset))
    shape = "y年M月d日 HH:mm" if lang == "zh" else "d MMM y, HH:mm"
    return f"{format_datetime(moment, shape, locale=_LOCALE[lang])} {_offset_text(moment)}"


def show_clock(at_ms: int, *, offset: str = "+08:00") -> str:
    """Hours and minutes alone."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone(_zone(offset)).strftime("%H:%M")


def show_date(at_ms: int, lang: str, *, offset: str = "+08:00") -> str:
    """A day in the given offset."""
    day = datetime.fromtimestamp(at_ms / 1000, UTC).astimezone(_zone(offset)).date()
    return str(format_date(day, "y年M月d日" if lang == "zh" else "d MMM y", locale=_LOCALE[lang]))


def show_day_text(text: str, lang: str) -> str:
    """An ISO date such as ``2026-11-24`` in words, or the text itself where it is no date."""
    try:
        day = datetime.strptime(text[:10], "%Y-%m-%d").replace(tzinfo=UTC).date()
    except ValueError:
        return text
    return str(format_date(day, "y年M月d日" if lang == "zh" else "d MMM y", locale=_LOCALE[lang]))


def show_number(value: int | Decimal, lang: str) -> str:
    """A number with its thousands apart, its decimals as they are."""
    return str(format_decimal(value, locale=_LOCALE[lang], decimal_quantization=False))


def show_exact(text: str) -> str:
    """A decimal text without the zeros at its end; at least nothing is rounded."""
    return text.rstrip("0").rstrip(".") if "." in text else text


def show_money(minor: int, lang: str, currency: str = "CNY") -> str:
    """An amount of minor units with two decimals and its currency."""
    text = format_decimal(Decimal(abs(minor)) / 100, "#,##0.00", locale=_LOCALE[lang])
    sign = "−" if minor < 0 else ""
    return sign + f"{'¥' if currency == 'CNY' else currency} {text}".replace("¥ ", "¥")


def show_yuan(text: str, lang: str) -> str:
    """An amount that is kept as a decimal text of yuan, with thousands separated; other texts stay."""
    whole, _, part = text.partition(".")
    if not whole.isdigit() or (part and not part.isdigit()):
        return text
    return f"{format_decimal(int(whole), '#,##0', locale=_LOCALE[lang])}.{part[:2] + part[2:].rstrip('0'):0<2}"


def show_duration(seconds: int, lang: str) -> str:
    """A span in its one or two largest units."""
    seconds = max(0, seconds)
    days, rest = divmod(seconds, 86_400)
    hours, rest = divmod(rest, 3_600)
    minutes = rest // 60
    if days:
        return say("span.days_hours", lang, days=days, hours=hours) if hours else say("span.days", lang, days=days)
    if hours:
        return (
            say("span.hours_minutes", lang, hours=hours, minutes=minutes)
            if minutes
            else say("span.hours", lang, hours=hours)
        )
    return say("span.minutes", lang, minutes=minutes) if minutes else say("span.seconds", lang, seconds=seconds)


def _known(name: str) -> str:
    tag = name.strip().lower().replace("_", "-")
    return _ZONE.get(tag) or _ZONE.get(tag.split("-")[0], "")


def _quality(parameter: str) -> float:
    name, _, value = parameter.strip().partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        return min(1.0, max(0.0, float(value)))
    except ValueError:
        return 0.0


def _zone(offset: str) -> timezone:
    sign = -1 if offset.startswith("-") else 1
    digits = offset.lstrip("+-Zz").replace(":", "")
    if len(digits) != 4 or not digits.isdigit():
        return UTC
    return timezone(sign * timedelta(hours=int(digits[:2]), minutes=int(digits[2:])))


def _offset_text(moment: datetime) -> str:
    text = moment.strftime("%z")
    return f"{text[:3]}:{text[3:5]}"
