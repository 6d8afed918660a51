"""PledgeRegistry in plain Python: the same rules, kept as plainly as can be.

A receipt owns a mapping of claims; what is claimed of a key is the sum over live receipts. The
contract keeps neither: it names a holder for each single thing and a running sum for each lot.
"""

from dataclasses import dataclass, field

LIVE = {"registering", "sealed", "splitting"}
STATES = ["none", "registering", "sealed", "pledged", "splitting", "split", "cancelled", "delivered"]
PLEDGE_STATES = ["none", "active", "enforcing", "released", "settled"]
QUANTITY_MAX = 2**64 - 1
PART_MAX = LOTS_MAX = 200


class Refused(Exception):
    """The model's word for a revert."""


def need(condition: bool, reason: str) -> None:
    if not condition:
        raise Refused(reason)


@dataclass
class Pledge:
    pledgee: str
    terms: bytes
    state: str = "active"


@dataclass
class Receipt:
    custodian: str
    owner: str
    parent: bytes | None
    state: str = "registering"
    claims: dict[bytes, int] = field(default_factory=dict)
    # Which of the claimed keys were lots then: a thing may become a lot once its receipt is dead.
    lots: set[bytes] = field(default_factory=set)
    holds: dict[str, bytes] = field(default_factory=dict)
    pledges: list[Pledge] = field(default_factory=list)

    @property
    def is_pledged(self) -> bool:
        return bool(self.pledges) and self.pledges[-1].state in ("active", "enforcing")

    @property
    def is_settled(self) -> bool:
        return bool(self.pledges) and self.pledges[-1].state == "settled"


