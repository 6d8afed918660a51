"""A mirror over HTTP against honest and lying operators; every lie is named by its entry and never cosigned."""

import base64
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from contracts import rpc
from core.crypto import P256Private
from core.errors import Rejected, Unavailable
from core.merkle import tree_root
from core.message import read_entry
from core.notes import Checkpoint, Verifier, open_note, sign_note
from core.proofs import Policy, Report, questions, verify
from core.records import common, key_members, read_record
from ledger import itemmap, tiles
from ledger.erasure import carry_out
from ledger.erasure_request import sign_request
from ledger.log import last_checkpoint, leaf_of
from ledger.mirror import Round, close_refusals
from ledger.mirror_source import LogSource
from ledger.mirror_tables import cosigned
from ledger.proofs import build_bundle
from ledger.tables import MESSAGE, entries, messages
from tests.chain_fixtures import CHECKPOINT_KEY
from tests.ledger.world import AUD, LOG, MAKER, OPERATOR, seen, sgtin_id
from tests.mirror_rig import REGULATOR, Operator, copied, mirror_address
from tracebond.mirror_run import Folder


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An operator's folder with a small anchored log, and a mirror's folder that is registered in it."""
    folder = tmp_path_factory.mktemp("mirrors")
    (folder / "operator").mkdir()
    operator = Operator(folder / "operator").first()
    mirror = Folder(folder / "mirror", "mirror.example")
    operator.admit_mirror(mirror)
    mirror.close()
    operator.close()
    return folder


class Case:
    """One operator and one mirror, each on its own copy of the told folders."""

    def __init__(self, told: Path, folder: Path) -> None:
        self.operator = copied(told / "operator", folder / "operator")
        shutil.copytree(told / "mirror", folder / "mirror")
        self.folder = Folder(folder / "mirror")
        self._open, self._url = ExitStack(), ""
        self._restore_chains()
        self.clock = int(time.time())

    def _restore_chains(self) -> None:
        self.operator.devices = {n: P256Private.from_secret(n.encode()) for n in ("line-1", "truck-1")}
        names = {key.thumbprint(): name for name, key in self.operator.devices.items()}
        self.operator.owners = {"line-1": MAKER, "truck-1": "https://id.gs1.org/417/9521000000025"}
        with self.operator.database.reading() as tx:
            for (jwt,) in tx.execute(messages.select().with_only_columns(messages.c.jwt).order_by(messages.c.arrival)):
                signed = read_entry(bytes(jwt))
                self.operator.chains[names[signed.kid]] = (signed.seq + 1, signed.id)

    def round(self) -> Round:
        """One round of a mirror that starts anew, as after a restart."""
        self.clock += 1
        return self.folder.mirror(mirror_address(self.operator, self.url)).round(self.clock)

    @property
    def url(self) -> str:
        """The operator's server, started on first use."""
        if not self._url:
            self._url = self._open.enter_context(self.operator.serving())
        return self._url

    def refused(self, code: str, *, leaf: int | None, kind: str | None = None) -> Round:
        """A round that must refuse, and a second one that must stay refusing, with nothing cosigned beyond."""
        before = self.cosigned()
        made = self.round()
        assert made.refusal is not None, made
        assert (made.refusal.code, made.refusal.leaf) == (code, leaf), made.refusal
        assert kind is None or made.refusal.kind == kind
        self.operator.rewrite = lambda path, status, body: (status, body)
        assert self.round().state == "refused"
        assert self.cosigned() == before
        return made

    def cosigned(self) -> list[int]:
        with self.folder.database.reading() as tx:
            return [row.size for row in tx.execute(cosigned.select().order_by(cosigned.c.size))]

    def close(self) -> None:
        self._open.close()
        self.folder.close()
        self.operator.close()


@pytest.fixture
def case(told: Path, tmp_path: Path) -> Iterator[Case]:
    made = Case(told, tmp_path)
    yield made
    made.close()


def served_bundle(case: Case, item: str, *mirrors: str) -> Report:
    maps = case.operator.bundle_maps()
    with case.operator.database.reading() as tx:
        data = build_bundle(tx, maps, case.operator.place, item, reader="consumer")
    answers = rpc.ask(f"{case.url}/rpc", questions(data))
    return verify(data, answers, Policy(case.operator.deployment.log_contract, mirrors))


