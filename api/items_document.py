"""The JSON of an item as of a moment: state, alarms, journey, contents, lineage, as far as the reader may see them."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import sqlalchemy as sa

from api.consumer import story
from api.consumer.cache import Rests
from api.consumer.load import rests_of
from api.consumer.readings import place_id
from api.consumer.seen import Seen, records_of, withdrawn
from api.findings import findings_json
from api.words import has_words, say
from core.epcis.vocabulary import local_name
from core.errors import Rejected
from core.identifiers import class_of, parse
from ledger import masterdata
from ledger.asof import Book, Moment, contents, standing
from ledger.disclosure import Reader, may_see
from ledger.state import Standing, item_state

CONTENTS_MAX: Final = 1_000
_ALARMS: Final = ("ALARM_CONDITION", "ERROR_CONDITION")
_TIME_MAX: Final = 40


class BadTime(Rejected):
    """This is no time with its zone."""

    code = "bad_time"


def moment_of(at: str, known: str) -> Moment:
    """The moment of the query members ``at`` and ``known``, each an ISO 8601 time with its zone or left out.

    Raises:
        Rejected: ``bad_time``; the pointer names the member.
    """
    return Moment(_ms(at, "at"), _ms(known, "known"))


def item_document(
    tx: sa.Connection,
    item_id: str,
    *,
    reader: Reader,
    lang: str,
    moment: Moment,
    log_size: int,
    party: str = "",
    book: Book | None = None,
    note: Callable[[Rests], None] | None = None,
) -> dict[str, Any] | None:
    """The JSON of an item; None when nothing was known of it at the moment.

    Args:
        party: an organisation that sees as a partner only what it took part in, and else as a consumer; "" for none.
        note: is told what the answer rests on.
    """
    book = book or Book(tx, moment)
    state = item_state(tx, item_id) if moment.is_now else standing(book, item_id, tx)
    lot = None if state is None else state.own.lot
    records = records_of(book, item_id, reader, lot=lot, tx=tx)
    if not records:
        return None
    if party and party not in {record.org for record in records}:
        reader = "consumer"
        records = records_of(book, item_id, reader, lot=lot, tx=tx)
    if note is not None:
        note(rests_of(item_id, records, state))
    product = class_of(item_id) or item_id
    facts = masterdata.facts_about(
        tx,
        {
            "party": {record.org for record in records} | _parties(state),
            "place": {place_id(record.event) for record in records} | _places(state),
            "product": {product},
        },
    )
    parties, places = facts["party"], facts["place"]
    wrong = withdrawn(records)
    document: dict[str, Any] = {
        "item": item_id,
        "kind": parse(item_id).kind,
        "name": story.name_in(facts["product"], product, lang) or None,
        "as_of": as_of(book, item_id, log_size),
        "state": _state(state, reader, lang, parties=parties, places=places),
        "alarms": alarms(records, wrong),
        "findings": findings_json(
            tx,
            item_id,
            lot=lot,
            reader=reader,
            lang=lang,
            places=None if moment.is_now else {(record.leaf, record.number) for record in records},
        ),
        "journey": [_entry(record, lang, parties=parties, places=places, wrong=wrong) for record in records],
        "hidden": [{"name": row.name, "count": row.count} for row in story.hidden_of(records, lang)],
        "lineage": lineage(records, reader, item_id, lot),
    }
    if reader != "consumer":
        inside, is_more = contents(book, item_id, limit=CONTENTS_MAX)
        document["contents"] = inside
        document["contents_truncated"] = is_more
    return document


def as_of(book: Book, item_id: str, log_size: int) -> dict[str, Any]:
    """What the answer is as of, and what it leaves out because it came or happened later."""
    later = book.later(item_id) if not book.moment.is_now else None
    return {
        "at": text_of(book.moment.at_ms),
        "known": text_of(book.moment.known_ms),
        "log_size": log_size,
        "later": {
            "received_after_known": later.unknown if later else 0,
            "happened_after_at": later.after if later else 0,
            "corrections_after_known": later.corrections if later else 0,
        },
    }


def alarms(records: Sequence[Seen], wrong: set[tuple[str, str]]) -> list[dict[str, Any]]:
    """Sensor reports with an exception, of records that stand, in time order, as far as the reader sees readings."""
    found: list[dict[str, Any]] = []
    for record in records:
        if record.declaration is not None or record.name in wrong or record.is_suspect:
            continue
        for element in _rows(record.event.get("sensorElementList")):
            for report in _rows(element.get("sensorReport")):
                exception = str(report.get("exception", "")).rpartition("/")[2].removeprefix("SensorAlert-")
                if exception in _ALARMS:
                    found.append(_alarm(record, report, exception))
    return found


def lineage(records: Sequence[Seen], reader: Reader, item_id: str, lot: str | None) -> dict[str, Any]:
    """The nearest neighbours: the lot, and inputs and outputs of transformations; the whole way is ``/trace``."""
    made_of: dict[str, None] = {}
    made_into: dict[str, None] = {}
    for record in records:
        if record.declaration is not None or record.is_suspect or record.via == "inside":
            continue
        if record.whole.get("type") != "TransformationEvent":
            continue
        for target, members in ((made_of, _INPUTS), (made_into, _OUTPUTS)):
            for name, is_class in members:
                if may_see(reader, name):
                    target |= dict.fromkeys(_ids(record.whole.get(name), is_class))
    subject = {item_id, lot}
    return {
        "lot": lot if lot != item_id else None,
        "made_of": sorted(set(made_of) - subject) if not subject.isdisjoint(made_into) else [],
        "made_into": sorted(set(made_into) - subject) if not subject.isdisjoint(made_of) else [],
    }


def text_of(at_ms: int | None) -> str | None:
    """A moment as ISO 8601 in UTC, None for now."""
    if at_ms is None:
        return None
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


_INPUTS: Final = (("inputEPCList", False), ("inputQuantityList", True))
_OUTPUTS: Final = (("outputEPCList", False), ("outputQuantityList", True))


def _ids(rows: Any, is_class: bool) -> list[str]:
    found = []
    for row in rows if isinstance(rows, list) else ():
        text = row.get("epcClass") if is_class and isinstance(row, Mapping) else row
        if isinstance(text, str):
            try:
                found.append(parse(text).canonical)
            except Rejected:
                found.append(text)
    return found


def _alarm(record: Seen, report: Mapping[str, Any], exception: str) -> dict[str, Any]:
    values = {name: report[name] for name in ("value", "minValue", "maxValue") if _is_number(report.get(name))}
    return {
        "time": str(report.get("time") or record.event.get("eventTime", "")),
        "exception": exception,
        "type": local_name(str(report.get("type", "")), "measurement"),
        "uom": str(report.get("uom", "")) or None,
        **values,
        "device": record.device,
        "org": record.org,
        "leaf": record.leaf,
        "event_number": record.number,
    }


def _state(
    state: Standing | None, reader: Reader, lang: str, *, parties: story.Names, places: story.Names
) -> dict[str, Any] | None:
    if state is None:
        return None
    own = state.own
    values: dict[str, Any] = {
        "place": state.place,
        "where": story.name_in(places, state.place or "", lang) or None,
        "custodian": state.custodian,
        "held_by": story.name_in(parties, state.custodian or "", lang) or None,
        "containers": list(state.containers),
        "product": own.product,
        "lot": own.lot,
        "biz_step": own.biz_step,
        "disposition": own.disposition,
        "is_sold": state.is_sold,
        "is_recalled": state.is_recalled,
        "is_decommissioned": state.is_decommissioned,
        "first_ms": own.first_ms,
        "last_ms": state.last_ms,
        "events": own.events,
        "sensors": {name: dict(values) for name, values in own.sensors.items()},
    }
    if reader != "consumer":
        values["owner"] = state.owner
    return values


def _entry(
    record: Seen, lang: str, *, parties: story.Names, places: story.Names, wrong: set[tuple[str, str]]
) -> dict[str, Any]:
    step = f"step.{record.step}"
    return {
        "leaf": record.leaf,
        "event_number": record.number,
        "time": str(record.event.get("eventTime", "")),
        "received_ms": record.received_ms,
        "what": say(step, lang) if has_words(step) else record.step,
        "disposition": record.disposition,
        "who": story.name_in(parties, record.org, lang) or record.org,
        "org": record.org,
        "where": story.name_in(places, place_id(record.event), lang) or place_id(record.event),
        "device": record.device,
        "signed_by": record.signed_by,
        "via": record.via,
        "container": record.container or None,
        "is_final": not record.is_pending,
        "is_suspect": record.is_suspect,
        "is_withdrawn": record.declaration is None and record.name in wrong,
        "is_error_declaration": record.declaration is not None,
        "event": {name: value for name, value in record.event.items() if name != "@context"},
        "not_shown": [*record.hidden, *(["erased"] * record.erased)],
    }


def _ms(text: str, name: str) -> int | None:
    if not text:
        return None
    # A plus sign that was not encoded arrives as a space.
    spelled = text.replace(" ", "+") if len(text) <= _TIME_MAX else ""
    try:
        moment = datetime.fromisoformat(spelled)
        if moment.tzinfo is None:
            raise ValueError(name)
        return int(moment.timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise BadTime(
            f"Give {name} as an ISO 8601 time with its zone, such as 2026-11-24T08:00:00Z.", pointer=name
        ) from error


def _parties(state: Standing | None) -> set[str]:
    return {state.custodian} if state is not None and state.custodian else set()


def _places(state: Standing | None) -> set[str]:
    return {state.place} if state is not None and state.place else set()


def _rows(value: Any) -> list[Mapping[str, Any]]:
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list) else []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)
