"""The receipt auditor: whether the log kept what our receipts promised, from public bytes and the chain alone.

A receipt is broken when a state leaf later than ``accepted_at + promise_s`` stands in the anchored log before its leaf,
or when none is anchored within ``heartbeat_s`` more. "Later" is told by the time that state leaves say, which never
goes back: the wall clock of whoever audits is used only to see that nothing came at all. Every state leaf under an
anchored root counts, also of a checkpoint that was not anchored itself, else an operator could pass by the late ones.

Everything a source gives (hash tiles, state leaves, records) is bound by the root that the contract holds.
"""

import bisect
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from core.bundle import origin_hash
from core.canonical import b64u, parse_json, unb64u
from core.crypto import P256Public, thumbprint
from core.errors import Rejected
from core.jws import split_jws
from core.merkle import Frontier, leaf_hash
from core.receipts import RECEIPT_BYTES_MAX, TYP, Receipt, open_receipt
from core.records import Record, StateLeaf, read_record, read_state_leaf

KEPT, PENDING, BROKEN, NOT_AUTHENTIC = "kept", "pending", "broken", "not authentic"
WIDTH = 256
STATES_PART = 1_000


class Source(Protocol):
    """Where the log's bytes come from: public routes or the database. Nothing it gives is believed."""

    def tile(self, number: int, width: int) -> bytes:
        """A level-0 hash tile of ``width`` hashes."""

    def states(self, below: int) -> list[bytes]:
        """State leaves at leaves below ``below``, newest first, some at a time; empty at the log's start."""

    def receipt_keys(self) -> list[tuple[int, bytes]]:
        """(leaf, entry) of the ``org`` records and of the ``key`` records whose use is receipt."""

    def refusal(self, message: bytes) -> tuple[int, bytes] | None:
        """(leaf, entry) of a message's ``refusal`` record."""


class Contract(Protocol):
    """What the auditor asks the chain, at a final block."""

    def head(self, origin: bytes) -> tuple[int, bytes]:
        """Size and root of the newest log of this origin hash, successors included."""

    def organisation(self, org: str, version: int) -> tuple[bytes, int] | None:
        """Thumbprint and roles of an organisation's version."""


@dataclass(frozen=True)
class Verdict:
    """What became of one receipt.

    Attributes:
        name: where the receipt came from. status: kept, pending, broken or not authentic.
        reason: a sentence. leaf: where its leaf or refusal record stands.
        delay_s: seconds from the receipt to the first checkpoint that holds its leaf, by the log's own times.
    """

    name: str
    status: str
    reason: str
    message: str = ""
    leaf: int | None = None
    delay_s: int | None = None


@dataclass(frozen=True)
class AnchoredLog:
    """The log under an anchored root, as far as receipts need it.

    Attributes:
        places: leaf hash -> first leaf index. sizes, times: of the checkpoints in it, by size.
        keys: kid -> public key of receipt keys.
    """

    origin: str
    aud: str
    size: int
    places: dict[bytes, int] = field(repr=False)
    sizes: Sequence[int] = field(repr=False)
    times: Sequence[int] = field(repr=False)
    keys: dict[str, P256Public]

    def first_after(self, time_s: int) -> int | None:
        """Position of the first checkpoint later than this, None when there is none."""
        at = bisect.bisect_right(self.times, time_s)
        return at if at < len(self.times) else None


def load(source: Source, contract: Contract, *, origin: str, since_s: int = 0) -> AnchoredLog:
    """The log as the contract fixes it.

    Args:
        since_s: accepted_at of the oldest receipt; state leaves well before it are not fetched.

    Raises:
        Rejected: ``not_anchored``, ``wrong_root``, ``bad_states``, ``bad_keys``: the source does not give the log that
            is anchored. An operator that withholds it cannot be told from one that lost it.
    """
    size, root = contract.head(origin_hash(origin))
    if size == 0:
        raise Rejected("Nothing of this log is anchored yet.", code="not_anchored")
    places, hashes = _leaves(source, size, root)
    sizes, times = _checkpoints(source, hashes, origin, size, since_s)
    keys, aud = _keys(source, contract, hashes, origin)
    return AnchoredLog(origin, aud, size, places, sizes, times, keys)


