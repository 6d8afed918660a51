"""Check a proof bundle against a chain's answers: pure, offline, and the same for everybody.

Everything starts from the pinned address of the TransparencyLog contract. The format is documented in
``docs/proof-bundle.md``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from core import merkle
from core.bundle import (
    LOG_BYTES,
    NO_LOG,
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
from core.crypto import Ed25519Public, P256Public
from core.errors import Rejected
from core.identifiers import canonical, class_of
from core.message import Signed, read_entry, rebuild_event, signed_by
from core.notes import COSIGNATURE, Checkpoint, Verifier, check_signature, read_verifier, split_note
from core.prefixmap import HEAD_START, map_key, map_value, step_head, verify_map
from core.proof_signers import check_organisations, check_records
from core.records import Record, StateLeaf, read_record, read_state_leaf, record_keys

ROLE_UP_MAX = 5
LOT, TRANSFORMATION = 4, 5
INPUTS = frozenset({2, 3, 5})

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
        mirrors: names of the pinned mirrors that cosigned. cosigners: names of all that did, pinned or not.
        hidden: members of the item's own events that are not shown. hidden_related: those of the other events.
        unnamed: related things whose identifier is not shown, only its key.
        other_logs: logs on the contract of which this bundle says nothing.
        predecessors: frozen logs that this one goes on from, nearest first: number, and up to which size the bundle
            covers its history. What it held above that counts no longer.
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
    cosigners: tuple[str, ...]
    hidden: int
    hidden_related: int
    unnamed: int
    other_logs: int
    predecessors: tuple[tuple[int, int], ...] = ()


@dataclass
class _Log:
    """The verified parts of a bundle on the way to its report."""

    bundle: Bundle
    signed: dict[int, Signed] = field(default_factory=dict)
    records: dict[int, Record] = field(default_factory=dict)
    signer_of: dict[int, int] = field(default_factory=dict)
    confirmed_by: dict[int, int] = field(default_factory=dict)


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
    _check_item(bundle)
    if bundle.contract != policy.log_contract.lower():
        raise Rejected("The bundle names another log contract than the pinned one.", code="wrong_contract")
    if answers.chain_id != bundle.chain_id or answers.genesis != bundle.genesis:
        raise Rejected("The node answers for another chain than the bundle names.", code="wrong_chain")
    root, checkpoint_key, others, before = _ask(bundle, answers)
    state = _check_state(bundle, root)
    cosigners = _check_checkpoint(bundle, state, root, checkpoint_key)
    log = _Log(bundle)
    for entry in bundle.entries.values():
        _check_entry(log, entry, root, state.log)
    log.confirmed_by = check_organisations(bundle, log.records, answers.calls[4 + len(bundle.before) :])
    log.signer_of = check_records(bundle, log.records)
    for history in bundle.histories.values():
        _check_history(log, history, state.map_root)
    suspects = {index for index in log.signed if _check_signer(log, index)}
    required = _closure(log)
    _check_nothing_more(log, required)
    return _report(log, state, root, suspects, required, cosigners, policy, others, before)


def _check_item(bundle: Bundle) -> None:
    own = bundle.histories.get(map_key("item", bundle.item))
    if own is None or own.name is None:
        raise Rejected("The item's own history is left out.", code="missing_history", pointer="/histories")
    try:
        is_canonical = canonical(bundle.item) == bundle.item
    except Rejected:
        is_canonical = False
    if not is_canonical:
        raise Rejected("The item is not named by its canonical identifier.", code="bad_bundle", pointer="/item")


def _ask(bundle: Bundle, answers: Answers) -> tuple[bytes, bytes, int, tuple[tuple[int, int], ...]]:
    calls, count = answers.calls, len(bundle.before)
    lengths = [len(call) for call in calls[: 4 + count]]
    if len(calls) != len(questions_of(bundle)) or lengths != [LOG_BYTES, 32, 32, 32] + [LOG_BYTES] * count:
        raise Rejected("The chain's answers do not have the expected form.", code="bad_answer")
    state = read_state_leaf(bundle.state_leaf)
    if _word(calls[0], 0) != origin_hash(state.log):
        raise Rejected("The contract keeps this log under another origin.", code="wrong_log")
    before = _predecessors(bundle, (calls[0], *calls[4 : 4 + count]))
    root = calls[1]
    if root == bytes(32):
        raise Rejected(f"Size {bundle.size} is not anchored in the contract.", code="not_anchored", pointer="/size")
    if calls[3][12:] != bytes.fromhex(bundle.registry[2:]):
        raise Rejected("The contract names another organisation registry.", code="wrong_registry")
    return root, _word(calls[0], 1), int.from_bytes(calls[2]) - 1 - count, before


def _predecessors(bundle: Bundle, logs: Sequence[bytes]) -> tuple[tuple[int, int], ...]:
    """The frozen logs that this one goes on from, nearest first, and up to which size it holds the history of each.

    The contract copied a predecessor's last good root, and each anchor since has proven to it that it extends that one.
    """
    before, size = [], bundle.size
    for number, log, found in zip((*bundle.before, NO_LOG), logs, (*logs[1:], b""), strict=True):
        if int.from_bytes(_word(log, 2)) != number:
            raise Rejected("The bundle does not name the logs that its log goes on from.", code="wrong_log")
        if found:
            size = min(size, int.from_bytes(_word(found, 6)))
            before.append((number, size))
    return tuple(before)


def _word(answer: bytes, place: int) -> bytes:
    return answer[32 * place : 32 * place + 32]


def _check_state(bundle: Bundle, root: bytes) -> StateLeaf:
    state = read_state_leaf(bundle.state_leaf)
    if state.size != bundle.size or bundle.size == 0:
        raise Rejected("The state leaf is for another size.", code="wrong_size", pointer="/state/leaf")
    leaf = merkle.leaf_hash(bundle.state_leaf)
    merkle.verify_inclusion(bundle.size - 1, bundle.size, leaf, bundle.state_path, root)
    return state


def _check_checkpoint(
    bundle: Bundle, state: StateLeaf, root: bytes, checkpoint_key: bytes
) -> list[tuple[str, Verifier]]:
    """The cosigners, by text and key; each has signed what the log signed: the anchored size and root."""
    cosigners = [(text, read_verifier(text)) for text in bundle.cosigners]
    if any(cosigner.kind != COSIGNATURE for _, cosigner in cosigners):
        raise Rejected("A cosigner's key is of the kind for cosignatures.", code="bad_verifier_key")
    signers = [Verifier(state.log, Ed25519Public(checkpoint_key)), *(cosigner for _, cosigner in cosigners)]
    text, signatures = split_note(bundle.checkpoint)
    found = [(name, raw[:4]) for name, raw in signatures]
    names = {name for name, _ in found}
    if found != [(signer.name, signer.key_hash) for signer in signers] or len(names) != len(found):
        raise Rejected("The checkpoint is signed by the log, then by each cosigner.", code="bad_checkpoint")
    if sorted(bundle.cosigners) != list(bundle.cosigners):
        raise Rejected("Cosigners stand in ascending order.", code="bad_checkpoint", pointer="/cosigners")
    if text != Checkpoint(state.log, bundle.size, root).text():
        raise Rejected("The checkpoint is not the anchored one.", code="bad_checkpoint", pointer="/checkpoint")
    for signer, (_, raw) in zip(signers, signatures, strict=True):
        check_signature(signer, text, raw)
    return cosigners


def _check_entry(log: _Log, entry: Entry, root: bytes, origin: str) -> None:
    leaf = merkle.leaf_hash(entry.data)
    merkle.verify_inclusion(entry.index, log.bundle.size, leaf, entry.path, root)
    if entry.kind == "message":
        signed = read_entry(entry.data, entry.disclosures)
        if [shown.text for event in signed.disclosures for shown in event] != list(entry.disclosures):
            raise Rejected("Disclosures stand in the order of their digests.", code="bad_disclosure")
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
    """What a step leads up to: container, inputs and lot of a thing; inputs alone of a lot and of a transformation."""
    leaves = log.bundle.entries[step.leaf].items.get(step.event, ())
    roles = {item.role for item in leaves if item.key == key}
    if any(role > ROLE_UP_MAX for role in roles):
        yield from (item.key for item in leaves if item.role <= ROLE_UP_MAX and item.key != key)
    elif roles & {LOT, TRANSFORMATION}:
        yield from (item.key for item in leaves if item.role in INPUTS and item.key != key)


def _check_nothing_more(log: _Log, required: set[bytes]) -> None:
    """All that stands in the bundle is needed, so that nothing can be taken out of it or put into it unseen."""
    bundle = log.bundle
    kids = {map_key("key", signed.kid) for signed in log.signed.values()}
    named: dict[tuple[int, int], set[bytes]] = {}
    used: set[int] = set()
    for key, history in bundle.histories.items():
        if key not in required and (key not in kids or history.name is None):
            raise Rejected("A history has nothing to do with the item.", code="stray_history", pointer="/histories")
        used |= {step.leaf for step in history.steps}
        if key in required:
            for step in history.steps:
                named.setdefault((step.leaf, step.event), set()).add(key)
    waiting = list(used)
    while waiting:
        index = waiting.pop()
        needed = {at for at in (log.signer_of.get(index), log.confirmed_by.get(index)) if at is not None} - used
        used |= needed
        waiting += needed
    if used != set(bundle.entries):
        raise Rejected("An entry belongs to no history.", code="stray_entry", pointer="/entries")
    for index, signed in sorted(log.signed.items()):
        entry = bundle.entries[index]
        if any(shown and (index, number) not in named for number, shown in enumerate(signed.disclosures)):
            raise Rejected("A disclosure is of an event that no history names.", code="bad_disclosure")
        for number, leaves in entry.items.items():
            last = next((at for at, item in enumerate(leaves) if item.role > ROLE_UP_MAX), len(leaves))
            keys = named.get((index, number), set())
            if not keys or any(item.key not in keys for item in leaves[last + 1 :]):
                raise Rejected("An item leaf is of no history here.", code="bad_item_leaves")


def _report(
    log: _Log,
    state: StateLeaf,
    root: bytes,
    suspects: set[int],
    required: set[bytes],
    cosigners: list[tuple[str, Verifier]],
    policy: Policy,
    others: int,
    before: tuple[tuple[int, int], ...],
) -> Report:
    bundle = log.bundle
    own = bundle.histories[map_key("item", bundle.item)].steps
    uses = {r.payload["kid"]: r.payload["use"] for r in log.records.values() if r.t == "key"}
    events = tuple(_proven(log, step, uses, suspects) for step in own if step.leaf in log.signed)
    covered = required & set(bundle.histories)
    uncovered = len(required) - len(covered)
    related = {step for key in covered for step in bundle.histories[key].steps} - set(own)
    mirrors = tuple(sorted(cosigner.name for text, cosigner in cosigners if text in policy.mirrors))
    is_cosigned = len(mirrors) >= max(1, policy.mirrors_min)
    return Report(
        item=bundle.item,
        origin=state.log,
        size=bundle.size,
        root=root,
        time=state.time,
        block=state.block,
        events=events,
        coverage="whole" if not uncovered else "partial" if len(covered) > 1 else "own",
        uncovered=uncovered,
        completeness="cosigned" if is_cosigned and not uncovered else "operator",
        mirrors=mirrors,
        cosigners=tuple(sorted(cosigner.name for _, cosigner in cosigners)),
        hidden=sum(event.hidden for event in events),
        hidden_related=sum(_hidden(log, step) for step in related if step.leaf in log.signed),
        unnamed=sum(bundle.histories[key].name is None for key in covered),
        other_logs=others,
        predecessors=before,
    )


def _proven(log: _Log, step: Step, uses: dict[str, str], suspects: set[int]) -> ProvenEvent:
    signed = log.signed[step.leaf]
    return ProvenEvent(
        leaf=step.leaf,
        number=step.event,
        org=signed.org,
        device=signed.iss,
        kid=signed.kid,
        event=rebuild_event(signed.clear[step.event], signed.disclosures[step.event]),
        hidden=_hidden(log, step),
        signed_by=signed_by(uses[signed.kid], signed),
        is_suspect=step.leaf in suspects,
    )


def _hidden(log: _Log, step: Step) -> int:
    signed = log.signed[step.leaf]
    return len(signed.clear[step.event]["_sd"]) - len(signed.disclosures[step.event])
