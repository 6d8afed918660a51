"""The scorecard and the limit: additive points from five groups of features, each with source and date (13, 14)."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from fractions import Fraction
from typing import Any, Final

from core.errors import Rejected
from core.money import DOWN, Money, decimal_text, parse_decimal, parse_money, rounded
from finance.confidence import Reason
from finance.daycount import parse_date
from finance.policy import Policy

GROUPS: Final = ("account", "tax", "secured", "sales", "provenance")


_WHY: Final = {"stale": "is out of date", "missing": "is not known", "rating": "is weak"}
_REMEDY: Final = {
    "stale": "Bring a new record of {name}: up to {lost} points.",
    "missing": "Bring a record of {name}: up to {lost} points.",
    "rating": "A better record of {name} gives up to {lost} points.",
}


@dataclass(frozen=True)
class Rating:
    """Points from 0 to 1000, the grade they give, and the largest losses as reasons."""

    points: int
    grade: str
    by_group: Mapping[str, int]
    reasons: tuple[Reason, ...]


def check_features(features: Mapping[str, Any]) -> None:
    """Return if the features have the known form: per group value 0 to 1, source, as_of; and two yuan amounts.

    Raises:
        Rejected: ``bad_form``, ``unknown_member``, ``bad_number``, ``bad_date`` or ``bad_amount``.
    """
    for name, value in features.items():
        if name in ("monthly_sales", "annual_turnover"):
            parse_money(value, pointer=f"features/{name}", is_zero_allowed=True)
        elif name not in GROUPS:
            raise Rejected(f"There is no feature {name!r}.", code="unknown_member", pointer=f"features/{name}")
        elif not isinstance(value, Mapping) or set(value) != {"value", "source", "as_of"}:
            raise Rejected("A feature has value, source and as_of.", code="bad_form", pointer=f"features/{name}")
        else:
            parse_decimal(value["value"], pointer=f"features/{name}/value", decimals_max=6, most=1)
            parse_date(value["as_of"], pointer=f"features/{name}/as_of")


def rate(features: Mapping[str, Any], provenance: Fraction, policy: Policy, *, today: date | None = None) -> Rating:
    """The rating of a borrower.

    A missing group gives no points and says so: it is never treated as no risk (A-8).

    Args:
        features: as ``check_features`` takes them.
        provenance: confidence of the goods, 0 to 1, in place of a feature of that name.
        today: features older than the policy allows on this date count as unknown; None takes all as fresh.
    """
    most = policy.numbers("rating", "points")
    stale = frozenset() if today is None else stale_features(features, policy, today)
    values = {
        name: Fraction(features[name]["value"]) if name in features and name not in stale else None for name in GROUPS
    }
    values["provenance"] = provenance
    by_group = {name: rounded(most[name] * (value or 0), DOWN) for name, value in values.items()}
    points = sum(by_group.values())
    grade = next(name for name, least in policy.rows("rating", "grades") if points >= least)
    reasons = []
    for name in sorted(GROUPS, key=lambda group: (by_group[group] - most[group], GROUPS.index(group))):
        lost = int(most[name]) - by_group[name]
        if lost:
            kind = "stale" if name in stale else "missing" if values[name] is None else "rating"
            text = f"{name.capitalize()} {_WHY[kind]}: {lost} points lost."
            reasons.append(Reason(f"{kind}_{name}", text, str(lost), (), _REMEDY[kind].format(name=name, lost=lost)))
    return Rating(points, grade, by_group, tuple(reasons[: policy.integer("confidence", "reasons_max")]))


def stale_features(features: Mapping[str, Any], policy: Policy, today: date) -> frozenset[str]:
    """The groups whose feature is older than the policy takes."""
    return frozenset(
        name
        for name, days in policy.numbers("rating", "max_age_days").items()
        if name in features and (today - parse_date(features[name]["as_of"])).days > days
    )


def limit(grade: str, features: Mapping[str, Any], base: Money, policy: Policy) -> tuple[Money, dict[str, str]]:
    """The limit, rounded down to 1,000 yuan, and each cap it is the least of."""
    sales = parse_money(features.get("monthly_sales", "0"), is_zero_allowed=True)
    turnover = parse_money(features.get("annual_turnover", "0"), is_zero_allowed=True)
    caps = {
        "product": policy.money("limit", "product_cap"),
        "sales": sales.scaled(policy.numbers("limit", "months")[grade], rounding=DOWN),
        "turnover": turnover.scaled(policy.number("limit", "turnover_share"), rounding=DOWN),
        "single_name": policy.money("limit", "single_name_cap"),
        "base": base,
    }
    unit = policy.money("limit", "unit").minor
    return Money(min(cap.minor for cap in caps.values()) // unit * unit), {k: v.text() for k, v in caps.items()}


def points_text(rating: Rating) -> str:
    """Points and grade in words for a page: ``812 of 1000, grade A``."""
    return f"{decimal_text(Fraction(rating.points), 0)} of 1000, grade {rating.grade}"
