"""The shapes of an item's JSON and of a trace, as the OpenAPI document shows them."""

from typing import Any, Final

AT: Final = (
    "Device time: events whose eventTime is later are left out. ISO 8601 with its zone; left out means now. "
    "An error declaration counts whenever it is known."
)
KNOWN: Final = (
    "Record time: messages received later are unknown, and so are the error declarations, ends of keys and ownership "
    "records that came later. ISO 8601 with its zone; left out means now. With `at` the answer is bitemporal."
)
DIRECTION: Final = "back: what it was made of; forward: what became of it and who holds it."
DEPTH: Final = "How many steps to follow; what lies beyond is told in `truncated`."

_TEXT: Final[dict[str, Any]] = {"type": "string"}
_TEXT_OR_NONE: Final[dict[str, Any]] = {"type": ["string", "null"]}
_INT: Final[dict[str, Any]] = {"type": "integer"}
_FLAG: Final[dict[str, Any]] = {"type": "boolean"}
_NUMBER_OR_NONE: Final[dict[str, Any]] = {"type": ["number", "null"]}
_TEXTS: Final[dict[str, Any]] = {"type": "array", "items": _TEXT}
_OPEN: Final[dict[str, Any]] = {"type": "object", "additionalProperties": True}


def _object(optional: dict[str, Any] | None = None, **members: Any) -> dict[str, Any]:
    properties = members | (optional or {})
    return {"type": "object", "properties": properties, "required": list(members), "additionalProperties": False}


def _list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


