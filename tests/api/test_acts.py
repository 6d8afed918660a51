"""Forms with a dry run: nothing is written before the confirmation, and nothing is confirmed on other facts."""

import re
from typing import Any

import pytest

from finance import lending
from tests.api.test_bank import Desk, desk
from tests.finance.world import OWNER

__all__ = ["desk"]
FORM = {"content-type": "application/x-www-form-urlencoded", "accept": "text/html", "accept-language": "en"}


def loan_of(desk: Desk) -> tuple[str, str]:
    """A drawn loan; gives its id and its application's."""
    ident = desk.prepare()
    for person in (desk.officer, desk.checker):
        if desk.seen(person, ident)["row"]["state"] == "IN_REVIEW":
            desk.decide(person, ident)
    terms = desk.seen(desk.officer, ident)["terms_hash"]
    pledge = desk.post(desk.owner, f"/factory/applications/{ident}/accept", terms_hash=terms)["pledge"]
    desk.post(desk.owner, f"/factory/pledges/{pledge}/sign")
    desk.post(desk.keeper, f"/factory/pledges/{pledge}/sign")
    desk.post(desk.officer, f"/bank/pledges/{pledge}/send")
    desk.world.settle()
    loan = desk.post(desk.owner, f"/factory/facilities/{ident}/draws", amount="50000.00")["loan"]
    return str(loan), ident


def sent(who: Any, path: str, lang: str = "en", **fields: str) -> Any:
    values = {"csrf": who.headers["X-CSRF-Token"]} | fields
    return who.post(path, data=values, headers=FORM | {"accept-language": lang})


def hidden(page: str) -> dict[str, str]:
    found = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page)
    return {name: value for name, value in found if name != "csrf"}


def balance(desk: Desk, loan: str) -> int:
    return int(desk.officer.get(f"/bank/loans/{loan}").json()["loan"]["balance"])


def entries(desk: Desk) -> int:
    with desk.site.database.reading() as tx:
        return int(tx.exec_driver_sql("SELECT COUNT(*) FROM fin_entries").scalar_one())


def test_a_form_shows_what_will_happen_and_writes_it_on_confirmation_alone(desk: Desk) -> None:
    loan, _ = loan_of(desk)
    before = entries(desk)
    form = desk.officer.get("/bank/do/repay", params={"on": loan}, headers=FORM)
    tried = sent(desk.officer, "/bank/do/repay", **hidden(form.text), amount="20000.00", reference="r-1", reason="wire")

    assert tried.status_code == 200, tried.text
    assert "¥30,000.00" in tried.text or "30000.00" in tried.text
    assert "2011" in tried.text
    assert (balance(desk, loan), entries(desk)) == (5_000_000, before)
    confirmed = sent(desk.officer, "/bank/do/repay", **hidden(tried.text))
    again = sent(desk.officer, "/bank/do/repay", **hidden(tried.text))
    assert (confirmed.status_code, again.status_code) == (303, 303)
    assert confirmed.headers["location"] == f"/bank/loans/{loan}"
    assert (balance(desk, loan), entries(desk)) == (3_000_000, before + 1)


def test_a_confirmation_of_facts_that_have_changed_is_refused(desk: Desk) -> None:
    loan, _ = loan_of(desk)
    form = desk.checker.get("/bank/do/charge_fee", params={"on": loan}, headers=FORM)
    tried = sent(desk.checker, "/bank/do/charge_fee", **hidden(form.text), amount="10.00", reason="notary")
    desk.world.do(lending.repay, desk_actor(), loan=loan, amount="1000.00", reference="meanwhile")
    refused = sent(desk.checker, "/bank/do/charge_fee", **hidden(tried.text))

    assert tried.status_code == 200
    assert refused.status_code == 409
    assert "stale_view" in refused.text
    # The page shows the facts as they stand now.
    assert "¥49,000.00" in refused.text


def desk_actor() -> Any:
    from tests.finance.world import MAKER_OF_BANK

    return MAKER_OF_BANK


def test_a_refusal_stands_beside_its_field_in_both_languages(desk: Desk) -> None:
    loan, _ = loan_of(desk)
    form = hidden(desk.officer.get("/bank/do/repay", params={"on": loan}, headers=FORM).text)
    english = sent(desk.officer, "/bank/do/repay", **form, amount="1.005", reference="r", reason="wire")
    chinese = sent(desk.officer, "/bank/do/repay", "zh-CN", **form, amount="1.005", reference="r", reason="汇款")

    for page, words in ((english, "at most 2 decimals"), (chinese, "金额须为大于零")):
        assert page.status_code == 422
        found = re.search(r'<p class="field-error" id="e-amount">([^<]*)</p>', page.text)
        assert found is not None
        assert words in found[1]
        assert 'aria-describedby="e-amount"' in page.text
        assert 'value="1.005"' in page.text


