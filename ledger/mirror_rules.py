"""What a mirror holds each entry against, by log order alone: who may sign what, under which key, at which place.

Only what the operator had to prevent is a fault. What a device does wrong by itself (a gap, a fork that is recorded)
is evidence that the log keeps, and no reason to refuse it.
"""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from core.canonical import b64u, unb64u
from core.crypto import P256Public, thumbprint
from core.errors import Rejected
from core.jws import split_jws
from core.merkle import leaf_hash, tree_root
from core.message import JWT_BYTES_MAX, TYP, Signed, read_entry
from core.prefixmap import map_key
from core.records import BY_OPERATOR, Record, StateLeaf, read_record, read_state_leaf, record_keys
from ledger.database import Tx, raw
from ledger.erasure_request import check_request
from ledger.mirror_tables import keys, messages, orgs, record_ids, rivals
from ledger.store import split_items

ROLE_MAX = 12
SIGNING_USES = ("device", "gateway")
_KNOWN = "SELECT 1 FROM mirror_messages WHERE id = ?"
_SAME_SEQ = "SELECT 1 FROM mirror_messages WHERE key_no = ? AND seq = ? LIMIT 1"
_INSERT = "INSERT INTO mirror_messages (leaf, id, key_no, seq, events) VALUES (?, ?, ?, ?, ?)"
# What a key's scope limits and the clear part of an event shows; products and places stand in disclosures.
_SCOPE_CLEAR = (("types", "type"), ("steps", "bizStep"))


class Fault(Rejected):
    """An entry that an honest operator would not have logged.

    Attributes:
        leaf: where it stands, None when it is about the log as a whole.
        kind: message, record, state or checkpoint.
        entry_id: message or record id, base64url, where the entry can be read.
        evidence: the bytes at fault.
    """

    def __init__(
        self, message: str, *, code: str, leaf: int | None, kind: str, entry_id: str = "", evidence: bytes = b""
    ) -> None:
        super().__init__(message, code=code)
        self.leaf = leaf
        self.kind = kind
        self.entry_id = entry_id
        self.evidence = evidence


@dataclass(frozen=True)
class Pinned:
    """What does not change over a log's life: origin, service, the registry, and registries of chains given up."""

    origin: str
    aud: str
    chain_id: int
    registry: str
    earlier: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Stepped:
    """What an entry that passed does to the map, and what has still to be asked of the chain.

    Attributes:
        steps: (leaf, event number and leaf hash; keys) as ``ledger.flatmap`` takes them.
        record: an ``org`` record that must be held against the registry.
    """

    steps: list[tuple[bytes, list[bytes]]]
    record: Record | None = None