def test_an_honest_log_is_replayed_cosigned_and_carried_by_bundles(case: Case) -> None:
    first = case.round()
    case.operator.send("line-1", seen("late", action="ADD", step="commissioning", at=case.operator.now))
    size = case.operator.anchor()
    second = case.round()

    assert (first.state, second.state, second.cosigned) == ("cosigned", "cosigned", size)
    verifier = case.folder.verifier
    report = served_bundle(case, sgtin_id("late"), verifier.encode())
    assert (report.completeness, report.mirrors, len(report.events)) == ("cosigned", ("mirror.example",), 1)
    assert served_bundle(case, sgtin_id("late")).completeness == "operator"
    note = LogSource(case.url, case.folder.requests).checkpoint() or ""
    text, signers = open_note(note, [verifier, Verifier(LOG, CHECKPOINT_KEY.public)])
    assert set(signers) == {"mirror.example", LOG}
    assert text.split("\n")[1] == str(size)


def test_a_round_without_new_anchors_changes_nothing(case: Case) -> None:
    case.round()

    again = case.round()

    assert again.state == "current"
    assert len(case.cosigned()) == 1


def test_what_is_not_anchored_is_not_cosigned(case: Case) -> None:
    case.round()
    case.operator.send("line-1", seen("new", at=case.operator.now))
    case.operator.step()

    made = case.round()

    assert (made.state, made.size) == ("current", case.cosigned()[-1])


def test_a_restart_in_the_middle_goes_on_from_the_committed_tile(case: Case) -> None:
    at = case.operator.now
    case.operator.admit(*(case.operator.message("line-1", [seen(f"x{number}", at=at)]) for number in range(600)))
    size = case.operator.anchor()
    asked: list[str] = []

    def dies(path: str, status: int, body: bytes) -> tuple[int, bytes]:
        asked.append(path)
        return (500, b"") if path.startswith("/log/tile/entries/001") else (status, body)

    case.operator.rewrite = dies
    with pytest.raises(Unavailable, match="HTTP 500"):
        case.round()
    asked.clear()

    def listens(path: str, status: int, body: bytes) -> tuple[int, bytes]:
        asked.append(path)
        return status, body

    case.operator.rewrite = listens
    made = case.round()

    assert (made.state, made.cosigned) == ("cosigned", size)
    assert not any(path.startswith("/log/tile/entries/000") for path in asked)
    assert any(path.startswith("/log/tile/entries/002.p/") for path in asked)


def test_altered_message_bytes_are_named(case: Case) -> None:
    leaf = _leaf_of_first_message(case)

    def alter(path: str, status: int, body: bytes) -> tuple[int, bytes]:
        return (status, _swap(body, 2, leaf, lambda data: _flip(data))) if "/tile/entries/" in path else (status, body)

    case.operator.rewrite = alter
    case.refused("bytes_differ", leaf=leaf, kind="message")


def test_a_cut_item_list_is_named(case: Case) -> None:
    leaf = _leaf_of_first_message(case)

    def cut(path: str, status: int, body: bytes) -> tuple[int, bytes]:
        return (status, _swap(body, 4, leaf, lambda data: data[:-33])) if "/tile/items/" in path else (status, body)

    case.operator.rewrite = cut
    case.refused("wrong_item_list", leaf=leaf, kind="message")


def test_a_logged_item_list_with_a_thing_left_out_is_named(case: Case) -> None:
    message = case.operator.message("line-1", [seen("a", "b", at=case.operator.now)])
    leaf = case.operator.sequencer.size or _size(case)
    case.operator.force_message(message, items=lambda blob: (1).to_bytes(2, "big") + blob[2:35])
    case.operator.anchor()

    made = case.refused("wrong_item_list", leaf=leaf, kind="message")

    assert made.refusal is not None
    assert made.refusal.entry_id == base64.urlsafe_b64encode(message.id).decode().rstrip("=")


def test_a_withheld_entry_is_named(case: Case) -> None:
    def withhold(path: str, status: int, body: bytes) -> tuple[int, bytes]:
        return (status, _cut_after(body, 2, 9)) if "/tile/entries/" in path else (status, body)

    case.operator.rewrite = withhold
    case.refused("withheld", leaf=9)


