"""TransparencyLog against a model that keeps whole leaf lists: whatever is done, roots stay what they were."""

import os
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.contracts import naive_merkle as naive
from tests.contracts.harness import Reverted
from tests.contracts.world import ADMIN, NO_LOG, PAUSER, PUBLISHER, SPARE, STRANGER, ZERO, World, h

IS_CAMPAIGN = bool(os.environ.get("TRACEBOND_CAMPAIGN"))
LEAVES_MAX = 60


@dataclass
class Log:
    """The true entries, and the sizes that were anchored of them."""

    origin: bytes
    key: bytes
    predecessor: int
    leaves: list[bytes]
    anchored: dict[int, bytes] = field(default_factory=dict)
    last_good: int | None = None
    is_succeeded: bool = False

    @property
    def tip(self) -> int:
        return max(self.anchored, default=0)

    def root_at(self, size: int) -> bytes:
        if self.last_good is not None and size > self.last_good:
            return ZERO
        return self.anchored.get(size, ZERO)


def leaf_list(log: int, start: int, forged: bool = False) -> list[bytes]:
    """Leaves from ``start`` on, different in each log."""
    return [h(f"log {log} leaf {place} {forged}") for place in range(start, LEAVES_MAX)]


class LogMachine(RuleBasedStateMachine):
    """One example: a fresh world, and moves by right and wrong parties."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.mark = self.world.node.snapshot()
        self.logs: list[Log] = []
        self.publisher = PUBLISHER
        self.is_paused = False

    def _do(self, expected: str | None, name: str, *values: object, sender: str) -> bool:
        try:
            getattr(self.world.log, name)(*values, sender=sender)
            found = None
        except Reverted as reverted:
            found = str(reverted)
        assert found == expected, (name, values)
        self._compare()
        return found is None

    def _compare(self) -> None:
        assert self.world.log.log_count() == len(self.logs)
        for number, log in enumerate(self.logs):
            size = log.tip if log.last_good is None else log.last_good
            assert self.world.log.log_at(number) == (
                log.origin,
                log.key,
                log.predecessor,
                size,
                log.root_at(size),
                log.last_good is not None,
                log.last_good or 0,
            )
            for size in log.anchored:
                assert self.world.log.root_at(number, size) == log.root_at(size)

    def _numbers(self, frozen: bool) -> list[int]:
        return [number for number, log in enumerate(self.logs) if (log.last_good is not None) is frozen]

    @initialize()
    def a_first_log(self) -> None:
        self.logs.append(Log(h("origin 0"), h("key"), NO_LOG, leaf_list(0, 0)))
        self.world.log.open_log(h("origin 0"), h("key"), NO_LOG, sender=ADMIN)

    @precondition(lambda self: len(self.logs) < 5)
    @rule(sender=st.sampled_from([ADMIN, ADMIN, PUBLISHER]), takes_origin=st.booleans())
    def open_log(self, sender: str, takes_origin: bool) -> None:
        origin = self.logs[0].origin if takes_origin else h(f"origin {len(self.logs)}")
        expected = "not admin" if sender != ADMIN else "paused" if self.is_paused else None
        if expected is None and takes_origin:
            expected = "origin taken"
        if expected is None:
            self.logs.append(Log(origin, h("key"), NO_LOG, leaf_list(len(self.logs), 0)))
        self._do(expected, "open_log", origin, h("key"), NO_LOG, sender=sender)

    @precondition(lambda self: len(self.logs) < 5)
    @rule(data=st.data())
    def open_a_successor(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.logs) - 1))
        before, origin = self.logs[number], h(f"origin {len(self.logs)}")
        expected = "paused" if self.is_paused else None
        if expected is None and before.last_good is None:
            expected = "predecessor not frozen"
        if expected is None and before.is_succeeded:
            expected = "has a successor"
        if expected is None:
            size = before.last_good or 0
            before.is_succeeded = True
            leaves = [*before.leaves[:size], *leaf_list(len(self.logs), size)]
            anchored = {size: before.anchored[size]} if size else {}
            self.logs.append(Log(origin, h("key"), number, leaves, anchored))
        self._do(expected, "open_log", origin, h("key"), number, sender=ADMIN)

    @precondition(lambda self: self._numbers(False))
    @rule(data=st.data(), growth=st.integers(1, 20), sender=st.sampled_from([PUBLISHER] * 5 + [SPARE, ADMIN]))
    def anchor(self, data: st.DataObject, growth: int, sender: str) -> None:
        number = data.draw(st.sampled_from(self._numbers(False)))
        log = self.logs[number]
        size = min(log.tip + growth, LEAVES_MAX)
        root = naive.root(log.leaves[:size])
        proof = naive.proof(log.tip, log.leaves[:size]) if 0 < log.tip < size else []
        expected = "paused" if self.is_paused else "not publisher" if sender != self.publisher else None
        if expected is None and size == log.tip:
            expected = "size must grow"
        before = log.tip
        if expected is None:
            log.anchored[size] = root
        self._do(expected, "anchor", number, before, size, root, proof, sender=sender)

    @precondition(lambda self: any(log.tip > 1 and log.last_good is None for log in self.logs))
    @rule(data=st.data(), growth=st.integers(1, 20))
    def anchor_a_rewritten_history(self, data: st.DataObject, growth: int) -> None:
        """The publisher's own key, a forged entry before the tip, and the best proof there is."""
        can = [n for n in self._numbers(False) if self.logs[n].tip > 1]
        number = data.draw(st.sampled_from(can))
        log = self.logs[number]
        place = data.draw(st.integers(0, log.tip - 1))
        forged = [*log.leaves[:place], h("forged"), *log.leaves[place + 1 :]][: log.tip + growth]
        root, honest = naive.root(forged), log.leaves[: len(forged)]
        proofs = [naive.proof(log.tip, forged), naive.proof(log.tip, honest), [], [root]]
        proof = data.draw(st.sampled_from(proofs))
        expected = "paused" if self.is_paused else None
        if expected is None and len(forged) <= log.tip:
            expected = "size must grow"
        self._do(
            expected or "bad consistency proof",
            "anchor",
            number,
            log.tip,
            len(forged),
            root,
            proof,
            sender=self.publisher,
        )

    @precondition(lambda self: self.logs)
    @rule(data=st.data(), before=st.integers(0, LEAVES_MAX), size=st.integers(0, LEAVES_MAX))
    def anchor_from_anywhere(self, data: st.DataObject, before: int, size: int) -> None:
        number = data.draw(st.integers(0, len(self.logs)))
        if number == len(self.logs):
            expected = "no such log"
        elif self.logs[number].last_good is not None:
            expected = "frozen"
        elif self.logs[number].tip != before:
            expected = "not the tip"
        else:
            return
        expected = "paused" if self.is_paused else expected
        self._do(expected, "anchor", number, before, size, h("root"), [], sender=self.publisher)

    @rule(data=st.data(), sender=st.sampled_from([ADMIN, ADMIN, PUBLISHER]), luck=st.integers(0, 2))
    def freeze(self, data: st.DataObject, sender: str, luck: int) -> None:
        if luck:
            return
        number = data.draw(st.integers(0, len(self.logs) - 1))
        log = self.logs[number]
        last_good = data.draw(st.sampled_from([0, LEAVES_MAX - 1, *log.anchored]))
        expected = "not admin" if sender != ADMIN else "paused" if self.is_paused else None
        if expected is None and log.last_good is not None:
            expected = "frozen"
        if expected is None and last_good and last_good not in log.anchored:
            expected = "size not anchored"
        if expected is None:
            log.last_good = last_good
        self._do(expected, "freeze", number, last_good, sender=sender)

    @rule(account=st.sampled_from([PUBLISHER, PUBLISHER, SPARE]), sender=st.sampled_from([ADMIN, STRANGER]))
    def set_publisher(self, account: str, sender: str) -> None:
        if sender == ADMIN:
            self.publisher = account
        self._do(None if sender == ADMIN else "not admin", "set_publisher", account, sender=sender)

    @rule(sender=st.sampled_from([PAUSER, ADMIN]), luck=st.integers(0, 2))
    def pause_or_unpause(self, sender: str, luck: int) -> None:
        if self.is_paused or luck == 0:
            name = "unpause" if self.is_paused else "pause"
            if sender == PAUSER:
                self.is_paused = not self.is_paused
            self._do(None if sender == PAUSER else "not pauser", name, sender=sender)

    def teardown(self) -> None:
        try:
            self._compare()
            assert self.world.log.publisher() == self.publisher
            assert self.world.log.paused() is self.is_paused
        finally:
            self.world.node.revert(self.mark)


def test_any_sequence_of_anchors_and_freezes_keeps_every_root(world: World) -> None:
    LogMachine.world = world
    # eth-tester is ten times slower; both run the same bytes.
    quick, campaign = (20, 1000) if world.node.name == "anvil" else (5, 100)
    run_state_machine_as_test(
        LogMachine,
        settings=settings(
            max_examples=campaign if IS_CAMPAIGN else quick,
            stateful_step_count=60 if IS_CAMPAIGN else 30,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
