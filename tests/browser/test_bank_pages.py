"""The bank's forms, tokens and portfolio in a real browser: readable by everybody, within a phone's screen."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from api.auth import partners
from tests.api.conftest import make_site
from tests.api.test_acts import FORM, hidden, loan_of, sent
from tests.api.test_bank import Desk, desk
from tests.finance.world import OWNER

__all__ = ["desk", "make_site"]
ROOT = Path(__file__).parents[2]
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
CSS = (ROOT / "api" / "static" / "app.css").read_text()
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield opened
        opened.close()


def pages_of(desk: Desk, lang: str) -> dict[str, str]:
    """The HTML of each page as the server gives it."""
    loan, ident = str(desk.made[0]), str(desk.made[1])  # type: ignore[attr-defined]
    head = FORM | {"accept-language": lang}

    def get(path: str, **query: str) -> str:
        answer = desk.checker.get(path, params=query, headers=head)
        assert answer.status_code == 200, (path, answer.text)
        return str(answer.text)

    account = desk.checker.get("/bank/tokens").json()["accounts"][0]["id"]
    token = desk.checker.get("/bank/tokens").json()["rows"][0]["token"]
    form = get("/bank/do/charge_fee", on=loan)
    tried = sent(desk.checker, "/bank/do/charge_fee", lang, **hidden(form), amount="12.50", reason="x")
    bad = sent(desk.checker, "/bank/do/charge_fee", lang, **hidden(form), amount="12.505", reason="x")
    return {
        "portfolio": get("/bank/portfolio"), "tokens": get("/bank/tokens"), "token": get(f"/bank/tokens/{token}"),
        "issue": get("/bank/do/issue_token", on=account), "form": form, "tried": tried.text, "bad": bad.text,
        "loan": get(f"/bank/loans/{loan}"), "application": get(f"/bank/applications/{ident}"),
        "facilities": get("/bank/facilities"), "cases": get("/bank/cases"), "queue": get("/bank", state="all"),
        "reports": get("/bank/reports"), "books": get("/bank/books"),
        "factory": desk.owner.get("/factory", headers=head).text,
    }  # fmt: skip


def prepared(desk: Desk) -> None:
    desk.made = loan_of(desk)  # type: ignore[attr-defined]
    with desk.site.database.transaction() as tx:
        partners.create_partner(tx, name="shop", gln=None, is_regulator=False, now_ms=1)
    form = desk.officer.get("/bank/do/link_account", headers=FORM).text
    tried = sent(
        desk.officer, "/bank/do/link_account", **hidden(form), borrower=OWNER, number="62220212345678", reason="x"
    )
    sent(desk.officer, "/bank/do/link_account", **hidden(tried.text))
    account = desk.officer.get("/bank/tokens").json()["accounts"][0]["id"]
    values: dict[str, Any] = {
        "partner": "shop", "purpose": "REPAY", "per_payment": "500.00", "per_day": "2000.00", "total": "900000.00",
        "payments": "10", "valid_from": "2026-11-01", "valid_until": "2027-11-01", "reason": "stock",
    }  # fmt: skip
    tried = sent(desk.officer, "/bank/do/issue_token", **hidden(form) | {"on": account, "seen": ""}, **values)
    assert tried.status_code == 200, tried.text
    sent(desk.officer, "/bank/do/issue_token", **hidden(tried.text))


def test_the_bank_s_pages_fit_the_screen_and_pass_wcag(desk: Desk, browser: Browser) -> None:
    prepared(desk)
    wrong: list[str] = []
    page = browser.new_page()
    for lang, size in (("zh-CN", PHONE), ("en", DESK)):
        page.set_viewport_size(size)  # type: ignore[arg-type]
        for name, html in pages_of(desk, lang).items():
            page.set_content(html.replace("</head>", f"<style>{CSS}</style></head>"))
            if page.evaluate("document.documentElement.scrollWidth") > size["width"]:
                wrong.append(f"{name} {lang}: wider than the screen")
            page.add_script_tag(path=AXE)
            report = page.evaluate("tags => axe.run(document, {runOnly: tags})", WCAG)
            wrong += [f"{name} {lang}: {one['id']} {one['nodes'][0]['html'][:120]}" for one in report["violations"]]
    page.close()

    assert wrong == [], "\n".join(wrong)
