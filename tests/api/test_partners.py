"""API keys of partners: made, shown once, checked, rotated, revoked; and the scopes they carry."""

import base64
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from fastapi import Request
from fastapi.responses import JSONResponse, Response

from api.auth import partners
from api.epcis import EpcisRoutes
from api.identity import Role
from core.errors import Conflict, Rejected
from ledger.database import Database, upgrade
from tests.api.conftest import NOW_MS, Site

GLN = "9526001000005"
ORG = "https://id.gs1.org/417/9526001000005"


@dataclass
class Door:
    """A site with one route for each scope."""

    site: Site
    path: str = "/epcis/tried"

    def key(self, name: str, *scopes: str, expires_ms: int | None = None, gln: str | None = GLN) -> str:
        with self.site.database.transaction() as tx:
            number = partners.create_partner(tx, name=name, gln=gln, is_regulator=False, now_ms=NOW_MS)
            return partners.create_key(
                tx, number, scopes=scopes, now_ms=NOW_MS, secret=self.site.random(32), expires_ms=expires_ms
            )

    def status(self, **headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return int(self.site.client(**named).get(self.path).status_code)


@pytest.fixture
def door(site: Site) -> Door:
    async def tried(request: Request) -> Response:
        caller = partners.caller_of(request)
        return JSONResponse({"org": caller.speaks_as, "name": caller.name, "reader": caller.reader})

    EpcisRoutes(site.app).add("GET", "/tried", tried, "query")
    EpcisRoutes(site.app).add("POST", "/tried", tried, "query")
    EpcisRoutes(site.app).add("GET", "/captured", tried, "capture")
    # The resolver's pattern for GS1 keys stands last in the application; a test's route must come before it.
    routes = site.app.router.routes
    routes[:] = routes[-3:] + routes[:-3]
    return Door(site)


def basic(key: str) -> str:
    return "Basic " + base64.b64encode(b"anything:" + key.encode()).decode()


@pytest.mark.parametrize(
    "headers",
    [
        lambda key: {"Authorization": f"Bearer {key}"},
        lambda key: {"X_API_Key": key},
        lambda key: {"Authorization": basic(key)},
    ],
    ids=["bearer", "x-api-key", "basic"],
)
def test_a_key_opens_what_its_scope_names(door: Door, headers: Callable[[str], dict[str, str]]) -> None:
    key = door.key("dairy", "query")

    assert door.status(**headers(key)) == 200
    assert replace(door, path="/epcis/captured").status(**headers(key)) == 403


def test_without_a_key_the_answer_is_a_security_exception(door: Door) -> None:
    answer = door.site.client().get("/epcis/tried")

    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "epcisException:SecurityException"
    assert answer.headers["GS1-EPCIS-Version"] == "2.0"


@pytest.mark.parametrize("text", ["tb_", "tb_xyz", "x", "tb_" + "A" * 43, "tb_" + "~" * 43])
def test_a_made_up_key_opens_nothing(door: Door, text: str) -> None:
    assert door.status(Authorization="Bearer " + text) == 401


def test_the_key_itself_is_stored_nowhere(door: Door) -> None:
    key = door.key("dairy", "query")

    with door.site.database.reading() as tx:
        rows = [tuple(row) for row in tx.execute(partners.PARTNER_KEY.select())]
    assert all(key.encode() not in repr(row).encode() for row in rows)


def test_a_revoked_key_opens_nothing_and_the_other_key_still_does(door: Door) -> None:
    first = door.key("dairy", "query")
    with door.site.database.transaction() as tx:
        partner = partners.partner_named(tx, "dairy")
        second = partners.create_key(tx, partner.id, scopes=["query"], now_ms=NOW_MS, secret=door.site.random(32))
        partners.revoke_key(tx, partners.keys_of_partner(tx, partner.id)[0].id, now_ms=NOW_MS)

    assert door.status(X_API_Key=first) == 401
    assert door.status(X_API_Key=second) == 200


def test_an_expired_key_opens_nothing(door: Door) -> None:
    key = door.key("dairy", "query", expires_ms=NOW_MS + 1_000)
    assert door.status(X_API_Key=key) == 200

    door.site.clock.now_ms += 1_000

    assert door.status(X_API_Key=key) == 401


def test_a_rotated_key_works_until_its_overlap_ends(door: Door) -> None:
    old = door.key("dairy", "query")
    with door.site.database.transaction() as tx:
        number = partners.keys_of_partner(tx, partners.partner_named(tx, "dairy").id)[0].id
        new = partners.rotate_key(tx, number, now_ms=NOW_MS, secret=door.site.random(32), overlap_ms=5_000)

    assert (door.status(X_API_Key=old), door.status(X_API_Key=new)) == (200, 200)
    door.site.clock.now_ms += 5_000
    assert (door.status(X_API_Key=old), door.status(X_API_Key=new)) == (401, 200)


def test_a_disabled_partner_is_out_with_all_keys(door: Door) -> None:
    key = door.key("dairy", "query")
    with door.site.database.transaction() as tx:
        partners.disable_partner(tx, partners.partner_named(tx, "dairy").id, now_ms=NOW_MS)

    assert door.status(X_API_Key=key) == 401


def test_the_last_use_is_noted_at_most_once_a_minute(door: Door) -> None:
    key = door.key("dairy", "query")

    for _ in range(3):
        door.status(X_API_Key=key)
        door.site.clock.now_ms += 20_000

    with door.site.database.reading() as tx:
        used = partners.keys_of_partner(tx, partners.partner_named(tx, "dairy").id)[0].used_ms
    assert used == NOW_MS


def test_a_partner_without_an_organisation_speaks_as_itself_alone(door: Door) -> None:
    first, second = door.key("first", "query", gln=None), door.key("second", "query", gln=None)
    speaks = [door.site.client(**{"X-API-Key": key}).get("/epcis/tried").json()["org"] for key in (first, second)]

    assert len(set(speaks)) == 2
    assert all(name.startswith("urn:tracebond:partner:") for name in speaks)


def test_a_regulator_at_a_browser_may_query_and_nobody_else(door: Door) -> None:
    regulator = door.site.signed_in(door.site.user("a-regulator", Role.REGULATOR))
    banker = door.site.signed_in(door.site.user("a-banker", Role.BANK_MAKER))

    answer = regulator.get("/epcis/tried")

    assert (answer.status_code, answer.json()["reader"]) == (200, "regulator")
    assert regulator.get("/epcis/captured").status_code == 403
    assert banker.get("/epcis/tried").status_code == 403


def test_a_session_without_its_csrf_token_changes_nothing(door: Door) -> None:
    regulator = door.site.signed_in(door.site.user("a-regulator", Role.REGULATOR))
    assert regulator.post("/epcis/tried").status_code == 200

    del regulator.headers["X-CSRF-Token"]

    assert regulator.post("/epcis/tried").status_code == 403


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("GS1-EPCIS-Version", "2.0", 200),
        ("GS1-EPCIS-Version", "2.0.0", 200),
        ("GS1-EPCIS-Version", "1.2", 406),
        ("GS1-EPCIS-Min", "1.2", 200),
        ("GS1-EPCIS-Min", "2.1", 406),
        ("GS1-EPCIS-Max", "2.0", 200),
        ("GS1-EPCIS-Max", "1.2", 406),
        ("GS1-CBV-Min", "2.0.0", 200),
        ("GS1-CBV-Max", "1.2.2", 406),
        ("GS1-EPCIS-Version", "two", 400),
    ],
)
def test_a_version_that_is_not_spoken_here_is_not_acceptable(door: Door, name: str, value: str, status: int) -> None:
    key = door.key("dairy", "query")

    answer = door.site.client(**{"X-API-Key": key, name: value}).get("/epcis/tried")

    assert answer.status_code == status
    if status == 406:
        assert answer.json()["type"] == "epcisException:NotAcceptableException"
        assert answer.headers["GS1-EPCIS-Min"] == "2.0"