def test_a_wrong_map_root_in_an_anchored_state_leaf_is_named(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.round()
    case.operator.send("line-1", seen("hidden", at=case.operator.now))
    case.operator.sequencer.open()
    monkeypatch.setattr(type(case.operator.sequencer._map), "root", lambda self: bytes(range(32)))
    size = case.operator.anchor()
    monkeypatch.undo()

    case.refused("wrong_map_root", leaf=size - 1, kind="state")


def test_a_leaf_left_out_of_the_map_is_named_by_the_state_leaf(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.operator.send("line-1", seen("recalled", at=case.operator.now))
    original = itemmap.message_steps
    monkeypatch.setattr("ledger.log.message_steps", lambda *given: [(s, keys[1:]) for s, keys in original(*given)])
    size = case.operator.anchor()
    monkeypatch.undo()

    case.refused("wrong_map_root", leaf=size - 1, kind="state")


def test_an_org_record_that_is_not_what_the_registry_holds_is_named(case: Case) -> None:
    stranger = P256Private.from_secret(b"stranger")
    case.operator.change(MAKER, P256Private.from_secret(b"the maker's new key"))
    payload = case.operator.org_payload(MAKER, roles=2, version=1) | {"jwk": stranger.jwk()}
    leaf = _size(case)
    case.operator.force_record(payload, case.operator.orgs[OPERATOR])
    case.operator.anchor()

    case.refused("org_differs", leaf=leaf, kind="record")


def test_an_honest_change_of_key_passes(case: Case) -> None:
    newer = P256Private.from_secret(b"the maker's new key")
    case.operator.change(MAKER, newer)
    case.operator.orgs[MAKER] = newer
    case.operator.record(case.operator.org_payload(MAKER, roles=2, version=1), signer=OPERATOR)
    case.operator.enroll("line-2", MAKER)
    case.operator.anchor()

    assert case.round().state == "cosigned"


def test_a_change_in_the_registry_that_is_kept_out_of_the_log_is_noticed(case: Case) -> None:
    case.operator.change(MAKER, P256Private.from_secret(b"the maker's new key"))
    case.operator.send("line-1", seen("one", at=case.operator.now))
    case.operator.anchor()
    assert case.round().state == "cosigned"
    case.operator.now += 4_000
    case.operator.send("line-1", seen("two", at=case.operator.now))
    size = case.operator.anchor()

    case.refused("org_withheld", leaf=size - 1, kind="state")


def test_a_message_after_the_end_of_its_key_is_named(case: Case) -> None:
    seq, last = case.operator.chains["line-1"]
    assert last is not None
    case.operator.end("line-1", last=base64.urlsafe_b64encode(last).decode().rstrip("="), seq=seq - 1)
    case.operator.anchor()
    assert case.round().state == "cosigned"
    leaf = _size(case)
    case.operator.force_message(case.operator.message("line-1", [seen("stolen", at=case.operator.now)]))
    case.operator.anchor()

    case.refused("key_ended", leaf=leaf, kind="message")


def test_a_record_by_somebody_who_may_not_say_it_is_named(case: Case) -> None:
    members = {"subject": sgtin_id(1), "fact": "ownership", "value": {"owner": REGULATOR}}
    payload = common(t="master", aud=AUD, log=LOG, org=MAKER, iat=case.operator.now) | members
    leaf = _size(case)
    case.operator.force_record(payload, case.operator.orgs[REGULATOR])
    case.operator.anchor()

    case.refused("unknown_signer", leaf=leaf, kind="record")


def test_a_second_key_record_of_one_kid_is_named(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    members = key_members(case.operator.devices["line-1"].jwk(), iss="another", use="device", scope={})
    leaf = _size(case)
    payload = common(t="key", aud=AUD, log=LOG, org=MAKER, iat=case.operator.now) | members
    case.operator.force_record(payload, case.operator.orgs[MAKER])
    monkeypatch.setattr("ledger.log.apply_records", lambda tx, sequenced: None)
    case.operator.anchor()

    case.refused("key_exists", leaf=leaf, kind="record")


def test_an_equivocation_that_no_record_tells_is_named_and_a_told_one_passes(case: Case) -> None:
    one = case.operator.message("line-1", [seen("fork-1", at=case.operator.now)], keep=False)
    two = case.operator.message("line-1", [seen("fork-2", at=case.operator.now)])
    case.operator.admit(one, two)
    case.operator.anchor()
    assert case.round().state == "cosigned", "the record may follow before the next state leaf but one"
    case.operator.send("truck-1", seen("x", at=case.operator.now))
    case.operator.step()
    case.operator.send("truck-1", seen("y", at=case.operator.now))
    case.operator.anchor()

    with case.operator.database.reading() as tx:
        leaf = leaf_of(tx, two.id)
    case.refused("equivocation_hidden", leaf=leaf, kind="message")


def test_a_told_equivocation_is_evidence_and_no_fault(case: Case) -> None:
    one = case.operator.message("line-1", [seen("fork-1", at=case.operator.now)], keep=False)
    two = case.operator.message("line-1", [seen("fork-2", at=case.operator.now)])
    case.operator.admit(one, two)
    ids = [base64.urlsafe_b64encode(each.id).decode().rstrip("=") for each in (one, two)]
    members: dict[str, Any] = {"kid": one.signed.kid, "iss": one.signed.iss, "seq": one.signed.seq, "ids": ids}
    payload = common(t="equivocation", aud=AUD, log=LOG, org=MAKER, iat=case.operator.now)
    case.operator.record(payload | members, signer=OPERATOR)
    for name in ("x", "y"):
        case.operator.anchor()
        case.operator.send("truck-1", seen(name, at=case.operator.now))
    case.operator.anchor()

    assert case.round().state == "cosigned"


def test_a_false_accusation_of_a_key_is_named(case: Case) -> None:
    message = case.operator.send("line-1", seen("one", at=case.operator.now))
    ids = [base64.urlsafe_b64encode(message.id).decode().rstrip("="), "A" * 43]
    kid = message.signed.kid
    members: dict[str, Any] = {"kid": kid, "iss": message.signed.iss, "seq": message.signed.seq, "ids": ids}
    leaf = _size(case) + 1
    payload = common(t="equivocation", aud=AUD, log=LOG, org=MAKER, iat=case.operator.now)
    case.operator.record(payload | members, signer=OPERATOR)
    case.operator.anchor()

    case.refused("false_equivocation", leaf=leaf, kind="record")


def test_a_forked_checkpoint_is_refused(case: Case) -> None:
    size = case.round().cosigned
    forged = sign_note(Checkpoint(LOG, size, tree_root([bytes(32)])).text(), LOG, CHECKPOINT_KEY)

    def fork(path: str, status: int, body: bytes) -> tuple[int, bytes]:
        return (status, forged.encode()) if path == "/log/checkpoint" else (status, body)

    case.operator.rewrite = fork
    case.refused("forked", leaf=size - 1, kind="checkpoint")


def test_a_checkpoint_that_the_contract_does_not_hold_is_not_cosigned(case: Case) -> None:
    size = _size(case)
    forged = sign_note(Checkpoint(LOG, size, tree_root([bytes(32)])).text(), LOG, CHECKPOINT_KEY)

    def fork(path: str, status: int, body: bytes) -> tuple[int, bytes]:
        return (status, forged.encode()) if path == f"/log/checkpoint/{size}" else (status, body)

    case.operator.rewrite = fork
    case.refused("forked", leaf=size - 1, kind="checkpoint")


def test_a_rolled_back_log_is_refused(case: Case) -> None:
    old = _note(case)
    case.operator.send("line-1", seen("gone", at=case.operator.now))
    case.operator.anchor()
    case.round()

    def back(path: str, status: int, body: bytes) -> tuple[int, bytes]:
        return (status, old.encode()) if path == "/log/checkpoint" else (status, body)

    case.operator.rewrite = back
    case.refused("rolled_back", leaf=int(old.split("\n")[1]), kind="checkpoint")


def test_a_checkpoint_by_another_key_is_refused(case: Case) -> None:
    note = _note(case)
    signature = base64.b64decode(note.rsplit(" ", 1)[1])
    bad = note.rsplit(" ", 1)[0] + " " + base64.b64encode(_flip(signature, 20)).decode() + "\n"

    def swap(path: str, status: int, body: bytes) -> tuple[int, bytes]:
        return (status, bad.encode()) if path == "/log/checkpoint" else (status, body)

    case.operator.rewrite = swap
    case.refused("bad_signature", leaf=None, kind="checkpoint")


def test_public_tiles_that_differ_from_the_entries_are_refused(case: Case) -> None:
    def swap(path: str, status: int, body: bytes) -> tuple[int, bytes]:
        return (status, _flip(body, 32 * 3)) if path.startswith("/log/tile/0/") else (status, body)

    case.operator.rewrite = swap
    case.refused("bytes_differ", leaf=3)


def test_a_refusal_is_told_to_the_operator_and_closed_only_by_its_keeper(case: Case) -> None:
    def withhold(path: str, status: int, body: bytes) -> tuple[int, bytes]:
        return (status, _cut_after(body, 2, 9)) if "/tile/entries/" in path else (status, body)

    case.operator.rewrite = withhold
    case.refused("withheld", leaf=9)
    said = httpx.get(f"{case.url}/mirrors").json()["mirrors"][0]
    metrics = httpx.get(f"{case.url}/metrics").text

    assert (said["size"], said["refusal"]["code"], said["refusal"]["leaf"]) == (0, "withheld", 9)
    assert 'tracebond_mirror_refuses{mirror="mirror.example"} 1.0' in metrics
    assert close_refusals(case.folder.database, 1, "the disk was replaced") == 1
    assert case.round().state == "cosigned"


def test_after_resuming_the_log_is_held_to_what_was_cosigned(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    size = case.round().cosigned
    with case.folder.database.transaction() as tx:
        tx.execute(cosigned.update().values(root=bytes(32)))
    close_refusals(case.folder.database, 1, "moved")

    case.refused("forked", leaf=size - 1, kind="state")


def test_a_mirror_whose_key_ended_is_not_served(case: Case) -> None:
    case.operator.owners["mirror"] = REGULATOR
    case.operator.devices["mirror"] = case.folder.requests
    case.operator.end("mirror", last=None, seq=-1)
    case.operator.anchor()

    with pytest.raises(Rejected, match="has ended"):
        case.round()
    assert case.cosigned() == []


def _size(case: Case) -> int:
    with case.operator.database.reading() as tx:
        found = last_checkpoint(tx)
    assert found is not None
    return found.size


def _note(case: Case) -> str:
    with case.operator.database.reading() as tx:
        found = last_checkpoint(tx)
    assert found is not None
    return found.note


def _leaf_of_first_message(case: Case) -> int:
    with case.operator.database.reading() as tx:
        return int(tx.execute(sa.select(sa.func.min(entries.c.leaf)).where(entries.c.kind == MESSAGE)).scalar_one())


def _split(body: bytes, width: int) -> list[bytes]:
    parts, at = [], 0
    while at < len(body):
        end = at + width + int.from_bytes(body[at : at + width], "big")
        parts.append(body[at + width : end])
        at = end
    return parts


def _swap(body: bytes, width: int, index: int, change: Callable[[bytes], bytes]) -> bytes:
    parts = _split(body, width)
    parts[index] = change(parts[index])
    return b"".join(len(part).to_bytes(width, "big") + part for part in parts)


def _cut_after(body: bytes, width: int, count: int) -> bytes:
    return b"".join(len(part).to_bytes(width, "big") + part for part in _split(body, width)[:count])


def _flip(data: bytes, at: int = 150) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_an_erasure_that_its_owner_asked_for_passes_and_one_that_nobody_asked_for_is_named(case: Case) -> None:
    message = case.operator.send("line-1", seen("person", at=case.operator.now))
    leaf = _size(case)
    case.operator.anchor()
    given: dict[str, Any] = {"aud": AUD, "log": LOG, "org": MAKER, "leaf": leaf, "event": 0, "names": ["readPoint"]}
    given |= {"message": base64.urlsafe_b64encode(message.id).decode().rstrip("="), "iat": 1, "reason": "a person"}
    with case.operator.database.transaction() as tx:
        text = sign_request(case.operator.orgs[MAKER], **given)
        done = carry_out(tx, text, operator=case.operator.orgs[OPERATOR], now_ms=1)
    case.operator.anchor()
    assert case.round().state == "cosigned"
    with case.operator.database.reading() as tx:
        payload = dict(read_record(tiles.entry(tx, leaf_of(tx, done.record) or 0).data).payload)
    forged = sign_request(case.operator.orgs[REGULATOR], **(given | {"names": ["bizLocation"]}))
    payload |= {"names": ["bizLocation"], "owner": {**payload["owner"], "jws": forged}}
    place = _size(case)
    case.operator.force_record(payload, case.operator.orgs[OPERATOR])
    case.operator.anchor()

    case.refused("bad_signature", leaf=place, kind="record")
