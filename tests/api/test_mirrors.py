"""What is served to mirrors and to nobody else, and what is taken from them."""

import base64
from collections.abc import Callable
from typing import Any

import pytest

from api.services import WebSettings
from core.canonical import b64u, canonical_bytes, sha256
from core.crypto import Ed25519Private, P256Private
from core.jws import sign_jws
from core.message import read_entry
from core.notes import COSIGNATURE, Checkpoint, Verifier, cosign
from core.records import common, key_members
from ledger.cosignatures import is_awaited
from ledger.database import Database
from ledger.log import last_checkpoint
from ledger.mirror_auth import COSIGNER, sign_request
from tests.api.conftest import NOW_MS, Site
from tests.ledger.world import AUD, CARRIER, LOG, MAKER, OPERATOR, World, seen

REGULATOR = "https://id.gs1.org/417/9521000000032"
NOW = NOW_MS // 1000
REQUESTS = P256Private.from_secret(b"mirror requests")
COSIGNS = Ed25519Private(sha256(b"mirror cosigns"))
VERIFIER = Verifier("mirror.example", COSIGNS.public, COSIGNATURE)


class Log:
    """A small log behind a site, with a registered mirror."""

    def __init__(self, make_site: Callable[..., Site], database: Database) -> None:
        self.site = make_site(settings=WebSettings(origin=LOG))
        self.world = World(database).start()
        self.world.orgs[REGULATOR] = P256Private.from_secret(b"regulator")
        self.world.record(self.world.org_payload(REGULATOR, roles=128), signer=OPERATOR)
        self.world.send("line-1", seen(1, 2), seen(3))
        self.register(REQUESTS, REGULATOR, use="mirror", scope={COSIGNER: VERIFIER.encode()})
        self.client = self.site.client()

    def register(self, key: P256Private, org: str, *, use: str, scope: dict[str, Any]) -> None:
        members = key_members(key.jwk(), iss=org, use=use, scope=scope)
        payload = common(t="key", aud=AUD, log=LOG, org=org, iat=self.world.now) | members
        self.world.record(payload, signer=org)
        self.world.step()

    def get(self, path: str, /, *, key: P256Private = REQUESTS, now: int = NOW, **changed: Any) -> Any:
        given = {"log": LOG, "method": "GET", "path": path, "body": b"", "now": now, **changed}
        return self.client.get(path, headers={"Authorization": sign_request(key, **given)})

    def post(self, path: str, body: bytes, *, key: P256Private = REQUESTS) -> Any:
        token = sign_request(key, log=LOG, method="POST", path=path, body=body, now=NOW)
        return self.client.post(path, content=body, headers={"Authorization": token})

    @property
    def checkpoint(self) -> Any:
        with self.world.database.reading() as tx:
            return last_checkpoint(tx)

    def cosigned(self, key: Ed25519Private = COSIGNS, *, time: int = NOW, size: int | None = None) -> bytes:
        head = self.checkpoint
        text = Checkpoint(LOG, size or head.size, head.root).text()
        return f"{text}\n{cosign(text, VERIFIER.name, key, time=time)}".encode()


@pytest.fixture
def log(make_site: Callable[..., Site], sqlite_database: Database) -> Log:
    return Log(make_site, sqlite_database)


def path_of(log: Log, kind: str) -> str:
    return f"/log/tile/{kind}/000.p/{log.checkpoint.size}"


def parts(body: bytes, width: int) -> list[bytes]:
    found, at = [], 0
    while at < len(body):
        end = at + width + int.from_bytes(body[at : at + width], "big")
        found.append(body[at + width : end])
        at = end
    return found


def test_a_registered_mirror_gets_entries_and_item_lists_for_its_own_cache(log: Log) -> None:
    entries, items = log.get(path_of(log, "entries")), log.get(path_of(log, "items"))

    assert (entries.status_code, items.status_code) == (200, 200)
    assert entries.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert entries.headers["vary"] == "Authorization"
    data, lists = parts(entries.content, 2), parts(items.content, 4)
    assert len(data) == len(lists) == log.checkpoint.size
    message = next(index for index, one in enumerate(data) if lists[index])
    counts = [event["items"]["n"] for event in read_entry(data[message]).clear]
    assert len(lists[message]) == sum(2 + 33 * count for count in counts)
    assert [bool(one) for one in lists].count(True) == 1


@pytest.mark.parametrize("kind", ["entries", "items"])
def test_strangers_get_nothing(log: Log, kind: str) -> None:
    path = path_of(log, kind)
    device = log.world.devices["line-1"]
    refused = [
        log.client.get(path),
        log.client.get(path, headers={"Authorization": "Bearer x.y.z"}),
        log.client.get(path, headers={"Authorization": "Basic eDp5"}),
        log.get(path, key=P256Private.from_secret(b"nobody")),
        log.get(path, key=device),
        log.get(path, now=NOW - 301),
        log.get(path, now=NOW + 301),
        log.get(path, log="other/log"),
        log.get(path, method="POST"),
        log.get(path, path="/log/tile/entries/000"),
        log.get(path, body=b"x"),
    ]

    assert [answer.status_code for answer in refused] == [401] * len(refused)
    assert log.get(path, now=NOW - 299).status_code == 200