def judge(log: AnchoredLog, source: Source, name: str, raw: bytes, *, now_s: int) -> Verdict:
    """What became of one receipt.

    Args:
        raw: a JWS, or the bulk form.
        now_s: unix seconds, to see that a heartbeat is overdue.
    """
    try:
        receipt = _open(log, raw)
    except Rejected as error:
        return Verdict(name, NOT_AUTHENTIC, error.message)
    if receipt.refused is not None:
        return _refused(log, source, name, receipt)
    return _promised(log, name, receipt, now_s)


def audit_receipts(
    log: AnchoredLog, source: Source, receipts: Iterable[tuple[str, bytes]], *, now_s: int
) -> Iterator[Verdict]:
    """The verdict on each receipt, in order."""
    for name, raw in receipts:
        yield judge(log, source, name, raw, now_s=now_s)


def summary(verdicts: Iterable[Verdict]) -> Counter[str]:
    """How many receipts of each status."""
    return Counter(one.status for one in verdicts)


def accepted_at(raw: bytes) -> int | None:
    """When the receipt says that its message was accepted, unchecked; None for a refusal or what is no receipt."""
    try:
        if raw.startswith(b"{"):
            payload = parse_json(raw, bytes_max=RECEIPT_BYTES_MAX)["receipt"]
        else:
            payload = parse_json(split_jws(raw, typ=TYP, bytes_max=RECEIPT_BYTES_MAX).payload, bytes_max=60_000)
        found = payload.get("accepted_at")
    except (Rejected, KeyError, TypeError, AttributeError):
        return None
    return found if type(found) is int else None


def _open(log: AnchoredLog, raw: bytes) -> Receipt:
    jws = raw
    if raw.startswith(b"{"):
        outer = parse_json(raw, bytes_max=RECEIPT_BYTES_MAX)
        jws = str(outer.get("jws", "")).encode() if isinstance(outer, dict) else b""
    kid = split_jws(jws, typ=TYP, bytes_max=RECEIPT_BYTES_MAX).kid
    public = log.keys.get(kid)
    if public is None:
        raise Rejected(f"No key record of use receipt in the log names its key {kid}.", code="unknown_key")
    receipt = open_receipt(raw, public)
    if (receipt.payload["log"], receipt.payload["aud"]) != (log.origin, log.aud):
        raise Rejected("It is a receipt of another log or service.", code="wrong_log")
    if receipt.refused is None and not _has_terms(receipt):
        raise Rejected("It promises no term in seconds.", code="bad_receipt")
    return receipt


def _has_terms(receipt: Receipt) -> bool:
    terms = (receipt.payload["promise_s"], receipt.payload["heartbeat_s"])
    return all(type(term) is int and term >= 0 for term in terms) and isinstance(receipt.payload["leaf"], str)


def _promised(log: AnchoredLog, name: str, receipt: Receipt, now_s: int) -> Verdict:
    payload, message = receipt.payload, b64u(receipt.message)
    deadline = receipt.accepted_at + payload["promise_s"]
    overdue = deadline + payload["heartbeat_s"]
    leaf = log.places.get(unb64u(payload["leaf"], length=32))
    at = log.first_after(deadline)
    held = None if leaf is None else bisect.bisect_right(log.sizes, leaf)
    delay = None if held is None or held >= len(log.times) else log.times[held] - receipt.accepted_at
    if leaf is not None and (at is None or leaf < log.sizes[at]):
        return Verdict(name, KEPT, f"leaf {leaf}, {delay} s after the receipt", message, leaf, delay)
    if at is not None:
        late = f"it stands at leaf {leaf}" if leaf is not None else "it is nowhere in the anchored log"
        why = f"the checkpoint of {log.sizes[at]} at {log.times[at]} is later than {deadline} and without it; {late}"
        return Verdict(name, BROKEN, why, message, leaf, delay)
    if now_s > overdue:
        why = f"no state leaf later than {deadline} is anchored, and its heartbeat was due at {overdue}"
        return Verdict(name, BROKEN, why, message)
    return Verdict(name, PENDING, f"due at {deadline}; no later state leaf is anchored yet", message)


