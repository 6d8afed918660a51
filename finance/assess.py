"""Evidence about goods out of the log and its proofs: what the database says counts only as far as the chain bears it.

Of every thing concerned the whole history is recomputed and compared with the anchored item map, and of every entry the
inclusion under the contract's root, the signature, the item list and the disclosures are checked again. So a changed
byte, a changed disclosure or a step left out ends the credit value of the goods, with the reason.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any, Final

import sqlalchemy as sa

from contracts.chain import Chain
from contracts.clients import TransparencyLogClient
from core.canonical import b64u
from core.epcis.vocabulary import biz_step, disposition
from core.errors import Rejected, Unavailable
from core.identifiers import canonical, class_of
from core.merkle import leaf_hash, verify_inclusion
from core.message import read_entry
from core.prefixmap import map_key
from core.records import read_state_leaf
from finance.movements import count, departures, late_arrivals
from finance.policy import Policy, load_policy
from finance.provenance import STAGES, Evidence, EvidenceEvent
from finance.proving import UNREADABLE, Entry, Log, Place, Proof, Story
from ledger import state, tiles
from ledger.anchor import final_anchor_over
from ledger.chains import gaps
from ledger.database import Tx
from ledger.followers import LoggedEvent, cursor
from ledger.history import INPUTS, VIEWS, stays
from ledger.itemmap import ProofMap
from ledger.keys import org_info
from ledger.proofs import LogPlace
from ledger.tables import checkpoints

THINGS_MAX: Final = 20_000
ROOTS_MAX: Final = 400
CITED_MAX: Final = 20
# Said of goods at any time and not taken back, these end their credit value; the others do while they stand.
_REJECTED: Final = frozenset({"non_conformant", "damaged", "destroyed", "disposed", "expired"})
_WITHHELD: Final = frozenset({"non_sellable_other", "needs_replacement"})
_LEAVING: Final = frozenset({"shipping", "departing", "consigning"})
_TESTS: Final = frozenset({"inspecting", "sampling"})
_GRADES: Final = frozenset({"1", "2", "3"})


class LogEvidence:
    """Reads and proves the log for finance; an instance is a ``finance.model.Assess``.

    Args:
        maps: the item map at the last final anchored size.
        lock: whoever advances ``maps`` holds it.
        policy: only the times that it allows, from arrival to anchor and on the way, are used.
    """

    def __init__(
        self, maps: ProofMap, place: LogPlace, chain: Chain, lock: threading.Lock, policy: Policy | None = None
    ) -> None:
        self._maps = maps
        self._lock = lock
        self._log_id = place.log_id
        self._contract = TransparencyLogClient(chain, place.contract)
        self._policy = policy or load_policy()
        self._sla_ms = self._policy.integer("confidence", "anchor_sla_s") * 1_000
        self._roots: dict[int, bytes] = {}
        self._signatures: set[bytes] = set()

    def __call__(self, tx: Tx, item: str, as_of_s: int) -> Evidence:
        """The evidence about a thing and all that is packed in it, as of a unix second.

        What fails to verify never raises: it makes the goods ineligible, with the reason.

        Raises:
            Rejected: ``too_large`` for more than 20,000 things, or ``bad_identifier``.
            Unavailable: ``history_behind``, or the chain is away: ask again.
        """
        root = canonical(item)
        log = Log(tx)
        story = Story.gather(log, root, [root, *self.contents(tx, root)])
        with self._lock:
            size, map_root = self._maps.size, self._maps.root()
            held = {key: self._maps.get(key) for key in log.steps}
        if cursor(tx, VIEWS) < size:
            raise Unavailable("The history index is still behind the log; try again.", code="history_behind")
        proof = Proof(log, size, self._head(tx, size, map_root), self._signatures)
        proof.check(held)
        judge = _Judge(story, proof, self._sla_ms)
        counted = count(story, proof)
        slow = (
            []
            if "provenance" not in self._policy.data
            else late_arrivals(story, proof, as_of_s, self._policy.integer("provenance", "transit_days_max") * 86_400)
        )
        more = [(code, ids) for code, ids in (("transit_too_long", slow), ("book_above_sensor", counted.short)) if ids]
        found = judge.evidence(as_of_s)
        findings = (*found.findings, *((code, tuple(ids[:CITED_MAX])) for code, ids in more))
        left = tuple(departures(story))
        return replace(found, findings=findings, sensor_quantity=counted.least, departures=left)

    def contents(self, tx: Tx, item: str) -> Sequence[str]:
        """Everything packed inside a thing, recursively, as the log says now.

        Raises:
            Rejected: ``too_large``.
        """
        found = state.contents(tx, item, is_recursive=True)
        if len(found) >= THINGS_MAX:
            raise Rejected(f"At most {THINGS_MAX} things are assessed at once.", code="too_large")
        return found

    def lots(self, tx: Tx, units: Sequence[str]) -> Mapping[str, str]:
        """By unit its lot, as far as known."""
        return {name: own.lot for name, own in state.item_states_of(tx, units).items() if own.lot is not None}

    def _head(self, tx: Tx, size: int, map_root: bytes) -> bytes | None:
        """The contract's root at ``size``, None when it does not bear the item map that stands in memory."""
        if size == 0:
            return None
        root = self._roots.get(size) or self._contract.root_at(self._log_id, size)
        if root is None:
            return None
        if len(self._roots) > ROOTS_MAX:
            self._roots.clear()
        self._roots[size] = root
        try:
            data = tx.execute(sa.select(checkpoints.c.state).where(checkpoints.c.size == size)).scalar_one()
            leaf = read_state_leaf(bytes(data))
            path = tiles.inclusion_proof(tx, size - 1, size)
            verify_inclusion(size - 1, size, leaf_hash(bytes(data)), path, root)
        except (*UNREADABLE, sa.exc.NoResultFound):
            return None
        return root if (leaf.size, leaf.map_root) == (size, map_root) else None


