"""POST /add-checkpoint, case by case as C2SP tlog-witness names them, over HTTP."""

import base64
import http.client
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from core.crypto import Ed25519Private
from core.merkle import consistency_proof, tree_root
from core.notes import Checkpoint, Verifier, open_note, sign_note
from ledger import tiles
from ledger.log import checkpoint_at, last_checkpoint
from ledger.mirror import Mirror
from tests.chain_fixtures import CHECKPOINT_KEY
from tests.ledger.world import LOG, seen
from tests.mirror_rig import Operator, mirror_address
from tracebond.mirror_run import Folder
from tracebond.mirror_server import BODY_BYTES_MAX, WitnessServer


@dataclass
class Witness:
    """A running witness port and the operator that may ask it; nothing is cosigned yet."""

    operator: Operator
    mirror: Mirror
    folder: Folder
    url: str
    first: int
    second: int

    def post(self, body: str | bytes) -> httpx.Response:
        return httpx.post(f"{self.url}/add-checkpoint", content=body, timeout=60)

    def note(self, size: int) -> str:
        with self.operator.database.reading() as tx:
            found = checkpoint_at(tx, size)
        assert found is not None
        return found.note

    def proof(self, old: int, new: int) -> list[bytes]:
        with self.operator.database.reading() as tx:
            return tiles.consistency_proof(tx, old, new) if old else []


@pytest.fixture(scope="module")
def witness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Witness]:
    path = tmp_path_factory.mktemp("witness")
    (path / "operator").mkdir()
    operator = Operator(path / "operator").first()
    folder = Folder(path / "mirror", "mirror.example")
    operator.admit_mirror(folder)
    with operator.database.reading() as tx:
        found = last_checkpoint(tx)
    assert found is not None
    first = found.size
    operator.send("line-1", seen("x", at=operator.now))
    made = operator.step()
    assert made is not None
    with operator.serving() as url:
        mirror = folder.mirror(mirror_address(operator, url))
        server = WitnessServer(mirror, "127.0.0.1", 0)
        server.start()
        yield Witness(operator, mirror, folder, server.url, first, made.size)
        server.close()
    folder.close()
    operator.close()


def request(old: int, proof: list[bytes], note: str) -> str:
    lines = "".join(base64.b64encode(node).decode() + "\n" for node in proof)
    return f"old {old}\n{lines}\n{note}"


def cosigned(witness: Witness) -> int:
    last = witness.mirror.last_cosigned()
    return 0 if last is None else int(last.size)


# The cases below stand in one order on purpose: each next one builds on what the witness cosigned before.


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"old 0\n",
        b"old 00\n\nx\n",
        b"old -1\n\nx\n",
        b"old 1 \n\nx\n",
        b"size 0\n\nx\n",
        b"old 0\nnot base64\n\nx\n",
        b"old 0\nAAAA\n\nx\n",
        b"\xff\n\nx\n",
        b"old 0\n" + b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n" * 64 + b"\nx\n",
    ],
)
def test_a_malformed_request_is_400(witness: Witness, body: bytes) -> None:
    assert witness.post(body).status_code == 400


def test_an_unknown_origin_is_404(witness: Witness) -> None:
    note = sign_note(Checkpoint("other.example/log", 5, bytes(32)).text(), "other.example/log", CHECKPOINT_KEY)

    assert witness.post(request(0, [], note)).status_code == 404


def test_a_signature_by_no_trusted_key_is_403(witness: Witness) -> None:
    text = Checkpoint(LOG, 5, bytes(32)).text()

    assert witness.post(request(0, [], sign_note(text, LOG, Ed25519Private(bytes(32))))).status_code == 403
    assert witness.post(request(0, [], sign_note(text, "stranger", CHECKPOINT_KEY))).status_code == 403


def test_an_old_size_above_the_checkpoint_is_400(witness: Witness) -> None:
    assert witness.post(request(witness.first + 1, [], witness.note(witness.first))).status_code == 400


