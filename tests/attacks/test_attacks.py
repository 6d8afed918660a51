"""The attacks on a log that are worth trying: each is carried out here, and whoever notices is written into a table."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from contracts.chain import Reverted
from core import merkle
from core.bundle import origin_hash
from core.canonical import b64u
from core.errors import Broken, Rejected
from core.merkle import leaf_hash
from core.message import issue, open_message, split
from core.notes import Checkpoint, sign_note
from core.proofs import Report
from core.records import common, key_members
from ledger import chains, itemmap, store, tables, tiles
from ledger.followers import run_all
from ledger.log import leaf_of
from ledger.receipt_audit import BROKEN
from ledger.state import views
from tests.attacks.scene import Attacked, Table, log_again, unprotected, without
from tests.chain_fixtures import CHECKPOINT_KEY
from tests.ledger.test_mirror import Case
from tests.ledger.world import AUD, LOG, MAKER, OPERATOR, seen, sgtin_id
from tests.mirror_rig import Operator
from tracebond.mirror_run import Folder

LOT = "urn:epc:class:lgtin:9521000.012345.L7"
TABLE = Table()


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attacks")
    (folder / "operator").mkdir()
    operator = Operator(folder / "operator").first()
    mirror = Folder(folder / "mirror", "mirror.example")
    operator.admit_mirror(mirror)
    mirror.close()
    operator.close()
    return folder


@pytest.fixture
def scene(told: Path, tmp_path: Path) -> Iterator[Attacked]:
    case = Case(told, tmp_path)
    yield Attacked(case)
    case.close()


def leaf(scene: Attacked, ident: bytes) -> int:
    with scene.operator.database.reading() as tx:
        found = leaf_of(tx, ident)
    assert found is not None
    return found


def mirror_names(scene: Attacked, attack: str, since: int) -> str:
    """The mirror refuses at its first round; the row tells how many leaves lay between."""
    refusal = scene.case.round().refusal
    assert refusal is not None
    where = "a checkpoint" if refusal.leaf is None else f"leaf {refusal.leaf}, {refusal.leaf - since} after the attack"
    TABLE.note(attack, f"mirror: {refusal.code}", f"its first round over it; names {where}")
    return refusal.code


def audit_names(scene: Attacked, attack: str, code: str) -> None:
    found = [one for one in scene.audit() if one.code == code]
    assert found, f"the audit does not say {code}"
    where = found[0].message if found[0].leaf is None else f"names leaf {found[0].leaf}"
    TABLE.note(attack, f"audit: {code}", f"the next run; {where}")


def refused(scene: Attacked, attack: str, bundle: dict[str, object]) -> None:
    with pytest.raises(Rejected) as error:
        scene.verified(bundle)
    TABLE.note(attack, f"bundle verifier: {error.value.code}", "when the bundle is read, offline")


def test_one_event_of_an_item_left_out_of_the_map(scene: Attacked, monkeypatch: pytest.MonkeyPatch) -> None:
    attack = "one event of an item left out (map stepped wrongly, anchored)"
    hidden = scene.operator.send("line-1", seen("hidden", at=scene.operator.now))
    original = itemmap.message_steps
    monkeypatch.setattr("ledger.log.message_steps", lambda *given: [(s, keys[1:]) for s, keys in original(*given)])
    scene.operator.anchor()
    monkeypatch.undo()

    assert mirror_names(scene, attack, leaf(scene, hidden.id)) == "wrong_map_root"
    audit_names(scene, attack, "checkpoint_differs")


def test_one_message_of_a_device_kept_out_of_the_log(scene: Attacked) -> None:
    attack = "one device's message left out"
    scene.receipts_start()
    lost = scene.operator.message("line-1", [seen("lost", at=scene.operator.now)])
    receipt = scene.receipt(lost)
    after = scene.operator.send("line-1", seen("next", at=scene.operator.now))
    scene.operator.now += 61
    scene.operator.anchor()

    verdict = scene.judged(receipt)
    run_all(scene.operator.database, views())
    with scene.operator.database.reading() as tx:
        gaps = chains.gaps(tx, kid=after.signed.kid)

    assert (verdict.status, bool(gaps)) == (BROKEN, True)
    TABLE.note(attack, "receipt auditor: broken", "with the first anchored state leaf later than the promise (60 s)")
    TABLE.note(attack, "follower of chains: gap", f"with the device's next message; names seq {gaps[0].first}")


def test_the_tail_cut_off(scene: Attacked) -> None:
    attack = "the tail cut off after anchoring"
    size = scene.operator.sequencer.size
    scene.operator.send("line-1", seen("cut", at=scene.operator.now))
    scene.operator.anchor()
    unprotected(scene.operator)
    with scene.operator.database.transaction() as tx:
        arrivals = sa.select(tables.entries.c.arrival).where(tables.entries.c.leaf >= size)
        tx.execute(tables.messages.delete().where(tables.messages.c.arrival.in_(arrivals)))
        tx.execute(tables.entries.delete().where(tables.entries.c.leaf >= size))
        tx.execute(tables.checkpoints.delete().where(tables.checkpoints.c.size > size))
        blob = bytes(tx.execute(sa.select(tables.tiles.c.hashes).where(tables.tiles.c.level == 0)).scalar_one())
        tx.execute(tables.tiles.update().where(tables.tiles.c.level == 0).values(hashes=blob[: 32 * size]))

    with pytest.raises(Broken, match="database_behind_chain"):
        scene.operator.anchorer.check_start(now_ms=1)
    TABLE.note(attack, "start-up check: database_behind_chain", "before the process does anything")
    audit_names(scene, attack, "behind_chain")


def recalled(scene: Attacked) -> tuple[dict[str, object], int]:
    """The bundle of a unit whose lot was recalled, and the leaf of the recall."""
    now = scene.operator.now
    made = seen("r1", action="ADD", step="commissioning", at=now, ilmd={"cbvmda:lotNumber": "L7"})
    scene.operator.send("line-1", made)
    lot = seen(step="inspecting", at=now, disposition="recalled", quantityList=[{"epcClass": LOT}])
    del lot["epcList"]
    recall = scene.operator.send("line-1", lot)
    scene.operator.anchor()
    return scene.bundle(sgtin_id("r1")), leaf(scene, recall.id)


def test_a_recall_of_the_lot_hidden_behind_a_serial(scene: Attacked) -> None:
    attack = "a lot's recall hidden behind a serial"
    bundle, recall = recalled(scene)
    honest: Report = scene.verified(bundle)
    assert honest.coverage == "whole"
    assert recall in {entry["index"] for entry in bundle["entries"]}  # type: ignore[attr-defined]

    refused(scene, attack, without(bundle, recall))

    lot = next(one for one in bundle["histories"] if recall in [step[0] for step in one["steps"]])  # type: ignore[attr-defined]
    kept = [one for one in bundle["histories"] if one is not lot]  # type: ignore[attr-defined]
    names = {step[0] for one in kept for step in one["steps"]} | {
        entry["index"]
        for entry in bundle["entries"]
        if entry["index"] != recall  # type: ignore[attr-defined]
    }
    entries = [entry for entry in bundle["entries"] if entry["index"] in names]  # type: ignore[attr-defined]
    thin = scene.verified(bundle | {"histories": kept, "entries": entries})
    assert (thin.coverage, thin.uncovered > 0) == ("partial", True)
    TABLE.note(attack, f"bundle verifier: {thin.coverage} history", "when the bundle is read: says what it leaves out")


def test_a_withheld_error_declaration(scene: Attacked) -> None:
    attack = "a withheld error declaration"
    now = scene.operator.now
    wrong = seen("e1", at=now, eventID="urn:uuid:0a1b2c3d-0000-4000-8000-000000000001")
    scene.operator.send("line-1", wrong)
    declared = scene.operator.send(
        "line-1", wrong | {"errorDeclaration": {"declarationTime": wrong["eventTime"], "reason": "incorrect_data"}}
    )
    scene.operator.anchor()
    bundle = scene.bundle(sgtin_id("e1"))
    assert len(scene.verified(bundle).events) == 2

    refused(scene, attack, without(bundle, leaf(scene, declared.id)))


def test_a_message_rewritten_between_receipt_and_checkpoint(scene: Attacked) -> None:
    attack = "rewriting before anchoring"
    scene.receipts_start()
    original = scene.operator.message("line-1", [seen("before", at=scene.operator.now)], keep=False)
    receipt = scene.receipt(original)
    scene.operator.send("line-1", seen("after", at=scene.operator.now))
    scene.operator.now += 61
    scene.operator.anchor()

    assert scene.judged(receipt).status == BROKEN
    TABLE.note(attack, "receipt auditor: broken", "with the first anchored state leaf later than the promise (60 s)")

    waiting = scene.operator.send("line-1", seen("stored", at=scene.operator.now))
    unprotected(scene.operator, ["messages"])
    with scene.operator.database.transaction() as tx:
        same = tables.messages.c.id == waiting.id
        tx.execute(tables.messages.update().where(same).values(jwt=waiting.signed.jwt[:-2] + b"AA"))
    with pytest.raises(Broken) as stopped:
        scene.operator.step()
    TABLE.note(attack, f"sequencer: {stopped.value.code}", "before the checkpoint is signed")


def test_a_swapped_leaf_with_all_merkle_tables_made_anew(scene: Attacked) -> None:
    attack = "a swapped leaf, Merkle tables recomputed and signed again"
    victim = scene.operator.send(
        "line-1",
        seen("truth", at=scene.operator.now),
    )
    scene.operator.anchor()
    place = leaf(scene, victim.id)
    signed = victim.signed
    forged = open_message(
        split(
            issue(
                [seen("lie", at=scene.operator.now)],
                aud=AUD,
                org=signed.org,
                iss=signed.iss,
                iat=signed.iat,
                seq=signed.seq,
                prev=signed.prev,
                key=scene.operator.devices["line-1"],
                salts=lambda: bytes(16),
            )
        ),
        scene.operator.devices["line-1"].public,
    )
    unprotected(scene.operator)
    with scene.operator.database.transaction() as tx:
        same = tables.messages.c.id == victim.id
        arrival = tx.execute(sa.select(tables.messages.c.arrival).where(same)).scalar_one()
        items, ids = store.join_items(forged.events)
        size = len(forged.signed.jwt) + 1 + sum(len(text) + 1 for event in forged.disclosures for text in event)
        values = {"id": forged.id, "leaf_hash": forged.signed.leaf_hash, "jwt": forged.signed.jwt, "items": items}
        values |= {"item_ids": ids, "publish_bytes": size}
        tx.execute(tables.messages.update().where(same).values(values))
        texts = store.join_disclosures(forged.disclosures)
        tx.execute(tables.disclosures.update().where(tables.disclosures.c.arrival == arrival).values(texts=texts))
    log_again(scene.operator)

    codes = {one.code for one in scene.audit()}
    assert codes == {"anchor_differs"}, codes
    audit_names(scene, attack, "anchor_differs")
    with pytest.raises(Broken, match="root_mismatch"):
        scene.operator.anchorer.check_start(now_ms=1)
    TABLE.note(attack, "start-up check: root_mismatch", "before the process does anything")
    mirror_names(scene, attack, place)
    tip = scene.log.log_at(scene.log_id).size
    scene.operator.send("truck-1", seen("more", at=scene.operator.now))
    scene.operator.sequencer.open()
    made = scene.operator.step()
    assert made is not None
    with scene.operator.database.reading() as tx:
        proof = tiles.consistency_proof(tx, tip, made.size)
        merkle.verify_consistency(tip, made.size, proof, tiles.root(tx, tip), made.root)
    call = scene.log.anchor_call(scene.log_id, prev_size=tip, size=made.size, root=made.root, proof=proof)
    with pytest.raises(Reverted) as revert:
        scene.operator.chain.call(scene.log.address, call, sender=scene.operator.deployment.publisher)
    TABLE.note(attack, f"contract: {revert.value.reason}", "when the rewritten log is anchored: it never is")


def test_a_forked_checkpoint(scene: Attacked) -> None:
    attack = "a forked checkpoint shown to one reader"
    size = scene.case.round().cosigned
    forged = sign_note(Checkpoint(LOG, size, merkle.tree_root([bytes(32)])).text(), LOG, CHECKPOINT_KEY)

    def fork(path: str, status: int, body: bytes) -> tuple[int, bytes]:
        return (status, forged.encode()) if path == "/log/checkpoint" else (status, body)

    scene.operator.rewrite = fork
    assert mirror_names(scene, attack, size - 1) == "forked"
    scene.operator.rewrite = lambda path, status, body: (status, body)
    refused(scene, attack, scene.bundle(sgtin_id(0)) | {"checkpoint": forged})


def test_a_thiefs_fork_of_a_devices_chain(scene: Attacked) -> None:
    attack = "a thief's fork of a device's chain"
    thief = scene.operator.message("line-1", [seen("t1", at=scene.operator.now)], keep=False)
    scene.operator.send("line-1", seen("own", at=scene.operator.now))
    [admission] = scene.operator.admit(thief)
    assert admission.status == "equivocation"
    TABLE.note(attack, "store: equivocation", "when the second message of that seq arrives; both are logged")
    untold = scene.operator.anchor()
    audit_names(scene, attack, "equivocation_untold")
    members = {"kid": thief.signed.kid, "iss": thief.signed.iss, "seq": thief.signed.seq}
    with scene.operator.database.reading() as tx:
        same = tables.messages.c.seq == thief.signed.seq
        query = sa.select(tables.messages.c.id).join(tables.keys, tables.keys.c.key_no == tables.messages.c.key_no)
        kid = tables.keys.c.kid == thief.signed.kid
        rows = tx.execute(query.where(same, kid).order_by(tables.messages.c.arrival)).scalars()
        members["ids"] = [b64u(bytes(one)) for one in rows]
    head = common(t="equivocation", aud=AUD, log=LOG, org=MAKER, iat=scene.operator.now)
    scene.operator.record(head | members, signer=OPERATOR)
    size = scene.operator.anchor()

    shown = scene.verified(scene.bundle(sgtin_id("t1")))

    assert [event.is_suspect for event in shown.events] == [True]
    assert scene.audit() == []
    TABLE.note(attack, "bundle verifier: suspect", f"with the record at the next checkpoint, {size - untold} leaves on")


def test_an_old_key_record_replayed_after_its_end(scene: Attacked) -> None:
    attack = "an old key record replayed after its end"
    operator = scene.operator
    kid = operator.devices["line-1"].thumbprint()
    seq, last = operator.chains["line-1"]
    operator.end("line-1", last=None if last is None else b64u(last), seq=seq - 1)
    operator.anchor()
    members = key_members(operator.devices["line-1"].jwk(), iss=operator.iss("line-1"), use="device", scope={})
    payload = common(t="key", aud=AUD, log=LOG, org=MAKER, iat=operator.now + 5) | members

    with pytest.raises(Rejected) as refusal:
        operator.record(payload, signer=MAKER)
    TABLE.note(attack, f"store: {refusal.value.code}", "before it is stored")

    forced = operator.message("line-1", [seen("late", at=operator.now)])
    operator.force_message(forced)
    operator.anchor()
    place = leaf(scene, forced.id)
    with operator.database.reading() as tx:
        assert tiles.entry(tx, place).data == forced.signed.jwt
    assert any("ended" in one.message for one in scene.audit())
    audit_names(scene, attack, "bad_signature")
    mirror_names(scene, attack, place)
    assert kid == forced.signed.kid


def test_a_restored_old_backup(scene: Attacked) -> None:
    attack = "a restored old backup"
    folder = scene.operator.folder
    with (
        closing(sqlite3.connect(folder / "operator.db")) as source,
        closing(sqlite3.connect(folder / "backup.db")) as target,
    ):
        source.backup(target)
    lost = scene.operator.send("line-1", seen("later", at=scene.operator.now))
    scene.operator.anchor()
    place = leaf(scene, lost.id)
    scene.case.round()
    scene.operator.close()
    for name in ("operator.db-wal", "operator.db-shm"):
        (folder / name).unlink(missing_ok=True)
    shutil.copy(folder / "backup.db", folder / "operator.db")

    restored = scene.restarted()

    with pytest.raises(Broken, match="database_behind_chain"):
        restored.operator.anchorer.check_start(now_ms=1)
    TABLE.note(attack, "start-up check: database_behind_chain", "before the process does anything")
    audit_names(restored, attack, "behind_chain")
    mirror_names(restored, attack, place)


def test_garbage_anchored_by_a_thief_and_a_rewritten_successor(scene: Attacked) -> None:
    attack = "garbage anchored with the publisher's key"
    good = scene.operator.anchor() if scene.operator.sequencer.size == 0 else scene.log.log_at(scene.log_id).size
    with scene.operator.database.reading() as tx:
        frontier = merkle.Frontier(good, tiles.frontier(tx, good))
        hashes = [leaf_hash(one.data) for one in tiles.read_entries(tx, 0, good)]
    garbage = [*hashes, leaf_hash(b"garbage")]
    proof = merkle.consistency_proof(garbage, good)
    assert frontier.root() == merkle.tree_root(hashes)
    call = scene.log.anchor_call(
        scene.log_id, prev_size=good, size=good + 1, root=merkle.tree_root(garbage), proof=proof
    )
    scene.publisher(call)
    assert scene.log.log_at(scene.log_id).size == good + 1

    with pytest.raises(Broken, match="database_behind_chain"):
        scene.operator.anchorer.check_start(now_ms=1)
    TABLE.note(attack, "start-up check: database_behind_chain", "before the process does anything")
    audit_names(scene, attack, "behind_chain")
    mirror_names(scene, attack, good)

    attack = "a rewritten successor log after the freeze"
    scene.admin(scene.log.freeze_call(scene.log_id, good), "freeze")
    scene.admin(scene.log.open_log_call(origin_hash(LOG), CHECKPOINT_KEY.public.raw, scene.log_id), "successor")
    successor = scene.log.log_count() - 1
    assert scene.log.log_at(successor).root == merkle.tree_root(hashes)
    assert scene.log.root_at(scene.log_id, good + 1) is None
    TABLE.note(attack, "contract: frozen", "with the freeze: root_at above the last good size is zero")
    rewritten = [leaf_hash(b"other history"), *hashes[1:], leaf_hash(b"more")]
    bad = scene.log.anchor_call(
        successor,
        prev_size=good,
        size=good + 1,
        root=merkle.tree_root(rewritten),
        proof=merkle.consistency_proof(rewritten, good),
    )
    with pytest.raises(Reverted) as revert:
        scene.operator.chain.call(scene.log.address, bad, sender=scene.operator.deployment.publisher)
    TABLE.note(attack, f"contract: {revert.value.reason}", "when the successor is anchored: it never is")


def test_zz_the_table_of_all_attacks(capsys: pytest.CaptureFixture[str]) -> None:
    if os.environ.get("PYTEST_XDIST_WORKER"):
        # Other workers have carried out some of them, so the table is made anew in a process of its own.
        told = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        program = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:xdist", "-p", "no:cacheprovider", __file__]
        done = subprocess.run(program, capture_output=True, text=True, env=told, timeout=280)
        with capsys.disabled():
            sys.stdout.write(done.stdout)
        assert done.returncode == 0, done.stdout
        return
    with capsys.disabled():
        sys.stdout.write(f"\n{TABLE.text()}\n")

    # Alone it has nothing to print; with the others it has a row of each.
    assert len({row.attack for row in TABLE.rows}) in (0, 13)
