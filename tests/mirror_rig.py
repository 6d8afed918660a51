"""An operator on a built-in chain, honest or not, served over HTTP, and a mirror of another organisation beside it."""

import random
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from api.app import create_app
from api.services import Services, WebSettings
from contracts.clients import OrganisationRegistryClient
from contracts.deploy import deploy
from contracts.opening import open_chain
from contracts.signer import Signer
from core.canonical import unb64u
from core.crypto import P256Private
from core.errors import Unavailable
from core.message import Message
from core.prefixmap import map_key
from core.records import common, key_members, read_record, sign_record
from ledger import store
from ledger.anchor import Anchorer, AnchorSettings, last_final_anchor
from ledger.chain_book import check_start, enqueue
from ledger.chain_tx import ChainSender
from ledger.database import open_database, upgrade
from ledger.followers import run_all
from ledger.itemmap import ProofMap
from ledger.mirror_auth import COSIGNER
from ledger.proofs import LogPlace
from ledger.state import views
from ledger.tables import MESSAGE, RECORD, messages, records, waiting
from tests.chain_fixtures import CHECKPOINT_KEY, K_CHECK
from tests.ledger.world import AUD, CARRIER, LOG, MAKER, OPERATOR, World, seen
from tracebond.mirror_run import Address, Folder

REGULATOR = "https://id.gs1.org/417/9521000000032"
ROLES = {OPERATOR: 1, MAKER: 2, CARRIER: 16, REGULATOR: 128}


