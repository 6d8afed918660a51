"""The EPCIS query language: parameters by name, as text from an address or as JSON, become one query.

Source: GS1 EPCIS 2.0.1, section 8.2.7.1, and the query schema of its REST binding.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from api.epcis.query_lookup import Lookup
from api.epcis.query_match import MATCHED, match
from core.epcis.context import GS1_PREFIXES
from core.epcis.conversion import base_unit, in_base_unit
from core.epcis.vocabulary import local_name
from core.errors import Rejected
from core.identifiers import canonical
from ledger.queryindex_query import AnyOf, Compared, Comparison, Condition, Order, Query
from ledger.queryindex_terms import (
    ACTIONS,
    CLASS_ROLES,
    EPC_ROLES,
    EVENT_TYPES,
    SCOPES,
    decimal_text,
    field_name,
    number_of,
    plain,
    term,
    time_of,
    value_terms,
)

VALUES_MAX: Final = 1_000
PARAMETERS_MAX: Final = 200
TEXT_MAX: Final = 4_096
_OPERATIONS: Final[tuple[Comparison, ...]] = ("EQ", "GT", "GE", "LT", "LE")
_TIMES: Final[Mapping[str, str]] = {
    "eventTime": "eventTime", "errorDeclarationTime": "errorDeclarationTime",
    "errorDeclaration_Time": "errorDeclarationTime", "time": "time", "startTime": "startTime", "endTime": "endTime",
}  # fmt: skip
_WORDS: Final[Mapping[str, tuple[str, str]]] = {
    "bizStep": ("bizStep", "bizStep"), "disposition": ("disposition", "disposition"),
    "persistentDisposition_set": ("persistentDisposition:set", "disposition"),
    "persistentDisposition_unset": ("persistentDisposition:unset", "disposition"),
    "errorReason": ("errorReason", "reason"), "type": ("type", "measurement"),
}  # fmt: skip
_TEXTS: Final = frozenset({"eventID", "correctiveEventID", "stringValue"})
_IDENTIFIERS: Final = frozenset(
    {"readPoint", "bizLocation", "deviceID", "dataProcessingMethod", "microorganism", "chemicalSubstance", "bizRules"}
    | {"uriValue", "transformationID"}
)
_TYPED: Final[Mapping[str, tuple[str, str]]] = {
    "bizTransaction": ("bizTransaction", "bizTransaction"), "source": ("source", "sourceDest"),
    "destination": ("destination", "sourceDest"),
}  # fmt: skip
_MEASURES = re.compile(r"(value|minValue|maxValue|meanValue|sDev|percValue|quantity)_([A-Z0-9]{2,4})\Z")
_EXISTING: Final = frozenset({"errorDeclaration", "sensorElementList"})
_CONTROLS: Final = frozenset({"orderBy", "orderDirection", "eventCountLimit", "maxEventCount"})
_PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*\Z")


class BadParameter(Rejected):
    """A query parameter is unknown or has a value that it cannot have."""

    code = "query_parameter"


@dataclass
class _Reader:
    """Reads the parameters of one query."""

    lookup: Lookup
    prefixes: Mapping[str, str]
    conditions: list[Condition] = field(default_factory=list)
    record_ge_ms: int | None = None
    record_lt_ms: int | None = None

    def take(self, name: str, value: Any) -> None:
        """One parameter.

        Raises:
            BadParameter: it is unknown, or its value is wrong.
        """
        operation, _, rest = name.partition("_")
        handler = _HANDLERS.get(operation)
        if name == "eventType":
            self.any_of("eventType", _event_types(_texts(name, value)))
        elif handler is not None and rest:
            handler(self, name, rest, value)
        else:
            raise unknown(name)

    def any_of(self, name: str, values: Iterable[str]) -> None:
        """One of these values of a field."""
        self.conditions.append(AnyOf(frozenset(term(name, value) for value in values)))

    def words(self, texts: Iterable[str], vocabulary: str) -> set[str]:
        """Words of a vocabulary as the index may hold them: CBV's by their own name, others as CURIE and in full."""
        found: set[str] = set()
        for text in texts:
            word = local_name(text, vocabulary)
            found.add(word)
            prefix, colon, rest = word.partition(":")
            if not colon:
                continue
            full = [word]
            if _PREFIX.match(prefix) and not rest.startswith("//"):
                known = self.prefixes.get(prefix)
                full = [iri + rest for iri in ([known] if known else self.lookup.namespaces_of(prefix))]
            for iri in full:
                found |= {iri, *self.lookup.names_in(iri)}
        return found

    def names_of(self, name: str, rest: str, scope: str, *, is_inner: bool) -> tuple[str, ...]:
        """The index's names of an extension field given as CURIE, IRI or ``namespace#local``."""
        if len(rest) > TEXT_MAX:
            raise BadParameter(f"{name}: the name is too long.", pointer=name)
        found = {rest}
        prefix, colon, local = rest.partition(":")
        if not colon or not local:
            raise unknown(name)
        if _PREFIX.match(prefix) and not local.startswith("//"):
            iris = (self.prefixes[prefix],) if prefix in self.prefixes else self.lookup.namespaces_of(prefix)
            found |= {iri + local for iri in iris}
        if "#" in rest:
            namespace, _, last = rest.rpartition("#")
            found.add(namespace + last)
        return tuple(sorted(field_name(scope, one, is_inner=is_inner) for one in found))


