"""Events for the tests of queries: other people's documents and seeded ones, logged and indexed."""

import json
import random
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from core.epcis.items import document_events
from core.epcis.validate import event_problems
from core.errors import Rejected
from core.identifiers import check_digit
from ledger.database import Database
from ledger.followers import run_all
from ledger.queryindex import QueryIndex
from tests.conformance_data import files
from tests.ledger.world import NOW, World, time_text

CONTEXT = ["https://ref.gs1.org/standards/epcis/2.0.0/epcis-context.jsonld", {"ex": "https://ex.example/ns/"}]
SITES = ["urn:epc:id:sgln:9521000.00001.0", "https://id.gs1.org/414/9521000000025", "urn:epc:id:sgln:9521000.00003.7"]
PARTIES = ["urn:epc:id:pgln:9521000.00001", "https://id.gs1.org/417/9521000000025"]


def shared_events() -> list[dict[str, Any]]:
    """Every event of the valid documents and hash vectors that somebody else wrote."""
    found: list[dict[str, Any]] = []
    for folder, pattern in (("epcis/valid", "*.json"), ("epcis/hash-vectors", "*.jsonld")):
        for path in files(folder, pattern):
            for event in document_events(json.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)):
                if not event_problems(event):
                    found.append(event)
    return found


def generated_events(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Seeded events of all five types, in both identifier forms, with sensors, ILMD and extensions."""
    chance = random.Random(seed)
    for number in range(count):
        yield _generated(chance, number)


def _epc(chance: random.Random) -> str:
    serial = chance.randrange(12)
    kind = chance.randrange(4)
    if kind == 0:
        return f"urn:epc:id:sgtin:9521000.01234{serial % 3}.{serial}"
    if kind == 1:
        digits = f"095210001234{serial % 3}"
        return f"https://dl.example/01/{digits}{check_digit(digits)}/21/{serial}"
    if kind == 2:
        return f"urn:epc:id:sscc:9521000.{serial:010d}"
    return f"urn:epc:id:grai:9521000.0000{serial % 2}.{serial}"


def _quantity(chance: random.Random) -> dict[str, Any]:
    element: dict[str, Any] = {
        "epcClass": chance.choice(["urn:epc:class:lgtin:9521000.012341.L1", "urn:epc:idpat:sgtin:9521000.012342.*"])
    }
    if chance.random() < 0.9:
        element["quantity"] = chance.choice([5, Decimal("12.50"), 500, Decimal("0.5")])
        if chance.random() < 0.7:
            element["uom"] = chance.choice(["KGM", "GRM", "LTR"])
    return element


def _generated(chance: random.Random, number: int) -> dict[str, Any]:
    kind = chance.choice(
        [
            "ObjectEvent",
            "ObjectEvent",
            "AggregationEvent",
            "TransactionEvent",
            "TransformationEvent",
            "AssociationEvent",
        ]
    )
    event: dict[str, Any] = {
        "@context": CONTEXT,
        "type": kind,
        "eventTime": time_text(NOW - chance.randrange(200) * 60),
        "eventTimeZoneOffset": "+00:00",
        "eventID": f"urn:uuid:00000000-0000-4000-8000-{number:012d}",
    }
    if kind != "TransformationEvent":
        event["action"] = chance.choice(["ADD", "OBSERVE", "DELETE"])
    things = list(dict.fromkeys(_epc(chance) for _ in range(chance.randrange(1, 4))))
    if kind in ("ObjectEvent", "TransactionEvent"):
        event["epcList"] = things
    elif kind == "TransformationEvent":
        event |= {"inputEPCList": things, "outputEPCList": [_epc(chance)], "transformationID": f"urn:x:t{number % 5}"}
        event["outputQuantityList"] = [_quantity(chance)]
    else:
        event |= {"parentID": _epc(chance), "childEPCs": things}
    if kind == "TransactionEvent" or chance.random() < 0.3:
        event["bizTransactionList"] = [{"type": chance.choice(["po", "inv"]), "bizTransaction": f"urn:x:b{number % 7}"}]
    if chance.random() < 0.4:
        name = {"ObjectEvent": "quantityList", "TransactionEvent": "quantityList"}.get(kind, "childQuantityList")
        event["inputQuantityList" if kind == "TransformationEvent" else name] = [_quantity(chance)]
    if chance.random() < 0.8:
        event["bizStep"] = chance.choice(["shipping", "receiving", "https://ref.gs1.org/cbv/BizStep-packing", "ex:own"])
        event["disposition"] = chance.choice(["in_transit", "active"])
    if chance.random() < 0.6:
        event["readPoint"] = {"id": chance.choice(SITES)} | (
            {"ex:gate": chance.randrange(3)} if number % 4 == 0 else {}
        )
        event["bizLocation"] = {"id": chance.choice(SITES)}
    if chance.random() < 0.3:
        event["sourceList"] = [{"type": "owning_party", "source": chance.choice(PARTIES)}]
        event["destinationList"] = [{"type": "possessing_party", "destination": chance.choice(PARTIES)}]
    if chance.random() < 0.2:
        event["persistentDisposition"] = {"set": ["completeness_verified"], "unset": ["completeness_inferred"]}
    if chance.random() < 0.1:
        event["errorDeclaration"] = {
            "declarationTime": time_text(NOW - chance.randrange(100)),
            "reason": chance.choice(["did_not_occur", "incorrect_data"]),
            "correctiveEventIDs": [f"urn:uuid:00000000-0000-4000-8000-{number // 2:012d}"],
            "ex:note": "n1",
        }
    if chance.random() < 0.3:
        event["sensorElementList"] = [_sensor(chance)]
    is_made = kind == "TransformationEvent" or (kind == "ObjectEvent" and event["action"] == "ADD")
    if is_made and chance.random() < 0.6:
        event["ilmd"] = {"ex:origin": chance.choice(["CN", "DE"]), "ex:box": {"ex:weight": chance.randrange(4)}}
    if chance.random() < 0.4:
        event["ex:count"] = chance.choice([1, 2, Decimal("2.50"), "2", "a"])
        event["ex:deep"] = {"ex:level": chance.randrange(5), "ex:since": time_text(NOW - chance.randrange(9))}
    return event


def _sensor(chance: random.Random) -> dict[str, Any]:
    report: dict[str, Any] = {"type": "Temperature", "value": Decimal(chance.randrange(-40, 80)) / 4, "uom": "CEL"}
    if chance.random() < 0.4:
        report = {"type": "Temperature", "value": chance.randrange(20, 90), "uom": "FAH", "minValue": 20}
    if chance.random() < 0.2:
        report |= {
            "microorganism": "https://www.ncbi.nlm.nih.gov/taxonomy/1126011",
            "percRank": chance.choice([20, 50]),
            "percValue": 3,
        }
    if chance.random() < 0.3:
        report |= {"stringValue": "s", "booleanValue": chance.random() < 0.5, "hexBinaryValue": "F0f0"}
    metadata = {
        "time": time_text(NOW - 60),
        "deviceID": chance.choice(["urn:epc:id:giai:9521000.1", "https://id.gs1.org/8004/95210002"]),
    }
    if chance.random() < 0.5:
        metadata |= {
            "startTime": time_text(NOW - 90),
            "endTime": time_text(NOW - 30),
            "bizRules": "https://x.example/r",
        }
    return {
        "sensorMetadata": metadata | {"ex:probe": "p"},
        "sensorReport": [report | {"ex:raw": 7}],
        "ex:mount": "wall",
    }


def log_events(database: Database, events: list[dict[str, Any]], *, device: str = "line-1") -> World:
    """Log events of one device, a message each, and index them."""
    world = World(database).start()
    send_events(world, events, device=device)
    index_all(world)
    return world


def send_events(world: World, events: list[dict[str, Any]], *, device: str = "line-1") -> None:
    """Admit events, each in a message of its own; the clock goes on by a second every tenth."""
    for number, event in enumerate(events):
        if number % 10 == 0:
            world.now += 1
        try:
            world.send(device, event)
        except Rejected as error:
            raise AssertionError(f"{error.message} in {event}") from error


def index_all(world: World) -> None:
    """Sequence what waits and let the index take it."""
    while (made := world.step()) is not None and made.has_more:
        pass
    run_all(world.database, QueryIndex())
