"""What an event names: its items with their roles, and the events inside a document."""

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from core.epcis.context import LOT_IRI, Namespaces, merged, namespaces
from core.errors import Rejected
from core.identifiers import gtin_of, lot_id, parse

EVENT_TYPES = ("ObjectEvent", "AggregationEvent", "TransactionEvent", "TransformationEvent", "AssociationEvent")

_PARENT, _INPUT_EPC, _INPUT_QUANTITY, _LOT, _TRANSFORMATION, _PLACE = 1, 2, 3, 4, 5, 12
_ONE = ((_PARENT, "parentID"), (_TRANSFORMATION, "transformationID"))
_LISTS = ((_INPUT_EPC, "inputEPCList"), (6, "epcList"), (7, "childEPCs"), (8, "outputEPCList"))
_QUANTITIES = (
    (_INPUT_QUANTITY, "inputQuantityList"),
    (9, "quantityList"),
    (10, "childQuantityList"),
    (11, "outputQuantityList"),
)
_ROLE_OF = {name: role for role, name in (*_ONE, *_LISTS, *_QUANTITIES)}
_SINGLE = frozenset(name for _, name in _ONE)
_QUANTITY_LISTS = frozenset(name for _, name in _QUANTITIES)
# Things made or watched by the event itself: what its ILMD describes.
_DESCRIBED = (6, 8, 9, 11)


class ItemRef(NamedTuple):
    """One thing an event names, in one role (1 to 12), by its canonical id."""

    role: int
    id: str


def item_refs(event: Mapping[str, Any]) -> tuple[ItemRef, ...]:
    """The distinct things an event names, in no particular order.

    Roles: 1 parentID, 2 inputEPCList, 3 inputQuantityList, 4 lot in ILMD, 5 transformationID, 6 epcList, 7 childEPCs,
    8 outputEPCList, 9 quantityList, 10 childQuantityList, 11 outputQuantityList, 12 readPoint and bizLocation when
    nothing else is named. A lot number that GS1 does not allow as AI (10) names no lot.

    Args:
        event: an EPCIS event as JSON-LD, not necessarily valid.

    Raises:
        Rejected: an identifier cannot be read; the pointer names it.
    """
    return tuple(ItemRef(role, id_) for role, id_ in item_pairs(event))


def item_pairs(event: Mapping[str, Any]) -> Iterable[tuple[int, str]]:
    """As :func:`item_refs`, as plain pairs of role and id: quicker where many events are read."""
    if "ilmd" not in event:
        try:
            quick = _quick(event)
        except (Rejected, TypeError, KeyError):
            # Something is wrong with it: the long way says what and where.
            quick = None
        if quick:
            return quick
    found: dict[tuple[int, str], None] = {}
    gtins: dict[str, None] = {}
    for role, text, place in _named(event):
        try:
            identifier = parse(text)
        except Rejected as error:
            raise Rejected(error.message, code=error.code, pointer=place) from error
        found[role, identifier.canonical] = None
        if role in _DESCRIBED:
            gtin = gtin_of(identifier)
            if gtin is not None:
                gtins[gtin] = None
    if gtins and "ilmd" in event:
        for lot in _lots(event["ilmd"], event.get("@context")):
            found.update(dict.fromkeys((_LOT, id_) for id_ in _lot_ids(gtins, lot)))
    return found or _places(event)


def document_events(document: object) -> list[dict[str, Any]]:
    """The events of an EPCIS document, query document, single event or list of these, as events that stand alone.

    Each event carries its document's ``@context``, followed by its own, as its own ``@context``.

    Raises:
        Rejected: ``not_epcis`` when there is no list of events where one must be.
    """
    if isinstance(document, list):
        return [event for part in document for event in document_events(part)]
    if not isinstance(document, Mapping):
        raise Rejected("An EPCIS document is a JSON object.", code="not_epcis")
    context = document.get("@context")
    kind = document.get("type")
    if kind == "EPCISDocument":
        events, place = _inside(document, ("epcisBody", "eventList"))
    elif kind == "EPCISQueryDocument":
        events, place = _inside(document, ("epcisBody", "queryResults", "resultsBody", "eventList"))
    elif isinstance(kind, str):
        return [dict(document)]
    else:
        raise Rejected("An EPCIS document or event says its type.", code="not_epcis", pointer="/type")
    if not isinstance(events, list):
        raise Rejected("The events stand in a list.", code="not_epcis", pointer=place)
    return [_alone(event, context, f"{place}/{number}") for number, event in enumerate(events)]