def read_query(parameters: Sequence[tuple[str, Any]], lookup: Lookup, prefixes: Mapping[str, str]) -> Query:
    """The query of named parameters.

    Args:
        parameters: names with their values: from an address always text, from JSON whatever stood there; a name may
            come more than once, its values add up.
        prefixes: namespaces that the request itself declares.

    Raises:
        BadParameter: ``query_parameter``: a parameter is unknown, wrong or excluded by another one.
        Rejected: ``query_too_complex``: too many parameters or values.
    """
    if len(parameters) > PARAMETERS_MAX:
        raise Rejected(f"A query has at most {PARAMETERS_MAX} parameters.", code="query_too_complex")
    reader = _Reader(lookup, {**GS1_PREFIXES, **prefixes})
    controls: dict[str, Any] = {}
    for name, value in _merged(parameters):
        if name in _CONTROLS:
            controls[name] = value
        else:
            reader.take(name, value)
    order, limit, most = _ordering(reader, controls)
    return Query(tuple(reader.conditions), reader.record_ge_ms, reader.record_lt_ms, order, limit, most)


def unknown(name: str) -> BadParameter:
    """The fault of a parameter that the language does not have."""
    return BadParameter(f"There is no query parameter {name[:200]!r}.", pointer=name[:200])


def context_prefixes(context: Any) -> dict[str, str]:
    """The prefixes that the ``@context`` of a query declares.

    Raises:
        BadParameter: it is no context.
    """
    found: dict[str, str] = {}
    for part in context if isinstance(context, list) else [context]:
        if isinstance(part, Mapping):
            found |= {str(prefix): iri for prefix, iri in part.items() if isinstance(iri, str)}
        elif part is not None and not isinstance(part, str):
            raise BadParameter("An @context is an address, an object, or a list of these.", pointer="@context")
    return found


def header_prefixes(header: str) -> dict[str, str]:
    """The prefixes of a ``GS1-Extensions`` header: ``ex=http://ns.example.com/epcis/, ..``."""
    pairs = (part.strip().partition("=") for part in header.split(","))
    return {prefix.strip(): iri.strip() for prefix, sign, iri in pairs if sign}