class _Judge:
    """Says of a proven story what finance asks."""

    def __init__(self, story: Story, proof: Proof, sla_ms: int) -> None:
        self._story = story
        self._log = story.log
        self._proof = proof
        self._sla_ms = sla_ms
        self._places = sorted(story.places())
        self._void = self._withdrawn(is_proven=False)
        self._anchors: list[tuple[int, int, int]] = []

    def evidence(self, as_of_s: int) -> Evidence:
        """The evidence as of a unix second."""
        shown = [one for place in self._places if (one := self._shown(place)) is not None]
        hand = [e for place in self._story.at_hand() if self._proof.is_good(place) and (e := self._log.event(place))]
        custody = [
            min(event.device_ms, event.received_ms) // 1_000
            for event in hand
            if not self._is_void(event) and (STAGES.get(_step(event)) == "inventory" or _is_sensed(event))
        ]
        kids = {event.kid for place in self._places if (event := self._log.event(place)) is not None}
        return Evidence(
            item=self._story.root,
            as_of_s=as_of_s,
            events=tuple(sorted(shown, key=lambda event: (event.time_s, event.id))),
            custody_s=max(custody, default=None),
            gaps=sum(gap.last - gap.first + 1 for kid in sorted(kids) for gap in gaps(self._log.tx, kid)),
            findings=tuple(self._findings(kids)),
            quality=self._quality(),
            life=self._life(as_of_s),
        )

    def _shown(self, place: Place) -> EvidenceEvent | None:
        """The event for the reader; None for what is no evidence: suspect, withdrawn, or newer than the anchor."""
        leaf, number = place
        entry, event = self._log.entries[leaf], self._log.event(place)
        if leaf in self._log.suspects:
            return None
        if event is None:
            return self._unreadable(entry, number)
        is_new = leaf >= self._proof.size and not entry.fault
        if self._is_void(event) or (is_new and not self._is_leaving(event)):
            return None
        is_proven = entry.is_proven and not (entry.fault and entry.is_signed)
        return EvidenceEvent(
            _id(place),
            event.org,
            _step(event),
            event.device_ms // 1_000,
            is_signed=entry.is_signed,
            is_proven=is_proven,
            is_in_time=is_proven and self._is_in_time(leaf, event.received_ms),
            signed_by=event.signed_by,
        )

    def _unreadable(self, entry: Entry, number: int) -> EvidenceEvent:
        step, org, time_s = "", "", 0
        if entry.message is not None:
            org, time_s = entry.message.org, entry.message.received_ms // 1_000
            try:
                step = biz_step(str(read_entry(entry.message.jwt).clear[number].get("bizStep", "")))
            except UNREADABLE:
                step = ""
        return EvidenceEvent(_id((entry.leaf, number)), org, step, time_s, entry.is_signed, False, False)

    def _is_in_time(self, leaf: int, received_ms: int) -> bool:
        for start, end, created_ms in self._anchors:
            if start <= leaf < end:
                return created_ms - received_ms <= self._sla_ms
        anchor = final_anchor_over(self._log.tx, leaf)
        if anchor is None:
            return False
        self._anchors.append((leaf, anchor.size, anchor.created_ms))
        return anchor.created_ms - received_ms <= self._sla_ms

    def _withdrawn(self, *, is_proven: bool) -> set[tuple[str, str]]:
        """(org, eventID) of events that their own organisation declared wrong."""
        found = set()
        for place in self._places:
            event = self._log.event(place)
            if event is None or place[0] in self._log.suspects or (is_proven and not self._proof.is_good(place)):
                continue
            if "errorDeclaration" in event.clear and "eventID" in event.event:
                found.add((event.org, str(event.event["eventID"])))
        return found

    def _is_void(self, event: LoggedEvent) -> bool:
        return "errorDeclaration" in event.clear or (event.org, str(event.event.get("eventID", ""))) in self._void

    def _is_leaving(self, event: LoggedEvent) -> bool:
        return _step(event) in _LEAVING and (event.leaf, event.number) in self._story.at_hand()

    def _findings(self, kids: set[str]) -> list[tuple[str, tuple[str, ...]]]:
        found = [("proof_failed", self._failed())] if self._is_failed() else []
        strays = self._strays()
        if strays and not found:
            found.append(("proof_failed", tuple(strays[:CITED_MAX])))
        found += self._standing()
        twice = [name for name in self._story.things if self._is_in_two_places(name)]
        if twice:
            ids = [_id(self._log.places(name)[-1]) for name in twice]
            found.append(("two_places", tuple(ids[:CITED_MAX])))
        split = self._equivocations(kids)
        if split:
            found.append(("equivocation", tuple(split[:CITED_MAX])))
        return found

    def _is_failed(self) -> bool:
        return self._proof.is_broken or bool(self._proof.failed) or any(e.fault for e in self._log.entries.values())

    def _failed(self) -> tuple[str, ...]:
        """The events at fault; where a history differs, its events."""
        bad = {place for steps in self._log.steps.values() for place in steps if self._log.entries[place[0]].fault}
        if not bad:
            bad = {place for key in self._proof.failed for place in self._log.steps[key]}
        return tuple(_id(place) for place in (sorted(bad) or self._places)[:CITED_MAX])

    def _standing(self) -> list[tuple[str, tuple[str, ...]]]:
        """What ends the credit value, by the proven events or by all: what is newer than the anchor counts against."""
        story = self._story
        around = story.around()
        own, above = [*story.things, *around], [*story.lots, *story.classes]
        flags: dict[str, list[str]] = {}
        for name in (*own, *above):
            for now in (self._log.fold(name), self._log.fold(name, below=self._proof.size)):
                if now is None:
                    continue
                last = _id((now.last.leaf, now.last.event))
                is_own = name in story.things
                for code, is_so in (
                    ("recalled", now.is_recalled),
                    ("sold", now.is_sold and name in own),
                    ("decommissioned", now.is_decommissioned and is_own),
                    ("moved_unauthorised", now.disposition == "stolen" and name in own),
                ):
                    if is_so and last not in flags.setdefault(code, []):
                        flags[code].append(last)
        whole = self._log.fold(story.root)
        if whole is not None and whole.custodian and org_info(self._log.tx, whole.custodian) is None:
            flags["unlicensed_custodian"] = [_id((whole.last.leaf, whole.last.event))]
        return [(code, tuple(ids[:CITED_MAX])) for code, ids in flags.items() if ids]

    def _strays(self) -> list[str]:
        """Things that the database calls packed inside, against their own history."""
        inside = set(self._story.things)
        found = []
        for name in self._story.things[1:]:
            now = self._log.fold(name)
            if now is None or now.container not in inside:
                found += [_id(place) for place in self._log.places(name)[-1:]]
        return found

    def _is_in_two_places(self, name: str) -> bool:
        """Inside two containers, neither of which is in the other."""
        events = [event for event in self._log.events(name) if not self._is_void(event)]
        opened = {stay.container for stay in stays(events, name) if stay.to_ms is None}
        if len(opened) < 2:
            return False
        known = (set(self._story.things) | set(self._story.outer)) & opened
        for inner in known:
            reached, now = {inner}, self._log.fold(inner)
            while now is not None and now.container is not None and now.container not in reached:
                reached.add(now.container)
                follow = map_key("item", now.container) in self._log.steps
                now = self._log.fold(now.container) if follow else None
            if opened <= reached:
                return False
        return True

    def _equivocations(self, kids: set[str]) -> list[str]:
        messages = {b64u(e.message.message_id): e.leaf for e in self._log.entries.values() if e.message is not None}
        forked = {leaf for leaf, reason in self._log.suspects.items() if reason == "equivocation"}
        for kid in kids:
            for record in self._proof.history(kid):
                if record.t == "equivocation":
                    forked |= {messages[one] for one in record.payload["ids"] if one in messages}
        return [_id(place) for place in self._places if place[0] in forked]

    def _quality(self) -> str:
        taken_back = self._withdrawn(is_proven=True)
        grade = "1"
        for place in self._places:
            event = self._log.event(place)
            if event is None or place[0] in self._log.suspects or "errorDeclaration" in event.clear:
                continue
            if (event.org, str(event.event.get("eventID", ""))) in taken_back:
                continue
            if disposition(str(event.clear.get("disposition", ""))) in _REJECTED or _has_alarm(event):
                return "reject"
            if self._proof.is_good(place) and _step(event) in _TESTS:
                grade = max(grade, _grade(event))
        standing = (self._log.fold(name) for name in (*self._story.things, *self._story.lots))
        return "reject" if any(now is not None and now.disposition in _WITHHELD for now in standing) else grade

    def _life(self, as_of_s: int) -> Fraction | None:
        """The smallest remaining part of a shelf life, by expiry dates on the goods, else by the product's days."""
        days = self._shelf_days()
        left = []
        for name in (*self._story.things, *self._story.lots):
            whole_s = days.get(class_of(name) or "", 0) * 86_400
            for event in self._log.events(name):
                expires_s = _expiry_s(event)
                if expires_s is None or self._is_void(event) or set(event.roles_of(name)) & {1, 4, *INPUTS}:
                    continue
                span = whole_s or max(1, expires_s - event.device_ms // 1_000)
                left.append(Fraction(expires_s - as_of_s, span))
            first = self._log.fold(name)
            if whole_s and first is not None:
                left.append(1 - Fraction(max(0, as_of_s - first.first_ms // 1_000), whole_s))
        return None if not left else max(Fraction(0), min(Fraction(1), *left))

    def _shelf_days(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for name in self._story.classes:
            for leaf, _ in self._log.steps[map_key("item", name)]:
                entry = self._log.entries[leaf]
                if entry.record is None or not entry.is_proven or entry.record.payload.get("fact") != "product":
                    continue
                days = entry.record.payload["value"].get("shelf_life_days")
                if isinstance(days, int) and days > 0:
                    found[name] = days
        return found


def _id(place: Place) -> str:
    return f"{place[0]}:{place[1]}"


def _step(event: LoggedEvent) -> str:
    return biz_step(str(event.clear.get("bizStep", "")))


def _is_sensed(event: LoggedEvent) -> bool:
    return bool(event.event.get("sensorElementList"))


def _has_alarm(event: LoggedEvent) -> bool:
    """A test that sounded the alarm rejects; an alarm on the way is told by the journey, not by the laboratory."""
    if _step(event) not in _TESTS or not _is_sensed(event):
        return False
    looks = event.event["sensorElementList"]
    reports = [r for look in looks if isinstance(look, Mapping) for r in look.get("sensorReport") or []]
    return any(isinstance(report, Mapping) and "exception" in report for report in reports)


def _grade(event: LoggedEvent) -> str:
    """The worst grade that a test event gives, in an extension member ``…:grade``, of itself or of its ILMD."""
    ilmd = event.event.get("ilmd")
    members: list[tuple[str, Any]] = [*event.event.items(), *(ilmd.items() if isinstance(ilmd, Mapping) else ())]
    given = [str(value) for name, value in members if name.rpartition(":")[2] in ("grade", "qualityGrade")]
    return max((grade for grade in given if grade in _GRADES), default="1")


def _expiry_s(event: LoggedEvent) -> int | None:
    """The earliest expiry date in the event's ILMD as unix seconds at the day's begin (UTC)."""
    ilmd = event.event.get("ilmd")
    found = []
    for name, value in ilmd.items() if isinstance(ilmd, Mapping) else ():
        if name.rpartition(":")[2] in ("itemExpirationDate", "expirationDate") and isinstance(value, str):
            try:
                found.append(int(datetime.fromisoformat(value[:10]).replace(tzinfo=UTC).timestamp()))
            except (ValueError, OverflowError):
                continue
    return min(found, default=None)
