"""The demo's bank day: staff act over HTTP, like people, each with a login of their own."""

import itertools
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from core.errors import Conflict, Unavailable

WAIT_S = 90.0
_POLL_S = 0.3
_LATELY = (datetime.now(UTC) - timedelta(days=20)).date().isoformat()
# A modest borrower: enough points for grade C, so that two persons decide instead of the machine.
FEATURES = {
    "account": {"value": "0.6", "source": "core banking", "as_of": _LATELY},
    "tax": {"value": "0.6", "source": "tax office", "as_of": _LATELY},
    "secured": {"value": "0.5", "source": "credit bureau", "as_of": _LATELY},
    "sales": {"value": "0.55", "source": "point of sale", "as_of": _LATELY},
    "monthly_sales": "500000.00",
    "annual_turnover": "6000000.00",
}


@dataclass
class LoanStory:
    """What happened, step by step, and what was refused."""

    steps: list[tuple[str, str]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    loans: list[dict[str, Any]] = field(default_factory=list)


class Person:
    """A member of staff with a session of its own."""

    def __init__(self, base_url: str, token: str) -> None:
        self._http = httpx.Client(base_url=base_url, timeout=60, headers={"accept": "application/json"})
        answer = self._http.post("/login/once", json={"token": token})
        answer.raise_for_status()
        self._http.headers["x-csrf-token"] = answer.json()["csrf"]
        self._keys = itertools.count()
        self._run = secrets.token_hex(6)

    def get(self, path: str) -> dict[str, Any]:
        """The facts of a page."""
        answer = self._http.get(path)
        if answer.status_code != 200:
            raise Unavailable(f"{path} answered {answer.status_code}: {answer.text[:200]}", code="desk_failed")
        found: dict[str, Any] = answer.json()
        return found

    def do(self, path: str, reason: str, **body: Any) -> dict[str, Any]:
        """Run a command; asked to come back while the rules still read the log, come back.

        Raises:
            Conflict: the desk refused it, with its code.
        """
        key = body.pop("key", f"{self._run}-{next(self._keys)}")
        deadline = time.monotonic() + WAIT_S
        while True:
            answer = self._http.post(path, json={"reason": reason, **body}, headers={"idempotency-key": key})
            found: dict[str, Any] = answer.json()
            if found.get("code") != "findings_behind" or time.monotonic() > deadline:
                break
            time.sleep(_POLL_S)
        if answer.status_code != 200:
            sentence = str(found.get("detail") or found.get("title") or "")
            raise Conflict(sentence, code=str(found.get("code", answer.status_code)))
        return found

    def close(self) -> None:
        """End the connection."""
        self._http.close()


@dataclass
class Staff:
    """Everybody who acts in the story."""

    maker: Person
    checker: Person
    rival: Person
    owner: Person
    keeper: Person

    def close(self) -> None:
        """End all connections."""
        for person in (self.maker, self.checker, self.rival, self.owner, self.keeper):
            person.close()


@dataclass(frozen=True)
class Goods:
    """A pallet in the warehouse and its market."""

    pallet: str
    inside: str
    owner: str
    place: str
    product: str
    category: str
    price: str
    cost: str


class BankDay:
    """Runs loans; ``say`` is told of each step."""

    def __init__(self, staff: Staff, *, bank: str, rival_bank: str, say: Any) -> None:
        self._staff = staff
        self._bank, self._rival_bank = bank, rival_bank
        self._say = say
        self.story = LoanStory()

    def prepare(self, goods: Goods) -> None:
        """The borrower's consent, the bank's file on it, and a price."""
        self._staff.owner.do(
            "/factory/consents", "application for credit", lender=self._bank, purpose="credit", days=180,
            sources=["account", "tax", "credit_bureau", "sales"],
        )  # fmt: skip
        self._staff.maker.do(
            "/bank/borrowers", "opening the file", borrower=goods.owner, controller="controller-1", has_account=True,
            features=FEATURES,
        )  # fmt: skip
        self._staff.maker.do(
            "/bank/quotes", "price of the day", product=goods.product, category=goods.category, unit="EA",
            price=goods.price, cost=goods.cost, source="wholesale market",
        )  # fmt: skip
        self._note("file and price", f"{goods.price} yuan a unit at the market, {goods.cost} at cost")

    def count_lots(self, lots: Mapping[str, int], wait_final: Callable[[list[int]], None]) -> None:
        """The maker registers how many units each lot has, on the chain, before anything of it is claimed."""
        made = [
            self._staff.owner.do("/factory/lots", "production count", lot=lot, quantity=count)["chain_tx"]
            for lot, count in lots.items()
        ]
        wait_final([int(ident) for ident in made])
        self._note("lots", f"{sum(lots.values())} tins in {len(lots)} lots registered by their maker")

    def lend(self, goods: Goods, amount: str) -> dict[str, str]:
        """Receipt, application, two decisions, pledge, draw-down; gives application, pledge and loan."""
        staff = self._staff
        if self._receipt_state(goods.pallet) != "SEALED":
            receipt = staff.keeper.do(
                "/factory/receipts", "goods taken in", item=goods.pallet, owner=goods.owner, place=goods.place
            )
            self._note("warehouse receipt", f"{goods.pallet}: {receipt['claims']} claims")
        self._until("the receipt is sealed on the chain", lambda: self._receipt_state(goods.pallet) == "SEALED")
        applied = staff.owner.do(
            "/factory/applications", "working capital", lender=self._bank, goods_item=goods.pallet, amount=amount,
            tenor_days=90, purpose="raw milk of the next month",
        )  # fmt: skip
        ident = str(applied["application"])
        page = staff.maker.get(f"/bank/applications/{ident}")
        decision = page["decision"]
        self._note(
            "application", f"{amount} yuan; confidence {page['row']['confidence']}, grade {page['row']['grade']}"
        )
        if page["row"]["state"] not in ("IN_REVIEW", "APPROVED"):
            codes = ", ".join(reason["code"] for reason in decision["reasons"])
            raise Conflict(f"The bank declined: {codes}.", code="declined")
        if page["row"]["state"] == "IN_REVIEW":
            self._decide(staff.maker, ident, "first approval")
            self._refuse("second approval by the same person", lambda: self._decide(staff.maker, ident, ""))
            self._decide(staff.checker, ident, "second approval, another person")
        terms = staff.maker.get(f"/bank/applications/{ident}")["terms_hash"]
        pledge = str(staff.owner.do(f"/factory/applications/{ident}/accept", "agreed", terms_hash=terms)["pledge"])
        staff.owner.do(f"/factory/pledges/{pledge}/sign", "owner signs (EIP-712)")
        staff.keeper.do(f"/factory/pledges/{pledge}/sign", "custodian signs (EIP-712)")
        draw = {"amount": amount}
        self._refuse(
            "draw-down before the pledge is final",
            lambda: staff.owner.do(f"/factory/facilities/{ident}/draws", "too early", **draw),
        )
        staff.maker.do(f"/bank/pledges/{pledge}/send", "pledge to the chain")
        self._until("the pledge is final on the chain", lambda: self._pledge_state(ident, pledge) == "ACTIVE")
        self._note("pledge", f"{pledge} is final on the chain")
        loan = str(staff.owner.do(f"/factory/facilities/{ident}/draws", "draw-down", **draw)["loan"])
        self._note("draw-down", f"{amount} yuan, loan {loan}")
        self.story.loans.append({"application": ident, "pledge": pledge, "loan": loan, "amount": amount})
        return {"application": ident, "pledge": pledge, "loan": loan}

    def try_elsewhere(self, goods: Goods, amount: str) -> None:
        """The owner turns to another bank with the same goods, under other spellings and through the container."""
        for words, item in (("the same pallet", goods.pallet), ("a tin inside it, as EPC URN", goods.inside)):
            self._refuse(
                f"second bank, {words}",
                lambda item=item: self._staff.owner.do(
                    "/factory/applications", "again", lender=self._rival_bank, goods_item=item, amount=amount,
                    tenor_days=90, purpose="the same goods once more",
                ),
            )  # fmt: skip
        answer = self._staff.rival.get(f"/bank/register?code={goods.pallet}")["answer"]
        self._note("pledge register", f"the second bank is told: {answer['code']}")

    def repay_and_release(self, goods: Goods, made: Mapping[str, str], amount: str) -> None:
        """The loan is paid back, the release approved by another person, and the goods are free again."""
        staff, pledge = self._staff, made["pledge"]
        staff.owner.do(f"/factory/loans/{made['loan']}/repayments", "paid back", amount=amount, reference=made["loan"])
        self._note("repayment", f"{amount} yuan")
        key = f"release-{pledge}"
        asked = staff.maker.do(f"/bank/pledges/{pledge}/release-requests", "repaid", key=key)
        maker = str(staff.maker.get("/me")["person"])
        body = {"request": key, "maker": maker, "release_hash": asked["release_hash"]}
        staff.checker.do(f"/bank/pledges/{pledge}/release", "release approved", **body)
        ident = made["application"]
        self._until("the release is final on the chain", lambda: self._pledge_state(ident, pledge) == "RELEASED")
        answer = staff.maker.get(f"/bank/register?code={goods.pallet}")["answer"]
        self._note("release", f"final on the chain; the register says {answer['code']}")

    def _decide(self, who: Person, ident: str, words: str) -> None:
        page = who.get(f"/bank/applications/{ident}")
        who.do(
            f"/bank/applications/{ident}/decision", words or "again", decision="approve",
            reason_code="evidence_sufficient", seen=page["seen"], terms_hash=page["terms_hash"],
        )  # fmt: skip
        self._note("approval", words)

    def _receipt_state(self, item: str) -> str:
        found = [row for row in self._staff.keeper.get("/factory")["receipts"] if row["item"] == item]
        return str(found[-1]["state"]) if found else ""

    def _pledge_state(self, ident: str, pledge: str) -> str:
        rows = self._staff.maker.get(f"/bank/applications/{ident}")["pledges"]
        return next((str(row["state"]) for row in rows if row["id"] == pledge), "")

    def _refuse(self, words: str, act: Any) -> None:
        try:
            act()
        except Conflict as error:
            self.story.refused.append((words, f"{error.code}: {error.message}"))
            self._say(f"refused: {words} ({error.code})")
            return
        raise Conflict(f"{words} was not refused.", code="not_refused")

    def _until(self, words: str, is_done: Any) -> None:
        deadline = time.monotonic() + WAIT_S
        while not is_done():
            if time.monotonic() > deadline:
                raise Unavailable(f"Waited in vain: {words}.", code="too_slow")
            time.sleep(_POLL_S)

    def _note(self, step: str, words: str) -> None:
        self.story.steps.append((step, words))
        self._say(f"{step}: {words}")
