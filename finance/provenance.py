"""From what the log says about goods to six components of confidence and its knock-outs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Context as DecimalContext
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from finance.confidence import Confidence, Reason, confidence
from finance.policy import Policy
from ledger.findings_read import Finding

CITED_MAX: Final = 20

# CBV business steps, by the stage of life that they witness.
STAGES: Final[Mapping[str, str]] = {
    "commissioning": "production", "creating_class_instance": "production", "transforming": "production",
    "packing": "production", "assembling": "production", "inspecting": "inspection", "sampling": "inspection",
    "storing": "inventory", "receiving": "inventory", "stocking": "inventory", "accepting": "inventory",
    "holding": "inventory", "sensor_reporting": "inventory", "cycle_counting": "inventory",
    "shipping": "logistics", "departing": "logistics", "transporting": "logistics", "arriving": "logistics",
    "loading": "logistics", "unloading": "logistics", "retail_selling": "sales",
}  # fmt: skip
# Findings of followers that make goods ineligible whatever their score.
KNOCK_OUTS: Final[Mapping[str, str]] = {
    "proof_failed": "A stored event no longer fits its proof.",
    "two_places": "The same unit was in two places.",
    "recalled": "The goods are recalled.",
    "sold": "The goods are sold.",
    "decommissioned": "The goods are destroyed or taken out of use.",
    "qc_reject": "Quality inspection rejected the goods.",
    "unlicensed_custodian": "The custodian is not registered.",
    "moved_unauthorised": "Goods left the warehouse without authorisation.",
    "transit_too_long": "Transit took longer than planned.",
    "inspection_overdue": "The last inspection is longer ago than the policy allows.",
    "book_above_sensor": "The book shows more than the sensors count.",
    "equivocation": "A device signed two stories.",
    # Found by rule over the log; the policy says which of them end eligibility.
    "two_places_at_once": "The same code was recorded in two places at the same time.",
    "commissioned_twice": "The same code was put on goods twice.",
    "observed_after_decommissioning": "The goods were recorded after they had been taken out of use.",
    "sold_twice": "The goods were sold twice without a return.",
    "packed_more_than_made": "More of the lot was packed than was made.",
    "output_exceeds_input": "More came out of the goods' production than went in.",
    "stock_below_book": "A count found less than the book holds.",
    "expired_shipped": "The goods were shipped or sold after their expiry date.",
}


@dataclass(frozen=True)
class EvidenceEvent:
    """One event of the history.

    Attributes:
        id: for people and pages: ``leaf:event``.
        org: canonical id of the organisation that signed.
        step: CBV business step, local name.
        is_signed: by a key that counted by log order.
        is_proven: its inclusion in an anchored checkpoint verified.
        is_in_time: anchored within the policy's time.
        signed_by: ``device``, ``partner`` or ``gateway``: each weighs as the policy says.
    """

    id: str
    org: str
    step: str
    time_s: int
    is_signed: bool = True
    is_proven: bool = True
    is_in_time: bool = True
    signed_by: str = "device"

    @property
    def stage(self) -> str | None:
        """The stage of life that it witnesses."""
        return STAGES.get(self.step)


@dataclass(frozen=True)
class Evidence:
    """What the log says about goods, as of a moment.

    Attributes:
        custody_s: when the last sensor or custody reading was taken.
        gaps: messages missing in the sequence of a signing key, or impossible movements.
        findings: (code, event ids) of followers; those in ``KNOCK_OUTS`` end eligibility.
        quality: inspected grade: 1, 2, 3 or reject.
        life: remaining part of the shelf life; None for goods that do not perish.
        departures: (unix seconds, event id) of each time the goods themselves left a place.
    """

    item: str
    as_of_s: int
    events: tuple[EvidenceEvent, ...]
    custody_s: int | None
    gaps: int = 0
    findings: tuple[tuple[str, tuple[str, ...]], ...] = ()
    quality: str = "1"
    life: Fraction | None = None
    sensor_quantity: Fraction | None = field(default=None)
    departures: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class Grounds:
    """What a confidence is computed from; stored with the decision, so that it can be replayed."""

    components: tuple[Fraction, ...]
    knock_outs: tuple[Reason, ...]
    events: Mapping[str, tuple[str, ...]]

    def confidence(self, policy: Policy) -> Confidence:
        """The confidence of these grounds."""
        return confidence(self.components, policy, knock_outs=self.knock_outs, evidence=self.events)

    def stored(self) -> dict[str, Any]:
        """As JSON: numbers are exact fractions in text."""
        return {
            "components": [str(value) for value in self.components],
            "knock_outs": [{"code": r.code, "message": r.message, "events": list(r.events)} for r in self.knock_outs],
            "events": {name: list(ids) for name, ids in self.events.items()},
        }

    @staticmethod
    def load(value: Mapping[str, Any]) -> "Grounds":
        """The grounds that ``stored`` wrote."""
        return Grounds(
            tuple(Fraction(text) for text in value["components"]),
            tuple(Reason(r["code"], r["message"], "100.00", tuple(r["events"])) for r in value["knock_outs"]),
            {name: tuple(ids) for name, ids in value["events"].items()},
        )


def moved_since(evidence: Evidence, issued_s: int) -> Evidence:
    """The evidence with what a warehouse receipt of that moment adds: goods under it stay until it is delivered.

    Software stops no truck: what left all the same is recorded, and ends the goods' credit value (V6).
    """
    gone = tuple(ident for at_s, ident in evidence.departures if at_s > issued_s)
    return replace(evidence, findings=(*evidence.findings, ("moved_unauthorised", gone))) if gone else evidence


def with_findings(evidence: Evidence, found: Sequence[Finding], policy: Policy) -> Evidence:
    """The evidence with what rules over the log found about the goods, as far as the policy counts it.

    Bad news counts as soon as it is logged, whether or not it is proven yet; a finding that was taken back does not.
    """
    counted = policy.data.get("provenance", {}).get("findings")
    if counted is None:
        return evidence
    by_code: dict[str, dict[str, None]] = {}
    gaps = 0
    for one in found:
        if not one.is_open:
            continue
        if one.code in counted["knock_outs"]:
            by_code.setdefault(one.code, {}).update(dict.fromkeys(one.events))
        gaps += int(counted["gaps"].get(one.code, 0))
    more = tuple((code, tuple(events)[:CITED_MAX]) for code, events in sorted(by_code.items()))
    return replace(evidence, findings=(*evidence.findings, *more), gaps=evidence.gaps + gaps)


def completeness(stages: Sequence[str], weights: Mapping[str, Fraction]) -> Fraction:
    """The weighted share of required stages that are witnessed (I-1)."""
    present = set(stages)
    return sum((weight for stage, weight in weights.items() if stage in present), Fraction(0))


def grounds(evidence: Evidence, policy: Policy, *, life_cycle: str = "in_stock") -> Grounds:
    """The six components and knock-outs of some evidence.

    Args:
        life_cycle: which stages are required: ``in_stock`` for collateral, ``lifecycle`` for goods that were sold.
    """
    events = evidence.events
    weights = policy.numbers("confidence", life_cycle)
    good = [event for event in events if event.is_signed and event.is_proven]
    stages = [event.stage for event in good if event.stage is not None]
    components = (
        completeness(stages, weights),
        _signatures(events, policy),
        _share(events, [event for event in events if event.is_proven and event.is_in_time]),
        max(Fraction(0), 1 - Fraction(evidence.gaps, max(1, len(events)))),
        _freshness(evidence, policy.integer("confidence", "freshness_tau_s")),
        min(Fraction(1), Fraction(len({e.org for e in good}), policy.integer("confidence", "organisations_full"))),
    )
    cited = {
        "signatures": tuple(e.id for e in events if not e.is_signed or e.signed_by == "gateway")[:20],
        "proofs": tuple(event.id for event in events if not (event.is_proven and event.is_in_time))[:20],
        "freshness": tuple(event.id for event in events[-1:]),
        "independence": tuple(event.id for event in good[-1:]),
    }
    return Grounds(components, tuple(_knock_outs(evidence, weights, stages, policy)), cited)


def _knock_outs(
    evidence: Evidence, weights: Mapping[str, Fraction], stages: Sequence[str], policy: Policy
) -> list[Reason]:
    found = [Reason(code, KNOCK_OUTS[code], "100.00", ids) for code, ids in evidence.findings if code in KNOCK_OUTS]
    for event in evidence.events:
        if event.stage in weights and not (event.is_signed and event.is_proven):
            code = "proof_failed" if event.is_signed else "bad_signature"
            message = KNOCK_OUTS["proof_failed"] if event.is_signed else "A required event has no valid signature."
            found.append(Reason(code, message, "100.00", (event.id,)))
            break
    for stage, name in (("production", "production"), ("inventory", "custody")):
        if stage not in stages:
            found.append(Reason(f"no_{name}_event", f"There is no valid {name} event.", "100.00"))
    if evidence.quality == "reject":
        found.append(Reason("qc_reject", KNOCK_OUTS["qc_reject"], "100.00"))
    overdue = _overdue(evidence, policy)
    return found if overdue is None else [*found, overdue]


def _overdue(evidence: Evidence, policy: Policy) -> Reason | None:
    """The last inspection when it is too long ago; goods that never were inspected lose by completeness."""
    if "provenance" not in policy.data:
        return None
    seen = [event for event in evidence.events if event.stage == "inspection" and event.is_signed and event.is_proven]
    if not seen:
        return None
    last = max(seen, key=lambda event: event.time_s)
    if evidence.as_of_s - last.time_s <= policy.integer("provenance", "inspection_days_max") * 86_400:
        return None
    message, remedy = KNOCK_OUTS["inspection_overdue"], "Have the goods inspected again."
    return Reason("inspection_overdue", message, "100.00", (last.id,), remedy)


def _share(events: Sequence[EvidenceEvent], good: Sequence[EvidenceEvent]) -> Fraction:
    return Fraction(len(good), len(events)) if events else Fraction(0)


def _signatures(events: Sequence[EvidenceEvent], policy: Policy) -> Fraction:
    """The share of events with a valid signature; what no device signed itself weighs less."""
    grades = policy.numbers("confidence", "signers")
    total = sum((grades[event.signed_by] for event in events if event.is_signed), Fraction(0))
    return total / len(events) if events else Fraction(0)


def _freshness(evidence: Evidence, tau_s: int) -> Fraction:
    if evidence.custody_s is None:
        return Fraction(0)
    age = max(0, evidence.as_of_s - evidence.custody_s)
    exact = DecimalContext(prec=40).divide(Decimal(-age), Decimal(tau_s))
    return Fraction(DecimalContext(prec=28).exp(exact))
