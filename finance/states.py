"""Every state machine as a table; a pair that is not in it is a conflict, never ignored."""

from collections.abc import Mapping
from typing import Final

from core.errors import Broken, Conflict

Table = Mapping[tuple[str, str], str]


class IllegalTransition(Conflict):
    """This cannot happen in the present state."""

    code = "illegal_transition"


def _any(states: tuple[str, ...], event: str, target: str) -> dict[tuple[str, str], str]:
    return {(state, event): target for state in states}


APPLICATION: Final[Table] = {
    ("DRAFT", "submit"): "SUBMITTED",
    ("SUBMITTED", "screen_ok"): "SCREENED",
    ("SUBMITTED", "hit"): "HELD",
    ("HELD", "clear"): "SCREENED",
    ("HELD", "reject"): "DECLINED",
    ("SCREENED", "rate"): "RATED",
    ("RATED", "knockout"): "DECLINED",
    ("RATED", "auto_approve"): "APPROVED",
    ("RATED", "refer"): "IN_REVIEW",
    ("IN_REVIEW", "approve"): "APPROVED",
    ("IN_REVIEW", "reject"): "DECLINED",
    ("IN_REVIEW", "return"): "DRAFT",
    ("APPROVED", "accept"): "CONTRACTED",
    ("APPROVED", "lapse"): "EXPIRED",
} | _any(("DRAFT", "SUBMITTED", "SCREENED", "HELD", "RATED", "IN_REVIEW"), "withdraw", "WITHDRAWN")

FACILITY: Final[Table] = (
    {
        ("PENDING", "conditions_met"): "ACTIVE",
        ("PENDING", "lapse"): "CLOSED",
        ("ACTIVE", "watch"): "WATCH",
        ("WATCH", "clear"): "ACTIVE",
        ("FROZEN", "unfreeze"): "ACTIVE",
        ("DEFAULTED", "enforce"): "ENFORCING",
        # The chain refused to enforce: default stands, and people decide again.
        ("ENFORCING", "enforce_failed"): "DEFAULTED",
        ("ENFORCING", "write_off"): "WRITTEN_OFF",
        ("WRITTEN_OFF", "recovery"): "WRITTEN_OFF",
    }
    | _any(("ACTIVE", "WATCH"), "freeze", "FROZEN")
    | _any(("ACTIVE", "WATCH", "FROZEN"), "avail_end", "EXPIRED")
    | _any(("ACTIVE", "WATCH"), "terminate", "TERMINATED")
    | _any(("FROZEN", "WATCH", "EXPIRED", "TERMINATED"), "default", "DEFAULTED")
    # One in default that has paid everything closes like the others: nothing is left to enforce.
    | _any(("EXPIRED", "FROZEN", "TERMINATED", "DEFAULTED", "ENFORCING"), "close", "CLOSED")
)

PLEDGE: Final[Table] = {
    ("REQUESTED", "reserve"): "RESERVED",
    ("RESERVED", "signed"): "SIGNED",
    ("RESERVED", "void"): "VOID",
    ("SIGNED", "void"): "VOID",
    ("SIGNED", "send"): "CHAIN_PENDING",
    ("CHAIN_PENDING", "final"): "ACTIVE",
    ("CHAIN_PENDING", "reverted"): "VOID",
    ("CHAIN_PENDING", "unknown"): "CHAIN_PENDING",
    ("ACTIVE", "release_approved"): "RELEASING",
    ("RELEASING", "final"): "RELEASED",
    ("RELEASING", "reverted"): "ACTIVE",
    ("ACTIVE", "enforce"): "ENFORCING",
    ("ENFORCING", "reverted"): "ACTIVE",
    ("ENFORCING", "sold"): "REALISED",
    ("ENFORCING", "cured"): "ACTIVE",
}
LIVE_PLEDGES: Final = ("RESERVED", "SIGNED", "CHAIN_PENDING", "ACTIVE", "RELEASING", "ENFORCING")

LOAN: Final[Table] = (
    {
        ("REQUESTED", "approve"): "APPROVED",
        ("REQUESTED", "reject"): "REJECTED",
        ("APPROVED", "fund_reserved"): "FUNDING",
        ("FUNDING", "paid"): "ACTIVE",
        ("FUNDING", "pay_failed"): "APPROVED",
        ("ACTIVE", "missed"): "OVERDUE",
        ("OVERDUE", "paid_up"): "ACTIVE",
        ("NON_ACCRUAL", "paid_up"): "ACTIVE",
        ("OVERDUE", "aged"): "NON_ACCRUAL",
        ("OVERPAID", "refund"): "REPAID",
        ("DEFAULTED", "write_off"): "WRITTEN_OFF",
        ("WRITTEN_OFF", "recovery"): "WRITTEN_OFF",
        ("REPAID", "reversal"): "ACTIVE",
        ("REPAID", "reversal_overdue"): "OVERDUE",
        ("OVERPAID", "reversal"): "ACTIVE",
        ("OVERPAID", "reversal_overdue"): "OVERDUE",
    }
    # A facility's default makes all its loans due, those that perform too.
    | _any(("ACTIVE", "OVERDUE", "NON_ACCRUAL"), "default", "DEFAULTED")
    | _any(("ACTIVE", "OVERDUE", "NON_ACCRUAL", "DEFAULTED"), "repaid", "REPAID")
    | _any(("ACTIVE", "OVERDUE", "NON_ACCRUAL", "DEFAULTED"), "overpaid", "OVERPAID")
)
OPEN_LOANS: Final = ("FUNDING", "ACTIVE", "OVERDUE", "NON_ACCRUAL", "DEFAULTED")

