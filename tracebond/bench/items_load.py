"""A log of many events for benchmarks of look-ups: true messages of some items, spread among rows of many others."""

import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, Final

import sqlalchemy as sa

from core.canonical import sha256
from core.crypto import P256Private
from core.identifiers import canonical
from core.merkle import leaf_hash
from core.message import Message, issue, open_message, split
from ledger.database import Database, Tx, is_sqlite, raw
from ledger.followers import read_messages
from ledger.history import VIEWS
from ledger.state import State
from ledger.store import join_items
from ledger.tables import MESSAGE, followers, keys, masters
from tracebond.bench.report import Say

ORG: Final = "https://id.gs1.org/417/9521000000018"
GTIN: Final = "09521000123458"
PLANT: Final = "https://id.gs1.org/414/9521000000018"
PER_ITEM: Final = 30  # events of a journey, of the item and of the unit around it
NOW: Final = 1_795_000_000
_AUD: Final = "bench.example"
_ISS: Final = "https://id.gs1.org/8004/9521000BENCH"
_FILLER: Final = 20_000  # rows of one statement

_COLUMNS: Final = {
    "messages": (
        ("arrival", "int8"), ("id", "bytea"), ("leaf_hash", "bytea"), ("key_no", "int4"), ("seq", "int8"),
        ("prev", "bytea"), ("received_ms", "int8"), ("publish_bytes", "int4"), ("event_count", "int2"),
        ("jwt", "bytea"), ("items", "bytea"), ("item_ids", "bytea"),
    ),
    "disclosures": (("arrival", "int8"), ("texts", "bytea")),
    "entries": (("leaf", "int8"), ("kind", "int2"), ("arrival", "int8")),
    "item_steps": (("key64", "int8"), ("leaf", "int8"), ("event", "int4")),
}  # fmt: skip


def load(database: Database, *, events: int, items: int, say: Say) -> list[str]:
    """Fill a fresh database; gives the ids of the items that have whole journeys of 30 events."""
    say(f"{database.kind}: loading {events:,} events, {items:,} items with journeys")
    ids = [f"https://id.gs1.org/01/{GTIN}/21/B{number:06d}" for number in range(items)]
    with database.transaction() as tx:
        tx.execute(
            keys.insert().values(
                kid="bench", org=ORG, iss=_ISS, use="device", scope="{}", device_key=sha256(b"bench"), jwk="{}", leaf=0
            )
        )
        tx.execute(masters.insert().values(
            leaf=0, subject=f"https://id.gs1.org/01/{GTIN}", fact="product", org=ORG,
            value='{"name_en": "Tin", "name_zh": "罐"}'))  # fmt: skip
        key_no = tx.execute(sa.select(keys.c.key_no)).scalar_one()
        filler = max(0, events - items * PER_ITEM) // PER_ITEM
    chance, leaf = random.Random(11), 1
    key = P256Private.from_secret(b"bench items")
    for turn in range(PER_ITEM):
        true = [_message(key, turn * items + number, _event(number, turn)) for number in range(items)]
        with database.transaction() as tx:
            leaves = _insert(tx, true, key_no, leaf)
            leaf += len(true)
            _follow(tx, leaves)
        left = filler
        while left:
            part = min(left, _FILLER)
            with database.transaction() as tx:
                _insert_filler(tx, part, key_no, leaf, chance)
            leaf, left = leaf + part, left - part
    with database.transaction() as tx:
        tx.execute(followers.insert().values(name=VIEWS, next_leaf=leaf))
        if not is_sqlite(tx):
            tx.execute(sa.text("ANALYZE"))
    return ids