class Operator(World):
    """The small world with its organisations on a real chain, anchoring what it logs; honest unless told otherwise."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        database = open_database(f"sqlite:///{folder / 'operator.db'}")
        upgrade(database)
        super().__init__(database, block=self._block)
        self.orgs[REGULATOR] = P256Private.from_secret(b"regulator")
        self.now = int(time.time()) - 1_000
        self.random = random.Random(int(time.time_ns()))
        self.chain = open_chain(None, folder, genesis_salt=b"mirror")
        self.signer = Signer(folder / "keys")
        self.deployment = deploy(
            self.chain, self.signer, folder, origin=LOG, checkpoint_key=CHECKPOINT_KEY.public.raw, k_check=K_CHECK
        )
        check_start(database, self.chain, self.deployment, now_ms=1)
        self.registry = OrganisationRegistryClient(self.chain, self.deployment.organisations)
        self.sender = ChainSender(database, self.chain, self.signer)
        self.anchorer = Anchorer(database, self.chain, AnchorSettings(interval_ms=0))
        self.rewrite: Callable[[str, int, bytes], tuple[int, bytes]] = lambda path, status, body: (status, body)

    def first(self) -> "Operator":
        """Everybody registered, on the chain and in the log, and a few messages; anchored."""
        with self.database.transaction() as tx:
            store.set_identity(tx, aud=AUD, log=LOG)
            for org in ROLES:
                self._register(tx, org, self.orgs[org])
        self._drain()
        for org, roles in ROLES.items():
            self.record(self.org_payload(org, roles=roles), signer=OPERATOR)
        self.enroll("line-1", MAKER)
        self.enroll("truck-1", CARRIER)
        self.step()
        for serial in range(6):
            self.send("line-1", seen(serial, action="ADD", step="commissioning", at=self.now))
        self.send("truck-1", seen(0, 1, at=self.now), seen(2, at=self.now))
        self.anchor()
        return self

    def org_payload(self, org: str, *, roles: int, version: int = 0) -> dict[str, Any]:
        there = self.registry.organisation_at(map_key("org", org), version)
        place = {"chain_id": self.chain.chain_id, "number": there.block_number, "registry": self.registry.address}
        members = {"name": org[-4:], "roles": roles, "account": there.account, "version": version}
        members |= {"jwk": self.orgs[org].jwk(), "place": place}
        return common(t="org", aud=AUD, log=LOG, org=org, iat=self.now) | members

    def change(self, org: str, key: P256Private) -> None:
        """A new record key of an organisation, on the chain alone."""
        with self.database.transaction() as tx:
            self._register(tx, org, key)
        self._drain()

    def admit_mirror(self, folder: Folder, org: str = REGULATOR) -> None:
        members = key_members(folder.requests.jwk(), iss=org, use="mirror", scope={COSIGNER: folder.verifier.encode()})
        self.record(common(t="key", aud=AUD, log=LOG, org=org, iat=self.now) | members, signer=org)
        self.anchor()

    def force_record(self, payload: dict[str, Any], signer: P256Private) -> None:
        """Log a record past every check of the store."""
        record = read_record(sign_record(payload, signer))
        with self.database.transaction() as tx:
            arrival = store.next_arrivals(tx, 1)[0]
            row = {"arrival": arrival, "id": record.id, "leaf_hash": record.leaf_hash, "t": record.t}
            row |= {"org": payload["org"], "received_ms": 1, "raw": record.raw, "subject_kid": payload.get("kid")}
            tx.execute(records.insert().values(row))
            tx.execute(waiting.insert().values(arrival=arrival, kind=RECORD))

    def force_message(self, message: Message, *, items: Callable[[bytes], bytes] = lambda blob: blob) -> None:
        """Log a message past every check, with another item list if wanted."""
        from ledger.keys import key_numbers

        signed = message.signed
        with self.database.transaction() as tx:
            arrival = store.next_arrivals(tx, 1)[0]
            key_no = key_numbers(tx, [signed.kid])[signed.kid]
            blob, ids = store.join_items(message.events)
            row = {"arrival": arrival, "id": signed.id, "leaf_hash": signed.leaf_hash, "key_no": key_no}
            row |= {"seq": signed.seq, "prev": signed.prev, "received_ms": 1, "publish_bytes": 1, "event_count": 1}
            row |= {"jwt": signed.jwt, "items": items(blob), "item_ids": ids}
            tx.execute(messages.insert().values(row))
            tx.execute(waiting.insert().values(arrival=arrival, kind=MESSAGE))

    def anchor(self) -> int:
        """Sequence what waits and anchor it, final; gives the size."""
        made = self.step()
        while made is not None and made.has_more:
            made = self.step()
        for turn in range(50):
            self.anchorer.step(self.now * 1000 + turn * 1000)
            self.sender.step(self.now * 1000 + turn * 1000 + 500)
            with self.database.reading() as tx:
                final = last_final_anchor(tx)
            if final is not None and final.size == self.sequencer.size:
                return final.size
        raise AssertionError("no anchor became final")

    def bundle_maps(self) -> ProofMap:
        run_all(self.database, views())
        maps = ProofMap()
        with self.database.reading() as tx:
            final = last_final_anchor(tx)
            assert final is not None
            maps.advance(tx, final.size)
        return maps

    @property
    def place(self) -> LogPlace:
        found = self.deployment
        return LogPlace(found.log_contract, found.organisations, found.log_id, found.chain_id, found.genesis_hash)

    @contextmanager
    def serving(self) -> Iterator[str]:
        """The operator's own web application over HTTP; ``rewrite`` changes what it answers."""
        app = create_app(Services(db=self.database, settings=WebSettings(origin=LOG), chain=self.chain))
        config = uvicorn.Config(
            _Rewriting(app, self), host="127.0.0.1", port=0, log_level="error", lifespan="off", server_header=False
        )
        bound = config.bind_socket()
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)

    def close(self) -> None:
        self.chain.close()
        self.database.close()

    def _register(self, tx: Any, org: str, key: P256Private) -> None:
        call = self.registry.set_organisation_call(
            map_key("org", org),
            record_key=unb64u(key.thumbprint(), length=32),
            account=self.signer.address(f"org-{org[-13:]}"),
            roles=ROLES[org],
        )
        enqueue(
            tx, account="admin", to=self.registry.address, data=call, purpose="organisation",
            reference=f"{org}/{key.thumbprint()}", now_ms=self.now * 1000,
        )  # fmt: skip

    def _drain(self) -> None:
        for turn in range(200):
            if self.sender.step(self.now * 1000 + turn).is_idle and turn > 2:
                return

    def _block(self) -> tuple[int, int, str] | None:
        try:
            number = self.chain.final_block_number()
        except Unavailable:
            return None
        found = self.chain.block_hash(number)
        return None if found is None else (self.chain.chain_id, number, found)


class _Rewriting:
    """ASGI: the application, with the body and status of its answers passed through ``operator.rewrite``."""

    def __init__(self, app: Any, operator: Operator) -> None:
        self._app, self._operator = app, operator

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start: dict[str, Any] = {}
        body = b""

        async def caught(message: Any) -> None:
            nonlocal body
            if message["type"] == "http.response.start":
                start.update(message)
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                status, changed = self._operator.rewrite(scope["path"], start["status"], body)
                headers = [(name, value) for name, value in start["headers"] if name != b"content-length"]
                headers.append((b"content-length", str(len(changed)).encode()))
                await send({"type": "http.response.start", "status": status, "headers": headers})
                await send({"type": "http.response.body", "body": changed})

        await self._app(scope, receive, caught)


def copied(folder: Path, to: Path) -> Operator:
    """Another operator with the state of a told one."""
    shutil.copytree(folder, to)
    return Operator(to)


def mirror_address(operator: Operator, url: str) -> Address:
    return Address(url, f"{url}/rpc", operator.deployment.log_contract)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