@dataclass
class Model:
    """Who is who, and all receipts."""

    organisation: dict[str, str]
    acting: dict[str, tuple[str, set[str]]]
    pauser: str
    receipts: dict[bytes, Receipt] = field(default_factory=dict)
    capacities: dict[bytes, int] = field(default_factory=dict)
    makers: dict[bytes, str] = field(default_factory=dict)
    is_paused: bool = False

    # ------------------------------------------------------------------------- reading

    def account(self, account: str) -> str | None:
        """The account that acts now for the organisation of this account."""
        organisation = self.organisation.get(account)
        return self.acting[organisation][0] if organisation else None

    def has_role(self, account: str, role: str) -> bool:
        organisation = self.organisation.get(account)
        return (
            organisation is not None
            and self.acting[organisation][0] == account
            and (role in self.acting[organisation][1])
        )

    def capacity(self, key: bytes) -> int:
        return self.capacities.get(key, 1)

    def claimed(self, key: bytes) -> int:
        return sum(r.claims.get(key, 0) for r in self.receipts.values() if r.state in LIVE)

    # ------------------------------------------------------------------------- checks

    def _running(self) -> None:
        need(not self.is_paused, "paused")

    def _own(self, receipt: bytes, sender: str) -> Receipt:
        found = self.receipts.get(receipt)
        need(found is not None, "no such receipt")
        assert found is not None
        need(self.account(found.custodian) == sender, "not custodian")
        need(self.has_role(sender, "custodian"), "not custodian")
        return found

    def _open(self, receipt: bytes, sender: str, made: Receipt) -> Receipt:
        need(receipt[:20] == bytes.fromhex(sender[2:]), "not your number")
        return made

    def _part(self, goods: list[bytes], quantities: list[int]) -> None:
        need(len(goods) != 0, "no goods")
        need(len(goods) == len(quantities), "lengths differ")

    def _lots(self, claims: dict[bytes, int]) -> int:
        return sum(1 for key, quantity in claims.items() if key in self.capacities and quantity)

    def _parent_done(self, found: Receipt) -> None:
        if found.parent is not None:
            need(self.receipts[found.parent].state == "split", "parent not split")

    # -------------------------------------------------------------------------- moves

    def set_capacity(self, sender: str, key: bytes, quantity: int) -> None:
        self._running()
        need(self.has_role(sender, "maker"), "not maker")
        need(any(key), "no goods")
        need(0 < quantity <= QUANTITY_MAX, "bad quantity")
        need(key not in self.capacities, "capacity set")
        need(self.claimed(key) == 0, "claimed")
        self.capacities[key] = quantity
        self.makers[key] = sender

    def register(self, sender: str, receipt: bytes, owner: str, goods: list[bytes], quantities: list[int]) -> None:
        self._running()
        need(self.has_role(sender, "custodian"), "not custodian")
        found = self.receipts.get(receipt)
        if found is None:
            need(self.account(owner) == owner, "unknown owner")
            found = self._open(receipt, sender, Receipt(sender, owner, None))
        else:
            need(found.state == "registering", "not registering")
            self._own(receipt, sender)
            need(found.owner == owner, "another owner")
            need(found.parent is None, "child of a split")
            need(not found.holds, "held")
        self._part(goods, quantities)
        claims = dict(found.claims)
        others = {key: self.claimed(key) - found.claims.get(key, 0) for key in goods}
        for key, quantity in zip(goods, quantities, strict=True):
            limit = self.capacity(key)
            need(any(key), "no goods")
            need(quantity == 1 if key not in self.capacities else 0 < quantity <= limit, "bad quantity")
            need(others[key] + claims.get(key, 0) + quantity <= limit, "over capacity")
            claims[key] = claims.get(key, 0) + quantity
            need(self._lots(claims) <= LOTS_MAX, "too many lots")
        found.claims = claims
        found.lots = {key for key in claims if key in self.capacities}
        self.receipts[receipt] = found

    def seal(self, sender: str, receipt: bytes) -> None:
        self._running()
        found = self._own(receipt, sender)
        need(found.state == "registering", "not registering")
        need(not found.holds, "held")
        self._parent_done(found)
        found.state = "sealed"

    def split(self, sender: str, receipt: bytes, child: bytes, goods: list[bytes], quantities: list[int]) -> None:
        self._running()
        found = self._own(receipt, sender)
        need(found.state in ("sealed", "splitting"), "not sealed")
        need(not found.holds, "held")
        need(not found.is_pledged, "pledged")
        need(not found.is_settled, "settled")
        to = self.receipts.get(child)
        if to is None:
            to = self._open(child, sender, Receipt(found.custodian, found.owner, receipt))
        else:
            need(to.state == "registering", "not registering")
            need(to.parent == receipt, "not a child")
            need(not to.holds, "held")
        self._part(goods, quantities)
        left, moved = dict(found.claims), dict(to.claims)
        for key, quantity in zip(goods, quantities, strict=True):
            need(quantity == 1 if key not in self.capacities else quantity > 0, "bad quantity")
            need(quantity <= left.get(key, 0), "not in receipt")
            left[key] -= quantity
            moved[key] = moved.get(key, 0) + quantity
        found.claims = {key: quantity for key, quantity in left.items() if quantity}
        found.lots &= set(found.claims)
        to.claims = moved
        to.lots = {key for key in moved if key in self.capacities}
        self.receipts[child] = to
        found.state = "splitting" if found.claims else "split"

    def _end(self, sender: str, receipt: bytes, states: tuple[str, ...], reason: str, state: str) -> None:
        self._running()
        found = self._own(receipt, sender)
        need(found.state in states, reason)
        need(not found.holds, "held")
        need(not found.is_pledged, "pledged")
        self._parent_done(found)
        found.state = state

    def cancel(self, sender: str, receipt: bytes) -> None:
        self._end(sender, receipt, ("registering", "sealed"), "not live", "cancelled")

    def deliver(self, sender: str, receipt: bytes) -> None:
        self._end(sender, receipt, ("sealed",), "not sealed", "delivered")

    def pledge(
        self, sender: str, receipt: bytes, terms: bytes, *, is_late: bool, signers: tuple[str, str], nonce: int
    ) -> None:
        """``signers`` of owner and custodian signed for this sender, these terms and this nonce."""
        self._running()
        need(self.has_role(sender, "lender"), "not lender")
        need(any(terms), "no terms")
        need(not is_late, "too late")
        found = self.receipts.get(receipt)
        need(found is not None and found.state == "sealed", "not sealed")
        assert found is not None
        need(not found.holds, "held")
        need(not found.is_pledged, "pledged")
        need(not found.is_settled, "settled")
        is_next = nonce == len(found.pledges)
        need(is_next and signers[0] == self.account(found.owner), "bad owner signature")
        need(is_next and signers[1] == self.account(found.custodian), "bad custodian signature")
        need(self.has_role(signers[1], "custodian"), "not custodian")
        found.pledges.append(Pledge(sender, terms))

    def _live_pledge(self, sender: str, receipt: bytes) -> Pledge:
        found = self.receipts.get(receipt)
        need(found is not None and found.is_pledged, "not pledged")
        assert found is not None
        need(found.pledges[-1].pledgee == sender, "not pledgee")
        need(not found.holds, "held")
        return found.pledges[-1]

    def release(self, sender: str, receipt: bytes) -> None:
        self._live_pledge(sender, receipt).state = "released"

    def enforce(self, sender: str, receipt: bytes) -> None:
        self._running()
        found = self._live_pledge(sender, receipt)
        need(found.state == "active", "enforcing")
        found.state = "enforcing"

    def cure(self, sender: str, receipt: bytes) -> None:
        self._running()
        found = self._live_pledge(sender, receipt)
        need(found.state == "enforcing", "not enforcing")
        found.state = "active"

    def settle(self, sender: str, receipt: bytes) -> None:
        self._running()
        found = self._live_pledge(sender, receipt)
        need(found.state == "enforcing", "not enforcing")
        found.state = "settled"

    def hold(self, sender: str, receipt: bytes, reason: bytes) -> None:
        self._running()
        need(self.has_role(sender, "regulator"), "not regulator")
        need(any(reason), "no reason")
        found = self.receipts.get(receipt)
        need(found is not None and found.state in LIVE, "not live")
        assert found is not None
        need(self.organisation[sender] not in found.holds, "held")
        found.holds[self.organisation[sender]] = reason

    def lift(self, sender: str, receipt: bytes) -> None:
        self._running()
        need(self.has_role(sender, "regulator"), "not regulator")
        found = self.receipts.get(receipt)
        need(found is not None and self.organisation[sender] in found.holds, "not held")
        assert found is not None
        del found.holds[self.organisation[sender]]

    def pause(self, sender: str) -> None:
        need(sender == self.pauser, "not pauser")
        need(not self.is_paused, "paused")
        self.is_paused = True

    def unpause(self, sender: str) -> None:
        need(sender == self.pauser, "not pauser")
        need(self.is_paused, "not paused")
        self.is_paused = False