def test_options_names_methods_and_versions(door: Door) -> None:
    answer = door.site.client().options("/epcis/tried")

    assert answer.status_code == 204
    assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "POST"}
    assert answer.headers["GS1-EPCIS-Max"] == "2.0"


def test_names_scopes_and_expiries_that_cannot_be_are_refused(database: Database) -> None:
    upgrade(database)
    with database.transaction() as tx:
        number = partners.create_partner(tx, name="dairy", gln=GLN, is_regulator=False, now_ms=NOW_MS)
        for scopes, expires_ms, code in (
            (["fly"], None, "unknown_scope"),
            ([], None, "no_scope"),
            (["query"], 1, "bad_expiry"),
        ):
            with pytest.raises(Rejected) as caught:
                partners.create_key(tx, number, scopes=scopes, now_ms=NOW_MS, secret=b"x" * 32, expires_ms=expires_ms)
            assert caught.value.code == code
        with pytest.raises(Rejected, match="bad_check_digit"):
            partners.create_partner(tx, name="other", gln="9526001000006", is_regulator=False, now_ms=NOW_MS)
        assert [partner.org for partner in partners.all_partners(tx)] == [ORG]

    with pytest.raises(Conflict, match="partner_exists"), database.transaction() as tx:
        partners.create_partner(tx, name="dairy", gln=GLN, is_regulator=False, now_ms=NOW_MS)
