"""Who acts, and what finance needs from the rest of the process."""

import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Final, Protocol

from core.errors import Conflict, Rejected
from core.identifiers import canonical, gln_of
from core.prefixmap import map_key
from finance.policy import Policy, load_policy
from ledger.database import Tx

if TYPE_CHECKING:
    from contracts.clients import PledgeRegistryClient
    from contracts.signer import Signer
    from finance.provenance import Evidence

BANK: Final = ("bank_maker", "bank_checker")
"""The roles of a bank's own people."""


@dataclass(frozen=True)
class Actor:
    """A person acting as a user of an organisation; four eyes count persons, never users."""

    person: str
    user: str
    org: str
    roles: frozenset[str] = frozenset()

    def need(self, *roles: str, org: str | None = None) -> None:
        """Return if the actor holds one of these roles, in that organisation.

        Raises:
            Rejected: ``not_allowed``.
        """
        if self.roles.isdisjoint(roles) or (org is not None and self.org != org):
            raise Rejected("You may not do this.", code="not_allowed")


class AlreadyPledged(Conflict):
    """These goods secure another loan."""

    code = "already_pledged"


class Assess(Protocol):
    """The evidence about an item (canonical id) and what is packed inside it, as of a unix second."""

    def __call__(self, tx: Tx, item: str, as_of_s: int) -> "Evidence": ...


def _no_lots(tx: Tx, units: Sequence[str]) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True)
class Context:
    """What commands stand on; the composition root builds it.

    Attributes:
        k: the registry's secret K that hides goods keys, for life.
        contents: everything packed inside a thing, recursively, at the present log position (canonical ids).
        lots: by unit its lot's canonical id, as far as known.
    """

    k: bytes
    registry: "PledgeRegistryClient"
    signer: "Signer"
    assess: Assess
    contents: Callable[[Tx, str], Sequence[str]]
    lots: Callable[[Tx, Sequence[str]], Mapping[str, str]] = _no_lots
    policy: Policy = field(default_factory=load_policy)

    def goods_key(self, item: str) -> bytes:
        """The goods key of a thing in any spelling.

        Raises:
            Rejected: as ``core.identifiers.canonical``.
        """
        return goods_key(self.k, item)

    def account(self, org: str) -> str:
        """The name of an organisation's chain account in the signer."""
        return account_name(org)


def goods_key(k: bytes, item: str) -> bytes:
    """``HMAC-SHA-256(K, item key)`` of a thing in any spelling."""
    return hmac.digest(k, map_key("item", canonical(item)), "sha256")


def k_check(k: bytes) -> bytes:
    """The check value of K that stands on the chain."""
    return hmac.digest(k, b"tracebond/k-check/1", "sha256")


def account_name(org: str) -> str:
    """The signer's name of an organisation's chain account."""
    return f"org-{gln_of(org)}"


@dataclass(frozen=True)
class Call:
    """How a command is called.

    Attributes:
        key: the idempotency key, unique in the actor's organisation.
        now_s: unix seconds.
    """

    actor: Actor
    key: str
    reason: str
    now_s: int
    business_date: date