MARGIN_CALL: Final[Table] = {
    ("OPEN", "notice"): "NOTIFIED",
    ("NOTIFIED", "partial"): "PARTIALLY_CURED",
    ("PARTIALLY_CURED", "partial"): "PARTIALLY_CURED",
} | {
    pair: target
    for event, target in (("cured", "CURED"), ("due_passed", "BREACHED"), ("recovered", "WITHDRAWN"))
    for pair, target in _any(("OPEN", "NOTIFIED", "PARTIALLY_CURED"), event, target).items()
}

PARTNER: Final[Table] = {
    ("APPLIED", "accept"): "SANDBOX",
    ("SANDBOX", "gray"): "GRAY",
    ("GRAY", "live"): "LIVE",
    ("LIVE", "drain"): "DRAINING",
    ("GRAY", "drain"): "DRAINING",
    ("DRAINING", "offboard"): "OFFBOARDED",
    ("SUSPENDED", "resume"): "GRAY",
    ("SUSPENDED", "drain"): "DRAINING",
} | _any(("SANDBOX", "GRAY", "LIVE", "DRAINING"), "suspend", "SUSPENDED")

TOKEN: Final[Table] = (
    {("ACTIVE", "suspend"): "SUSPENDED", ("SUSPENDED", "resume"): "ACTIVE", ("ACTIVE", "exhaust"): "EXHAUSTED"}
    | _any(("ACTIVE", "SUSPENDED"), "revoke", "REVOKED")
    | _any(("ACTIVE", "SUSPENDED"), "expire", "EXPIRED")
)

RECEIPT: Final[Table] = {
    ("REGISTERING", "sealed"): "SEALED",
    ("REGISTERING", "failed"): "CANCELLED",
    # Some of its claims stand on the chain: they are given back there first.
    ("REGISTERING", "failed_in_part"): "CANCELLING",
    ("SEALED", "pledged"): "PLEDGED",
    ("PLEDGED", "freed"): "SEALED",
    ("SEALED", "split"): "SPLITTING",
    ("SPLITTING", "final"): "SPLIT",
    ("SPLITTING", "reverted"): "SEALED",
    ("SEALED", "deliver"): "DELIVERING",
    ("DELIVERING", "final"): "DELIVERED",
    ("DELIVERING", "reverted"): "SEALED",
    ("SEALED", "cancel"): "CANCELLING",
    ("CANCELLING", "final"): "CANCELLED",
    ("CANCELLING", "reverted"): "SEALED",
}

GUARANTEE: Final[Table] = {
    ("REQUESTED", "activate"): "ACTIVE",
    ("REQUESTED", "reject"): "REJECTED",
    ("ACTIVE", "release"): "RELEASED",
}

COMPENSATION: Final[Table] = {("FILED", "pay"): "PAID", ("FILED", "reject"): "REJECTED"}

MACHINES: Final[Mapping[str, Table]] = {
    "application": APPLICATION,
    "facility": FACILITY,
    "pledge": PLEDGE,
    "loan": LOAN,
    "margin_call": MARGIN_CALL,
    "partner": PARTNER,
    "token": TOKEN,
    "receipt": RECEIPT,
    "guarantee": GUARANTEE,
    "mortgage": GUARANTEE,
    "compensation": COMPENSATION,
}


def states_of(machine: str) -> frozenset[str]:
    """Every state of a machine."""
    table = MACHINES[machine]
    return frozenset(state for state, _ in table) | frozenset(table.values())


def events_of(machine: str) -> frozenset[str]:
    """Every event of a machine."""
    return frozenset(event for _, event in MACHINES[machine])


def step(machine: str, state: str, event: str) -> str:
    """The state after an event.

    Raises:
        IllegalTransition: the event cannot happen in that state.
        Broken: there is no such machine.
    """
    table = MACHINES.get(machine)
    if table is None:
        raise Broken(f"There is no state machine {machine!r}.")
    target = table.get((state, event))
    if target is None:
        raise IllegalTransition(f"This {machine.replace('_', ' ')} is {state}: no {event}.", pointer="state")
    return target
