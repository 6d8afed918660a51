"""The form of EPCIS events, field by field, and what each type of event must name.

Source: GS1 EPCIS 2.0.1, sections 7.4 and 12 (JSON/JSON-LD binding), and its normative JSON Schema.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from core.epcis.checks import (
    Walk,
    check_closed,
    check_extension,
    check_identifier,
    check_identifiers,
    check_list,
    check_object,
    check_required,
    check_term,
    check_time,
    check_unique,
    check_uri,
    escaped,
    is_number,
    is_uri,
)
from core.epcis.sensors import check_sensor_elements
from core.epcis.vocabulary import (
    ACTIONS,
    BIZ_STEPS,
    BIZ_TRANSACTION_TYPES,
    DISPOSITIONS,
    ERROR_REASONS,
    SOURCE_DEST_TYPES,
)

_Check = Callable[[Walk, Any, str], object]
_OFFSET = re.compile(r"[+-](?:(?:0[0-9]|1[0-3]):[0-5][0-9]|14:00)\Z")
_UUID = re.compile(r"urn:uuid:[0-9A-Fa-f-]{32,36}\Z")
_UOM = re.compile(r"[A-Z0-9]{2,3}\Z")


def check_event(walk: Walk, event: Mapping[str, Any], place: str) -> None:
    """Note everything that is wrong with one event."""
    kind = event.get("type")
    fields = _FIELDS.get(kind) if isinstance(kind, str) else None
    if fields is None:
        _check_other_event(walk, event, place)
        return
    for name, value in event.items():
        check = fields.get(name)
        if check is None:
            check_extension(walk, name, value, f"{place}/{escaped(name)}")
        else:
            check(walk, value, f"{place}/{name}")
    if not _NEEDED[str(kind)] <= event.keys():
        check_required(walk, event, place, _REQUIRED[str(kind)])
    _RULES[str(kind)](walk, event, place)


def check_context(walk: Walk, value: object, place: str) -> None:
    """The value must be a JSON-LD context: a URI, an object, or a list of these."""
    if isinstance(value, list):
        for number, part in enumerate(value):
            if not isinstance(part, Mapping) and not is_uri(part):
                walk.add(f"{place}/{number}", "bad_context", "A context is a URI or an object.")
        check_unique(walk, value, place)
    elif not isinstance(value, Mapping) and not is_uri(value):
        walk.add(place, "bad_context", "A context is a URI, an object, or a list of these.")


def _check_other_event(walk: Walk, event: Mapping[str, Any], place: str) -> None:
    """An event type of somebody else's: its name is a URI, the standard fields keep their form."""
    if "type" not in event:
        walk.add(f"{place}/type", "missing_field", "The event does not say its type.")
    elif not is_uri(event["type"]):
        walk.add(f"{place}/type", "unknown_event_type", "The type is neither one of the standard nor a URI.")
    for name, value in event.items():
        check = _ALL_FIELDS.get(name)
        if check is not None:
            check(walk, value, f"{place}/{name}")
        elif is_uri(name):
            check_extension(walk, name, value, f"{place}/{escaped(name)}")
    check_required(walk, event, place, _TIMES)


def _check_event_id(walk: Walk, value: object, place: str) -> None:
    # Each stands once in the world, so looking it up in a memory of texts would be in vain.
    if not isinstance(value, str) or _UUID.match(value) is None:
        check_uri(walk, value, place)


def _check_nothing(_walk: Walk, _value: object, _place: str) -> None:
    """The type was read already."""


def _check_action(walk: Walk, value: object, place: str) -> None:
    if not isinstance(value, str) or value not in ACTIONS:
        walk.add(place, "unknown_action", "The action is ADD, OBSERVE or DELETE.")


def _check_offset(walk: Walk, value: object, place: str) -> None:
    if not isinstance(value, str) or _OFFSET.match(value) is None:
        walk.add(place, "bad_offset", "A time zone offset is from -14:00 to +14:00, as in +08:00.")


def _check_biz_step(walk: Walk, value: object, place: str) -> None:
    check_term(walk, value, place, BIZ_STEPS)


def _check_disposition(walk: Walk, value: object, place: str) -> None:
    check_term(walk, value, place, DISPOSITIONS)


def _check_persistent(walk: Walk, value: object, place: str) -> None:
    if not check_object(value, walk, place):
        return
    check_closed(walk, value, place, _SET_UNSET)
    if not value.keys() & _SET_UNSET:
        walk.add(place, "missing_field", "A persistent disposition has set, unset or both.")
    for name in ("set", "unset"):
        if name in value and check_list(value[name], walk, f"{place}/{name}", items_min=1):
            for number, word in enumerate(value[name]):
                check_term(walk, word, f"{place}/{name}/{number}", DISPOSITIONS)
            check_unique(walk, value[name], f"{place}/{name}")


