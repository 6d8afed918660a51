"""``tracebond demo``: a supply chain told by signing devices, a loan against it, and proofs to look at."""

import json
import secrets
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from rich.console import Console

from api.auth.sessions import create_one_time_login
from api.auth.users import create_person, create_user, user_by_login
from api.identity import Role
from contracts.chain import Reverted
from core.errors import TracebondError, Unavailable
from core.identifiers import parse
from finance.model import account_name
from ingest import quarantine
from ingest.alarms_book import add_rule, rules_of
from ingest.alarms_rules import read_rule
from ledger.anchor import anchors_between, last_final_anchor
from ledger.followers import cursor
from ledger.history import VIEWS
from ledger.log import last_checkpoint
from ledger.state import contents
from ledger.store import get_fact, put_fact, waiting_count
from simulators.cast import Cast
from simulators.scenario import Collateral, Plan, infant_formula
from tracebond.demo_bank import BankDay, Goods, Person, Staff
from tracebond.demo_fleet import DemoFleet
from tracebond.demo_mirror import DemoMirror
from tracebond.demo_table import show_table
from tracebond.enrol import Enrolment, OrganisationSpec
from tracebond.logs import configure
from tracebond.loops import calm_collector, now_ms, now_s
from tracebond.process import Running, all_in_one, web_server
from tracebond.settings import Settings

WAIT_S = 180.0
DAY_MS = 86_400_000
DEMO = "demo"
# Made-up wholesale prices, high enough that the pallet of even the smallest story carries a loan of a thousand yuan.
PRICE, COST = "1640.00", "1480.00"
LENT_PER_TIN, LENT_STEP = 200, 1_000


@dataclass(frozen=True)
class Login:
    """Who may sign in once, by which address."""

    who: str
    address: str
    token: str


def run_demo(settings: Settings, *, seed: str, units: int, is_one_shot: bool, json_file: Path | None) -> int:
    """Run the demo; gives the exit code. The web server owns the main thread, the story has its own."""
    calm_collector()
    configure("warning" if settings.log_level == "info" else settings.log_level, settings.log_format)
    console = Console(stderr=True, highlight=False)
    started = time.monotonic()
    plan = infant_formula(seed=seed, now=now_s(), units=units)
    operator = next(org for org in plan.cast.organisations if org.role == "operator")
    mirror = DemoMirror(settings.data)
    settings = settings.model_copy(update={"operator_gln": operator.gln, "mirror_keys": mirror.key})
    servers: list[uvicorn.Server] = []

    def stop() -> None:
        for server in servers:
            server.should_exit = True

    def say(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - started:5.1f} s[/dim]  {text}")

    running = all_in_one(settings, on_failure=stop, say=say)
    failures: list[BaseException] = []
    try:
        server, socket = web_server(running, settings, is_demo=True)
        servers.append(server)
        host, port = socket.getsockname()[:2]
        demo = Demo(running, plan, mirror, seed=seed, url=f"http://{host}:{port}", say=say)

        def tell() -> None:
            try:
                demo.tell(json_file=json_file)
            except BaseException as error:  # noqa: BLE001 - handed to the main thread
                failures.append(error)
                stop()
            if is_one_shot:
                stop()

        story = threading.Thread(target=tell, name="story", daemon=True)
        story.start()
        server.run(sockets=[socket])
        story.join(10)
    finally:
        mirror.stop()
        running.close()
    failure = running.loops.failure or (failures[0] if failures else None)
    if failure is not None:
        if isinstance(failure, TracebondError):
            raise failure
        console.print_exception() if sys.exc_info()[0] else None
        raise failure
    return 0


