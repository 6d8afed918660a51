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


def may_see(reader: Reader, member: str) -> bool:
    """Whether a reader of this kind is shown the disclosed member of an event."""
    if reader == "consumer":
        return member in _CONSUMER
    if reader == "partner":
        return member not in _PARTNER_HIDDEN
    return True