def _check_epc_set(walk: Walk, value: object, place: str) -> None:
    check_identifiers(walk, value, place, is_set=True)


def _check_epcs(walk: Walk, value: object, place: str) -> None:
    check_identifiers(walk, value, place, is_set=False)


def _check_quantities(walk: Walk, value: object, place: str) -> None:
    if check_list(value, walk, place):
        for number, element in enumerate(value):
            _check_quantity(walk, element, f"{place}/{number}")


def _check_quantity(walk: Walk, value: object, place: str) -> None:
    if not check_object(value, walk, place):
        return
    if not value.keys() <= _QUANTITY:
        check_closed(walk, value, place, _QUANTITY)
    check_required(walk, value, place, ("epcClass",))
    if "epcClass" in value:
        check_identifier(walk, value["epcClass"], f"{place}/epcClass")
    if "quantity" in value:
        quantity = value["quantity"]
        if not is_number(quantity):
            walk.add(f"{place}/quantity", "wrong_type", "A number is needed here.")
        elif quantity <= 0:
            walk.add(f"{place}/quantity", "not_positive", f"The quantity {quantity} is not above zero.")
    uom = value.get("uom", "KGM")
    if not isinstance(uom, str) or _UOM.match(uom) is None:
        walk.add(f"{place}/uom", "bad_uom", "A unit is a code of UN/ECE Recommendation 20, such as KGM.")


def _check_place(walk: Walk, value: object, place: str) -> None:
    if check_object(value, walk, place):
        check_required(walk, value, place, ("id",))
        if "id" in value:
            check_identifier(walk, value["id"], f"{place}/id")


def _check_transactions(walk: Walk, value: object, place: str) -> None:
    if not check_list(value, walk, place):
        return
    for number, member in enumerate(value):
        inner = f"{place}/{number}"
        if check_object(member, walk, inner):
            if not member.keys() <= _TRANSACTION:
                check_closed(walk, member, inner, _TRANSACTION)
            check_required(walk, member, inner, ("bizTransaction",))
            if "type" in member:
                check_term(walk, member["type"], f"{inner}/type", BIZ_TRANSACTION_TYPES)
            if "bizTransaction" in member:
                check_uri(walk, member["bizTransaction"], f"{inner}/bizTransaction")


def _check_ends(walk: Walk, value: object, place: str, name: str) -> None:
    if not check_list(value, walk, place):
        return
    for number, member in enumerate(value):
        inner = f"{place}/{number}"
        if check_object(member, walk, inner):
            check_closed(walk, member, inner, frozenset(("type", name)))
            check_required(walk, member, inner, ("type", name))
            if "type" in member:
                check_term(walk, member["type"], f"{inner}/type", SOURCE_DEST_TYPES)
            if name in member:
                check_identifier(walk, member[name], f"{inner}/{name}")


def _check_sources(walk: Walk, value: object, place: str) -> None:
    _check_ends(walk, value, place, "source")


def _check_destinations(walk: Walk, value: object, place: str) -> None:
    _check_ends(walk, value, place, "destination")


def _check_ilmd(walk: Walk, value: object, place: str) -> None:
    if check_object(value, walk, place):
        for name, member in value.items():
            check_extension(walk, name, member, f"{place}/{escaped(name)}")


def _check_certification(walk: Walk, value: object, place: str) -> None:
    if isinstance(value, list):
        for number, member in enumerate(value):
            check_uri(walk, member, f"{place}/{number}")
    else:
        check_uri(walk, value, place)


def _check_error_declaration(walk: Walk, value: object, place: str) -> None:
    if not check_object(value, walk, place):
        return
    check_required(walk, value, place, ("declarationTime",))
    for name, member in value.items():
        inner = f"{place}/{escaped(name)}"
        if name == "declarationTime":
            check_time(walk, member, inner)
        elif name == "reason":
            check_term(walk, member, inner, ERROR_REASONS)
        elif name == "correctiveEventIDs":
            if check_list(member, walk, inner):
                for number, event_id in enumerate(member):
                    check_uri(walk, event_id, f"{inner}/{number}")
        else:
            check_extension(walk, name, member, inner)


def _object_rules(walk: Walk, event: Mapping[str, Any], place: str) -> None:
    if "ilmd" in event and event.get("action") != "ADD":
        walk.add(f"{place}/ilmd", "ilmd_not_allowed", "Only an ObjectEvent with action ADD has an ilmd.")
    if not (event.get("epcList") or event.get("quantityList")) and not (
        event.get("sensorElementList") and "readPoint" in event
    ):
        # The list itself may also stand empty beside a sensor report of its place.
        if "epcList" in event and event.get("sensorElementList"):
            return
        walk.add(
            f"{place}/epcList",
            "nothing_named",
            "The event names no thing: epcList or quantityList, or sensors and a readPoint.",
        )


