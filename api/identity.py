"""Who asks: roles, and the signed-in identity that a request carries."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Role(StrEnum):
    """What a user may do; a user has one or more roles in one organisation."""

    BANK_MAKER = "bank_maker"
    BANK_CHECKER = "bank_checker"
    CUSTODIAN = "custodian"
    BORROWER = "borrower"
    FACTORY = "factory"
    REGULATOR = "regulator"
    OPERATOR = "operator"


BANK: Final = frozenset({Role.BANK_MAKER, Role.BANK_CHECKER})
GOODS_SIDE: Final = frozenset({Role.FACTORY, Role.CUSTODIAN, Role.BORROWER})


@dataclass(frozen=True)
class Identity:
    """One signed-in user: the account, the person behind it, the organisation and the roles."""

    user_id: int
    person_id: int
    login: str
    name: str
    org: str
    roles: frozenset[Role]
    csrf: str
    session_hash: bytes

    def has(self, *roles: Role) -> bool:
        """Whether the user holds one of these roles."""
        return not self.roles.isdisjoint(roles)