def test_a_token_with_other_members_or_a_forged_signature_is_refused(log: Log) -> None:
    path = path_of(log, "entries")
    payload = {"v": 1, "log": LOG, "method": "GET", "path": path, "body": b64u(sha256(b"")), "iat": NOW}
    good = sign_jws(canonical_bytes(payload), typ="tb-mirror+jwt", key=REQUESTS)
    other_type = sign_jws(canonical_bytes(payload), typ="tb-receipt+jwt", key=REQUESTS)
    more = sign_jws(canonical_bytes(payload | {"x": 1}), typ="tb-mirror+jwt", key=REQUESTS)
    no_time = sign_jws(canonical_bytes(payload | {"iat": None}), typ="tb-mirror+jwt", key=REQUESTS)
    by_other = sign_jws(canonical_bytes(payload), typ="tb-mirror+jwt", key=log.world.devices["line-1"])
    forged = good.split(b".")[0] + b"." + good.split(b".")[1] + b"." + by_other.split(b".")[2]

    def status(token: bytes) -> int:
        return int(log.client.get(path, headers={"Authorization": f"Bearer {token.decode()}"}).status_code)

    assert [status(token) for token in (good, other_type, more, no_time, forged)] == [200, 401, 401, 401, 401]


def test_only_lenders_and_regulators_may_mirror(log: Log) -> None:
    key = P256Private.from_secret(b"a carrier's mirror")
    log.register(key, CARRIER, use="mirror", scope={COSIGNER: Verifier("c", COSIGNS.public, COSIGNATURE).encode()})
    unnamed = P256Private.from_secret(b"no cosigner")
    log.register(unnamed, REGULATOR, use="mirror", scope={})

    assert log.get(path_of(log, "entries"), key=key).status_code == 401
    assert log.get(path_of(log, "entries"), key=unnamed).status_code == 401
    assert log.client.get("/mirrors").json()["mirrors"][0]["name"] == "mirror.example"
    assert len(log.client.get("/mirrors").json()["mirrors"]) == 1


def test_an_ended_key_shuts_its_mirror_out_and_takes_its_cosignatures_along(log: Log) -> None:
    log.post("/log/cosignature", log.cosigned())
    size = log.checkpoint.size
    members = {"kid": REQUESTS.thumbprint(), "last": None, "seq": -1, "reason": "stolen"}
    payload = common(t="end", aud=AUD, log=LOG, org=REGULATOR, iat=log.world.now) | members
    before = log.client.get(f"/log/checkpoint/{size}").text
    log.world.record(payload, signer=REGULATOR)

    assert log.get(path_of(log, "entries")).status_code == 401
    assert "mirror.example" in before
    assert "mirror.example" not in log.client.get(f"/log/checkpoint/{size}").text


def test_paths_that_are_no_bundle_are_not_found(log: Log) -> None:
    size = log.checkpoint.size
    for path in ("000", f"000.p/{size + 1}", "000.p/0", "000.p/256", "000.p/01", "x000/001", "1", "001.p/1", "../000"):
        assert log.get(f"/log/tile/entries/{path}").status_code in (401, 404), path


def test_a_cosignature_is_taken_once_and_served_with_the_checkpoint(log: Log) -> None:
    first = log.post("/log/cosignature", log.cosigned())
    again = log.post("/log/cosignature", log.cosigned(time=NOW + 5))
    size = log.checkpoint.size

    assert (first.status_code, again.status_code, first.json()["size"]) == (200, 200, size)
    assert log.client.get("/log/checkpoint").text == log.client.get(f"/log/checkpoint/{size}").text
    assert log.client.get("/log/checkpoint").text == log.checkpoint.note + log.cosigned().decode().split("\n\n")[1]
    shown = log.client.get("/mirrors").json()["mirrors"][0]
    assert (shown["size"], shown["time"], shown["lag"], shown["refusal"]) == (size, NOW, 0, None)


def test_what_is_no_cosignature_of_our_checkpoint_is_refused(log: Log) -> None:
    good = log.cosigned()
    line = good.decode().rsplit(" ", 1)
    raw = bytearray(base64.b64decode(line[1]))
    raw[-1] ^= 1
    forged = f"{line[0]} {base64.b64encode(raw).decode()}\n".encode()
    codes = [
        log.post("/log/cosignature", forged).json()["code"],
        log.post("/log/cosignature", log.cosigned(Ed25519Private(bytes(32)))).json()["code"],
        log.post("/log/cosignature", log.cosigned(size=log.checkpoint.size + 1)).json()["code"],
        log.post("/log/cosignature", log.cosigned(time=NOW + 301)).json()["code"],
        log.post("/log/cosignature", good.split(b"\n\n")[0] + b"\n").json()["code"],
        log.post("/log/cosignature", b"\xff").json()["code"],
        log.client.post("/log/cosignature", content=good).json()["code"],
        log.post("/log/cosignature", good, key=P256Private.from_secret(b"nobody")).json()["code"],
    ]

    assert codes[:4] == ["bad_signature", "unsigned_note", "other_checkpoint", "bad_time"]
    assert codes[4:] == ["bad_note", "bad_note", "unauthenticated", "unauthenticated"]
    assert log.client.get("/log/checkpoint").text == log.checkpoint.note


