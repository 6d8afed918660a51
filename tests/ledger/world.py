"""A small world for ledger tests: an operator, organisations, devices and their messages, in any database."""

import random
from collections.abc import Sequence
from typing import Any

from core.crypto import Ed25519Private, P256Private
from core.message import Message, issue, open_message, split
from core.records import common, key_members, sign_record
from ledger import store
from ledger.database import Database
from ledger.log import Checkpoint, Sequencer

AUD = "https://tracebond.test"
LOG = "tracebond.test/log"
OPERATOR = "https://id.gs1.org/417/9521000000001"
MAKER = "https://id.gs1.org/417/9521000000018"
CARRIER = "https://id.gs1.org/417/9521000000025"
NOW = 1_760_000_000
PLANT = "urn:epc:id:sgln:9521000.00001.0"
STORE = "urn:epc:id:sgln:9521000.00002.0"


class World:
    """Keys by seed, records signed, messages chained per device."""

    def __init__(self, database: Database, *, seed: int = 1, **options: Any) -> None:
        self.database = database
        self.random = random.Random(seed)
        self.now = NOW
        self.orgs = {org: P256Private.from_secret(org.encode()) for org in (OPERATOR, MAKER, CARRIER)}
        self.devices: dict[str, P256Private] = {}
        self.owners: dict[str, str] = {}
        self.chains: dict[str, tuple[int, bytes | None]] = {}
        self.checkpoint_key = Ed25519Private(bytes(range(32)))
        self.sequencer = Sequencer(database, self.checkpoint_key, LOG, **options)

    def start(self) -> "World":
        """Operator, maker and carrier are registered, each with one device, and sequenced."""
        with self.database.transaction() as tx:
            store.set_identity(tx, aud=AUD, log=LOG)
        self.record(self.org_payload(OPERATOR, roles=1), signer=OPERATOR)
        self.record(self.org_payload(MAKER, roles=2), signer=OPERATOR)
        self.record(self.org_payload(CARRIER, roles=16), signer=OPERATOR)
        self.enroll("line-1", MAKER)
        self.enroll("truck-1", CARRIER)
        self.step()
        return self

    def org_payload(self, org: str, *, roles: int, version: int = 0) -> dict[str, Any]:
        place = {"chain_id": 1, "number": 1, "registry": "0x" + "00" * 20}
        members = {"name": org[-4:], "roles": roles, "account": "0x" + org[-13:].zfill(40), "version": version}
        members |= {"jwk": self.orgs[org].jwk(), "place": place}
        return common(t="org", aud=AUD, log=LOG, org=org, iat=self.now) | members

    def enroll(self, name: str, org: str, *, use: str = "device") -> None:
        key = self.devices[name] = P256Private.from_secret(name.encode())
        self.owners[name] = org
        members = key_members(key.jwk(), iss=self.iss(name), use=use, scope={})
        self.record(common(t="key", aud=AUD, log=LOG, org=org, iat=self.now) | members, signer=org)

    def end(self, name: str, *, last: str | None, seq: int) -> store.Admission:
        org = self.owners[name]
        members = {"kid": self.devices[name].thumbprint(), "last": last, "seq": seq, "reason": "stolen"}
        return self.record(common(t="end", aud=AUD, log=LOG, org=org, iat=self.now) | members, signer=org)

    def master(self, org: str, subject: str, fact: str, value: dict[str, Any]) -> store.Admission:
        members = {"subject": subject, "fact": fact, "value": value}
        return self.record(common(t="master", aud=AUD, log=LOG, org=org, iat=self.now) | members, signer=org)

    def record(self, payload: dict[str, Any], *, signer: str) -> store.Admission:
        with self.database.transaction() as tx:
            return store.admit_record(tx, sign_record(payload, self.orgs[signer]), now_ms=self.now * 1000)

    def iss(self, name: str) -> str:
        return f"https://id.gs1.org/8004/9521000{name}"

    def message(self, name: str, events: Sequence[dict[str, Any]], *, keep: bool = True) -> Message:
        """The device's next message; ``keep`` False leaves its sequence where it was (equivocation)."""
        seq, prev = self.chains.get(name, (0, None))
        key = self.devices[name]
        publish = issue(
            events,
            aud=AUD,
            org=self.owners[name],
            iss=self.iss(name),
            iat=self.now,
            seq=seq,
            prev=prev,
            key=key,
            salts=lambda: self.random.randbytes(16),
        )
        opened = open_message(split(publish), key.public)
        if keep:
            self.chains[name] = (seq + 1, opened.id)
        return opened

    def send(self, name: str, *events: dict[str, Any]) -> Message:
        message = self.message(name, events)
        self.admit(message)
        return message

    def admit(self, *messages: Message) -> list[store.Admission]:
        with self.database.transaction() as tx:
            return store.admit(tx, messages, now_ms=self.now * 1000)

    def step(self) -> Checkpoint | None:
        self.now += 1
        return self.sequencer.step(self.now)


def sgtin(serial: object) -> str:
    return f"urn:epc:id:sgtin:9521000.012345.{serial}"


def sgtin_id(serial: object) -> str:
    return f"https://id.gs1.org/01/09521000123458/21/{serial}"


def sscc(serial: int) -> str:
    return f"urn:epc:id:sscc:9521000.{serial:010d}"


def seen(*serials: object, step: str = "inspecting", at: int = NOW, place: str = PLANT, **more: Any) -> dict[str, Any]:
    """An ObjectEvent about units of one product."""
    return {
        "type": "ObjectEvent",
        "action": more.pop("action", "OBSERVE"),
        "eventTime": time_text(at),
        "eventTimeZoneOffset": "+00:00",
        "bizStep": step,
        "epcList": [sgtin(serial) for serial in serials],
        "readPoint": {"id": place},
        **more,
    }


def packed(parent: str, children: Sequence[str], *, action: str = "ADD", at: int = NOW, **more: Any) -> dict[str, Any]:
    """An AggregationEvent."""
    return {
        "type": "AggregationEvent",
        "action": action,
        "eventTime": time_text(at),
        "eventTimeZoneOffset": "+00:00",
        "bizStep": "packing" if action == "ADD" else "unpacking",
        "parentID": parent,
        "childEPCs": list(children),
        "bizLocation": {"id": PLANT},
        **more,
    }


def time_text(at: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