_AS_OF: Final = _object(
    {
        "later": _object(
            received_after_known=_INT,
            happened_after_at=_INT,
            corrections_after_known=_INT,
        )
    },
    at=_TEXT_OR_NONE,
    known=_TEXT_OR_NONE,
    log_size=_INT,
)
_AMOUNT: Final = _object(quantity=_NUMBER_OR_NONE, uom=_TEXT)
_NAMED_AMOUNT: Final = _object(id=_TEXT, name=_TEXT_OR_NONE, quantity=_NUMBER_OR_NONE, uom=_TEXT)
_STATE: Final = _object(
    {"owner": _TEXT_OR_NONE},
    place=_TEXT_OR_NONE,
    where=_TEXT_OR_NONE,
    custodian=_TEXT_OR_NONE,
    held_by=_TEXT_OR_NONE,
    containers=_TEXTS,
    product=_TEXT_OR_NONE,
    lot=_TEXT_OR_NONE,
    biz_step=_TEXT_OR_NONE,
    disposition=_TEXT_OR_NONE,
    is_sold=_FLAG,
    is_recalled=_FLAG,
    is_decommissioned=_FLAG,
    first_ms=_INT,
    last_ms=_INT,
    events=_INT,
    sensors=_OPEN,
)
_FINDING: Final = _object(
    {
        "id": _TEXT,
        "subject": _TEXT_OR_NONE,
        "org": _TEXT,
        "events": _TEXTS,
        "state": {"enum": ["open", "withdrawn"]},
        "cause": _TEXT_OR_NONE,
        "raised_leaf": _INT,
        "history": _list(_object(leaf=_INT, state=_TEXT, cause=_TEXT_OR_NONE, event=_TEXT)),
    },
    code=_TEXT,
    severity={"enum": ["serious", "warning", "notice"]},
    text=_TEXT,
)
_ENTRY: Final = _object(
    leaf=_INT,
    event_number=_INT,
    time=_TEXT,
    received_ms=_INT,
    what=_TEXT,
    disposition=_TEXT,
    who=_TEXT,
    org=_TEXT,
    where=_TEXT,
    device=_TEXT,
    signed_by={"enum": ["device", "partner", "gateway"]},
    via={"enum": ["", "inside", "lot"]},
    container=_TEXT_OR_NONE,
    is_final=_FLAG,
    is_suspect=_FLAG,
    is_withdrawn=_FLAG,
    is_error_declaration=_FLAG,
    event=_OPEN,
    not_shown=_TEXTS,
)
ITEM_SCHEMA: Final = _object(
    {"contents": _TEXTS, "contents_truncated": _FLAG},
    item=_TEXT,
    kind=_TEXT,
    name=_TEXT_OR_NONE,
    as_of=_AS_OF,
    state={"anyOf": [_STATE, {"type": "null"}]},
    alarms=_list(_OPEN),
    findings=_list(_FINDING),
    journey=_list(_ENTRY),
    hidden=_list(_object(name=_TEXT, count=_INT)),
    lineage=_object(lot=_TEXT_OR_NONE, made_of=_TEXTS, made_into=_TEXTS),
)
TRACE_SCHEMA: Final = _object(
    item=_TEXT,
    direction={"enum": ["forward", "back"]},
    as_of=_AS_OF,
    things=_list(
        _object(
            id=_TEXT,
            kind=_TEXT,
            name=_TEXT_OR_NONE,
            depth=_INT,
            is_carrier=_FLAG,
            made={"anyOf": [_AMOUNT, {"type": "null"}]},
            used={"anyOf": [_AMOUNT, {"type": "null"}]},
        )
    ),
    links=_list(
        _object(
            kind={"enum": ["transformation", "lot", "packing", "unpacking", "association", "disassociation"]},
            source=_TEXT,
            target=_TEXT,
            leaf=_INT,
            event_number=_INT,
            time=_TEXT,
            org=_TEXT,
            who=_TEXT,
            is_withdrawn=_FLAG,
            is_suspect=_FLAG,
        )
    ),
    transformations=_list(
        _object(
            id=_TEXT_OR_NONE,
            leaf=_INT,
            event_number=_INT,
            time=_TEXT,
            org=_TEXT,
            who=_TEXT,
            inputs=_list(_NAMED_AMOUNT),
            outputs=_list(_NAMED_AMOUNT),
            balance=_list(
                _object(
                    uom=_TEXT,
                    inputs={"type": "number"},
                    outputs={"type": "number"},
                    unexplained_loss=_NUMBER_OR_NONE,
                    loss_share=_NUMBER_OR_NONE,
                )
            ),
        )
    ),
    holders=_list(
        _object(
            org=_TEXT,
            who=_TEXT,
            place=_TEXT_OR_NONE,
            where=_TEXT_OR_NONE,
            state={"enum": ["held", "sold", "gone", "used"]},
            count=_INT,
            amounts=_list(_AMOUNT),
            products=_TEXTS,
            lots=_TEXTS,
            items=_TEXTS,
            items_truncated=_FLAG,
        )
    ),
    truncated=_object(is_truncated=_FLAG, because=_TEXT_OR_NONE, unexplored=_INT, sentence=_TEXT),
    hidden=_INT,
    page=_object(number=_INT, of=_INT, things=_INT, next=_TEXT_OR_NONE),
)
PROBLEM: Final = _object(
    {"code": _TEXT, "pointer": _TEXT, "errors": _list(_OPEN)},
    type=_TEXT,
    title=_TEXT,
    status=_INT,
    detail=_TEXT,
)


def _problem(words: str) -> dict[str, Any]:
    return {"description": words, "content": {"application/problem+json": {"schema": PROBLEM}}}


_PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    400: _problem("No identifier, a wrong check digit, or no time"),
    404: _problem("Nothing was recorded under this code then"),
    422: _problem("A query member does not fit"),
    429: _problem("Too many unknown codes from this address"),
    503: _problem("The database is away"),
}
ITEM: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The item", "content": {"application/json": {"schema": ITEM_SCHEMA}}},
    **_PROBLEMS,
}
TRACE: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "A page of the trace", "content": {"application/json": {"schema": TRACE_SCHEMA}}},
    **_PROBLEMS,
}
PROOF: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The bundle, see docs/proof-bundle.md", "content": {"application/json": {"schema": _OPEN}}},
    **_PROBLEMS,
}
