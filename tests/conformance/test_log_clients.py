"""The log over HTTP for clients that others wrote: C2SP tlog-tiles to the letter, and Go's x/mod as a verifier."""

import json
import os
import shutil
import subprocess
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from api.app import create_app
from api.services import Services, WebSettings
from core.canonical import b64u
from core.notes import Verifier
from ledger import log, tiles
from ledger.database import Database, open_database, upgrade
from tests.conftest import free_port
from tests.ledger.world import LOG, World, seen

GO_FOLDER = Path(__file__).parent / "go"
GO_MODULES = Path("/usr/share/gocode")


@dataclass
class Served:
    url: str
    database: Database
    world: World
    size: int


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("clients")
    database = open_database(f"sqlite:///{folder}/log.db")
    upgrade(database)
    world = World(database).start()
    serial = 0
    for count in (1, 3, 240, 200, 190):
        world.admit(*(world.message("line-1", [seen(serial + at)]) for at in range(count)))
        world.step()
        serial += count
    with database.reading() as tx:
        newest = log.last_checkpoint(tx)
    assert newest is not None
    app = create_app(Services(db=database, settings=WebSettings(origin=LOG)))
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.05)
    yield Served(f"http://127.0.0.1:{port}/log/", database, world, newest.size)
    server.should_exit = True
    thread.join(10)
    database.close()


def go_client(folder: Path) -> Path:
    """The Go client, built from Debian's sources alone: no module proxy, no network."""
    if shutil.which("go") is None or not (GO_MODULES / "src/golang.org/x/mod/sumdb/tlog").is_dir():
        pytest.fail("This test needs Go: apt-get install golang-go golang-golang-x-mod-dev")
    program = folder / "logclient"
    environment = os.environ | {
        "GO111MODULE": "off",
        "GOPATH": str(GO_MODULES),
        "GOFLAGS": "",
        "GOPROXY": "off",
        "GOCACHE": str(folder / "cache"),
    }
    subprocess.run(
        ["go", "build", "-o", str(program), "logclient.go"], cwd=GO_FOLDER, env=environment, check=True, timeout=300
    )
    return program


