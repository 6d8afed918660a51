"""What an audit asks the chain, and what it says."""

from collections.abc import Callable
from dataclasses import dataclass

OnChain = tuple[bytes, str, int, int]


@dataclass(frozen=True)
class Finding:
    """Something that is not as it must be, and which record it is.

    Attributes:
        code: stable word for programs.
        message: a sentence for people.
        leaf: leaf index, None when it is not about one.
        since_size: size of the first checkpoint that fixed the leaf; what it says now differs from then.
    """

    code: str
    message: str
    leaf: int | None = None
    message_id: str | None = None
    org: str | None = None
    device: str | None = None
    seq: int | None = None
    since_size: int | None = None
    since_time_s: int | None = None


@dataclass(frozen=True)
class Progress:
    """How far the audit has come, of ``size`` leaves; ``start``: where it began."""

    leaves: int
    size: int
    findings: int
    start: int = 0


@dataclass(frozen=True)
class Chain:
    """What the audit asks the chain.

    Attributes:
        root_at: the root at a size, None where nothing is anchored.
        tip: the newest anchored size. What stands below it is fixed by its root, whatever our own tables say.
        organisation_at: (thumbprint, account, roles, block) of an organisation's version, None when there is none.
    """

    root_at: Callable[[int], bytes | None]
    tip: int
    organisation_at: Callable[[str, int], OnChain | None] | None = None
