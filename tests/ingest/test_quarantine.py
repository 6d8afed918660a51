"""The quarantine: one row for the same bytes, search, replay, retention and its limit."""

from core.message import split
from core.records import common, key_members
from ingest import quarantine
from ingest.pipeline import replay, service_of
from ingest.quarantine import Fault
from ingest.source import Delivery
from tests.ingest.rig import Rig
from tests.ledger.world import AUD, LOG, MAKER, NOW, OPERATOR, seen

DEVICE = "line-1"


def fault(number: int, *, code: str = "bad_form", device: str = "d") -> Fault:
    delivery = Delivery(f"tb/1/9521000000018/{device}/events", b"x%d" % number, None)
    return Fault(delivery, code, "No message.", gln="9521000000018", device=device)


def test_same_bytes_stay_one_row_that_counts(rig: Rig) -> None:
    for _ in range(3):
        rig.send(DEVICE, b"garbage")
        rig.run()
    rig.send(DEVICE, b"garbage")
    rig.send(DEVICE, b"garbage")
    rig.run()

    with rig.database.reading() as tx:
        [row] = quarantine.search(tx)
        assert row.times == 5
        assert quarantine.fill(tx, rows_max=10) == 0.1


def test_search_finds_by_reason_device_and_time(rig: Rig) -> None:
    with rig.database.transaction() as tx:
        quarantine.put(tx, [fault(1), fault(2, code="too_deep"), fault(3, device="e")], now_ms=1_000)
        quarantine.put(tx, [fault(4)], now_ms=2_000)

    with rig.database.reading() as tx:
        assert len(quarantine.search(tx)) == 4
        assert [row.code for row in quarantine.search(tx, code="too_deep")] == ["too_deep"]
        assert [row.device for row in quarantine.search(tx, gln="9521000000018", device="e")] == ["e"]
        assert [row.last_ms for row in quarantine.search(tx, since_ms=1_500)] == [2_000]
        first = quarantine.search(tx, limit=2)
        rest = quarantine.search(tx, limit=9, before_id=first[-1].id)
        assert len({row.id for row in [*first, *rest]}) == 4
        assert quarantine.count_by_code(tx) == {"bad_form": 3, "too_deep": 1}


def test_text_that_a_database_cannot_hold_is_kept_in_another_spelling(rig: Rig) -> None:
    odd = Fault(Delivery("t\0", b"\0\xff", None), "bad_form", "Half a pair \ud800 and \0.")

    with rig.database.transaction() as tx:
        quarantine.put(tx, [odd], now_ms=1)

    with rig.database.reading() as tx:
        [row] = quarantine.search(tx)
        assert quarantine.load(tx, row.id).raw == b"\0\xff"
        assert "\0" not in row.sentence


def test_replay_after_the_key_was_registered_takes_the_same_bytes(rig: Rig) -> None:
    from core.crypto import P256Private

    world = rig.world
    key = world.devices["late"] = P256Private.from_secret(b"late")
    world.owners["late"] = MAKER
    publish = rig.sign("late", seen("A"))
    rig.send("late", publish)
    rig.run()
    with rig.database.reading() as tx:
        [row] = quarantine.search(tx, code="unknown_key")
    service = service_of(aud=AUD, log=LOG, promise_s=60, heartbeat_s=86_400)
    operator_key = world.orgs[OPERATOR]

    before = replay(rig.database, service, [row.id], operator_key=operator_key, now_ms=lambda: NOW * 1000)
    members = key_members(key.jwk(), iss=world.iss("late"), use="device", scope={})
    world.record(common(t="key", aud=AUD, log=LOG, org=MAKER, iat=NOW) | members, signer=MAKER)
    world.step()
    after = replay(rig.database, service, [row.id], operator_key=operator_key, now_ms=lambda: NOW * 1000)

    assert (before, after) == ({row.id: "unknown_key"}, {row.id: "accepted"})
    assert rig.stored() == [split(publish).id]
    with rig.database.reading() as tx:
        assert quarantine.search(tx) == []
        assert [found.id for found in quarantine.search(tx, state="accepted")] == [row.id]
    rig.send("late", publish)
    rig.run()
    assert [receipt.refused for receipt in rig.receipts()] == [None]


def test_retention_removes_the_oldest_and_makes_room(rig: Rig) -> None:
    with rig.database.transaction() as tx:
        quarantine.put(tx, [fault(number) for number in range(6)], now_ms=1_000)
        quarantine.put(tx, [fault(number) for number in range(6, 10)], now_ms=2_000)

    with rig.database.transaction() as tx:
        assert quarantine.expire(tx, before_ms=1_500, limit=4) == 4
        assert quarantine.expire(tx, before_ms=1_500, limit=4) == 2
        assert quarantine.fill(tx, rows_max=4) == 1.0
        assert quarantine.fill(tx, bytes_max=16) == 0.5


def test_full_quarantine_stops_intake_and_drops_nothing(small_rig: Rig) -> None:
    rig = small_rig
    rig.worker = rig.new_worker(rows_max=3)
    for number in range(3):
        rig.send(DEVICE, b"garbage %d" % number)
    rig.run()
    publish = rig.sign(DEVICE)
    rig.send(DEVICE, publish)

    rig.monotonic += 2
    for _ in range(3):
        assert rig.worker.run_once() == 0
    assert rig.worker.held is not None
    assert len(rig.source.unacknowledged) == 1

    with rig.database.transaction() as tx:
        quarantine.expire(tx, before_ms=NOW * 1000 + 1)
    rig.run()
    assert rig.stored() == [split(publish).id]


def test_a_quarantine_that_fills_slows_intake_before_it_stops_it(small_rig: Rig) -> None:
    rig = small_rig
    waits = []
    for count in (7, 9):
        with rig.database.transaction() as tx:
            quarantine.put(tx, [fault(number) for number in range(count)], now_ms=1)
        rig.worker = rig.new_worker(rows_max=10)
        rig.send(DEVICE, rig.sign(DEVICE))
        before = rig.monotonic
        rig.worker.run_once()
        waits.append(round(rig.monotonic - before, 3))

    # Half a second a batch at 90 % full: (0.9 - 0.8) / (1 - 0.8) of the whole second of a full one.
    assert waits == [0, 0.5]
    assert len(rig.stored()) == 2


def test_brake_holds_intake_until_it_is_off(small_rig: Rig) -> None:
    rig = small_rig
    reasons = ["The disk is nearly full."]
    rig.worker = rig.new_worker(brakes=[lambda: reasons[0] if reasons else None])
    rig.send(DEVICE, rig.sign(DEVICE))

    assert rig.worker.run_once() == 0
    assert rig.worker.held == "The disk is nearly full."
    reasons.clear()
    rig.run()

    assert len(rig.stored()) == 1
