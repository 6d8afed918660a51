"""Token buckets: a flood delays itself."""

import pytest

from core.message import split
from ingest.rates import DEFERRED_DEVICE_MAX, DEVICE, STRANGER, Buckets, FairQueue, Rate, Ticket, scope_rate
from tests.ingest.rig import Rig


@pytest.mark.unit
def test_bucket_gives_its_burst_then_its_rate() -> None:
    buckets, rate = Buckets(), Rate(per_s=10, burst=5)

    at_once = [buckets.take("device", rate, 0.0) for _ in range(7)]
    later = [buckets.take("device", rate, 0.2) for _ in range(3)]

    assert at_once == [True] * 5 + [False] * 2
    assert later == [True, True, False]


@pytest.mark.unit
def test_flood_is_held_back_in_order_and_others_pass() -> None:
    queue: FairQueue[str] = FairQueue(1_000)
    rate = Rate(per_s=10, burst=10)

    flood = [Ticket("flooder", "org", rate, f"f{number}") for number in range(50)]
    honest = [Ticket(f"honest{number}", "org", rate, f"h{number}") for number in range(99)]
    ready, shed = queue.admit([*flood, *honest], 0.0)

    assert [work for work in ready if work[0] == "h"] == [f"h{number}" for number in range(99)]
    assert [work for work in ready if work[0] == "f"] == [f"f{number}" for number in range(10)]
    assert (shed, queue.deferred) == ([], 40)
    assert queue.admit([], 1.0) == ([f"f{number}" for number in range(10, 20)], [])


@pytest.mark.unit
def test_what_nobody_can_hold_back_is_shed() -> None:
    queue: FairQueue[int] = FairQueue(1_000)

    _, shed = queue.admit([Ticket("d", "o", Rate(1, 1), number) for number in range(300)], 0.0)

    assert shed == list(range(DEFERRED_DEVICE_MAX + 1, 300))


@pytest.mark.unit
def test_rate_comes_from_the_scope_of_a_known_key() -> None:
    assert scope_rate(None) == STRANGER
    assert scope_rate({}) == DEVICE
    assert scope_rate({"rate": {"per_s": 3, "burst": 9}}) == Rate(3, 9)
    assert scope_rate({"rate": {"per_s": "many"}}) == Rate(DEVICE.per_s, DEVICE.per_s)


def test_garbage_slows_its_own_sender_and_nobody_else(small_rig: Rig) -> None:
    rig = small_rig
    for number in range(400):
        rig.send("line-1", b"garbage %d" % number)
    publish = rig.sign("truck-1")
    rig.send("truck-1", publish)

    rig.monotonic += 0.001
    rig.worker.run_once()

    assert rig.stored() == [split(publish).id]
    assert rig.worker.metrics.deferred._value.get() > 0
