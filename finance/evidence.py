"""Evidence about goods out of the log: each message is checked again, from its stored bytes up to the anchored root.

Nothing derived is trusted: signature, disclosures, item list and inclusion are recomputed for every message behind the
goods, so that one changed byte in the store ends their credit value.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import sqlalchemy as sa

from core.epcis.vocabulary import biz_step, disposition
from core.errors import Rejected, TracebondError
from core.identifiers import canonical
from core.jws import split_jws
from core.merkle import leaf_hash, verify_inclusion
from core.message import JWT_BYTES_MAX, TYP, assemble
from core.prefixmap import map_key
from finance.policy import Policy
from finance.provenance import STAGES, Evidence, EvidenceEvent
from ledger import masterdata
from ledger.anchor import Anchor, final_anchor_over, last_final_anchor
from ledger.chain_tx_tables import anchors
from ledger.chains import gaps, suspects_at
from ledger.database import Tx
from ledger.followers import LoggedEvent, LoggedMessage, cursor, read_messages
from ledger.history import VIEWS, journey, steps
from ledger.keys import key_info
from ledger.state import contents, item_state, item_states_of
from ledger.tiles import inclusion_proof

# What an inspection may say of goods that nobody should lend against.
BAD: Final = frozenset({"non_conformant", "damaged", "disposed", "destroyed", "expired", "needs_replacement"})
ITEMS_MAX: Final = 10_000


@dataclass(frozen=True)
class _Judged:
    """One message, checked: what of it holds."""

    message: LoggedMessage
    is_signed: bool
    is_proven: bool
    is_in_time: bool
    fault: str


@dataclass(frozen=True)
class LedgerEvidence:
    """Reads the log for finance; an instance is a ``finance.model.Assess``.

    Attributes:
        root_at: the contract's own root at an anchored size, or None where there is none; asked once an assessment.
    """

    policy: Policy
    root_at: Callable[[int], bytes | None]

    def __call__(self, tx: Tx, item: str, as_of_s: int) -> Evidence:
        """The evidence about a thing and all that is packed in it, as of a unix second.

        Raises:
            Rejected: ``too_large`` for more than 10,000 things, or ``bad_identifier``.
            Unavailable: ``history_behind``, or the chain is away.
        """
        root = canonical(item)
        things = [root, *contents(tx, root, is_recursive=True)]
        if len(things) > ITEMS_MAX:
            raise Rejected(f"At most {ITEMS_MAX} things are assessed at once.", code="too_large")
        places = _places(tx, root, things)
        judged = self._judge(tx, {leaf for leaf, _ in places})
        events, faults = _events(judged, places)
        findings = [("proof_failed", tuple(faults))] if faults else []
        findings += _standing(tx, root, things)
        shown = tuple(sorted((_shown(one, event) for one, event in events), key=lambda e: (e.time_s, e.id)))
        good = [event for one, event in events if one.is_signed and one.is_proven]
        return Evidence(
            item=root,
            as_of_s=as_of_s,
            events=shown,
            custody_s=max((e.device_ms // 1_000 for e in good if _stage(e) == "inventory"), default=None),
            gaps=sum(len(gaps(tx, kid)) for kid in sorted({event.kid for _, event in events})),
            findings=tuple(findings),
            quality=_quality(good),
            life=_life(tx, things, as_of_s),
        )

    def _judge(self, tx: Tx, leaves: set[int]) -> dict[int, _Judged]:
        anchor = last_final_anchor(tx)
        if anchor is not None and self.root_at(anchor.size) != anchor.root:
            # Our table of anchors says one thing, the contract another: nothing is proven then.
            anchor = None
        suspects = suspects_at(tx, sorted(leaves))
        found = {}
        for leaf, message in read_messages(tx, sorted(leaves)).items():
            fault = _fault(tx, message)
            is_proven = not fault and anchor is not None and _is_included(tx, message, anchor)
            is_due = anchor is not None and leaf < anchor.size
            found[leaf] = _Judged(
                message,
                is_signed=not fault and leaf not in suspects,
                is_proven=is_proven,
                is_in_time=is_proven and self._is_in_time(tx, message),
                fault=fault or ("not in the anchored tree" if is_due and not is_proven else ""),
            )
        return found

    def _is_in_time(self, tx: Tx, message: LoggedMessage) -> bool:
        anchor = final_anchor_over(tx, message.leaf)
        if anchor is None:
            return False
        made = tx.execute(sa.select(anchors.c.created_ms).where(anchors.c.id == anchor.id)).scalar_one()
        return bool(made - message.received_ms <= self.policy.integer("confidence", "anchor_sla_s") * 1_000)


def _fault(tx: Tx, message: LoggedMessage) -> str:
    """What is wrong with a stored message by itself, "" when all of it holds."""
    try:
        info = key_info(tx, message.signed.kid)
        if info is None or info.leaf >= message.leaf:
            return "its key came later"
        split_jws(message.jwt, typ=TYP, bytes_max=JWT_BYTES_MAX).check(info.public)
        for clear, shown, items in zip(message.signed.clear, message.signed.disclosures, message.items, strict=True):
            if any(map_key("item", item.id) != item.key for item in items) or clear["items"]["n"] != len(items):
                return "its item list was changed"
            if len(shown) != len(clear["_sd"]):
                return ""  # some of it was erased on its owner's word; what is left fits the signature
        whole = assemble(message.signed)
        if [{(i.role, i.id) for i in e.items} for e in whole.events] != [
            {(i.role, i.id) for i in items} for items in message.items
        ]:
            return "its item list was changed"
    except (TracebondError, KeyError, ValueError) as error:
        return str(error)
    return ""


def _is_included(tx: Tx, message: LoggedMessage, anchor: Anchor) -> bool:
    if message.leaf >= anchor.size:
        return False
    try:
        proof = inclusion_proof(tx, message.leaf, anchor.size)
        verify_inclusion(message.leaf, anchor.size, leaf_hash(message.jwt), proof, anchor.root)
    except TracebondError:
        return False
    return True


def _places(tx: Tx, root: str, things: list[str]) -> set[tuple[int, int]]:
    """(leaf, event number) of every event about the goods, their lots and their containers for the time inside."""
    size = cursor(tx, VIEWS)
    lots = {state.lot for state in item_states_of(tx, things).values() if state.lot is not None}
    found = {(step.leaf, step.event) for name in (*things, *sorted(lots)) for step in _item_steps(tx, name, size)}
    try:
        found |= {(one.event.leaf, one.event.number) for one in journey(tx, root)}
    except Rejected:
        # A message on the way cannot be read any more; the goods' own steps above lead to it, and it is judged there.
        return found
    return found


def _item_steps(tx: Tx, name: str, size: int) -> Iterable[Any]:
    return steps(tx, map_key("item", name), size)


def _events(
    judged: dict[int, _Judged], places: set[tuple[int, int]]
) -> tuple[list[tuple[_Judged, LoggedEvent]], list[str]]:
    events, faults = [], []
    for leaf, number in sorted(places):
        one = judged.get(leaf)
        if one is None:
            continue  # a record: master data, no event
        if one.fault:
            faults.append(f"{leaf}:{number}")
        try:
            events.append((one, one.message.events[number]))
        except (TracebondError, KeyError, ValueError, IndexError):
            faults.append(f"{leaf}:{number}")
    return events, sorted(set(faults))[:20]


def _shown(one: _Judged, event: LoggedEvent) -> EvidenceEvent:
    return EvidenceEvent(
        f"{event.leaf}:{event.number}",
        event.org,
        _step(event),
        event.device_ms // 1_000,
        is_signed=one.is_signed,
        is_proven=one.is_proven,
        is_in_time=one.is_in_time,
    )


def _standing(tx: Tx, root: str, things: list[str]) -> list[tuple[str, tuple[str, ...]]]:
    whole = item_state(tx, root)
    states = item_states_of(tx, things).values()
    found = []
    for code, is_so, own in (
        ("sold", whole is not None and whole.is_sold, [s for s in states if s.is_sold]),
        ("recalled", whole is not None and whole.is_recalled, [s for s in states if s.is_recalled]),
        ("decommissioned", whole is not None and whole.is_decommissioned, [s for s in states if s.is_decommissioned]),
    ):
        if is_so or own:
            found.append((code, tuple(f"{s.last.leaf}:{s.last.event}" for s in own[:20])))
    return found


def _quality(good: list[LoggedEvent]) -> str:
    for event in good:
        term = event.clear.get("disposition")
        if isinstance(term, str) and disposition(term) in BAD:
            return "reject"
    return "1"


def _life(tx: Tx, things: list[str], as_of_s: int) -> Fraction | None:
    """The remaining part of the shelf life of the oldest goods; None when no product has one."""
    left: list[Fraction] = []
    states = [state for state in item_states_of(tx, things).values() if state.product is not None]
    products = masterdata.facts_of(tx, {state.product for state in states if state.product}, "product")
    for state in states:
        days = products.get(state.product or "", {}).get("shelf_life_days")
        if isinstance(days, int) and days > 0:
            age = max(0, as_of_s - state.first_ms // 1_000)
            left.append(max(Fraction(0), 1 - Fraction(age, days * 86_400)))
    return min(left, default=None)


def _stage(event: LoggedEvent) -> str | None:
    return STAGES.get(_step(event))


def _step(event: LoggedEvent) -> str:
    term = event.clear.get("bizStep")
    return biz_step(term) if isinstance(term, str) else ""


def packed_in(tx: Tx, item: str) -> list[str]:
    """Everything packed inside a thing now, recursively: ``Context.contents``."""
    return contents(tx, item, is_recursive=True)


def lots_of(tx: Tx, units: Iterable[str]) -> dict[str, str]:
    """By unit its lot, as far as the log says: ``Context.lots``. Makers register these lots' quantities first."""
    return {state.id: state.lot for state in item_states_of(tx, units).values() if state.lot is not None}