def test_a_refusal_is_shown_until_the_mirror_cosigns_again(log: Log) -> None:
    said = {"size": 3, "leaf": 4, "kind": "message", "entry_id": "abc", "code": "bad_signature", "message": "Not so."}
    assert log.post("/log/refusal", canonical_bytes(said)).status_code == 200
    refused = log.client.get("/mirrors").json()["mirrors"][0]["refusal"]
    page = log.client.get("/mirrors", headers={"accept": "text/html"})
    metrics = log.client.get("/metrics").text

    assert (refused["leaf"], refused["code"], refused["detail"]) == (4, "bad_signature", "Not so.")
    assert "Not so." in page.text
    assert 'tracebond_mirror_refuses{mirror="mirror.example"} 1.0' in metrics
    log.site.clock.now_ms += 1_000
    log.post("/log/cosignature", log.cosigned())
    assert log.client.get("/mirrors").json()["mirrors"][0]["refusal"] is None
    assert (
        f'tracebond_mirror_size{{mirror="mirror.example"}} {float(log.checkpoint.size)}'
        in log.client.get("/metrics").text
    )


def test_a_malformed_refusal_is_refused(log: Log) -> None:
    good = {"size": 3, "leaf": None, "kind": "log", "entry_id": "", "code": "x", "message": "y"}
    for change in ({"leaf": -1}, {"size": None}, {"code": 5}, {"message": "z" * 2_001}, {"more": 1}):
        answer = log.post("/log/refusal", canonical_bytes({**good, **change}))
        assert answer.json()["code"] == "bad_report", change
    assert log.client.post("/log/refusal", content=canonical_bytes(good)).status_code == 401
    assert log.post("/log/refusal", canonical_bytes(good)).status_code == 200


def test_the_page_speaks_both_languages_and_pins_nothing_by_itself(log: Log) -> None:
    log.post("/log/cosignature", log.cosigned())
    english = log.client.get("/mirrors", headers={"accept": "text/html", "accept-language": "en"})
    chinese = log.client.get("/mirrors", headers={"accept": "text/html", "accept-language": "zh-CN"})

    assert "Last confirmed" in english.text
    assert "最后确认" in chinese.text
    assert VERIFIER.encode() in english.text
    assert "These pages pin this key" not in english.text


def test_a_foreign_organisation_cannot_bring_its_mirror_under_the_name_of_another(log: Log) -> None:
    lender = "https://id.gs1.org/417/9521000000049"
    log.world.orgs[lender] = P256Private.from_secret(b"lender")
    log.world.record(log.world.org_payload(lender, roles=64), signer=OPERATOR)
    key, cosigns = P256Private.from_secret(b"second"), Ed25519Private(sha256(b"second"))
    scope = {COSIGNER: Verifier("mirror.example", cosigns.public, COSIGNATURE).encode()}
    log.register(key, lender, use="mirror", scope=scope)
    text = Checkpoint(LOG, log.checkpoint.size, log.checkpoint.root).text()
    note = f"{text}\n{cosign(text, 'mirror.example', cosigns, time=NOW)}"
    log.post("/log/cosignature", note.encode(), key=key)
    log.post("/log/cosignature", log.cosigned())

    lines = log.client.get("/log/checkpoint").text.split("\n\n")[1].strip().split("\n")
    assert len(lines) == 2
    assert base64.b64decode(lines[1].split(" ")[2])[:4] == VERIFIER.key_hash


def test_makers_of_the_small_world_have_no_door(log: Log) -> None:
    key = P256Private.from_secret(b"a maker's mirror")
    log.register(key, MAKER, use="mirror", scope={COSIGNER: Verifier("m", COSIGNS.public, COSIGNATURE).encode()})

    assert log.post("/log/cosignature", log.cosigned(), key=key).status_code == 401


def test_proofs_wait_for_a_mirror_that_follows_and_for_no_other(log: Log) -> None:
    def awaited() -> bool:
        with log.world.database.reading() as tx:
            return is_awaited(tx, log.checkpoint.size)

    never_cosigned = awaited()
    log.post("/log/cosignature", log.cosigned())
    cosigned = awaited()
    log.world.send("line-1", seen(9))
    log.world.step()
    behind = awaited()
    said = {"size": 3, "leaf": 4, "kind": "message", "entry_id": "", "code": "bad_signature", "message": "Not so."}
    log.site.clock.now_ms += 1_000
    log.post("/log/refusal", canonical_bytes(said))

    assert (never_cosigned, cosigned, behind, awaited()) == (False, False, True, False)