class Rules:
    """Judges messages and records one after the other; what they change is written in the caller's transaction.

    Args:
        items_of: fetches the item list of an earlier leaf (for erasure records).
    """

    def __init__(self, tx: Tx, pinned: Pinned, items_of: Callable[[int], bytes]) -> None:
        self._tx = tx
        self._pinned = pinned
        self._items_of = items_of
        self._keys: dict[str, Any] = {}
        self._publics: dict[str, P256Public] = {}
        # master and audit records have nothing beyond form and signer.
        self._rules: dict[str, Callable[[int, Record], None]] = {
            "org": self._org,
            "key": self._key_record,
            "end": self._end,
            "equivocation": self._equivocation,
            "refusal": self._refusal,
            "erasure": self._erasure,
        }

    def message(self, leaf: int, data: bytes, items: bytes) -> Stepped:
        """A message with its item list.

        Raises:
            Rejected: the rule it breaks.
        """
        signed = read_entry(data)
        key = self._key(signed.kid)
        if key is None:
            raise Rejected("No key record of its key stands before it.", code="unknown_key")
        if signed.aud != self._pinned.aud:
            raise Rejected(f"It is for {signed.aud}, not for {self._pinned.aud}.", code="wrong_audience")
        if (signed.org, signed.iss) != (key.org, key.iss):
            raise Rejected("It names another device or organisation than its key's record.", code="wrong_device")
        if key.use not in SIGNING_USES:
            raise Rejected(f"A key for {key.use} signs no messages.", code="wrong_use")
        split_jws(data, typ=TYP, bytes_max=JWT_BYTES_MAX).check(self._publics[signed.kid])
        if key.end_leaf is not None and signed.seq > key.end_seq:
            raise Rejected(f"Its key ended at leaf {key.end_leaf} with seq {key.end_seq}.", code="key_ended")
        if signed.on_behalf_of is not None and key.use != "gateway":
            raise Rejected("Only a gateway signs on behalf of others.", code="not_a_gateway")
        _check_scope(signed, json.loads(key.scope))
        lists = check_items(signed.clear, items)
        self._place(leaf, signed, key)
        return Stepped(_message_steps(leaf, leaf_hash(data), map_key("device", signed.iss), lists))

    def record(self, leaf: int, data: bytes) -> Stepped:
        """A record.

        Raises:
            Rejected: the rule it breaks.
        """
        record = read_record(data)
        payload = record.payload
        if payload["aud"] != self._pinned.aud or payload["log"] != self._pinned.origin:
            raise Rejected("It names another service or log.", code="wrong_log")
        known = sa.select(record_ids.c.leaf).where(record_ids.c.id == record.id)
        if (before := self._tx.execute(known).scalar_one_or_none()) is not None:
            raise Rejected(f"The same record stands at leaf {before}.", code="twice")
        record.jws.check(self._signer(record))
        rule = self._rules.get(record.t)
        if rule is not None:
            rule(leaf, record)
        self._tx.execute(record_ids.insert().values(id=record.id, leaf=leaf))
        suffix = leaf.to_bytes(8) + bytes(4) + leaf_hash(data)
        steps = [(suffix, record_keys(payload, self._iss_of))]
        return Stepped(steps, record if record.t == "org" else None)

    def hidden_rival(self, before: int) -> Any:
        """The first second message under one (key, seq) below leaf ``before`` that no record has named, or None."""
        query = sa.select(rivals).where(rivals.c.leaf < before).order_by(rivals.c.leaf).limit(1)
        return self._tx.execute(query).first()

    def _iss_of(self, kid: str) -> str | None:
        key = self._key(kid)
        return None if key is None else str(key.iss)

    def _key(self, kid: str) -> Any:
        if kid not in self._keys:
            row = self._tx.execute(sa.select(keys).where(keys.c.kid == kid)).first()
            if row is None:
                return None
            self._keys[kid] = row
            self._publics[kid] = P256Public.from_jwk(json.loads(row.jwk))
        return self._keys[kid]

    def _current(self, org: str) -> Any:
        query = sa.select(orgs).where(orgs.c.org == org).order_by(orgs.c.leaf.desc()).limit(1)
        return self._tx.execute(query).first()

    def _signer(self, record: Record) -> P256Public:
        payload, kid = record.payload, record.jws.kid
        if record.t not in BY_OPERATOR:
            current = self._current(payload["org"])
            if current is None or current.kid != kid:
                raise Rejected("Its signer is not the organisation's record-signing key.", code="unknown_signer")
            return P256Public.from_jwk(json.loads(current.jwk))
        if record.t == "org" and self._tx.execute(sa.select(orgs.c.leaf).limit(1)).first() is None:
            if payload["roles"] & 1 and thumbprint(payload["jwk"]) == kid:
                return P256Public.from_jwk(payload["jwk"])
            raise Rejected("A log's first org record is the operator's own and signs itself.", code="unknown_signer")
        for name in self._tx.execute(sa.select(orgs.c.org).where(orgs.c.kid == kid).distinct()).scalars().all():
            current = self._current(name)
            if current.kid == kid and current.roles & 1:
                return P256Public.from_jwk(json.loads(current.jwk))
        raise Rejected("Its signer is not the operator's key.", code="unknown_signer")

    def _place(self, leaf: int, signed: Signed, key: Any) -> None:
        # A mirror's database is SQLite, and this runs for every message: the driver's own cursor is four times faster.
        cursor = raw(self._tx).cursor()
        if cursor.execute(_KNOWN, (signed.id,)).fetchone() is not None:
            raise Rejected("The same message stands in the log already.", code="twice")
        if cursor.execute(_SAME_SEQ, (key.key_no, signed.seq)).fetchone() is not None:
            row = {"leaf": leaf, "id": signed.id, "kid": signed.kid, "seq": signed.seq}
            self._tx.execute(rivals.insert().values(row))
        cursor.execute(_INSERT, (leaf, signed.id, key.key_no, signed.seq, len(signed.clear)))

    def _org(self, leaf: int, record: Record) -> None:
        payload, place = record.payload, record.payload["place"]
        known = place["registry"] == self._pinned.registry and place["chain_id"] == self._pinned.chain_id
        if not known and place["registry"] not in self._pinned.earlier:
            raise Rejected("It names another registry than the pinned contract's.", code="wrong_registry")
        last = self._current(payload["org"])
        if last is not None and last.registry == place["registry"] and payload["version"] <= last.version:
            raise Rejected(f"Version {last.version} of this organisation came before it.", code="old_version")
        row = {"leaf": leaf, "org": payload["org"], "version": payload["version"], "registry": place["registry"]}
        row |= {"roles": payload["roles"], "kid": thumbprint(payload["jwk"]), "jwk": json.dumps(payload["jwk"])}
        self._tx.execute(orgs.insert().values(block=place["number"], **row))

    def _key_record(self, leaf: int, record: Record) -> None:
        payload = record.payload
        if self._key(payload["kid"]) is not None:
            raise Rejected("Its key has a record already; one for ever.", code="key_exists")
        row = {name: payload[name] for name in ("kid", "org", "iss", "use")}
        row |= {"scope": json.dumps(payload["scope"]), "jwk": json.dumps(payload["jwk"]), "leaf": leaf}
        self._tx.execute(keys.insert().values(row))

    def _end(self, leaf: int, record: Record) -> None:
        payload = record.payload
        key = self._key(payload["kid"])
        if key is None or key.org != payload["org"]:
            raise Rejected("No key of this organisation stands before it.", code="unknown_key")
        if key.end_leaf is not None:
            raise Rejected(f"Its key ended at leaf {key.end_leaf}; one end for ever.", code="already_ended")
        last = None if payload["last"] is None else unb64u(payload["last"], length=32)
        values = {"end_leaf": leaf, "end_seq": payload["seq"], "end_last": last}
        self._tx.execute(keys.update().where(keys.c.kid == payload["kid"]).values(values))
        del self._keys[payload["kid"]]

    def _equivocation(self, leaf: int, record: Record) -> None:
        key = self._about(record)
        payload = record.payload
        ids = [unb64u(text, length=32) for text in payload["ids"]]
        query = sa.select(messages.c.id).where(messages.c.key_no == key.key_no, messages.c.seq == payload["seq"])
        logged = {bytes(found) for found in self._tx.execute(query).scalars()}
        if len(set(ids)) < 2 or not set(ids) <= logged:
            raise Rejected("It accuses a key of messages that the log does not hold.", code="false_equivocation")
        self._tx.execute(rivals.delete().where(rivals.c.id.in_(ids)))

    def _refusal(self, leaf: int, record: Record) -> None:
        self._about(record)

    def _erasure(self, leaf: int, record: Record) -> None:
        payload = record.payload
        at, event = payload["leaf"], payload["event"]
        row = self._tx.execute(sa.select(messages.c.events).where(messages.c.leaf == at)).first()
        if not 0 <= at < leaf or row is None or not 0 <= event < row.events:
            raise Rejected("It erases from an event that does not stand before it.", code="bad_erasure")
        owner = self._current(payload["org"])
        if owner is None:
            raise Rejected("Its owner is no organisation of this log.", code="unknown_signer")
        check_request(payload, P256Public.from_jwk(json.loads(owner.jwk)))
        held = {item[1:] for item in split_items(self._items_of(at))[event]}
        if {unb64u(text, length=32) for text in payload["owner"]["items"]} != held:
            raise Rejected("It names other things than the event it erases from.", code="bad_erasure")

    def _about(self, record: Record) -> Any:
        """The key that an operator's record speaks of."""
        payload = record.payload
        key = self._key(payload["kid"])
        if key is None or (key.org, key.iss) != (payload["org"], payload["iss"]):
            raise Rejected("It speaks of a key, device or organisation that is not so.", code="wrong_device")
        return key