def _event(number: int, turn: int) -> dict[str, Any]:
    """The event of one turn in an item's life: made, looked at, packed, its unit carried, unpacked, looked at, sold."""
    item = f"https://id.gs1.org/01/{GTIN}/21/B{number:06d}"
    digits = f"0952100{number:010d}"
    from core.gs1 import check_digit

    unit = f"https://id.gs1.org/00/{digits}{check_digit(digits)}"
    at = NOW + turn * 600
    base = {
        "eventTime": _time(at), "eventTimeZoneOffset": "+08:00", "readPoint": {"id": PLANT}, "type": "ObjectEvent",
        "action": "OBSERVE",
    }  # fmt: skip
    reading = [{"sensorReport": [{"type": "Temperature", "value": 18 + turn % 5, "uom": "CEL"}]}]
    if turn == 0:
        lot = {"cbvmda:lotNumber": f"L{number // 100}"}
        return base | {
            "action": "ADD",
            "bizStep": "commissioning",
            "disposition": "active",
            "epcList": [item],
            "ilmd": lot,
        }
    if turn in (6, 24):
        action, step = ("ADD", "packing") if turn == 6 else ("DELETE", "unpacking")
        return base | {
            "type": "AggregationEvent", "action": action, "bizStep": step, "parentID": unit, "childEPCs": [item],
        }  # fmt: skip
    if turn == PER_ITEM - 1:
        return base | {"bizStep": "retail_selling", "disposition": "retail_sold", "epcList": [item]}
    named = unit if 6 < turn < 24 else item
    step = "transporting" if named == unit else "inspecting"
    return base | {"bizStep": step, "disposition": "in_transit", "epcList": [named], "sensorElementList": reading}


def _message(key: P256Private, seq: int, event: dict[str, Any]) -> Message:
    salts = iter(range(100))
    publish = issue(
        [event], aud=_AUD, org=ORG, iss=_ISS, iat=NOW, seq=seq, prev=None if seq == 0 else sha256(b"%d" % seq), key=key,
        salts=lambda: sha256(b"%d %d" % (seq, next(salts)))[:16],
    )  # fmt: skip
    return open_message(split(publish), key.public)


def _insert(tx: Tx, true: Sequence[Message], key_no: int, leaf: int) -> list[int]:
    rows, texts, entries, steps = [], [], [], []
    for place, message in enumerate(true, start=leaf):
        items, ids = join_items(message.events)
        signed = message.signed
        rows.append(
            (place, message.id, signed.leaf_hash, key_no, signed.seq, signed.prev, NOW * 1000 + place,
             len(signed.jwt), 1, signed.jwt, items, ids)
        )  # fmt: skip
        shown = ["~".join(one.text for one in event) for event in signed.disclosures]
        texts.append((place, "\n".join(shown).encode("ascii")))
        entries.append((place, MESSAGE, place))
        named = {item.key for event in message.events for item in event.items}
        steps += [(int.from_bytes(one[:8], signed=True), place, 0) for one in named]
    _write(tx, rows, texts, entries, steps)
    return [row[0] for row in rows]


def _insert_filler(tx: Tx, count: int, key_no: int, leaf: int, chance: random.Random) -> None:
    rows, texts, entries, steps = [], [], [], []
    for place in range(leaf, leaf + count):
        key, jwt = chance.randbytes(32), chance.randbytes(600)
        items = b"\x00\x01\x06" + key
        seq, received_ms = place + 10_000_000, NOW * 1000 + place
        about = (sha256(jwt), leaf_hash(jwt), key_no, seq, None, received_ms, len(jwt), 1)
        rows.append((place, *about, jwt, items, b'[["urn:x"]]'))
        texts.append((place, b""))
        entries.append((place, MESSAGE, place))
        steps.append((int.from_bytes(key[:8], signed=True), place, 0))
    _write(tx, rows, texts, entries, sorted(steps))


def _write(tx: Tx, *tables: Sequence[tuple[Any, ...]]) -> None:
    for (name, columns), rows in zip(_COLUMNS.items(), tables, strict=True):
        names = ",".join(column for column, _ in columns)
        with closing(raw(tx).cursor()) as cursor:
            if is_sqlite(tx):
                marks = ",".join("?" * len(columns))
                cursor.executemany(f"INSERT INTO {name} ({names}) VALUES ({marks})", rows)  # noqa: S608 - ours
                continue
            with cursor.copy(f"COPY {name} ({names}) FROM STDIN (FORMAT BINARY)") as copy:
                copy.set_types([kind for _, kind in columns])
                for row in rows:
                    copy.write_row(row)


def _follow(tx: Tx, leaves: Sequence[int]) -> None:
    """The state follower takes the true messages; the steps are written already."""
    found = read_messages(tx, leaves)
    State().apply(tx, [found[leaf] for leaf in sorted(found)])


def _time(at: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def sample(ids: Sequence[str], count: int) -> Iterator[str]:
    """Items in a random order that is the same in every run."""
    chance = random.Random(5)
    for _ in range(count):
        yield canonical(chance.choice(ids))
