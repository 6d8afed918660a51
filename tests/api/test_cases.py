"""Cases over HTTP: a name that holds, settled by two persons on their page; a statement that anyone can repeat."""

from eth_account import Account

from core.canonical import canonical_bytes, sha256, unb64u
from tests.api.test_bank import Desk, desk
from tests.finance.world import GTIN, PALLET, TINS

__all__ = ["desk"]
LIST = "id,name_zh,name_en,source\n7,某人,P-9,police\n"


def test_a_name_holds_until_two_persons_clear_it(desk: Desk) -> None:
    desk.post(desk.officer, "/bank/screening-lists", text=LIST)
    ident = desk.prepare()
    page = desk.officer.get("/bank/cases", headers={"accept": "text/html"})
    assert page.status_code == 200
    assert "P-9" in page.text
    assert [row["id"] for row in desk.officer.get("/bank/cases").json()["held"]] == [ident]
    assert desk.rival.get("/bank/cases").json()["held"] == []

    asked = desk.post(desk.officer, f"/bank/applications/{ident}/screening-proposals", is_cleared=True)
    proof = {"request": asked["request"], "proposal": asked["proposal"], "is_cleared": True}
    done = desk.post(desk.checker, f"/bank/applications/{ident}/screening", **proof)

    assert done["state"] == "IN_REVIEW"


def test_a_statement_can_be_repeated_call_by_call(desk: Desk) -> None:
    desk.prepare()
    found = desk.officer.get("/bank/register/statement", params={"code": f"https://x.example/01/{GTIN}/21/T0"}).json()

    assert (found["is_pledged"], found["item"]) == (False, TINS[0])
    chain = desk.world.chain.chain
    assert chain.block_hash(found["block"]["number"]) == found["block"]["hash"]
    for call in found["calls"]:
        data = bytes.fromhex(call["data"][2:])
        assert "0x" + chain.call(call["to"], data, found["block"]["number"]).hex() == call["result"]
    signed = {name: value for name, value in found.items() if name not in ("signer", "signature")}
    digest = sha256(canonical_bytes(signed))
    signature = bytes.fromhex(found["signature"][2:])
    assert Account._recover_hash(digest, signature=signature).lower() == found["signer"]
    assert len(unb64u(found["calls"][-1]["receipt"], length=32)) == 32


def test_a_statement_of_pledged_goods_names_nobody(desk: Desk) -> None:
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

    found = desk.rival.get("/bank/register/statement", params={"code": PALLET}).json()

    assert (found["is_pledged"], found["calls"]) == (True, [])
