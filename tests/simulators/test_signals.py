"""Signals and seeded randomness have the shape they promise."""

import hashlib
import hmac

import pytest

from core.identifiers import canonical
from simulators.cast import CITIES
from simulators.keys import GS1, URN, Gtin, Key, Spelling, asset, party, place, sscc
from simulators.randomness import SERIAL_ALPHABET, Drbg
from simulators.signals import Room, Route, cycle, daily, distance_km, door_openings

MIDNIGHT = 1_795_536_000  # 2026-11-25 00:00 in Shanghai


def test_beijing_and_shanghai_are_1067_kilometres_apart() -> None:
    assert distance_km(CITIES["Beijing"], CITIES["Shanghai"]) == pytest.approx(1_067, abs=3)


def test_a_day_is_coldest_at_five_and_warmest_at_fifteen() -> None:
    hours = [daily(MIDNIGHT + hour * 3_600, low=10, high=30) for hour in range(24)]

    assert (hours[5], hours[15]) == (10, 30)
    assert min(hours) == 10
    assert max(hours) == 30
    assert all(abs(a - b) < 4 for a, b in zip(hours, hours[1:] + hours[:1], strict=True))


def test_an_opened_door_warms_a_room_and_the_warmth_goes_away() -> None:
    room = Room(4.0, 0.0, 2.0, 600, (MIDNIGHT,))

    values = [room.temperature(MIDNIGHT + seconds, outdoor=30) for seconds in (-1, 0, 600, 3_600)]

    assert values == pytest.approx([4.0, 6.0, 4.7358, 4.0], abs=0.01)  # 2/e = 0.7358


def test_doors_open_by_day_only() -> None:
    opened = door_openings(Drbg.of(1), start=MIDNIGHT, end=MIDNIGHT + 86_399, per_day=50)

    assert len(opened) == 50
    assert all(7 * 3_600 <= at - MIDNIGHT < 19 * 3_600 for at in opened)


def test_a_route_stops_at_its_ends() -> None:
    route = Route((CITIES["Beijing"], CITIES["Tianjin"]), 60)

    assert route.at(-5) == CITIES["Beijing"]
    assert route.at(route.duration_s + 5) == CITIES["Tianjin"]
    assert [fix.at for fix in route.fixes(0, every_s=3_600)] == [3_600]  # about 113 km: one full hour on the way


def test_a_machine_is_busy_for_its_share_of_a_cycle() -> None:
    busy = sum(cycle(at, period_s=100, idle=0, busy=1, duty=0.3) for at in range(1_000))

    assert busy == 300


def test_the_generator_is_hmac_drbg_of_sp_800_90a() -> None:
    """Recomputed here step by step from section 10.1.2 of the publication."""
    key, value = bytes(32), b"\x01" * 32
    for mark in (b"\x00", b"\x01"):
        key = hmac.new(key, value + mark + b"seed", hashlib.sha256).digest()
        value = hmac.new(key, value, hashlib.sha256).digest()
    value = hmac.new(key, value, hashlib.sha256).digest()

    assert Drbg(b"seed").take(32) == value


def test_serials_use_a_whole_alphabet_and_do_not_repeat() -> None:
    drbg = Drbg.of(1)
    serials = {drbg.serial() for _ in range(2_000)}

    assert len(serials) == 2_000
    assert set("".join(serials)) == set(SERIAL_ALPHABET)
    assert len(set(SERIAL_ALPHABET)) == 32


def test_children_of_a_generator_do_not_disturb_it() -> None:
    alone, parent = Drbg.of(1), Drbg.of(1)

    parent.child("a").take(100)

    assert parent.take(32) == alone.take(32)
    assert Drbg.of(1).child("a").take(8) != Drbg.of(1).child("b").take(8)


@pytest.mark.parametrize(
    "key",
    [
        party("9526002"),
        place("9526002", 1),
        place("9526002", 1, "A"),
        asset("9526002", "LINE1"),
        sscc("9526002", 3, 17),
        Gtin("9526002", 1).kind(),
        Gtin("9526002", 1).lot("F1"),
        Gtin("9526002", 1).item("ABC"),
    ],
)
def test_each_key_is_one_thing_in_every_spelling(key: Key) -> None:
    spellings = [spelling.of(key) for spelling in (URN, GS1, Spelling("https://shop.example"))]

    assert len(set(spellings)) == 3
    assert {canonical(spelling) for spelling in spellings} == {key.id}