def _parent_rules(walk: Walk, event: Mapping[str, Any], place: str) -> None:
    has_children = any(event.get(name) for name in ("childEPCs", "childQuantityList"))
    if not has_children and event.get("action") != "DELETE":
        walk.add(f"{place}/childEPCs", "nothing_named", "Only a DELETE may leave out the children.")
    if "parentID" not in event and event.get("action") != "OBSERVE" and event.get("type") == "AggregationEvent":
        walk.add(f"{place}/parentID", "missing_parent", "Only an OBSERVE may leave out the parent.")


def _transaction_rules(walk: Walk, event: Mapping[str, Any], place: str) -> None:
    transactions = event.get("bizTransactionList")
    if isinstance(transactions, list) and not transactions:
        walk.add(f"{place}/bizTransactionList", "empty_list", "At least one business transaction is needed here.")
    lists = (event.get("epcList"), event.get("quantityList"), event.get("parentID"))
    is_listed = "epcList" in event or event.get("quantityList")
    if event.get("action") != "DELETE" and (not is_listed or not any(lists)):
        walk.add(f"{place}/epcList", "nothing_named", "Only a DELETE may leave out the things.")


def _transformation_rules(walk: Walk, event: Mapping[str, Any], place: str) -> None:
    inputs = any(event.get(name) for name in ("inputEPCList", "inputQuantityList"))
    outputs = any(event.get(name) for name in ("outputEPCList", "outputQuantityList"))
    if "transformationID" in event:
        if not inputs and not outputs:
            walk.add(f"{place}/inputEPCList", "nothing_named", "A transformation names inputs, outputs or both.")
        return
    if not inputs:
        walk.add(f"{place}/inputEPCList", "nothing_named", "Without a transformationID inputs are needed.")
    if not outputs:
        walk.add(f"{place}/outputEPCList", "nothing_named", "Without a transformationID outputs are needed.")


_SET_UNSET = frozenset(("set", "unset"))
_QUANTITY = frozenset(("epcClass", "quantity", "uom"))
_TRANSACTION = frozenset(("type", "bizTransaction"))
_TIMES = ("eventTime", "eventTimeZoneOffset")
_COMMON: dict[str, _Check] = {
    "@context": check_context,
    "type": _check_nothing,
    "eventTime": check_time,
    "recordTime": check_time,
    "eventTimeZoneOffset": _check_offset,
    "eventID": _check_event_id,
    "certificationInfo": _check_certification,
    "errorDeclaration": _check_error_declaration,
    "bizStep": _check_biz_step,
    "disposition": _check_disposition,
    "persistentDisposition": _check_persistent,
    "readPoint": _check_place,
    "bizLocation": _check_place,
    "bizTransactionList": _check_transactions,
    "sourceList": _check_sources,
    "destinationList": _check_destinations,
    "sensorElementList": check_sensor_elements,
}
_ACTION: dict[str, _Check] = {"action": _check_action}
_FAMILY = {
    **_COMMON,
    **_ACTION,
    "parentID": check_identifier,
    "childEPCs": _check_epcs,
    "childQuantityList": _check_quantities,
}
_FIELDS: Mapping[str, Mapping[str, _Check]] = {
    "ObjectEvent": {
        **_COMMON,
        **_ACTION,
        "epcList": _check_epc_set,
        "quantityList": _check_quantities,
        "ilmd": _check_ilmd,
    },
    "AggregationEvent": _FAMILY,
    "AssociationEvent": _FAMILY,
    "TransactionEvent": {
        **_COMMON,
        **_ACTION,
        "parentID": check_identifier,
        "epcList": _check_epcs,
        "quantityList": _check_quantities,
    },
    "TransformationEvent": {
        **_COMMON,
        "inputEPCList": _check_epc_set,
        "inputQuantityList": _check_quantities,
        "outputEPCList": _check_epc_set,
        "outputQuantityList": _check_quantities,
        "transformationID": check_identifier,
        "ilmd": _check_ilmd,
    },
}
_ALL_FIELDS: Mapping[str, _Check] = {
    **{name: check for fields in _FIELDS.values() for name, check in fields.items()},
    "epcList": _check_epcs,
}
_REQUIRED = {
    "ObjectEvent": (*_TIMES, "action"),
    "AggregationEvent": (*_TIMES, "action"),
    "AssociationEvent": (*_TIMES, "action", "parentID"),
    "TransactionEvent": (*_TIMES, "action", "bizTransactionList"),
    "TransformationEvent": _TIMES,
}
_NEEDED = {kind: frozenset(names) for kind, names in _REQUIRED.items()}
_RULES: Mapping[str, Callable[[Walk, Mapping[str, Any], str], None]] = {
    "ObjectEvent": _object_rules,
    "AggregationEvent": _parent_rules,
    "AssociationEvent": _parent_rules,
    "TransactionEvent": _transaction_rules,
    "TransformationEvent": _transformation_rules,
}
