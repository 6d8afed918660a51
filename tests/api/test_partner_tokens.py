"""Tokens over HTTP: a borrower's program issues one, a partner's pays by it, and each refusal has its code."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from api.auth import partners
from api.machine import describe
from finance import token_vault
from finance.model import Context
from finance.tables import borrowers
from tests.api.conftest import NOW_MS, Site
from tests.finance.world import BANK, MAKER_OF_BANK, OWNER

NOW = NOW_MS // 1_000
DAY_S = 86_400
NUMBER = "6222021234567890123"


@dataclass
class Desk:
    site: Site
    account: str
    count: int = 0

    def client(self, name: str, gln: str | None, *scopes: str) -> Any:
        with self.site.database.transaction() as tx:
            number = partners.create_partner(tx, name=name, gln=gln, is_regulator=False, now_ms=NOW_MS)
            key = partners.create_key(tx, number, scopes=scopes, now_ms=NOW_MS, secret=self.site.random(32))
        return self.site.client(authorization=f"Bearer {key}")

    def post(self, client: Any, path: str, key: str = "", **body: Any) -> Any:
        self.count += 1
        return client.post(f"/partner/v1{path}", json=body, headers={"Idempotency-Key": key or f"k{self.count}"})

    def issue(self, client: Any, **change: Any) -> Any:
        values: dict[str, Any] = {
            "account": self.account, "purpose": "DISBURSE", "partner": "shop", "merchants": ["mill"],
            "per_payment": "100.00", "per_day": "150.00", "total": "400.00", "valid_from": NOW,
            "valid_until": NOW + 30 * DAY_S,
        } | change  # fmt: skip
        return self.post(client, "/tokens", **values)

    def pay(self, client: Any, token: str, amount: str, key: str = "", **change: Any) -> Any:
        values = {"purpose": "DISBURSE", "merchant": "mill", "reference": f"order {self.count}"} | change
        return self.post(client, f"/tokens/{token}/spends", key, amount=amount, **values)


@pytest.fixture
def desk(make_site: Callable[..., Site]) -> Desk:
    ctx = Context(bytes(range(32)), None, None, None, None)  # type: ignore[arg-type]
    site = make_site(finance=ctx)
    with site.database.transaction() as tx:
        row = {"lender": BANK, "org": OWNER, "controller": "the owner", "has_account": True, "features": "{}"}
        tx.execute(borrowers.insert().values(row))
        link = token_vault.link_account(
            tx, ctx, MAKER_OF_BANK, borrower=OWNER, number=NUMBER, seed=bytes(28), key="k", reason="r", now=NOW
        )
    return Desk(site, link["account"])


def gln_of(org: str) -> str:
    return org.rpartition("/")[2]


def test_a_partner_pays_by_a_token_that_a_borrower_s_program_issued(desk: Desk) -> None:
    owner, shop = desk.client("owner", gln_of(OWNER), "tokens"), desk.client("shop", None, "tokens")

    made = desk.issue(owner)
    token = made.json()["token"]
    paid = desk.pay(shop, token, "100.00")
    too_much = desk.pay(shop, token, "50.01")
    back = desk.post(shop, f"/tokens/{token}/spends/{paid.json()['spend']}/reversal")

    assert (made.status_code, made.json()["partner"], made.json()["left_total"]) == (201, "shop", "400.00")
    assert (paid.status_code, paid.json()["left_today"]) == (201, "50.00")
    assert (too_much.status_code, too_much.json()["code"]) == (409, "over_day_limit")
    assert (back.status_code, back.json()["state"]) == (200, "REVERSED")
    assert shop.get(f"/partner/v1/tokens/{token}").json()["spent_total"] == "0.00"
    assert [row["state"] for row in shop.get(f"/partner/v1/tokens/{token}/spends").json()] == ["REVERSED"]
    assert NUMBER not in made.text + paid.text


def test_a_key_repeated_pays_once_and_with_another_body_is_422(desk: Desk) -> None:
    owner, shop = desk.client("owner", gln_of(OWNER), "tokens"), desk.client("shop", None, "tokens")
    token = desk.issue(owner).json()["token"]

    first = desk.pay(shop, token, "10.00", "once", reference="a")
    again = desk.pay(shop, token, "10.00", "once", reference="a")
    other = desk.pay(shop, token, "10.01", "once", reference="a")
    without = shop.post(f"/partner/v1/tokens/{token}/spends", json={"amount": "1.00", "purpose": "DISBURSE",
                        "merchant": "mill", "reference": "b"})  # fmt: skip

    assert first.json() == again.json()
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert (without.status_code, without.json()["code"]) == (422, "missing_key")
    assert shop.get(f"/partner/v1/tokens/{token}").json()["spent_total"] == "10.00"


def test_issuing_repeated_under_its_key_gives_the_same_token(desk: Desk) -> None:
    owner = desk.client("owner", gln_of(OWNER), "tokens")
    desk.client("shop", None, "tokens")
    desk.count = 100
    first = desk.issue(owner)
    desk.count = 100
    again = desk.issue(owner)

    assert first.json() == again.json()
    assert len(owner.get("/partner/v1/tokens").json()["tokens"]) == 1


def test_suspending_and_changing_take_effect_at_once(desk: Desk) -> None:
    owner, shop = desk.client("owner", gln_of(OWNER), "tokens"), desk.client("shop", None, "tokens")
    token = desk.issue(owner).json()["token"]

    stopped = desk.post(owner, f"/tokens/{token}/suspend", reason="phone lost")
    refused = desk.pay(shop, token, "1.00")
    going = desk.post(owner, f"/tokens/{token}/resume")
    controls = {"per_payment": "5.00", "per_day": "5.00", "total": "5.00", "valid_from": NOW, "valid_until": NOW + 60}
    stale = desk.post(owner, f"/tokens/{token}/controls", version=1, **controls)
    changed = desk.post(owner, f"/tokens/{token}/controls", version=going.json()["version"], **controls)
    above = desk.pay(shop, token, "5.01", merchant="anybody")
    ended = desk.post(owner, f"/tokens/{token}/revoke")
    never = desk.post(owner, f"/tokens/{token}/resume")

    assert (stopped.json()["state"], going.json()["state"], ended.json()["state"]) == ("SUSPENDED", "ACTIVE", "REVOKED")
    assert refused.json()["code"] == "token_suspended"
    assert (stale.status_code, stale.json()["code"]) == (409, "stale_view")
    assert (changed.json()["total"], changed.json()["merchants"]) == ("5.00", [])
    assert (above.json()["code"], never.json()["code"]) == ("over_payment_limit", "illegal_transition")


def test_a_stranger_sees_and_does_nothing(desk: Desk) -> None:
    owner, shop = desk.client("owner", gln_of(OWNER), "tokens"), desk.client("shop", None, "tokens")
    token = desk.issue(owner).json()["token"]
    spend = desk.pay(shop, token, "1.00").json()["spend"]
    stranger, reader = desk.client("stranger", None, "tokens"), desk.client("reader", None, "query")

    answers = [
        stranger.get(f"/partner/v1/tokens/{token}"), stranger.get(f"/partner/v1/tokens/{token}/spends"),
        desk.pay(stranger, token, "1.00"), desk.post(stranger, f"/tokens/{token}/revoke"),
        desk.post(stranger, f"/tokens/{token}/spends/{spend}/reversal"), desk.issue(stranger),
        # Its partner may spend, and change nothing.
        desk.post(shop, f"/tokens/{token}/revoke"), desk.pay(owner, token, "1.00"),
    ]  # fmt: skip

    assert [answer.status_code for answer in answers] == [404] * 8
    assert {answer.json()["code"] for answer in answers} == {"no_such_token", "no_such_account"}
    assert stranger.get("/partner/v1/tokens").json() == {"tokens": []}
    assert reader.get("/partner/v1/tokens").status_code == 403
    assert desk.site.client().get("/partner/v1/tokens").status_code == 401


def test_pages_of_tokens_follow_one_another(desk: Desk) -> None:
    owner = desk.client("owner", gln_of(OWNER), "tokens")
    desk.client("shop", None, "tokens")
    made = {desk.issue(owner).json()["token"] for _ in range(5)}

    found, after = [], ""
    while True:
        page = owner.get("/partner/v1/tokens", params={"limit": 2, "after": after}).json()
        found += [row["token"] for row in page["tokens"]]
        after = page.get("next", "")
        if not after:
            break

    assert found == sorted(made)


@pytest.mark.parametrize(
    ("change", "code", "pointer"),
    [
        ({"partner": "nobody"}, "unknown_partner", ""), ({"per_day": "1e2"}, "bad_amount", "per_day"),
        ({"per_payment": 100}, "invalid_field", "/per_payment"), ({"more": "x"}, "invalid_field", "/more"),
        ({"account": "a\0b"}, "invalid_field", "/account"), ({"valid_until": 1}, "bad_validity", "valid_until"),
    ],
)  # fmt: skip
def test_a_bad_field_is_named(desk: Desk, change: dict[str, Any], code: str, pointer: str) -> None:
    owner = desk.client("owner", gln_of(OWNER), "tokens")
    desk.client("shop", None, "tokens")

    answer = desk.issue(owner, **change)

    assert (answer.status_code, answer.json()["code"], answer.json().get("pointer", "")) == (422, code, pointer)


def test_the_description_names_the_routes_their_bodies_and_codes(desk: Desk) -> None:
    paths = describe(desk.site.app)["paths"]
    spends = paths["/partner/v1/tokens/{token}/spends"]["post"]

    assert {path for path in paths if path.startswith("/partner/v1/tokens")} == {
        "/partner/v1/tokens", "/partner/v1/tokens/{token}", "/partner/v1/tokens/{token}/controls",
        "/partner/v1/tokens/{token}/suspend", "/partner/v1/tokens/{token}/resume", "/partner/v1/tokens/{token}/revoke",
        "/partner/v1/tokens/{token}/spends", "/partner/v1/tokens/{token}/spends/{id}/reversal",
    }  # fmt: skip
    assert "`over_total_limit`" in spends["description"]
    assert {"201", "401", "403", "404", "409", "422"} <= set(spends["responses"])
    assert spends["requestBody"]["content"]["application/json"]["schema"]["additionalProperties"] is False
