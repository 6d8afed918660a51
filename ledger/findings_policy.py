"""The policy of findings: how grave each is, and the bounds that the rules use."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from core.errors import Rejected

DEFAULT: Final = Path(__file__).parent / "findings_policy.toml"
SEVERITIES: Final = ("serious", "warning", "notice")
CODES: Final = (
    "implausible_speed", "two_places_at_once", "commissioned_twice", "observed_after_decommissioning",
    "observed_after_consumption", "sold_twice", "observed_after_sale", "packed_while_packed", "unpacked_not_inside",
    "unpacked_more_than_packed", "packed_more_than_made", "output_exceeds_input", "unexplained_loss",
    "stock_below_book", "stock_above_book", "expired_shipped",
)  # fmt: skip
MODES: Final = ("road", "rail", "sea", "inland_water", "air", "unknown")


@dataclass(frozen=True)
class FindingPolicy:
    """Severities by code, ceilings of speed by means of transport, and tolerances.

    Attributes:
        slack_km: what two places may be apart without a way between them. skew_s: what two clocks may differ.
        at_once_s: what counts as the same time.
        gain_share, loss_share: of the inputs, what outputs may exceed and what may be lost without a finding.
    """

    severity: Mapping[str, str]
    speed_kmh: Mapping[str, float]
    slack_km: float
    skew_s: float
    at_once_s: float
    gain_share: Decimal
    loss_share: Decimal

    def severity_of(self, code: str) -> str:
        """How grave a finding is."""
        return self.severity.get(code, "notice")


_chosen: list[Path] = [DEFAULT]


def choose(path: Path | None) -> FindingPolicy:
    """Let this process go by a policy file, by the default for None; gives the policy.

    Raises:
        Rejected: ``bad_policy``.
    """
    found = load_policy(path or DEFAULT)
    _chosen[0] = path or DEFAULT
    return found


def policy() -> FindingPolicy:
    """The policy by which this process goes."""
    return load_policy(_chosen[0])


@lru_cache(maxsize=16)
def load_policy(path: Path = DEFAULT) -> FindingPolicy:
    """The policy of a file; what the file leaves out is taken from the default.

    Raises:
        Rejected: ``bad_policy``: the file is no TOML, or a value is out of its range.
    """
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
        default = tomllib.loads(DEFAULT.read_text(encoding="utf-8"))
        values = {name: {**default[name], **given.get(name, {})} for name in default if name != "version"}
        found = FindingPolicy(
            severity=values["severity"],
            speed_kmh={name: float(value) for name, value in values["speed_kmh"].items()},
            slack_km=float(values["speed"]["slack_km"]),
            skew_s=float(values["speed"]["skew_s"]),
            at_once_s=float(values["speed"]["at_once_s"]),
            gain_share=Decimal(str(values["balance"]["gain_share"])),
            loss_share=Decimal(str(values["balance"]["loss_share"])),
        )
    except (OSError, tomllib.TOMLDecodeError, TypeError, ValueError, ArithmeticError) as error:
        raise Rejected(f"The policy of findings {path.name} cannot be read: {error}", code="bad_policy") from error
    _check(found, values)
    return found


def _check(policy: FindingPolicy, values: Mapping[str, Any]) -> None:
    unknown = [code for code in policy.severity if code not in CODES]
    unknown += [name for name in policy.speed_kmh if name not in MODES]
    if unknown:
        raise Rejected(f"The policy of findings names {unknown[0]}, which is no rule.", code="bad_policy")
    if any(value not in SEVERITIES for value in policy.severity.values()):
        raise Rejected(f"A severity is one of {', '.join(SEVERITIES)}.", code="bad_policy", pointer="/severity")
    numbers = [*policy.speed_kmh.values(), policy.slack_km, policy.skew_s, policy.at_once_s]
    numbers += [float(policy.gain_share), float(policy.loss_share)]
    if any(not 0 <= number < 1e9 for number in numbers):
        raise Rejected("The bounds of the policy of findings are positive numbers.", code="bad_policy")
