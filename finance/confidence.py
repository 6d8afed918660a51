"""Provenance confidence: six components, one score from 0 to 100, floors, knock-outs and reasons (formula 1)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from math import lcm
from typing import Final

from core.errors import Rejected
from core.money import decimal_text
from finance.policy import Policy

NAMES: Final = ("completeness", "signatures", "proofs", "continuity", "freshness", "independence")
_DIGITS: Final = 50


@dataclass(frozen=True)
class Reason:
    """Why points were lost or goods refused, with the events behind it and what would change it."""

    code: str
    message: str
    points: str
    events: tuple[str, ...] = ()
    remedy: str = ""


@dataclass(frozen=True)
class Confidence:
    """A score with its grounds.

    Attributes:
        components: the six, each from 0 to 1.
        score: 0 to 100 with 28 digits; compare by ``reaches``, show by ``shown``.
        is_eligible: no knock-out and every floor kept.
        reasons: at most as many as the policy says, the gravest first.
    """

    components: tuple[Fraction, ...]
    score: Decimal
    is_eligible: bool
    reasons: tuple[Reason, ...]
    weights: tuple[Fraction, ...]
    is_knocked_out: bool = False

    @property
    def shown(self) -> str:
        """The score HALF_EVEN to 0.01."""
        return decimal_text(Fraction(self.score), 2)

    def reaches(self, threshold: Fraction) -> bool:
        """Whether the unrounded score is at least ``threshold``, decided exactly."""
        if self.is_knocked_out:
            return threshold <= 0
        return reaches(self.components, self.weights, threshold)


def reaches(components: Sequence[Fraction], weights: Sequence[Fraction], threshold: Fraction) -> bool:
    """Whether ``100 prod c^w >= threshold``, without a logarithm: both sides are raised to a whole power."""
    power = lcm(*(weight.denominator for weight in weights))
    product = Fraction(1)
    for component, weight in zip(components, weights, strict=True):
        product *= component ** int(weight * power)
    return product >= (threshold / 100) ** power


def confidence(
    components: Sequence[Fraction],
    policy: Policy,
    *,
    knock_outs: Sequence[Reason] = (),
    evidence: Mapping[str, Sequence[str]] | None = None,
) -> Confidence:
    """The confidence of six components.

    Args:
        components: in the order of ``NAMES``, each from 0 to 1.
        knock_outs: each makes the score 0.
        evidence: by component the ids of events that cost it points.

    Raises:
        Rejected: ``bad_component``.
    """
    weights = tuple(Fraction(weight) for weight in policy.rows("confidence", "weights"))
    floors = tuple(Fraction(floor) for floor in policy.rows("confidence", "floors"))
    if len(components) != len(NAMES) or any(not 0 <= component <= 1 for component in components):
        raise Rejected("There are six components, each from 0 to 1.", code="bad_component")
    values = tuple(Fraction(component) for component in components)
    events = evidence or {}
    most = policy.integer("confidence", "reasons_max")
    if knock_outs:
        return Confidence(values, Decimal(0), False, tuple(knock_outs)[:most], weights, is_knocked_out=True)
    score = _score(values, weights)
    below = [_floor(i, values[i], floors[i], events) for i in range(len(values)) if values[i] < floors[i]]
    lost = _losses(values, weights, score, events)
    named = {reason.code for reason in below}
    reasons = below + [reason for reason in lost if f"{reason.code}_below_floor" not in named]
    return Confidence(values, score, not below and score > 0, tuple(reasons[:most]), weights)


def _score(values: Sequence[Fraction], weights: Sequence[Fraction]) -> Decimal:
    if any(value == 0 for value in values):
        return Decimal(0)
    with localcontext(Context(prec=_DIGITS)):
        exponent = sum((_decimal(w) * _decimal(c).ln() for c, w in zip(values, weights, strict=True)), Decimal(0))
        score = 100 * exponent.exp()
    return Context(prec=28).plus(score)


def _losses(
    values: Sequence[Fraction], weights: Sequence[Fraction], score: Decimal, events: Mapping[str, Sequence[str]]
) -> list[Reason]:
    zero = [i for i, value in enumerate(values) if value == 0]
    if zero:
        return [_lost(i, Decimal(100), events) for i in zero]
    with localcontext(Context(prec=_DIGITS)):
        logs = [_decimal(w) * _decimal(c).ln() for c, w in zip(values, weights, strict=True)]
        whole = sum(logs, Decimal(0))
        points = [(100 - score) * log / whole if whole else Decimal(0) for log in logs]
    order = sorted((i for i in range(len(values)) if values[i] < 1), key=lambda i: (-points[i], i))
    return [_lost(i, points[i], events) for i in order]


def _lost(i: int, points: Decimal, events: Mapping[str, Sequence[str]]) -> Reason:
    shown = decimal_text(Fraction(points), 2)
    return Reason(
        NAMES[i], f"{NAMES[i].capitalize()} costs {shown} points.", shown, tuple(events.get(NAMES[i], ())), REMEDIES[i]
    )


def _floor(i: int, value: Fraction, floor: Fraction, events: Mapping[str, Sequence[str]]) -> Reason:
    return Reason(
        f"{NAMES[i]}_below_floor",
        f"{NAMES[i].capitalize()} is {decimal_text(value, 4)}, below its floor of {decimal_text(floor, 2)}.",
        "100.00",
        tuple(events.get(NAMES[i], ())),
        REMEDIES[i],
    )


def _decimal(value: Fraction) -> Decimal:
    return Decimal(value.numerator) / Decimal(value.denominator)


REMEDIES: Final = (
    "Record the missing stages.",
    "Have every event signed by a device whose key is registered.",
    "Wait until the events are anchored, or repair the proof.",
    "Send the missing messages, or explain the movement.",
    "Record a fresh inspection or sensor reading in the warehouse.",
    "Have a second organisation record the goods, an inspector for example.",
)
