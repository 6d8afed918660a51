"""The words of the query index: how a field and its value become one term, for events and for queries alike."""

import hashlib
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Final

from core.errors import Rejected
from core.identifiers import canonical

SEPARATOR: Final = "\x1f"
EVENT_TYPES: Final = (
    "ObjectEvent",
    "AggregationEvent",
    "TransactionEvent",
    "TransformationEvent",
    "AssociationEvent",
)
ACTIONS: Final = ("ADD", "OBSERVE", "DELETE")
# EPC fields by role, and classes alike. "any" of a query is the sum of them.
EPC_ROLES: Final = ("epc", "parentID", "inputEPC", "outputEPC")
CLASS_ROLES: Final = ("epcClass", "inputEPCClass", "outputEPCClass")
# Scopes in which extension fields stand; the empty one is the event itself.
SCOPES: Final = (
    "ILMD",
    "ERROR_DECLARATION",
    "SENSORELEMENT",
    "SENSORMETADATA",
    "SENSORREPORT",
    "readPoint",
    "bizLocation",
)
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,37})(\.[0-9]{1,38})?\Z")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)\Z")
_SHORT = 256  # ours: longer texts are not kept in memory
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)


def term(name: str, value: str) -> str:
    """The term for a value of a field."""
    return name + SEPARATOR + value


def term_hash(text: str) -> int:
    """The key of a term in the index: signed 64 bits of its BLAKE2b."""
    return _known_hash(text) if len(text) <= _SHORT else _known_hash.__wrapped__(text)


@lru_cache(maxsize=131_072)
def _known_hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), signed=True)


def identity(text: str) -> str:
    """One string for any spelling of an identifier; what cannot be read stays as it is."""
    try:
        return canonical(text)
    except Rejected:
        return text


def party_term(org: str) -> str:
    """The term under which an organisation finds the events it is party to."""
    return term("party", org)


def kind_number(event_type: str, action: str) -> int:
    """Event type and action as one small number; 0 in either half for one that the standard does not list."""
    kind = EVENT_TYPES.index(event_type) + 1 if event_type in EVENT_TYPES else 0
    return kind * 4 + (ACTIONS.index(action) + 1 if action in ACTIONS else 0)


def number_of(text: str) -> Fraction | None:
    """The number that a text writes as JSON would; None for any other text."""
    return Fraction(text) if _NUMBER.match(text) else None


@lru_cache(maxsize=8_192)
def _seconds(text: str) -> int | None:
    """Unix seconds of a date and time in whole seconds with a zone, None where there is no such time."""
    try:
        whole = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (whole - _EPOCH) // _SECOND


def time_of(text: str) -> Fraction | None:
    """Unix seconds of a date and time with a zone, exact to its last digit; None for any other text."""
    match = _TIME.match(text)
    if match is None:
        return None
    seconds = _seconds(text[:19] + match[2])
    if seconds is None:
        return None
    fraction = match[1]
    if not fraction:
        return Fraction(seconds)
    scale = 10 ** (len(fraction) - 1)
    return Fraction(seconds * scale + int(fraction[1:]), scale)


def plain(number: Fraction) -> str:
    """One text for one number, however it was written."""
    return f"{number.numerator}/{number.denominator}"


def field_name(scope: str, name: str, *, is_inner: bool) -> str:
    """The name of an extension field: its scope, whether it stands deeper than the first level, and its IRI."""
    return f"{'I' if is_inner else 'F'}:{scope}:{name}"


def value_terms(name: str, text: str) -> list[str]:
    """The terms under which a field's value is found: as text, and as number or time where it is one."""
    found = [term(name, text)]
    number = number_of(text)
    if number is not None:
        found.append(term(name + "#", plain(number)))
    elif (time := time_of(text)) is not None:
        found.append(term(name + "@", plain(time)))
    return found


def decimal_text(value: Decimal | int) -> str:
    """A JSON number as text, without exponent."""
    return format(value, "f") if isinstance(value, Decimal) else str(value)