def check_state(
    data: bytes, leaf: int, *, origin: str, last: StateLeaf | None, map_root: bytes, keys_: int
) -> StateLeaf:
    """The state leaf at ``leaf``, held against the map after the leaves before it and against the last one.

    Raises:
        Rejected: the rule it breaks.
    """
    state = read_state_leaf(data)
    if state.log != origin:
        raise Rejected(f"It is of the log {state.log}.", code="wrong_log")
    if state.size != leaf + 1:
        raise Rejected(f"It claims {state.size} leaves, it is leaf {leaf}.", code="wrong_size")
    if state.prev != (None if last is None else last.size - 1):
        raise Rejected("It does not name the state leaf before it.", code="wrong_prev")
    if last is not None and state.time < last.time:
        raise Rejected("Its time lies before that of the state leaf before it.", code="time_back")
    if state.map_root != map_root:
        raise Rejected("Its map root is not the one that the entries and item lists give.", code="wrong_map_root")
    if state.keys != keys_:
        raise Rejected(f"It counts {state.keys} keys, the map holds {keys_}.", code="wrong_keys")
    before = None if last is None else last.block
    if before is not None and (state.block is None or (state.block[0] == before[0] and state.block[1] < before[1])):
        raise Rejected("Its block lies before that of the state leaf before it.", code="block_back")
    return state