def _merged(parameters: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    found: dict[str, Any] = {}
    for name, value in parameters:
        if name not in found:
            found[name] = value
        elif name in _CONTROLS or name.split("_")[0] in ("GT", "GE", "LT", "LE", "EXISTS"):
            raise BadParameter(f"{name} may be given once.", pointer=name)
        else:
            found[name] = [*_listed(found[name]), *_listed(value)]
    return list(found.items())


def _listed(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    return value.split("|") if isinstance(value, str) else [value]


def _eq(reader: _Reader, name: str, rest: str, value: Any) -> None:
    if rest == "action":
        values = _texts(name, value)
        if not set(values) <= set(ACTIONS):
            raise BadParameter("EQ_action is ADD, OBSERVE or DELETE.", pointer=name)
        reader.any_of("action", values)
    elif rest in _WORDS:
        index_name, vocabulary = _WORDS[rest]
        reader.any_of(index_name, reader.words(_texts(name, value), vocabulary))
    elif rest in _TEXTS:
        reader.any_of(rest, _texts(name, value))
    elif rest in _IDENTIFIERS:
        reader.any_of(rest, [_identity(name, text) for text in _texts(name, value)])
    elif rest == "hexBinaryValue":
        reader.any_of(rest, [text.upper() for text in _texts(name, value)])
    elif rest == "booleanValue":
        reader.any_of(rest, ["true" if _boolean(name, value) else "false"])
    elif rest.split("_", maxsplit=1)[0] in _TYPED and "_" in rest:
        index_name, vocabulary = _TYPED[rest.split("_", maxsplit=1)[0]]
        kinds = reader.words([rest.partition("_")[2]], vocabulary)
        ids = {_identity(name, text) for text in _texts(name, value)}
        reader.conditions.append(AnyOf(frozenset(term(f"{index_name}:{kind}", one) for kind in kinds for one in ids)))
    elif rest.startswith("ATTR_"):
        _eqattr(reader, name, rest.removeprefix("ATTR_"), value)
    else:
        _compare(reader, name, rest, value)


def _compare(reader: _Reader, name: str, rest: str, value: Any) -> None:
    operation = _operation(name)
    measure = _MEASURES.match(rest)
    if rest == "recordTime" and operation in ("GE", "LT"):
        _record_time(reader, name, value)
    elif rest in _TIMES and operation in ("GE", "LT"):
        reader.conditions.append(Compared((_TIMES[rest],), operation, (_time(name, _one(name, value)),)))
    elif rest in ("quantity", "percRank"):
        reader.conditions.append(Compared((rest,), operation, _numbers(name, value)))
    elif measure is not None:
        index_name = f"{measure[1]}:{base_unit(measure[2])}"
        numbers = tuple(in_base_unit(number, measure[2]) for number in _numbers(name, value))
        reader.conditions.append(Compared((index_name,), operation, numbers))
    else:
        _compare_field(reader, name, rest, value, operation)


def _compare_field(reader: _Reader, name: str, rest: str, value: Any, operation: Comparison) -> None:
    scope, is_inner, local = _scoped(rest)
    names = reader.names_of(name, local, scope, is_inner=is_inner)
    if operation == "EQ":
        terms = {text for one in _values(name, value) for known in names for text in _equal(known, one)}
        reader.conditions.append(AnyOf(frozenset(terms)))
        return
    given = _one(name, value)
    number = _number(given)
    if number is not None:
        reader.conditions.append(Compared(tuple(known + "#" for known in names), operation, (number,)))
    else:
        reader.conditions.append(Compared(tuple(known + "@" for known in names), operation, (_time(name, given),)))


def _equal(known: str, value: Any) -> list[str]:
    """A value from JSON that is a number is one; a text may be one, or a time, or neither."""
    if isinstance(value, bool):
        return [term(known, "true" if value else "false")]
    if isinstance(value, int | Decimal):
        return [term(known + "#", plain(Fraction(value)))]
    return value_terms(known, str(value))


def _scoped(rest: str) -> tuple[str, bool, str]:
    is_inner = rest.startswith("INNER_")
    rest = rest.removeprefix("INNER_")
    for scope in SCOPES:
        if rest.startswith(scope + "_"):
            return scope, is_inner, rest.removeprefix(scope + "_")
    return "", is_inner, rest


def _match(reader: _Reader, name: str, rest: str, value: Any) -> None:
    if rest not in MATCHED:
        raise unknown(name)
    try:
        reader.conditions.append(match(rest, _texts(name, value)))
    except Rejected as error:
        raise BadParameter(f"{name}: {error.message}", pointer=name) from error


def _with_descendants(reader: _Reader, name: str, rest: str, value: Any) -> None:
    if rest not in ("readPoint", "bizLocation"):
        raise unknown(name)
    places = [_identity(name, text) for text in _texts(name, value)]
    reader.any_of(rest, reader.lookup.with_descendants(places))


def _exists(reader: _Reader, name: str, rest: str, value: Any) -> None:
    is_asked = value is None or value == "" or _boolean(name, value)
    if rest in _EXISTING:
        condition = AnyOf(frozenset({term(rest, "")}))
    else:
        scope, is_inner, local = _scoped(rest)
        names = reader.names_of(name, local, scope, is_inner=is_inner)
        condition = AnyOf(frozenset(term(known + "?", "") for known in names))
    if is_asked:
        reader.conditions.append(condition)


def _hasattr(reader: _Reader, name: str, rest: str, value: Any) -> None:
    subjects = {subject for text in _texts(name, value) for subject in reader.lookup.with_attribute(text, None)}
    _about(reader, name, rest, subjects)


def _eqattr(reader: _Reader, name: str, rest: str, value: Any) -> None:
    known = next((one for one in _ABOUT if rest.startswith(one + "_")), None)
    field_part, _, attribute = (known, "", rest[len(known) + 1 :]) if known else rest.rpartition("_")
    if not field_part or not attribute:
        raise unknown(name)
    subjects = reader.lookup.with_attribute(attribute, frozenset(_texts(name, value)))
    _about(reader, name, field_part, subjects)


_ABOUT: Final[Mapping[str, tuple[str, ...]]] = {
    "readPoint": ("readPoint",), "bizLocation": ("bizLocation",),
    "epc": tuple(f"{role}@class" for role in EPC_ROLES), "epcClass": CLASS_ROLES,
    **{end: tuple(f"{end}:{kind}" for kind in ("owning_party", "possessing_party", "location"))
       for end in ("source", "destination")},
    # Vocabularies that no master data describes.
    "bizStep": (), "disposition": (), "bizTransaction": (), "transformationID": (),
}  # fmt: skip


def _about(reader: _Reader, name: str, rest: str, subjects: set[str]) -> None:
    """The field holds one of these subjects of master data."""
    names = _ABOUT[rest] if rest in _ABOUT else reader.names_of(name, rest, "", is_inner=False)
    reader.conditions.append(AnyOf(frozenset(term(known, subject) for known in names for subject in subjects)))


_HANDLERS: Final[Mapping[str, Callable[[_Reader, str, str, Any], None]]] = {
    "EQ": _eq, "GT": _compare, "GE": _compare, "LT": _compare, "LE": _compare, "MATCH": _match,
    "WD": _with_descendants, "EXISTS": _exists, "HASATTR": _hasattr, "EQATTR": _eqattr,
}  # fmt: skip


def _record_time(reader: _Reader, name: str, value: Any) -> None:
    # Record times are whole milliseconds; a bound between two of them begins at the later one.
    bound = -((-_time(name, _one(name, value)) * 1000) // 1)
    if name.startswith("GE"):
        reader.record_ge_ms = int(bound)
    else:
        reader.record_lt_ms = int(bound)


def _ordering(reader: _Reader, controls: Mapping[str, Any]) -> tuple[Order, int | None, int | None]:
    by = controls.get("orderBy")
    direction = controls.get("orderDirection", "DESC")
    if direction not in ("ASC", "DESC"):
        raise BadParameter("orderDirection is ASC or DESC.", pointer="orderDirection")
    limit, most = _count(controls, "eventCountLimit"), _count(controls, "maxEventCount")
    if limit is not None and most is not None:
        raise BadParameter("eventCountLimit and maxEventCount exclude one another.", pointer="maxEventCount")
    if limit is not None and by is None:
        raise BadParameter("eventCountLimit needs orderBy.", pointer="eventCountLimit")
    if by is None:
        return Order(), limit, most
    is_down = direction == "DESC"
    if by in ("eventTime", "recordTime"):
        return Order(by, is_down), limit, most
    if not isinstance(by, str) or ":" not in by:
        raise BadParameter("orderBy is eventTime, recordTime or an extension field's full name.", pointer="orderBy")
    return Order("field", is_down, reader.names_of("orderBy", by, "", is_inner=False)), limit, most


def _count(controls: Mapping[str, Any], name: str) -> int | None:
    if name not in controls:
        return None
    value = controls[name]
    text = str(value)
    if isinstance(value, bool) or not re.match(r"[1-9][0-9]{0,9}\Z", text, re.ASCII):
        raise BadParameter(f"{name} is a whole number from 1 on.", pointer=name)
    return int(text)


def _operation(name: str) -> Comparison:
    return next(operation for operation in _OPERATIONS if name.startswith(operation))


def _values(name: str, value: Any) -> list[Any]:
    found = _listed(value)
    if not found:
        raise BadParameter(f"{name} needs at least one value.", pointer=name)
    if len(found) > VALUES_MAX:
        raise Rejected(f"{name} has more than {VALUES_MAX} values.", code="query_too_complex", pointer=name)
    for one in found:
        if not isinstance(one, str | int | Decimal) or (isinstance(one, str) and len(one) > TEXT_MAX):
            raise BadParameter(f"{name} takes texts and numbers.", pointer=name)
    return found


def _texts(name: str, value: Any) -> list[str]:
    found = _values(name, value)
    if not all(isinstance(one, str) and one for one in found):
        raise BadParameter(f"{name} takes texts, none of them empty.", pointer=name)
    return found


def _event_types(values: list[str]) -> list[str]:
    for value in values:
        if value not in EVENT_TYPES and ":" not in value:
            raise BadParameter(f"There is no event type {value[:100]!r}.", pointer="eventType")
    return [event_type(value) for value in values]


def event_type(text: str) -> str:
    """The name of an event type, as events write it, from that name, its CURIE or its web address."""
    for start in ("epcis:", "https://ref.gs1.org/epcis/", "https://ns.gs1.org/epcis/"):
        if text.removeprefix(start) in EVENT_TYPES:
            return text.removeprefix(start)
    return text


def _one(name: str, value: Any) -> Any:
    if isinstance(value, list):
        if len(value) != 1:
            raise BadParameter(f"{name} takes one value.", pointer=name)
        return value[0]
    return value


def _identity(name: str, text: str) -> str:
    try:
        return canonical(text)
    except Rejected as error:
        if name == "EQ_transformationID":
            return text
        raise BadParameter(f"{name}: {error.message}", pointer=name) from error


def _time(name: str, value: Any) -> Fraction:
    # A "+" of an address that was not written as %2B arrives as a space.
    found = time_of(value.replace(" ", "+")) if isinstance(value, str) else None
    if found is None:
        raise BadParameter(f"{name} takes a date and time with a zone, such as 2026-01-31T12:00:00Z.", pointer=name)
    return found


def _number(value: Any) -> Fraction | None:
    if isinstance(value, bool):
        return None
    return number_of(decimal_text(value)) if isinstance(value, int | Decimal) else number_of(str(value))


def _numbers(name: str, value: Any) -> tuple[Fraction, ...]:
    given = _values(name, value) if name.startswith("EQ_") else [_one(name, value)]
    found = [_number(one) for one in given]
    if any(one is None for one in found):
        raise BadParameter(f"{name} takes a number.", pointer=name)
    return tuple(one for one in found if one is not None)


def _boolean(name: str, value: Any) -> bool:
    if value in (True, "true", "1", 1) and value is not None:
        return True
    if value in (False, "false", "0", 0):
        return False
    raise BadParameter(f"{name} is true or false.", pointer=name)