def test_forms_open_for_their_role_and_for_one_s_own_things(desk: Desk) -> None:
    loan, ident = loan_of(desk)

    assert desk.officer.get("/bank/do/charge_fee", params={"on": loan}, headers=FORM).status_code == 403
    assert desk.checker.get("/bank/do/charge_fee", params={"on": loan}, headers=FORM).status_code == 200
    assert desk.rival.get("/bank/do/charge_fee", params={"on": loan}, headers=FORM).status_code == 404
    assert desk.owner.get("/factory/do/prepay_in_full", params={"on": loan}, headers=FORM).status_code == 200
    assert desk.keeper.get("/factory/do/prepay_in_full", params={"on": loan}, headers=FORM).status_code == 403
    assert desk.checker.get("/bank/do/nothing", headers=FORM).status_code == 404
    assert desk.owner.get("/factory/do/claim_compensation", params={"on": ident}, headers=FORM).status_code == 200
    assert desk.checker.get("/bank/do/set_dispute", params={"on": ident}, headers=FORM).status_code == 200


def test_an_account_is_linked_a_token_issued_and_stopped_by_forms(desk: Desk) -> None:
    desk.prepare()
    number = "6222021234567890123"
    steps = [("link_account", "", {"borrower": OWNER, "number": number})]
    for name, on, fields in steps:
        form = desk.officer.get(f"/bank/do/{name}", params={"on": on}, headers=FORM)
        tried = sent(desk.officer, f"/bank/do/{name}", **hidden(form.text), **fields, reason="asked for")
        assert tried.status_code == 200, tried.text
        assert sent(desk.officer, f"/bank/do/{name}", **hidden(tried.text)).status_code == 303
    account = desk.officer.get("/bank/tokens").json()["accounts"][0]
    with desk.site.database.transaction() as tx:
        from api.auth import partners

        partners.create_partner(tx, name="shop", gln=None, is_regulator=False, now_ms=1)
    form = desk.officer.get("/bank/do/issue_token", params={"on": account["id"]}, headers=FORM)
    given = hidden(form.text) | {
        "partner": "shop", "purpose": "DISBURSE", "per_payment": "1,000.00", "per_day": "2000.00", "total": "9000.00",
        "payments": "10", "valid_from": re.findall(r'name="valid_from" value="([^"]+)"', form.text)[0],
        "valid_until": re.findall(r'name="valid_until" value="([^"]+)"', form.text)[0], "reason": "stock",
    }  # fmt: skip
    tried = sent(desk.officer, "/bank/do/issue_token", **given)
    assert tried.status_code == 200, tried.text
    assert desk.officer.get("/bank/tokens").json()["rows"] == []
    sent(desk.officer, "/bank/do/issue_token", **hidden(tried.text))
    (row,) = desk.officer.get("/bank/tokens").json()["rows"]

    assert (row["state"], row["partner"], row["fen"]["per_payment"]) == ("ACTIVE", "shop", 100_000)
    form = desk.officer.get("/bank/do/suspend_token", params={"on": row["token"]}, headers=FORM)
    tried = sent(desk.officer, "/bank/do/suspend_token", **hidden(form.text), reason="lost")
    sent(desk.officer, "/bank/do/suspend_token", **hidden(tried.text))
    page = desk.officer.get("/bank/tokens", headers=FORM).text
    assert "suspended" in page
    assert number not in page + desk.officer.get(f"/bank/tokens/{row['token']}", headers=FORM).text
    assert desk.rival.get("/bank/tokens").json() == {"rows": [], "accounts": []}
    assert desk.rival.get(f"/bank/tokens/{row['token']}", headers=FORM).status_code == 404


@pytest.mark.unit
def test_every_form_has_words_for_its_title_and_fields() -> None:
    from api.consoles.acts_table import BANK_ACTS, GOODS_ACTS
    from api.words import CATALOGUE

    wanted = set()
    for name, act in [*BANK_ACTS.items(), *GOODS_ACTS.items()]:
        wanted |= {f"act.{name}"} | {f"field.{field.name}" for field in act.fields}
        wanted |= {f"choice.{one}" for field in act.fields if field.kind == "choice" for one in field.choices}
        wanted |= {
            f"choice.{one}_{field.name}" for field in act.fields if field.kind == "flag" for one in ("true", "false")
        }

    assert wanted - set(CATALOGUE) == set()
