"""Check a proof bundle against a chain's answers: pure, offline, and the same for everybody.

Everything starts from the pinned address of the TransparencyLog contract. The format is documented in
``docs/proof-bundle.md``.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from core import merkle
from core.bundle import (
    Answers,
    Bundle,
    Entry,
    History,
    Question,
    Step,
    origin_hash,
    questions_of,
    read_bundle,
)
from core.canonical import b64u, unb64u
from core.crypto import Ed25519Public, P256Public, thumbprint
from core.errors import Rejected
from core.identifiers import canonical, class_of
from core.message import Signed, read_entry, rebuild_event
from core.notes import Checkpoint, Verifier, open_note, read_checkpoint, read_verifier, split_note
from core.prefixmap import HEAD_START, map_key, map_value, step_head, verify_map
from core.records import Record, StateLeaf, read_record, read_state_leaf, record_keys

ROLE_UP_MAX = 5

__all__ = ["Answers", "Policy", "Question", "Report", "questions", "verify"]


@dataclass(frozen=True)
class Policy:
    """What a verifier pins.

    Attributes:
        log_contract: address of the TransparencyLog, 0x lower-case hex.
        mirrors: verifier keys (name+hash+base64) of mirrors it trusts.
        mirrors_min: how many of them must have cosigned for *complete as of*.
    """

    log_contract: str
    mirrors: tuple[str, ...] = ()
    mirrors_min: int = 1


@dataclass(frozen=True)
class ProvenEvent:
    """One event of the item's own history, proven to be in the log.

    Attributes:
        event: the EPCIS event as far as it is disclosed.
        hidden: how many of its members are not shown.
        signed_by: device, gateway or partner.
        is_suspect: its key ended or forked in a way that leaves this event without weight as evidence.
    """

    leaf: int
    number: int
    org: str
    device: str
    kid: str
    event: dict[str, Any]
    hidden: int
    signed_by: str
    is_suspect: bool


@dataclass(frozen=True)
class Report:
    """What a verified bundle shows.

    Attributes:
        coverage: ``whole`` history, ``partial`` (with the number of histories left out), or ``own`` events only.
        completeness: ``cosigned`` (complete as of ``time``) or ``operator`` (complete according to the operator).
    """

    item: str
    origin: str
    size: int
    root: bytes
    time: int
    block: tuple[int, int, str] | None
    events: tuple[ProvenEvent, ...]
    coverage: str
    uncovered: int
    completeness: str
    mirrors: tuple[str, ...]
    hidden: int
    other_logs: int


@dataclass
class _Log:
    """The verified parts of a bundle on the way to its report."""

    bundle: Bundle
    signed: dict[int, Signed] = field(default_factory=dict)
    records: dict[int, Record] = field(default_factory=dict)
    record_keys: dict[str, list[tuple[int, str]]] = field(default_factory=dict)


def questions(data: bytes) -> list[Question]:
    """The ``eth_call``s that the bundle's check needs, in order.

    Raises:
        Rejected: the bytes are no bundle.
    """
    return questions_of(read_bundle(data))


def verify(data: bytes, answers: Answers, policy: Policy) -> Report:
    """What the bundle proves, given what the chain answered.

    Args:
        data: the bundle's bytes.
        answers: the chain's identity and the answers to ``questions(data)``, in order.
        policy: what the verifier pins.

    Raises:
        Rejected: anything in the bundle that is not bound by hash, signature or chain, with the reason.
    """
    bundle = read_bundle(data)
    if bundle.contract != policy.log_contract.lower():
        raise Rejected("The bundle names another log contract than the pinned one.", code="wrong_contract")
    if answers.chain_id != bundle.chain_id or answers.genesis != bundle.genesis:
        raise Rejected("The node answers for another chain than the bundle names.", code="wrong_chain")
    root, checkpoint_key, others = _ask(bundle, answers)
    state = _check_state(bundle, root)
    if canonical(bundle.item) != bundle.item:
        raise Rejected("The item is not named by its canonical identifier.", code="bad_bundle", pointer="/item")
    mirrors = _check_checkpoint(bundle, state, root, checkpoint_key, policy)
    log = _Log(bundle)
    for entry in bundle.entries.values():
        _check_entry(log, entry, root, state.log)
    _check_organisations(log, answers)
    _check_records(log)
    used = set()
    for history in bundle.histories.values():
        _check_history(log, history, state.map_root)
        used |= {step.leaf for step in history.steps}
    used |= {index for index, record in log.records.items() if record.t == "org"}
    if used != set(bundle.entries):
        raise Rejected("An entry belongs to no history.", code="bad_bundle", pointer="/entries")
    suspects = {index for index in log.signed if _check_signer(log, index)}
    required = _closure(log)
    is_cosigned = len(mirrors) >= max(1, policy.mirrors_min)
    return _report(log, state, root, suspects, required, mirrors, others, is_cosigned=is_cosigned)


def _ask(bundle: Bundle, answers: Answers) -> tuple[bytes, bytes, int]:
    calls = answers.calls
    asked = questions_of(bundle)
    if len(calls) != len(asked) or len(calls[0]) != 7 * 32 or any(len(c) % 32 or not c for c in calls):
        raise Rejected("The chain's answers do not have the expected form.", code="bad_answer")
    words = [calls[0][at : at + 32] for at in range(0, 7 * 32, 32)]
    state = read_state_leaf(bundle.state_leaf)
    if words[0] != origin_hash(state.log):
        raise Rejected("The contract keeps this log under another origin.", code="wrong_log")
    root = calls[1]
    if len(root) != 32 or root == bytes(32):
        raise Rejected(f"Size {bundle.size} is not anchored in the contract.", code="not_anchored", pointer="/size")
    if calls[3][12:] != bytes.fromhex(bundle.registry[2:]):
        raise Rejected("The contract names another organisation registry.", code="wrong_registry")
    return root, words[1], int.from_bytes(calls[2]) - 1


def _check_state(bundle: Bundle, root: bytes) -> StateLeaf:
    state = read_state_leaf(bundle.state_leaf)
    if state.size != bundle.size or bundle.size == 0:
        raise Rejected("The state leaf is for another size.", code="wrong_size", pointer="/state/leaf")
    leaf = merkle.leaf_hash(bundle.state_leaf)
    merkle.verify_inclusion(bundle.size - 1, bundle.size, leaf, bundle.state_path, root)
    return state


def _check_checkpoint(
    bundle: Bundle, state: StateLeaf, root: bytes, checkpoint_key: bytes, policy: Policy
) -> tuple[str, ...]:
    log_key = Verifier(state.log, Ed25519Public(checkpoint_key))
    cosigners = [read_verifier(text) for text in bundle.cosigners]
    text, signers = open_note(bundle.checkpoint, [log_key, *cosigners])
    names = [name for name, _ in split_note(bundle.checkpoint)[1]]
    if state.log not in signers or names != [state.log, *(c.name for c in cosigners)] or len(set(names)) != len(names):
        raise Rejected("The checkpoint is signed by the log, then by each cosigner.", code="bad_checkpoint")
    if len(signers) != len(names):
        raise Rejected("A signature on the checkpoint is by an unknown key.", code="bad_checkpoint")
    if read_checkpoint(text) != Checkpoint(state.log, bundle.size, root):
        raise Rejected("The checkpoint is not the anchored one.", code="bad_checkpoint", pointer="/checkpoint")
    return tuple(
        sorted(c.name for c, spelled in zip(cosigners, bundle.cosigners, strict=True) if spelled in policy.mirrors)
    )


def _check_entry(log: _Log, entry: Entry, root: bytes, origin: str) -> None:
    leaf = merkle.leaf_hash(entry.data)
    merkle.verify_inclusion(entry.index, log.bundle.size, leaf, entry.path, root)
    if entry.kind == "message":
        signed = read_entry(entry.data, entry.disclosures)
        log.signed[entry.index] = signed
        for number, leaves in entry.items.items():
            if number >= len(signed.clear):
                raise Rejected("Item leaves name no event of their message.", code="bad_item_leaves")
            items = signed.clear[number]["items"]
            if [item.index for item in leaves] != sorted({item.index for item in leaves}):
                raise Rejected("Item leaves stand in order, each once.", code="bad_item_leaves")
            for item in leaves:
                hashed = merkle.leaf_hash(bytes([item.role]) + item.key)
                item_root = unb64u(items["root"], length=32)
                merkle.verify_inclusion(item.index, items["n"], hashed, item.path, item_root)
            _check_up_links(entry, number, items["n"])
    elif entry.kind == "record" and not entry.disclosures and not entry.items:
        record = read_record(entry.data)
        if record.payload["log"] != origin:
            raise Rejected("A record is of another log.", code="wrong_log")
        log.records[entry.index] = record
    else:
        raise Rejected("Only messages and records stand among the entries.", code="bad_bundle")


def _check_up_links(entry: Entry, number: int, total: int) -> None:
    """Every leaf from 0 to the first of role > 5 must be there: no parent, input or lot can be left out."""
    for position, item in enumerate(entry.items[number]):
        if item.index != position:
            raise Rejected("An up-link of an event is left out.", code="hidden_up_link")
        if item.role > ROLE_UP_MAX:
            return
    if len(entry.items[number]) != total:
        raise Rejected("An up-link of an event is left out.", code="hidden_up_link")


def _check_organisations(log: _Log, answers: Answers) -> None:
    organisations = [(index, record) for index, record in sorted(log.records.items()) if record.t == "org"]
    for (index, record), answer in zip(organisations, answers.calls[4:], strict=True):
        kid = thumbprint(record.payload["jwk"])
        place = record.payload["place"]
        account = bytes.fromhex(record.payload["account"][2:])
        on_chain = [answer[at : at + 32] for at in range(0, len(answer), 32)]
        said = (unb64u(kid, length=32), account, record.payload["roles"], place["number"])
        if len(on_chain) != 4 or said != (
            on_chain[0],
            on_chain[1][12:],
            int.from_bytes(on_chain[2]),
            int.from_bytes(on_chain[3]),
        ):
            raise Rejected("An org record differs from the contract.", code="wrong_organisation")
        if place["chain_id"] != log.bundle.chain_id or place["registry"] != log.bundle.registry:
            raise Rejected("An org record is of another registry.", code="wrong_organisation")
        log.record_keys.setdefault(record.payload["org"], []).append((index, kid))


def _check_records(log: _Log) -> None:
    """Each record is signed by the key that the contract knows for its organisation, or for an operator."""
    jwks = {thumbprint(r.payload["jwk"]): r.payload for r in log.records.values() if r.t == "org"}
    for index, record in log.records.items():
        signer = jwks.get(record.jws.kid)
        if signer is None:
            raise Rejected("The signer of a record has no org record here.", code="unknown_signer")
        record.jws.check(P256Public.from_jwk(signer["jwk"]))
        by_operator = record.t in ("org", "equivocation", "refusal", "erasure", "audit")
        if by_operator and not signer["roles"] & 1:
            raise Rejected("This record is the operator's to sign.", code="wrong_signer")
        if not by_operator and signer["org"] != record.payload["org"]:
            raise Rejected("A record is signed by another organisation.", code="wrong_signer")
        if not by_operator and not any(at < index for at, _ in log.record_keys[signer["org"]]):
            raise Rejected("A record comes before its organisation.", code="wrong_signer")


def _check_history(log: _Log, history: History, map_root: bytes) -> None:
    head, count = HEAD_START, 0
    for step in history.steps:
        entry = log.bundle.entries.get(step.leaf)
        if entry is None:
            raise Rejected("A step of a history has no entry here.", code="missing_entry")
        if not _names(log, step, history.key):
            raise Rejected("An entry does not name the key it is said to step.", code="foreign_step")
        head = step_head(head, step.leaf, step.event, merkle.leaf_hash(entry.data))
        count += 1
    value = map_value(count, head) if count else None
    verify_map(history.key, value, history.proof, map_root)


def _names(log: _Log, step: Step, key: bytes) -> bool:
    record = log.records.get(step.leaf)
    if record is not None:
        return step.event == 0 and key in record_keys(record.payload)
    return any(item.key == key for item in log.bundle.entries[step.leaf].items.get(step.event, ()))


def _check_signer(log: _Log, index: int) -> bool:
    """Whether the message is suspect; raises when its key did not count at its place in the log."""
    signed = log.signed[index]
    history = log.bundle.histories.get(map_key("key", signed.kid))
    if history is None:
        raise Rejected("The history of a signing key is left out.", code="missing_key_history")
    steps = [(step.leaf, log.records[step.leaf]) for step in history.steps if step.leaf in log.records]
    keys = [(at, record) for at, record in steps if record.t == "key"]
    if len(keys) != 1 or keys[0][0] >= index:
        raise Rejected("A message comes before the record of its key.", code="unknown_key")
    fact = keys[0][1].payload
    if (fact["org"], fact["iss"], fact["aud"]) != (signed.org, signed.iss, signed.aud):
        raise Rejected("A message names another device or organisation than its key's record.", code="wrong_device")
    if fact["use"] not in ("device", "gateway"):
        raise Rejected("The key's record does not let it sign messages.", code="wrong_use")
    read_envelope_signature(log.bundle.entries[index].data, P256Public.from_jwk(fact["jwk"]))
    return _is_suspect(signed, index, steps)


def _is_suspect(signed: Signed, index: int, steps: list[tuple[int, Record]]) -> bool:
    for at, record in steps:
        if record.t == "equivocation" and signed.seq >= record.payload["seq"]:
            return True
        if record.t == "end":
            if signed.seq > record.payload["seq"] and index > at:
                raise Rejected("A message comes after the end of its key.", code="ended_key")
            if signed.seq > record.payload["seq"]:
                return True
            if index > at and b64u(signed.id) != record.payload["last"]:
                return True
    return False


def read_envelope_signature(jwt: bytes, public: P256Public) -> None:
    """Return if ``public`` signed the JWT. Raises ``Rejected`` (bad_signature) otherwise."""
    signing_input, _, signature = jwt.rpartition(b".")
    public.verify(signing_input, unb64u(signature.decode("ascii"), length=64))


def _closure(log: _Log) -> set[bytes]:
    """The keys of the item's whole history: itself, its class and lot, containers and inputs, and theirs in turn."""
    item = log.bundle.item
    start = [map_key("item", item)]
    product = class_of(item)
    if product is not None:
        start.append(map_key("item", product))
    required: set[bytes] = set()
    while start:
        key = start.pop()
        if key in required:
            continue
        required.add(key)
        history = log.bundle.histories.get(key)
        if history is not None:
            start += [up for step in history.steps for up in _up_links(log, step, key)]
    return required