def events_place(document: Mapping[str, Any]) -> str:
    """The JSON pointer of the list of events in a document, "" for a single event."""
    kind = document.get("type")
    if kind == "EPCISDocument":
        return "/epcisBody/eventList"
    return "/epcisBody/queryResults/resultsBody/eventList" if kind == "EPCISQueryDocument" else ""


def _inside(document: Mapping[str, Any], path: tuple[str, ...]) -> tuple[object, str]:
    value: object = document
    place = ""
    for name in path:
        place += f"/{name}"
        if not isinstance(value, Mapping) or name not in value:
            raise Rejected(f"The document has no {name}.", code="not_epcis", pointer=place)
        value = value[name]
    return value, place


def _alone(event: object, context: object, place: str) -> dict[str, Any]:
    if not isinstance(event, Mapping):
        raise Rejected("An event is a JSON object.", code="not_epcis", pointer=place)
    whole = merged(context, event.get("@context"))
    return dict(event) if whole is None else {**event, "@context": whole}


def _quick(event: Mapping[str, Any]) -> dict[tuple[int, str], None]:
    """The things of a right event without ILMD; none where it names none."""
    found: dict[tuple[int, str], None] = {}
    for name in event:
        role = _ROLE_OF.get(name)
        if role is None:
            continue
        value = event[name]
        if name in _SINGLE:
            found[role, parse(value).canonical] = None
        elif type(value) is not list:
            raise TypeError
        elif name in _QUANTITY_LISTS:
            for element in value:
                found[role, parse(element["epcClass"]).canonical] = None
        else:
            for text in value:
                found[role, parse(text).canonical] = None
    return found


def _named(event: Mapping[str, Any]) -> Iterator[tuple[int, str, str]]:
    for role, name in _ONE:
        if name in event:
            yield role, _text(event[name], f"/{name}"), f"/{name}"
    for role, name in _LISTS:
        if name in event:
            for number, value in enumerate(_list(event[name], f"/{name}")):
                place = f"/{name}/{number}"
                yield role, _text(value, place), place
    for role, name in _QUANTITIES:
        if name in event:
            for number, element in enumerate(_list(event[name], f"/{name}")):
                place = f"/{name}/{number}/epcClass"
                yield role, _text(_member(element, "epcClass", place), place), place


def _places(event: Mapping[str, Any]) -> dict[tuple[int, str], None]:
    found: dict[tuple[int, str], None] = {}
    for name in ("readPoint", "bizLocation"):
        if name in event:
            place = f"/{name}/id"
            text = _text(_member(event[name], "id", place), place)
            try:
                found[_PLACE, parse(text).canonical] = None
            except Rejected as error:
                raise Rejected(error.message, code=error.code, pointer=place) from error
    return found


def _lots(ilmd: object, context: object) -> Iterator[str]:
    if not isinstance(ilmd, Mapping):
        return
    inside: Namespaces | None = None
    for name, value in ilmd.items():
        if not name.endswith("lotNumber"):
            continue
        if inside is None:
            inside = namespaces(context, ilmd.get("@context"))
        if inside.expand(name) == LOT_IRI:
            yield from _lot_texts(value)


def _lot_texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value.strip()
    elif isinstance(value, list):
        for member in value:
            yield from _lot_texts(member)
    elif isinstance(value, Mapping):
        yield from _lot_texts(value.get("@value"))
    elif isinstance(value, int | Decimal) and not isinstance(value, bool):
        yield str(value)


def _lot_ids(gtins: Mapping[str, None], lot: str) -> Iterator[str]:
    for gtin in gtins:
        try:
            yield lot_id(gtin, lot)
        except Rejected as error:
            if error.code != "bad_identifier":
                raise


def _list(value: object, place: str) -> list[Any]:
    if not isinstance(value, list):
        raise Rejected("A list is needed here.", code="wrong_type", pointer=place)
    return value


def _text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise Rejected("A string is needed here.", code="wrong_type", pointer=place)
    return value


def _member(value: object, name: str, place: str) -> Any:
    if not isinstance(value, Mapping) or name not in value:
        raise Rejected(f"The member {name} is missing.", code="missing_member", pointer=place)
    return value[name]