def claims(served: Served) -> list[dict[str, Any]]:
    """Proofs that the ledger makes: many leaves and sizes, on both sides of tile borders."""
    sizes = sorted({1, 2, 7, 255, 256, 257, 511, 512, 513, served.size - 1, served.size})
    found: list[dict[str, Any]] = []
    with served.database.reading() as tx:
        for size in sizes:
            root = b64u(tiles.root(tx, size))
            for index in sorted({0, 1, size // 2, size - 1, *range(0, size, 37)} & set(range(size))):
                leaf, proof = tiles.node(tx, 0, index, size), tiles.inclusion_proof(tx, index, size)
                found.append(
                    {"index": index, "size": size, "leaf": b64u(leaf), "proof": [b64u(p) for p in proof], "root": root}
                )
            for size1 in [at for at in sizes if at <= size]:
                chain = [b64u(p) for p in tiles.consistency_proof(tx, size1, size)]
                root1 = b64u(tiles.root(tx, size1))
                found.append({"size1": size1, "size": size, "root1": root1, "proof": chain, "root": root})
    return found


@pytest.mark.timeout(400)
def test_go_verifies_our_checkpoint_tiles_and_proofs_and_refuses_tampered_tiles(served: Served, tmp_path: Path) -> None:
    program = go_client(tmp_path)
    key = Verifier(LOG, served.world.checkpoint_key.public).encode()
    asked = claims(served)

    done = subprocess.run(
        [str(program), served.url, key],
        input="\n".join(json.dumps(claim) for claim in asked),
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["size"] == served.size > 2 * 256
    assert told["tampered_refused"] == told["tiles"] == served.size // 256 + 2
    assert told["inclusions"] == told["consistencies"] > 30
    inclusions = sum("leaf" in claim for claim in asked)
    assert (told["claimed_inclusions"], told["claimed_consistencies"]) == (inclusions, len(asked) - inclusions)


@pytest.mark.timeout(400)
def test_go_refuses_a_checkpoint_of_another_key_and_a_false_proof(served: Served, tmp_path: Path) -> None:
    program = go_client(tmp_path)
    key = Verifier(LOG, served.world.checkpoint_key.public).encode()
    stranger = Verifier("other.example/log", served.world.checkpoint_key.public).encode()
    false = next(claim for claim in claims(served) if claim["size"] == 257 and claim.get("index") == 37)
    false["index"] = 38

    other_key = subprocess.run([str(program), served.url, stranger], input="", capture_output=True, text=True)
    false_proof = subprocess.run(
        [str(program), served.url, key], input=json.dumps(false), capture_output=True, text=True
    )

    assert (other_key.returncode, "no verifiable signatures" in other_key.stderr) == (1, True)
    assert (false_proof.returncode, "claim" in false_proof.stderr) == (1, True)


def test_the_checkpoint_is_plain_text_that_no_cache_keeps(served: Served) -> None:
    answer = httpx.get(served.url + "checkpoint")

    origin, size, root = answer.text.split("\n")[:3]
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["access-control-allow-origin"] == "*"
    with served.database.reading() as tx:
        assert (origin, size, root) == (LOG, str(served.size), b64encode(tiles.root(tx, served.size)).decode())
    again = httpx.get(served.url + "checkpoint", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_full_and_partial_tiles_are_bytes_that_caches_keep_for_ever(served: Served) -> None:
    rest = served.size % 256
    widths = {"0/000": 256, "0/001": 256, f"0/002.p/{rest}": rest, "1/000.p/2": 2, "0/000.p/1": 1, "0/000.p/255": 255}
    for path, width in widths.items():
        answer = httpx.get(served.url + "tile/" + path)

        assert (answer.status_code, len(answer.content)) == (200, 32 * width), path
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.headers["access-control-allow-origin"] == "*"
        head = httpx.head(served.url + "tile/" + path)
        assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", answer.headers["etag"])
        assert head.headers["content-length"] == str(32 * width)
        held = httpx.get(served.url + "tile/" + path, headers={"If-None-Match": f'"x", W/{answer.headers["etag"]}'})
        assert (held.status_code, held.headers["cache-control"]) == (304, "public, max-age=31536000, immutable")


def test_a_tile_holds_the_hashes_of_full_tiles_below_it(served: Served) -> None:
    level_0 = httpx.get(served.url + "tile/0/001").content
    level_1 = httpx.get(served.url + "tile/1/000.p/2").content

    with served.database.reading() as tx:
        assert level_0 == b"".join(tiles.node(tx, 0, index, served.size) for index in range(256, 512))
        assert level_1 == b"".join(tiles.range_root(tx, at, at + 256, served.size) for at in (0, 256))


@pytest.mark.parametrize(
    "path",
    [
        "0/002", "0/003", "0/000.p/256", "0/000.p/0", "0/000.p/01", "0/000.p/", "0/0", "0/00", "0/0000", "00/000",
        "64/000", "8/0/000", "0/x000/000", "0/x000", "0/001/000", "0/x1/000", "0/X000/000", "0/-01", "-1/000",
        "2/000.p/1", "1/000.p/3", "1/000", "63/000.p/1", "0/x999/x999/x999/x999/x999/999",
        "0/x999/x999/x999/x999/x999/x999/x999/999", "0/000/", "0/000.p/1/", "0/\u0660\u0660\u0660", "",
    ],
)  # fmt: skip
def test_a_tile_that_no_checkpoint_has_or_another_spelling_is_not_found(served: Served, path: str) -> None:
    answer = httpx.get(served.url + "tile/" + path)

    assert answer.status_code == 404
    assert "immutable" not in answer.headers.get("cache-control", "")


def test_a_large_tile_number_is_written_in_groups_of_three() -> None:
    from api.machine import read_tile_path, tile_path

    # The specification's own example.
    assert tile_path(1_234_067) == "x001/x234/067"
    assert read_tile_path("0/x001/x234/067.p/8") == (0, 1_234_067, 8)
    assert [tile_path(number) for number in (0, 999, 1_000, 1_000_000)] == [
        "000", "999", "x001/000", "x001/x000/000",
    ]  # fmt: skip


def test_other_methods_and_bodies_are_refused(served: Served) -> None:
    options = httpx.options(served.url + "tile/0/000")

    assert httpx.post(served.url + "checkpoint").status_code == 405
    assert httpx.delete(served.url + "tile/0/000").status_code == 405
    assert options.status_code == 204
    assert set(options.headers["allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}