def _refused(log: AnchoredLog, source: Source, name: str, receipt: Receipt) -> Verdict:
    message = b64u(receipt.message)
    found = source.refusal(receipt.message)
    if found is None:
        return Verdict(name, BROKEN, "no refusal record of this message is in the log", message)
    leaf, data = found
    if log.places.get(leaf_hash(data)) != leaf:
        return Verdict(name, PENDING, "its refusal record is not anchored yet", message)
    record = read_record(data)
    if (record.t, record.payload.get("message"), record.payload.get("code")) != ("refusal", message, receipt.refused):
        return Verdict(name, BROKEN, "the refusal record in the log says something else", message, leaf)
    return Verdict(name, KEPT, f"refused ({receipt.refused}), as the record at leaf {leaf} says", message, leaf)


def _leaves(source: Source, size: int, root: bytes) -> tuple[dict[bytes, int], list[bytes]]:
    frontier = Frontier()
    places: dict[bytes, int] = {}
    hashes: list[bytes] = []
    for number in range((size + WIDTH - 1) // WIDTH):
        width = min(WIDTH, size - number * WIDTH)
        blob = source.tile(number, width)
        if len(blob) != 32 * width:
            raise Rejected(f"Tile 0/{number} has {len(blob)} bytes, not {32 * width}.", code="wrong_root")
        for at in range(width):
            hashed = blob[32 * at : 32 * at + 32]
            places.setdefault(hashed, len(hashes))
            hashes.append(hashed)
            frontier.append(hashed)
    if frontier.root() != root:
        raise Rejected("The hash tiles do not give the anchored root.", code="wrong_root")
    return places, hashes


def _checkpoints(
    source: Source, hashes: Sequence[bytes], origin: str, size: int, since_s: int
) -> tuple[list[int], list[int]]:
    """Sizes and times of the checkpoints, walked back from the anchored one by the link in each state leaf."""
    found: list[StateLeaf] = []
    wanted: int | None = size - 1
    while wanted is not None and (not found or found[-1].time >= since_s):
        part = source.states(wanted + 1)
        if not part:
            raise Rejected(f"The state leaf at {wanted} is not given.", code="bad_states")
        for data in part:
            if wanted is None or (found and found[-1].time < since_s):
                break
            state = read_state_leaf(data)
            if leaf_hash(data) != hashes[wanted] or state.size != wanted + 1 or state.log != origin:
                raise Rejected(f"What is given as the state leaf at {wanted} is another one.", code="bad_states")
            if found and state.time > found[-1].time:
                raise Rejected(f"The time of the state leaf at {wanted} is later than the next one's.", code="bad_time")
            found.append(state)
            wanted = state.prev
    found.reverse()
    return [one.size for one in found], [one.time for one in found]


def _keys(
    source: Source, contract: Contract, hashes: Sequence[bytes], origin: str
) -> tuple[dict[str, P256Public], str]:
    operators: dict[str, P256Public] = {}
    keys: dict[str, P256Public] = {}
    aud = ""
    for leaf, record in _records(source, hashes, origin):
        payload = record.payload
        if record.t == "org":
            said = contract.organisation(payload["org"], payload["version"])
            thumb = unb64u(thumbprint(payload["jwk"]), length=32)
            if said is not None and said == (thumb, payload["roles"]) and payload["roles"] & 1:
                operators[payload["org"]] = P256Public.from_jwk(payload["jwk"])
        elif record.t == "key" and payload["use"] == "receipt" and payload["org"] in operators:
            record.jws.check(operators[payload["org"]])
            keys.setdefault(payload["kid"], P256Public.from_jwk(payload["jwk"]))
            if aud and aud != payload["aud"]:
                raise Rejected(f"The receipt key at leaf {leaf} is of another service.", code="bad_keys")
            aud = payload["aud"]
    return keys, aud


def _records(source: Source, hashes: Sequence[bytes], origin: str) -> list[tuple[int, Record]]:
    found = []
    for leaf, data in sorted(source.receipt_keys()):
        if leaf >= len(hashes):
            continue
        record = read_record(data)
        if leaf_hash(data) != hashes[leaf] or record.payload["log"] != origin:
            raise Rejected(f"What is given as the record at leaf {leaf} is another one.", code="bad_keys")
        found.append((leaf, record))
    return found
