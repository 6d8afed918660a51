"""Which members of an event each kind of reader may see; the log itself keeps only digests of them."""

from typing import Final, Literal

Reader = Literal["consumer", "partner", "bank", "regulator"]

# What a consumer sees: places, readings, lot and expiry, containers and certificates. Not the codes of other people's
# items, not quantities, trade documents or parties: those are the trade's own business.
_CONSUMER: Final = frozenset(
    {
        "@context",
        "bizLocation",
        "certificationInfo",
        "ilmd",
        "parentID",
        "persistentDisposition",
        "readPoint",
        "recordTime",
        "sensorElementList",
        "tb:errorDeclaration",
        "transformationID",
    }
)
# A partner sees the goods' side whole, save trade documents.
_PARTNER_HIDDEN: Final = frozenset({"bizTransactionList"})


# Roles 2 and 3 of an event's item list: the things that another was made of.
_INPUTS: Final = frozenset({2, 3})


def may_name(reader: Reader, role: int) -> bool:
    """Whether a reader of this kind is told the code of a thing that another rests on in this role of its event.

    Suppliers' lots stay the maker's own business: a consumer's bundle proves their histories under their keys alone.
    """
    return reader != "consumer" or role not in _INPUTS


def may_see(reader: Reader, member: str) -> bool:
    """Whether a reader of this kind is shown the disclosed member of an event."""
    if reader == "consumer":
        return member in _CONSUMER
    if reader == "partner":
        return member not in _PARTNER_HIDDEN
    return True