def test_a_wrong_old_size_is_409_with_the_size_cosigned(witness: Witness) -> None:
    answer = witness.post(request(3, [bytes(32)], witness.note(witness.first)))

    assert (answer.status_code, answer.text) == (409, "0\n")
    assert answer.headers["content-type"] == "text/x.tlog.size"


def test_from_zero_the_proof_is_empty_else_422(witness: Witness) -> None:
    answer = witness.post(request(0, [bytes(32)], witness.note(witness.first)))

    assert (answer.status_code, cosigned(witness)) == (422, 0)


def test_a_good_checkpoint_is_replayed_then_cosigned(witness: Witness) -> None:
    note = witness.note(witness.first)
    before = int(time.time())

    answer = witness.post(request(0, [], note))

    assert answer.status_code == 200
    text, signers = open_note(note + answer.text, [witness.folder.verifier, Verifier(LOG, CHECKPOINT_KEY.public)])
    assert signers["mirror.example"] >= before
    assert text == note.split("\n\n")[0] + "\n"
    assert cosigned(witness) == witness.first


def test_the_same_checkpoint_again_is_200_and_another_root_409(witness: Witness) -> None:
    other = sign_note(Checkpoint(LOG, witness.first, tree_root([bytes(32)])).text(), LOG, CHECKPOINT_KEY)

    assert witness.post(request(witness.first, [], witness.note(witness.first))).status_code == 200
    assert witness.post(request(witness.first, [], other)).status_code == 409


def test_a_proof_that_does_not_verify_is_422(witness: Witness) -> None:
    proof = witness.proof(witness.first, witness.second)
    note = witness.note(witness.second)

    answers = [
        witness.post(request(witness.first, changed, note))
        for changed in ([bytes(32), *proof[1:]], proof[:-1], [*proof, bytes(32)])
    ]

    assert [answer.status_code for answer in answers] == [422, 422, 422]
    assert cosigned(witness) == witness.first


def test_the_next_checkpoint_needs_the_last_cosigned_as_old_size(witness: Witness) -> None:
    proof, note = witness.proof(witness.first, witness.second), witness.note(witness.second)

    assert witness.post(request(0, [], note)).text == f"{witness.first}\n"
    assert witness.post(request(witness.first, proof, note)).status_code == 200
    assert witness.post(request(witness.first, [], witness.note(witness.first))).text == f"{witness.second}\n"


def test_other_paths_and_bodies_without_length_are_refused(witness: Witness) -> None:
    assert httpx.post(f"{witness.url}/elsewhere", content=b"x").status_code == 404
    assert httpx.post(f"{witness.url}/add-checkpoint", content=iter([b"old 0\n"])).status_code == 411
    host, port = witness.url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    connection.putrequest("POST", "/add-checkpoint")
    connection.putheader("Content-Length", str(BODY_BYTES_MAX + 1))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_a_signed_checkpoint_that_the_entries_do_not_give_is_never_cosigned(witness: Witness) -> None:
    witness.operator.send("line-1", seen("y", at=witness.operator.now))
    made = witness.operator.step()
    assert made is not None
    with witness.operator.database.reading() as tx:
        hashes = [tiles.tile(tx, 0, 0, made.size)[32 * i : 32 * i + 32] for i in range(made.size)]
    fork = [*hashes[:-1], bytes(32)]
    root = tree_root(fork)
    note = sign_note(Checkpoint(LOG, made.size, root).text(), LOG, CHECKPOINT_KEY)

    answer = witness.post(request(witness.second, consistency_proof(fork, witness.second), note))

    assert (answer.status_code, cosigned(witness)) == (422, witness.second)
    held = witness.mirror.refusal()
    assert held is not None
    assert (held.code, held.leaf) == ("forked", made.size - 1)
    assert witness.post(request(witness.second, [], witness.note(witness.second))).status_code == 503
