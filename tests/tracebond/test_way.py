"""One id from the broker to the chain: in the log lines of every process, and in the database for ever."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import structlog

from core.canonical import b64u
from core.errors import Rejected
from core.message import split
from ledger.anchor import anchors_between
from ledger.chain_tx import StepReport
from ledger.database import Database
from ledger.log import checkpoint_covering
from ledger.tables import entries, messages
from tests.ingest.rig import Rig
from tests.ledger.world import NOW, seen
from tests.story import tell
from tracebond.way import tell_anchor, tell_chain_txs, tell_checkpoint, way_of


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    structlog.configure(
        processors=[structlog.processors.JSONRenderer()], logger_factory=structlog.PrintLoggerFactory(stream)
    )
    yield stream
    structlog.reset_defaults()


def read(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_ingest_names_what_it_promised_and_what_it_refused(sqlite_database: Database, lines: io.StringIO) -> None:
    rig = Rig(sqlite_database)
    rig.worker = rig.new_worker(names_messages=True)
    good, late = rig.sign("line-1", seen("A")), rig.sign("truck-1", seen("Z", at=NOW + 999))
    for name, publish in (("line-1", good), ("truck-1", late), ("line-1", b"garbage")):
        rig.send(name, publish)
    rig.run()

    told = [line for line in read(lines) if line["event"] == "messages_stored"]

    ids = b64u(split(good).id), b64u(split(late).id)
    assert told == [
        {"event": "messages_stored", "messages": [ids[0]], "refused": {ids[1]: "event_in_future"}, "quarantined": 1}
    ]
    with sqlite_database.reading() as tx:
        assert [stop.stage for stop in way_of(tx, ids[0])] == ["stored"]
        assert [(stop.stage, stop.facts["code"]) for stop in way_of(tx, ids[1])] == [
            ("quarantined", "event_in_future"),
            ("refused", "event_in_future"),
        ]
        assert way_of(tx, "A" * 43) == []
        with pytest.raises(Rejected, match="43 characters"):
            way_of(tx, "not-an-id")


def test_one_id_leads_from_the_log_to_the_chain(sqlite_database: Database, tmp_path: Path, lines: io.StringIO) -> None:
    tell(sqlite_database, tmp_path, units=24)
    with sqlite_database.reading() as tx:
        query = sa.select(messages.c.id, entries.c.leaf).join(entries, entries.c.arrival == messages.c.arrival)
        raw_id, leaf = tx.execute(query.order_by(entries.c.leaf).offset(5).limit(1)).one()
        ident = b64u(bytes(raw_id))
        way = way_of(tx, ident)
        made = checkpoint_covering(tx, leaf)
        anchor = next(one for one in anchors_between(tx) if one.size > leaf)
    assert made is not None
    assert anchor.chain_tx is not None

    tell_checkpoint(sqlite_database, made, names_messages=True)
    tell_anchor(sqlite_database, anchor, names_messages=True)
    tell_chain_txs(sqlite_database, StepReport(final=[anchor.chain_tx]), names_messages=True)
    mine = {line["event"]: line for line in read(lines) if ident in line.get("messages", ())}

    assert [stop.stage for stop in way] == ["stored", "sequenced", "anchored", "sent", "mined", "final"]
    facts = {name: value for stop in way for name, value in stop.facts.items()}
    assert list(mine) == ["checkpoint_signed", "anchor_fixed", "chain_tx"]
    assert mine["checkpoint_signed"]["checkpoint"] == facts["checkpoint"] > facts["leaf"] == leaf
    assert mine["anchor_fixed"]["chain_tx"] == mine["chain_tx"]["chain_tx"] == facts["chain_tx"]
    assert mine["chain_tx"]["tx_hash"] == facts["tx_hash"] == anchor.tx_hash
    assert mine["chain_tx"]["anchor"] == facts["anchor"] == anchor.size
