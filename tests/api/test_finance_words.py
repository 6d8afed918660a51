"""Words of credit: every command, posting, refusal and reason has its own, and amounts read as amounts."""

import re
from pathlib import Path

import pytest

from api.language import show_money, show_yuan
from api.pages import refusal_words, remedy_words
from api.words import CATALOGUE
from finance.provenance import KNOCK_OUTS

pytestmark = pytest.mark.unit
FINANCE = Path(__file__).parents[2] / "finance"


def found(pattern: str) -> set[str]:
    return {name for file in FINANCE.glob("*.py") for name in re.findall(pattern, file.read_text())}


def test_every_command_posting_and_knock_out_has_words() -> None:
    wanted = {f"command.{name}" for name in found(r'command\(\s*tx, ctx, name="(\w+)"')}
    wanted |= {f"posting.{name}" for name in found(r'Entry\("(\w+)"')} | {f"why.{code}" for code in KNOCK_OUTS}

    assert wanted - set(CATALOGUE) == set()
    assert len(wanted) > 60


def test_amounts_have_thousands_and_their_sign_before_the_currency() -> None:
    assert show_money(-400_000, "en") == "−¥4,000.00"
    assert show_money(123_456_789, "zh") == "¥1,234,567.89"
    assert [show_yuan(text, "en") for text in ("8524.80", "1480.000000", "12.345", "7", "infinite")] == [
        "8,524.80", "1,480.00", "12.345", "7.00", "infinite",
    ]  # fmt: skip


def test_a_refusal_is_told_in_chinese_with_its_figures_and_in_english_as_it_came() -> None:
    detail = "At most 50.00 is left for this day."

    assert refusal_words("over_day_limit", detail, "en") == detail
    assert refusal_words("over_day_limit", detail, "zh") == "超过单日限额。(50.00 元)"
    assert refusal_words("a_code_of_tomorrow", detail, "zh") == detail
    assert remedy_words({"code": "freshness", "remedy": "Record a fresh inspection."}, "zh").startswith(
        "在仓库补做检验"
    )