class Demo:
    """Tells the story once per data folder; a folder that was told already only shows it."""

    def __init__(self, running: Running, plan: Plan, mirror: DemoMirror, *, seed: str, url: str, say: Any) -> None:
        self._running, self._plan, self._url, self._say = running, plan, url, say
        self._mirror = mirror
        self._seed = seed
        self._parts = running.parts
        self._keys = {org.gln: self._key(org.gln, org.role) for org in plan.cast.organisations}

    def tell(self, *, json_file: Path | None) -> None:
        """The whole story, then the table and the addresses."""
        with self._parts.db.reading() as tx:
            stored = get_fact(tx, DEMO)
        if stored is None:
            summary = self._first_time()
            with self._parts.db.transaction() as tx:
                put_fact(tx, DEMO, json.dumps(summary))
        else:
            summary = json.loads(stored)
            self._say(f"this folder holds the story of seed {summary['seed']}; --data names another for a new one")
            self._start_mirror()
        self._wait_settled()
        self._say("waiting until the regulator's mirror has replayed and cosigned it")
        self._mirror.wait_cosigned(self._parts, self._running.proofs.maps.size)
        summary = self._with_figures(summary)
        if json_file is not None:
            json_file.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        logins = self._logins(is_new=True)
        show_table(summary, [(login.who, login.address) for login in logins], self._url)

    def _first_time(self) -> dict[str, Any]:
        self._enrol()
        self._start_mirror()
        fleet = DemoFleet(self._running, self._plan, say=self._say)
        fleet.run()
        self._say("waiting until everything is anchored and final")
        self._wait_settled()
        hostile = fleet.attack()
        fleet.stop()
        story = self._bank_day()
        highlights = dict(self._plan.highlights)
        return {
            "seed": self._seed,
            "messages": len(self._plan.steps),
            "events": self._plan.events,
            "devices": len(self._plan.cast.devices),
            "organisations": len(self._plan.cast.organisations),
            "highlights": highlights,
            "items": sorted(set(highlights.values()) | {c.sscc for c in self._plan.collateral}),
            "loan_steps": [list(step) for step in story.story.steps],
            "loans": story.story.loans,
            "refused": [list(row) for row in [*hostile, *story.story.refused]],
        }

    def _enrol(self) -> None:
        cast = self._plan.cast
        self._say(f"registering {len(cast.organisations)} organisations on the chain")
        enrolment = Enrolment(self._parts)
        specs = [OrganisationSpec(org.gln, org.name_en, org.role) for org in cast.organisations]
        enrolment.organisations(specs, self._keys)
        facts: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}
        for handle, subject, fact, value in cast.master_facts():
            facts.setdefault(handle, []).append((subject, fact, value))
        for handle, rows in facts.items():
            org = cast.organisation(handle)
            enrolment.master(org.id, self._keys[org.gln], rows)
        self._watch_cold_chain()

    def _watch_cold_chain(self) -> None:
        """The carriers set the rule that their trucks keep to from the story's begin: at most 25 degrees."""
        given = {"kind": "excursion", "name": "Formula at most 25 °C", "high": "25", "for_s": 1_800, "clear_s": 1_800}
        with self._parts.db.transaction() as tx:
            for org in self._plan.cast.organisations:
                if org.role == "carrier" and not rules_of(tx, org=org.id):
                    rule = read_rule(f"demo-{org.gln}", org.id, given)
                    add_rule(tx, rule, secret="", who="carrier", now_ms=now_ms() - 30 * DAY_MS)

    def _start_mirror(self) -> None:
        """The regulator's mirror, registered and replaying from now on."""
        self._mirror.admit(self._parts, next(org for org in self._plan.cast.organisations if org.role == "regulator"))
        self._mirror.start(self._url, self._parts.place.contract)

    def _key(self, gln: str, role: str) -> Any:
        files = self._parts.keyfiles
        return files.operator if role == "operator" else files.organisation(gln)

    def _wait_settled(self) -> None:
        """Everything stored is in the log, followed, anchored, final, and the proof map stands there."""
        deadline = time.monotonic() + WAIT_S
        while True:
            with self._parts.db.reading() as tx:
                head = last_checkpoint(tx)
                anchor = last_final_anchor(tx)
                waiting = waiting_count(tx)
                followed = cursor(tx, VIEWS)
            if head is not None and anchor is not None and waiting == 0 and followed >= head.size:
                quiet = anchor.size == head.size and self._running.proofs.maps.size == head.size
                if quiet:
                    return
            if time.monotonic() > deadline:
                raise Unavailable("The log was not anchored in time.", code="too_slow")
            time.sleep(0.2)

    def _bank_day(self) -> BankDay:
        cast = self._plan.cast
        lenders = [org for org in cast.organisations if org.role == "lender"]
        tokens = {login.who: login.token for login in self._logins(is_new=False)}
        people = [Person(self._url, tokens[who]) for who in _ACTORS]
        day = BankDay(Staff(*people), bank=lenders[0].id, rival_bank=lenders[1].id, say=self._say)
        first, *others = (self._goods(found) for found in self._plan.collateral[:2])
        day.prepare(first)
        pledged = {found.lot for found in self._plan.collateral[:2]}
        counts = {lot.id: lot.tins for lot in self._plan.lots if lot.id in pledged}
        day.count_lots(counts, Enrolment(self._parts).wait_final)
        lent = _amount(len(self._plan.collateral[0].tins))
        made = day.lend(first, lent)
        day.try_elsewhere(first, lent)
        day.story.refused.append(self._ask_contract(first))
        day.repay_and_release(first, made, lent)
        # A story of few units has one pallet in the warehouse: once released, it may be pledged again.
        day.lend(others[0] if others else first, lent)
        Staff(*people).close()
        return day

    def _goods(self, found: Collateral) -> Goods:
        cast = self._plan.cast
        product = next(each for each in cast.products if each.id == found.product)
        with self._parts.db.reading() as tx:
            inside = next(item for item in contents(tx, found.sscc, is_recursive=True) if "/21/" in item)
        return Goods(
            pallet=found.sscc,
            inside=_urn(inside, cast),
            owner=cast.organisation(found.owner).id,
            place=found.place,
            product=product.id,
            category=product.category,
            price=PRICE,
            cost=COST,
        )

    def _ask_contract(self, goods: Goods) -> tuple[str, str]:
        """The custodian tries to put a tin of the pledged pallet under a second receipt, past our database."""
        finance, parts = self._running.finance, self._parts
        keeper = next(org for org in self._plan.cast.organisations if org.role == "custodian")
        account = parts.signer.address(account_name(keeper.id))
        receipt = bytes.fromhex(account[2:]) + b"another one "
        data = finance.registry.register_call(
            receipt, parts.signer.address(account_name(goods.owner)), [(finance.goods_key(goods.inside), 1)]
        )
        words = "second receipt over a pledged tin, straight to the contract"
        try:
            parts.chain.call(finance.registry.address, data, sender=account)
        except Reverted as error:
            return words, f"{error.code}: {error.reason}"
        raise Unavailable("The contract did not refuse a second claim.", code="not_refused")

    def _logins(self, *, is_new: bool) -> list[Login]:
        """One-time logins of everybody; users are created the first time."""
        cast = self._plan.cast
        lenders = [org for org in cast.organisations if org.role == "lender"]
        owner = cast.organisation(self._plan.collateral[0].owner)
        keeper = cast.organisation(self._plan.collateral[0].warehouse)
        regulator = next(org for org in cast.organisations if org.role == "regulator")
        operator = next(org for org in cast.organisations if org.role == "operator")
        wanted = [
            ("bank-maker", "Loan officer", lenders[0], (Role.BANK_MAKER,), "/bank"),
            ("bank-checker", "Credit approver", lenders[0], (Role.BANK_CHECKER,), "/bank"),
            ("second-bank", "Officer of the second bank", lenders[1], (Role.BANK_MAKER, Role.BANK_CHECKER), "/bank"),
            ("borrower", "Treasurer of the dairy", owner, (Role.BORROWER, Role.FACTORY), "/factory"),
            ("custodian", "Keeper of the warehouse", keeper, (Role.CUSTODIAN,), "/factory"),
            ("regulator", "Inspector", regulator, (Role.REGULATOR,), "/regulator"),
            ("operator", "Operator on duty", operator, (Role.OPERATOR,), "/operator"),
        ]
        logins = []
        with self._parts.db.transaction() as tx:
            for login, name, org, roles, _ in wanted:
                user = user_by_login(tx, login)
                if user is None:
                    person = create_person(tx, name=name, now_ms=now_ms())
                    ident = create_user(tx, person_id=person, login=login, org=org.id, roles=roles, now_ms=now_ms())
                else:
                    ident = user.id
                token = create_one_time_login(tx, ident, now_ms=now_ms(), token=secrets.token_bytes(32))
                logins.append(Login(login, f"{self._url}/login/once/{token}", token))
        return logins

    def _with_figures(self, summary: dict[str, Any]) -> dict[str, Any]:
        place = self._parts.place
        with self._parts.db.reading() as tx:
            head, held = last_checkpoint(tx), quarantine.count_by_code(tx)
            final = [anchor for anchor in anchors_between(tx, limit=1_000) if anchor.state == "final"]
        gas = sum(anchor.gas_used or 0 for anchor in final)
        return summary | {
            "url": self._url,
            "rpc": f"{self._url}/rpc",
            "log_contract": place.contract,
            "mirror": self._mirror.key,
            "chain_id": place.chain_id,
            "log_size": head.size if head else 0,
            "root": head.root.hex() if head else "",
            "anchors": len(final),
            "gas": gas,
            "gas_per_event": round(gas / max(1, summary["events"]), 1),
            "quarantine": held,
        }


_ACTORS = ("bank-maker", "bank-checker", "second-bank", "borrower", "custodian")


def _amount(tins: int) -> str:
    """What is lent on a pallet: whole thousands of yuan, at least one."""
    return f"{max(LENT_STEP, tins * LENT_PER_TIN // LENT_STEP * LENT_STEP)}.00"


def _urn(item: str, cast: Cast) -> str:
    """The same tin in the EPC URN spelling, by the prefix of the organisation whose GTIN it is."""
    (_, gtin), (_, serial) = parse(item).ai[:2]
    prefix = next(org.prefix for org in cast.organisations if gtin[1:].startswith(org.prefix))
    reference = gtin[0] + gtin[1 + len(prefix) : 13]
    return f"urn:epc:id:sgtin:{prefix}.{reference}.{serial}"
