"""A whole log in memory by the naive definitions: what the real ledger and the verifiers are compared with."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from core import merkle
from core.bundle import (
    LOG_AT,
    LOG_COUNT,
    ORGANISATION_AT,
    ORGANISATIONS,
    ROOT_AT,
    Answers,
    Question,
    origin_hash,
)
from core.canonical import b64u, canonical_bytes, sha256, unb64u
from core.crypto import Ed25519Private, P256Private
from core.message import Signed, issue, open_message, split
from core.notes import COSIGNATURE, Checkpoint, Verifier, cosign, sign_note
from core.prefixmap import map_key, map_root, map_value, prove, step_head
from core.proofs import questions
from core.records import StateLeaf, common, key_members, record_keys, sign_record

AUD = "small.example"
ORIGIN = "small.example/log"
CONTRACT = "0x" + "11" * 20
REGISTRY = "0x" + "22" * 20
OLD_REGISTRY = "0x" + "55" * 20
GENESIS = "0x" + "33" * 32
OPERATOR = "https://id.gs1.org/417/9521000000009"
MAKER = "https://id.gs1.org/417/9521234500008"
DEVICE_ISS = "https://id.gs1.org/8004/952123450000A1"
LOG_KEY = Ed25519Private(sha256(b"log"))
MIRROR_KEY = Ed25519Private(sha256(b"mirror"))
OPERATOR_KEY = P256Private.from_secret(b"operator")
MAKER_KEY = P256Private.from_secret(b"maker")
DEVICE_KEY = P256Private.from_secret(b"device")
MIRROR = Verifier("mirror.example", MIRROR_KEY.public, COSIGNATURE)

_salts = itertools.count()


@dataclass
class Entry:
    data: bytes
    steps: list[tuple[bytes, int]]
    signed: Signed | None = None
    texts: list[list[str]] = field(default_factory=list)
    items: list[list[bytes]] = field(default_factory=list)


class SmallLog:
    """Organisations, one device, messages; then a state leaf and bundles.

    Args:
        registry: where the first organisations are registered; the bundle's is REGISTRY.
        before: number and last good size of the frozen logs that this one goes on from, nearest first.
    """

    def __init__(self, registry: str = REGISTRY, before: Sequence[tuple[int, int]] = ()) -> None:
        self.entries: list[Entry] = []
        self.org_leaves: list[int] = []
        self.registry = registry
        self.before = before
        self.chain: list[bytes] = []
        self.orgs: list[dict[str, Any]] = []
        self.prev: bytes | None = None
        self.seq = 0
        self.organisation(OPERATOR, OPERATOR_KEY, roles=1)
        self.organisation(MAKER, MAKER_KEY, roles=2)
        self.key(DEVICE_KEY)

    def record(self, t: str, org: str, members: dict[str, Any], key: P256Private) -> None:
        payload = common(t=t, aud=AUD, log=ORIGIN, org=org, iat=1_700_000_000) | members
        self.entries.append(Entry(sign_record(payload, key), [(k, 0) for k in record_keys(payload)]))

    def organisation(self, org: str, key: P256Private, *, roles: int) -> None:
        account = "0x" + sha256(org.encode())[:20].hex()
        place = {"chain_id": 7, "number": len(self.orgs) + 1, "registry": self.registry}
        members = {"name": org, "roles": roles, "account": account, "jwk": key.jwk(), "version": 0, "place": place}
        if self.registry == REGISTRY:
            self.orgs.append(members)
        self.org_leaves.append(len(self.entries))
        self.record("org", org, members, OPERATOR_KEY)

    def key(self, key: P256Private, iss: str = DEVICE_ISS) -> None:
        self.record("key", MAKER, key_members(key.jwk(), iss=iss, use="device", scope={}), MAKER_KEY)

    def end(self, key: P256Private, last: bytes | None, seq: int) -> None:
        members = {"kid": key.thumbprint(), "last": None if last is None else b64u(last), "seq": seq, "reason": "lost"}
        self.record("end", MAKER, members, MAKER_KEY)

    def message(self, *events: dict[str, Any], key: P256Private = DEVICE_KEY) -> Signed:
        raw = issue(
            events, aud=AUD, org=MAKER, iss=DEVICE_ISS, iat=1_700_000_000, seq=self.seq, prev=self.prev, key=key,
            salts=lambda: sha256(next(_salts).to_bytes(8, "big"))[:16],
        )  # fmt: skip
        message = open_message(split(raw), key.public)
        steps = [(item.key, number) for number, event in enumerate(message.events) for item in event.items]
        steps = [*list(dict.fromkeys(steps)), (map_key("device", DEVICE_ISS), 0)]
        texts = [list(event) for event in message.disclosures]
        items = [[item.leaf for item in event.items] for event in message.events]
        self.entries.append(Entry(message.jwt, steps, message.signed, texts, items))
        self.prev, self.seq = message.id, self.seq + 1
        return message.signed

    def close(self) -> None:
        """Append the state leaf; nothing may come after."""
        self.values: dict[bytes, bytes] = {}
        self.steps: dict[bytes, list[tuple[int, int]]] = {}
        for index, entry in enumerate(self.entries):
            for key, event in entry.steps:
                self.steps.setdefault(key, []).append((index, event))
        for key, steps in self.steps.items():
            head = bytes(32)
            for index, event in steps:
                head = step_head(head, index, event, merkle.leaf_hash(self.entries[index].data))
            self.values[key] = map_value(len(steps), head)
        size = len(self.entries) + 1
        block = (7, 9, "0x" + "44" * 32)
        self.state = StateLeaf(ORIGIN, size, map_root(self.values), len(self.values), None, 1_700_000_100, block)
        self.leaves = [merkle.leaf_hash(entry.data) for entry in self.entries] + [merkle.leaf_hash(self.state.encode())]
        self.root = merkle.tree_root(self.leaves)

    def bundle(self, item: str, related: Sequence[str] = (), *, is_cosigned: bool = False) -> dict[str, Any]:
        text = Checkpoint(ORIGIN, len(self.leaves), self.root).text()
        note = sign_note(text, ORIGIN, LOG_KEY)
        if is_cosigned:
            note += cosign(text, MIRROR.name, MIRROR_KEY, time=1_700_000_200)
        keys = {map_key("item", name): ("item", name) for name in dict.fromkeys((item, *related))}
        if any(self.entries[index].signed for key in keys for index, _ in self.steps.get(key, [])):
            keys[map_key("key", DEVICE_KEY.thumbprint())] = ("key", DEVICE_KEY.thumbprint())
        wanted: dict[int, set[int]] = {}
        if len(keys) > 1 + len(related):
            wanted = {leaf: set() for leaf in self.org_leaves}
        for key in keys:
            for index, event in self.steps.get(key, []):
                wanted.setdefault(index, set()).add(event)
        log = {"contract": CONTRACT, "registry": REGISTRY, "id": len(self.before), "chain_id": 7, "genesis": GENESIS}
        return {
            "v": 1,
            "log": log | ({"before": [number for number, _ in self.before]} if self.before else {}),
            "item": item,
            "size": len(self.leaves),
            "state": {"leaf": self.state.encode().decode(), "path": self.path(len(self.leaves) - 1)},
            "checkpoint": note,
            "cosigners": [MIRROR.encode()] if is_cosigned else [],
            "histories": [self.history(key, name) for key, name in sorted(keys.items())],
            "entries": [self.entry(index, events, set(keys)) for index, events in sorted(wanted.items())],
        }

    def path(self, index: int) -> list[str]:
        return [b64u(node) for node in merkle.inclusion_proof(self.leaves, index)]

    def history(self, key: bytes, name: tuple[str, str]) -> dict[str, Any]:
        proof = prove(self.values, key)
        history: dict[str, Any] = {
            "name": list(name),
            "steps": [list(step) for step in self.steps.get(key, [])],
            "siblings": [b64u(node) for node in proof.siblings],
        }
        if proof.other is not None:
            history["other"] = [b64u(part) for part in proof.other]
        return history

    def entry(self, index: int, events: set[int], keys: set[bytes]) -> dict[str, Any]:
        entry = self.entries[index]
        value: dict[str, Any] = {"index": index, "data": entry.data.decode(), "path": self.path(index)}
        if entry.signed is None:
            return value
        value["disclosures"] = [text for event in sorted(events) for text in entry.texts[event]]
        value["items"] = []
        for event in sorted(events):
            items = entry.items[event]
            hashed = [merkle.leaf_hash(item) for item in items]
            last_up = next((i for i, item in enumerate(items) if item[0] > 5), len(items) - 1)
            chosen = [i for i, item in enumerate(items) if i <= last_up or item[1:] in keys]
            leaves = [
                [i, items[i][0], b64u(items[i][1:]), [b64u(n) for n in merkle.inclusion_proof(hashed, i)]]
                for i in chosen
            ]
            value["items"].append([event, leaves])
        return value

    def answers(self) -> Answers:
        """What the chain says of this log."""
        number = len(self.leaves).to_bytes(32, "big")
        named = origin_hash(ORIGIN) + LOG_KEY.public.raw
        chain = [*(before.to_bytes(32, "big") for before, _ in self.before), b"\xff" * 32]
        count = (len(chain)).to_bytes(32, "big")
        log = named + chain[0] + number + self.root + bytes(64)
        calls = [log, self.root, count, bytes(12) + bytes.fromhex(REGISTRY[2:])]
        for (_, good), predecessor in zip(self.before, chain[1:], strict=True):
            last = good.to_bytes(32, "big")
            calls.append(named + predecessor + number + self.root + (1).to_bytes(32, "big") + last)
        for members in self.orgs:
            key = OPERATOR_KEY if members["name"] == OPERATOR else MAKER_KEY
            calls.append(
                unb64u(key.thumbprint(), length=32)
                + bytes(12)
                + bytes.fromhex(members["account"][2:])
                + int(members["roles"]).to_bytes(32, "big")
                + int(members["place"]["number"]).to_bytes(32, "big")
            )
        return Answers(7, GENESIS, tuple(calls))

    def known(self) -> dict[str, str]:
        """Every question that the chain has an answer to, address and calldata, with the returned bytes in hex."""
        calls = self.answers().calls
        size = f"{len(self.leaves):064x}"
        log = f"{len(self.before):064x}"
        asked = [(CONTRACT, f"{LOG_AT}{log}"), (CONTRACT, f"{ROOT_AT}{log}{size}")]
        asked += [(CONTRACT, LOG_COUNT), (CONTRACT, ORGANISATIONS)]
        asked += [(CONTRACT, f"{LOG_AT}{number:064x}") for number, _ in self.before]
        asked += [(REGISTRY, f"{ORGANISATION_AT}{map_key('org', org['name']).hex()}{0:064x}") for org in self.orgs]
        return {f"{to} 0x{data}": "0x" + call.hex() for (to, data), call in zip(asked, calls, strict=True)}

    def answers_to(self, bundle: dict[str, Any]) -> Answers:
        """What a node answers to this bundle's questions."""
        return Answers(7, GENESIS, answered(self.known(), questions(encoded(bundle))))


def answered(known: dict[str, str], asked: Sequence[Question]) -> tuple[bytes, ...]:
    """The answers of a node that knows some: another size has no root, every other call reverts and gives nothing."""
    found = []
    for question in asked:
        nothing = "0x" + "00" * 32 if question.data.startswith(f"0x{ROOT_AT}") else "0x"
        found.append(bytes.fromhex(known.get(f"{question.to} {question.data}", nothing)[2:]))
    return tuple(found)


def encoded(bundle: dict[str, Any]) -> bytes:
    """The bundle's bytes."""
    return canonical_bytes(bundle)
