"""Signing in and out: passwords, one-time logins, sessions, CSRF, throttling."""

import pytest

from api.auth import sessions, users
from api.auth.routes import safe_target
from api.identity import Role
from core.errors import Conflict, Rejected
from tests.api.conftest import NOW_MS, PASSWORD, Site


def test_a_password_opens_a_session_and_another_one_does_not(site: Site) -> None:
    site.user("checker", Role.BANK_CHECKER, password=PASSWORD)
    client = site.client()

    refused = client.post("/login", json={"login": "checker", "password": "not the passphrase"})
    assert (refused.status_code, refused.json()["code"]) == (401, "bad_login")
    assert client.get("/me").status_code == 401

    answer = client.post("/login", json={"login": "checker", "password": PASSWORD})
    assert answer.status_code == 200
    assert answer.json()["roles"] == ["bank_checker"]
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=lax" in cookie.lower()
    assert client.get("/me").json()["login"] == "checker"


def test_the_cookie_is_secure_and_bound_to_the_host_over_https(site: Site) -> None:
    site.user("checker", Role.BANK_CHECKER, password=PASSWORD)
    client = site.client()
    client.base_url = "https://testserver"  # type: ignore[assignment]

    cookie = client.post("/login", json={"login": "checker", "password": PASSWORD}).headers["set-cookie"]

    assert cookie.startswith("__Host-")
    assert "Secure" in cookie


def test_an_unknown_user_looks_like_a_wrong_password(site: Site) -> None:
    answer = site.client().post("/login", json={"login": "nobody", "password": PASSWORD})

    assert (answer.status_code, answer.json()["code"]) == (401, "bad_login")


def test_the_database_holds_neither_password_nor_token(site: Site) -> None:
    site.user("checker", Role.BANK_CHECKER, password=PASSWORD)
    client = site.client()
    client.post("/login", json={"login": "checker", "password": PASSWORD})
    token = next(iter(client.cookies.values()))

    stored = str(site.database.url) and b"".join(path.read_bytes() for path in _files(site) if path.is_file())

    assert b"$argon2id$" in stored
    assert PASSWORD.encode() not in stored
    assert token.encode() not in stored


def _files(site: Site):  # type: ignore[no-untyped-def]
    from pathlib import Path

    path = Path(str(site.database.url).removeprefix("sqlite:///"))
    return list(path.parent.glob(path.name + "*"))


def test_a_one_time_login_works_once_and_not_after_its_time(site: Site) -> None:
    user = site.user("maker", Role.BANK_MAKER)
    with site.database.transaction() as tx:
        first = sessions.create_one_time_login(tx, user, now_ms=NOW_MS, token=site.random(32))
        late = sessions.create_one_time_login(tx, user, now_ms=NOW_MS, token=site.random(32), life_s=60)

    assert "Maker" in site.client().get(f"/login/once/{first}", headers={"accept": "text/html"}).text
    assert site.client().post("/login/once", json={"token": first}).status_code == 200
    assert site.client().post("/login/once", json={"token": first}).json()["code"] == "bad_login"
    site.clock.now_ms += 61_000
    assert site.client().post("/login/once", json={"token": late}).json()["code"] == "bad_login"
    assert site.client().get(f"/login/once/{late}", headers={"accept": "text/html"}).status_code == 410
    assert site.client().post("/login/once", json={"token": "x"}).json()["code"] == "bad_login"


def test_signing_out_ends_the_session_on_the_server(site: Site) -> None:
    client = site.signed_in(site.user("maker", Role.BANK_MAKER))
    cookie = next(iter(client.cookies.values()))

    assert client.post("/logout").status_code == 204

    thief = site.client(cookie=f"tracebond={cookie}")
    assert thief.get("/me").status_code == 401


def test_a_session_ends_by_idleness_and_by_age(site: Site) -> None:
    user = site.user("maker", Role.BANK_MAKER)
    idle = site.signed_in(user)
    site.clock.now_ms += 31 * 60_000
    assert idle.get("/me").status_code == 401

    busy = site.signed_in(user)
    for _ in range(47):
        site.clock.now_ms += 15 * 60_000
        assert busy.get("/me").status_code == 200
    site.clock.now_ms += 16 * 60_000
    assert busy.get("/me").status_code == 401


def test_a_command_without_the_csrf_token_changes_nothing(site: Site) -> None:
    client = site.signed_in(site.user("maker", Role.BANK_MAKER))
    token = client.headers.pop("X-CSRF-Token")

    for headers in ({}, {"X-CSRF-Token": "x" * 43}):
        answer = client.post("/logout", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "bad_csrf")
    assert client.get("/me").status_code == 200
    form = {"csrf": token}
    assert client.post("/logout", data=form, headers={"accept": "text/html"}).status_code == 303


def test_a_sign_in_from_another_site_is_refused(site: Site) -> None:
    site.user("maker", Role.BANK_MAKER, password=PASSWORD)
    body = {"login": "maker", "password": PASSWORD}

    for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}):
        assert site.client().post("/login", json=body, headers=headers).json()["code"] == "bad_csrf"
    assert site.client().post("/login", json=body, headers={"origin": "http://testserver"}).status_code == 200


def test_guessing_is_throttled_without_locking_others_out(site: Site) -> None:
    site.user("maker", Role.BANK_MAKER, password=PASSWORD)
    client = site.client()

    codes = [client.post("/login", json={"login": "maker", "password": "x"}).status_code for _ in range(6)]

    assert codes == [401] * 5 + [429]
    site.app.state.throttle.check_sign_in("maker", "another address")


def test_a_taken_login_a_weak_password_and_a_user_without_a_role_are_refused(site: Site) -> None:
    site.user("maker", Role.BANK_MAKER)

    with pytest.raises(Conflict, match="login_taken"):
        site.user("maker", Role.BANK_MAKER)
    with pytest.raises(Rejected, match="weak_password"):
        users.hash_password("short")
    with pytest.raises(Rejected, match="no_role"):
        site.user("nobody")


@pytest.mark.parametrize(
    "target", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:1", "/a\n"]
)
def test_a_sign_in_never_leads_to_another_site(target: str) -> None:
    assert safe_target(target) == "/"


def test_a_sign_in_leads_back_to_the_page_that_asked_for_it(site: Site) -> None:
    site.user("operator", Role.OPERATOR, password=PASSWORD)
    client = site.client(accept="text/html")

    sent = client.get("/operator?x=1")
    assert (sent.status_code, sent.headers["location"]) == (303, "/login?next=%2Foperator%3Fx%3D1")
    form = {"login": "operator", "password": PASSWORD, "next": "/operator?x=1"}
    assert client.post("/login", data=form).headers["location"] == "/operator?x=1"
    assert client.get("/operator").status_code == 200