def _up_links(log: _Log, step: Step, key: bytes) -> Iterator[bytes]:
    leaves = log.bundle.entries[step.leaf].items.get(step.event, ())
    if any(item.key == key and item.role > ROLE_UP_MAX for item in leaves):
        yield from (item.key for item in leaves if item.role <= ROLE_UP_MAX and item.key != key)


def _report(
    log: _Log,
    state: StateLeaf,
    root: bytes,
    suspects: set[int],
    required: set[bytes],
    mirrors: tuple[str, ...],
    others: int,
    *,
    is_cosigned: bool,
) -> Report:
    bundle = log.bundle
    own = map_key("item", bundle.item)
    if own not in bundle.histories:
        raise Rejected("The item's own history is left out.", code="missing_history")
    events = []
    for step in bundle.histories[own].steps:
        signed = log.signed.get(step.leaf)
        if signed is None:
            continue
        clear, shown = signed.clear[step.event], signed.disclosures[step.event]
        use = next(r.payload["use"] for r in log.records.values() if r.t == "key" and r.payload["kid"] == signed.kid)
        events.append(
            ProvenEvent(
                leaf=step.leaf,
                number=step.event,
                org=signed.org,
                device=signed.iss,
                kid=signed.kid,
                event=rebuild_event(clear, shown),
                hidden=len(clear["_sd"]) - len(shown),
                signed_by="gateway" if use == "gateway" else "device",
                is_suspect=step.leaf in suspects,
            )
        )
    uncovered = len(required - set(bundle.histories))
    has_others = len(required & set(bundle.histories)) > 1
    return Report(
        item=bundle.item,
        origin=state.log,
        size=bundle.size,
        root=root,
        time=state.time,
        block=state.block,
        events=tuple(events),
        coverage="whole" if not uncovered else "partial" if has_others else "own",
        uncovered=uncovered,
        completeness="cosigned" if is_cosigned and not uncovered else "operator",
        mirrors=mirrors,
        hidden=sum(event.hidden for event in events),
        other_logs=others,
    )
