"""The receipt auditor names each receipt that was not kept, from what the contract fixes alone."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa

from core.canonical import sha256, unb64u
from core.crypto import P256Private
from core.errors import Rejected
from core.receipts import promise, refusal, sign_receipts
from core.records import common, key_members
from ledger import tables
from ledger.database import Database
from ledger.receipt_audit import BROKEN, KEPT, NOT_AUTHENTIC, PENDING, AnchoredLog, accepted_at, judge, load
from ledger.receipt_source import DatabaseSource
from tests.ledger.world import AUD, LOG, MAKER, OPERATOR, World, seen

RECEIPT_KEY = P256Private.from_secret(b"receipts")


@dataclass
class Anchors:
    """The contract: it holds what was anchored, whatever happens to the database."""

    database: Database
    size: int = 0
    root: bytes = b""
    roles: dict[str, int] = field(default_factory=lambda: {OPERATOR: 1})

    def anchor(self) -> None:
        with self.database.reading() as tx:
            query = sa.select(tables.checkpoints).order_by(tables.checkpoints.c.size.desc()).limit(1)
            row = tx.execute(query).one()
        self.size, self.root = row.size, bytes(row.root)

    def head(self, origin: bytes) -> tuple[int, bytes]:
        assert origin == sha256(LOG.encode())
        return self.size, self.root

    def organisation(self, org: str, version: int) -> tuple[bytes, int] | None:
        key = P256Private.from_secret(org.encode())
        return unb64u(key.thumbprint(), length=32), self.roles.get(org, 2)


class Scene:
    """A log with a receipt key, its anchors, and receipts given by hand."""

    def __init__(self, database: Database) -> None:
        self.world = World(database).start()
        members = key_members(RECEIPT_KEY.jwk(), iss=OPERATOR, use="receipt", scope={})
        self.world.record(
            common(t="key", aud=AUD, log=LOG, org=OPERATOR, iat=self.world.now) | members, signer=OPERATOR
        )
        self.world.step()
        self.source = DatabaseSource(database)
        self.anchors = Anchors(database)

    def promised(self, message: Any, *, at: int | None = None, key: P256Private = RECEIPT_KEY, **more: Any) -> bytes:
        said = {"aud": AUD, "log": LOG} | more
        payload = promise(
            message=message.id,
            leaf=message.signed.leaf_hash,
            publish=sha256(b"publish"),
            accepted_at=self.world.now if at is None else at,
            **said,
        )
        other = promise(message=bytes(32), leaf=bytes(32), publish=bytes(32), accepted_at=1, **said)
        return sign_receipts([other, payload], key, aud=said["aud"], log=said["log"])[1]

    def log(self, since_s: int = 0) -> AnchoredLog:
        self.anchors.anchor()
        return load(self.source, self.anchors, origin=LOG, since_s=since_s)

    def verdict(self, raw: bytes, *, now_s: int | None = None) -> tuple[str, str]:
        found = judge(self.log(), self.source, "r", raw, now_s=self.world.now if now_s is None else now_s)
        return found.status, found.reason


@pytest.fixture
def scene(sqlite_database: Database) -> Scene:
    return Scene(sqlite_database)


def test_a_receipt_whose_leaf_is_in_time_is_kept(database: Database) -> None:
    scene = Scene(database)
    message = scene.world.send("line-1", seen(1))
    raw = scene.promised(message)
    scene.world.step()

    found = judge(scene.log(), scene.source, "r", raw, now_s=scene.world.now)

    assert (found.status, found.delay_s) == (KEPT, 1)


def test_before_its_term_a_receipt_is_pending(scene: Scene) -> None:
    message = scene.world.message("line-1", [seen(1)])
    raw = scene.promised(message)
    scene.world.send("truck-1", seen(2))
    scene.world.step()

    assert scene.verdict(raw)[0] == PENDING


@pytest.mark.parametrize(("late_s", "status"), [(59, KEPT), (61, BROKEN)])
def test_the_first_state_leaf_after_the_term_decides(scene: Scene, late_s: int, status: str) -> None:
    message = scene.world.message("line-1", [seen(1)])
    raw = scene.promised(message)
    scene.world.now += late_s - 1
    scene.world.send("truck-1", seen(2))
    scene.world.step()
    scene.world.admit(message)
    scene.world.step()

    found, reason = scene.verdict(raw)

    assert found == status
    assert ("without it" in reason) == (status == BROKEN)


def test_a_late_checkpoint_that_was_not_anchored_itself_counts_too(scene: Scene) -> None:
    message = scene.world.message("line-1", [seen(1)])
    raw = scene.promised(message)
    scene.world.now += 100
    scene.world.send("truck-1", seen(2))
    scene.world.step()
    scene.world.admit(message)
    scene.world.step()
    scene.world.now += 50
    scene.world.send("truck-1", seen(3))
    scene.world.step()

    assert scene.verdict(raw)[0] == BROKEN


def test_a_leaf_that_never_came_is_broken_as_soon_as_a_later_state_leaf_is_anchored(scene: Scene) -> None:
    raw = scene.promised(scene.world.message("line-1", [seen(1)]))
    scene.world.now += 61
    scene.world.send("truck-1", seen(2))
    scene.world.step()

    found, reason = scene.verdict(raw)

    assert found == BROKEN
    assert "nowhere" in reason


def test_a_missing_heartbeat_breaks_it(scene: Scene) -> None:
    message = scene.world.message("line-1", [seen(1)])
    at = scene.world.now
    raw = scene.promised(message)

    assert scene.verdict(raw, now_s=at + 60 + 86_400)[0] == PENDING
    assert scene.verdict(raw, now_s=at + 60 + 86_401)[0] == BROKEN


def test_a_rewritten_leaf_breaks_the_receipt(scene: Scene) -> None:
    original = scene.world.message("line-1", [seen(1)], keep=False)
    raw = scene.promised(original)
    scene.world.send("line-1", seen(1, step="shipping"))
    scene.world.now += 61
    scene.world.step()

    assert scene.verdict(raw)[0] == BROKEN


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"key": P256Private.from_secret(b"thief")}, "No key record"),
        ({"log": "other.test/log"}, "another log"),
        ({"aud": "https://other.test"}, "another log or service"),
    ],
)
def test_what_the_operator_did_not_sign_is_not_authentic(scene: Scene, more: dict[str, Any], why: str) -> None:
    message = scene.world.send("line-1", seen(1))
    raw = scene.promised(message, **more)
    scene.world.step()

    found, reason = scene.verdict(raw)

    assert found == NOT_AUTHENTIC
    assert why in reason


def test_a_key_of_another_use_or_organisation_signs_no_receipt(scene: Scene) -> None:
    device = scene.world.devices["line-1"]
    other = P256Private.from_secret(b"own receipts")
    members = key_members(other.jwk(), iss=MAKER, use="receipt", scope={})
    scene.world.record(common(t="key", aud=AUD, log=LOG, org=MAKER, iat=1) | members, signer=MAKER)
    message = scene.world.send("line-1", seen(1))
    scene.world.step()

    assert scene.verdict(scene.promised(message, key=device))[0] == NOT_AUTHENTIC
    assert scene.verdict(scene.promised(message, key=other))[0] == NOT_AUTHENTIC
    assert scene.verdict(scene.promised(message))[0] == KEPT


def test_a_flipped_bit_is_not_authentic(scene: Scene) -> None:
    message = scene.world.send("line-1", seen(1))
    raw = scene.promised(message)
    scene.world.step()

    assert scene.verdict(raw.replace(b'"promise_s":60', b'"promise_s":61'))[0] == NOT_AUTHENTIC
    assert scene.verdict(b"no receipt")[0] == NOT_AUTHENTIC


def test_a_refusal_needs_its_record(scene: Scene) -> None:
    message = scene.world.message("line-1", [seen(1)])
    given = refusal(aud=AUD, log=LOG, message=message.id, publish=bytes(32), code="wrong_scope")
    other = refusal(aud=AUD, log=LOG, message=message.id, publish=bytes(32), code="bad_event")
    raw, lie = (sign_receipts([one], RECEIPT_KEY, aud=AUD, log=LOG)[0] for one in (given, other))
    before = scene.verdict(raw)[0]
    members = {"message": given["message"], "kid": message.signed.kid, "iss": message.signed.iss, "seq": 0}
    members |= {"prev": None, "code": "wrong_scope"}
    scene.world.record(common(t="refusal", aud=AUD, log=LOG, org=MAKER, iat=1) | members, signer=OPERATOR)
    scene.world.step()

    assert (before, scene.verdict(raw)[0], scene.verdict(lie)[0]) == (BROKEN, KEPT, BROKEN)


class Lying:
    """A service that gives other bytes than those that are anchored."""

    def __init__(self, source: DatabaseSource, what: str) -> None:
        self._source, self._what = source, what

    def tile(self, number: int, width: int) -> bytes:
        found = self._source.tile(number, width)
        return bytes([found[0] ^ 1]) + found[1:] if self._what == "tile" else found

    def states(self, below: int) -> list[bytes]:
        found = self._source.states(below)
        if self._what == "withheld":
            return found[:1] if below > 30 else []
        return [one.replace(b'"time":1', b'"time":2') for one in found] if self._what == "time" else found

    def receipt_keys(self) -> list[tuple[int, bytes]]:
        found = self._source.receipt_keys()
        return [(leaf + 1, data) for leaf, data in found] if self._what == "keys" else found

    def refusal(self, message: bytes) -> tuple[int, bytes] | None:
        return None


@pytest.mark.parametrize(
    ("what", "code"),
    [("tile", "wrong_root"), ("time", "bad_states"), ("keys", "bad_keys"), ("withheld", "bad_states")],
)
def test_a_service_that_gives_other_bytes_is_caught(scene: Scene, what: str, code: str) -> None:
    for number in range(8):
        scene.world.admit(*[scene.world.message("line-1", [seen(number * 10 + n)]) for n in range(5)])
        scene.world.step()
    scene.anchors.anchor()

    with pytest.raises(Rejected) as refused:
        load(Lying(scene.source, what), scene.anchors, origin=LOG)

    assert refused.value.code == code


def test_an_operator_key_that_the_registry_does_not_know_lends_no_authority(scene: Scene) -> None:
    message = scene.world.send("line-1", seen(1))
    raw = scene.promised(message)
    scene.world.step()
    scene.anchors.roles[OPERATOR] = 2

    assert scene.verdict(raw)[0] == NOT_AUTHENTIC


def test_only_the_needed_state_leaves_are_fetched(scene: Scene) -> None:
    for number in range(5):
        scene.world.send("line-1", seen(number))
        scene.world.step()

    assert len(scene.log().sizes) == 7
    assert len(scene.log(since_s=scene.world.now).sizes) == 2


def test_accepted_at_reads_both_forms(scene: Scene) -> None:
    from core.canonical import canonical_bytes
    from core.jws import sign_jws

    message = scene.world.message("line-1", [seen(1)])
    single = promise(aud=AUD, log=LOG, message=message.id, leaf=bytes(32), publish=bytes(32), accepted_at=77)

    assert accepted_at(scene.promised(message, at=55)) == 55
    assert accepted_at(sign_jws(canonical_bytes(single), typ="tb-receipt+jwt", key=RECEIPT_KEY)) == 77
    assert accepted_at(b"x") is None