def check_items(clear: Sequence[Mapping[str, Any]], blob: bytes) -> list[list[bytes]]:
    """The item list of each event, when it is whole: sorted, distinct, ``items.n`` long, with ``items.root`` as root.

    Raises:
        Rejected: ``wrong_item_list``.
    """
    try:
        lists = split_items(blob)
    except IndexError:
        lists = []
    if len(lists) != len(clear) or sum(2 + 33 * len(items) for items in lists) != len(blob):
        raise Rejected("Its item lists are cut or do not fit its events.", code="wrong_item_list")
    for number, (event, items) in enumerate(zip(clear, lists, strict=True)):
        where = f"The item list of event {number}"
        if any(len(item) != 33 or not 1 <= item[0] <= ROLE_MAX for item in items):
            raise Rejected(f"{where} holds something that is no role and key.", code="wrong_item_list")
        if any(left >= right for left, right in itertools.pairwise(items)):
            raise Rejected(f"{where} is not sorted or names a thing twice.", code="wrong_item_list")
        signed = event["items"]
        if signed["n"] != len(items) or signed["root"] != b64u(tree_root([leaf_hash(item) for item in items])):
            raise Rejected(f"{where} is not the signed one.", code="wrong_item_list")
    return lists


def _check_scope(signed: Signed, scope: Mapping[str, Any]) -> None:
    for name, member in _SCOPE_CLEAR:
        if name not in scope:
            continue
        for number, event in enumerate(signed.clear):
            word = str(event.get(member, ""))
            local = word.replace("/", ":").rsplit(":", 1)[-1].removeprefix("BizStep-")
            if local not in scope[name] and word not in scope[name]:
                raise Rejected(f"Event {number}: its key's scope has no {member} {word}.", code="out_of_scope")


def _message_steps(
    leaf: int, hashed: bytes, device: bytes, lists: Sequence[Sequence[bytes]]
) -> list[tuple[bytes, list[bytes]]]:
    steps: list[tuple[bytes, list[bytes]]] = []
    for number, items in enumerate(lists):
        distinct = list(dict.fromkeys(item[1:] for item in items))
        if number == 0 and device not in distinct:
            distinct.append(device)
        steps.append((leaf.to_bytes(8) + number.to_bytes(4) + hashed, distinct))
    return steps
