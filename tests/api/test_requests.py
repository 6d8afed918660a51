"""What no request may do, too large or not exactly right, and the headers of answers."""

import json
from collections.abc import Iterator

import pytest

from api.identity import Role
from api.limits import BODY_BYTES_MAX
from tests.api.conftest import PASSWORD, Site


def test_a_body_is_counted_as_it_is_read_whatever_its_length_says(site: Site) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(3 * BODY_BYTES_MAX // 65_536):
            yield b" " * 65_536

    chunked = site.client().post("/login", content=endless(), headers={"content-type": "application/json"})
    stated = site.client().post("/login", content=b"{}", headers={"content-length": "999999999999"})

    assert (chunked.status_code, chunked.json()["code"]) == (413, "too_large")
    assert (stated.status_code, stated.json()["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"login":"a","login":"b","password":"c"}', 400, "duplicate_key"),
        (b'{"login":NaN,"password":"c"}', 400, "bad_number"),
        (b'{"login":1e400,"password":"c"}', 400, "bad_number"),
        (b"[" * 100 + b"]" * 100, 400, "too_deep"),
        (b"{", 400, "bad_json"),
        (b"\xff", 400, "bad_json"),
        (b'{"login":"a","password":"c","is_admin":true}', 422, "invalid_field"),
        (b'{"login":1,"password":"c"}', 422, "invalid_field"),
        (b'{"login":"a"}', 422, "invalid_field"),
        (b"[]", 422, "invalid_field"),
    ],
)
def test_a_body_that_is_not_exactly_right_is_refused_by_name(site: Site, body: bytes, status: int, code: str) -> None:
    answer = site.client().post("/login", content=body, headers={"content-type": "application/json"})

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_other_media_types_and_compressed_bodies_are_refused(site: Site) -> None:
    body = json.dumps({"login": "a", "password": "b"})

    plain = site.client().post("/login", content=body, headers={"content-type": "text/plain"})
    packed = site.client().post(
        "/login", content=body, headers={"content-type": "application/json", "content-encoding": "gzip"}
    )

    assert (plain.status_code, packed.status_code) == (415, 415)


def test_a_form_field_given_twice_is_refused(site: Site) -> None:
    answer = site.client().post(
        "/login",
        content="login=a&login=b&password=c",
        headers={"content-type": "application/x-www-form-urlencoded"},
    )

    assert (answer.status_code, answer.json()["code"]) == (422, "bad_form")


def test_every_answer_carries_the_security_headers(site: Site) -> None:
    for path in ("/", "/healthz", "/nowhere", "/items/x", "/static/app.css"):
        headers = site.client().get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe-inline" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in policy


def test_pages_hold_no_inline_script_or_style(site: Site) -> None:
    client = site.client(accept="text/html")
    staff = site.signed_in(site.user("operator", Role.OPERATOR, Role.REGULATOR, Role.FACTORY))
    staff.headers["accept"] = "text/html"

    for page in (
        client.get("/"),
        client.get("/login"),
        client.get("/docs"),
        staff.get("/operator"),
        staff.get("/regulator"),
        staff.get("/factory"),
    ):
        assert page.status_code == 200
        assert " style=" not in page.text
        assert "<style" not in page.text
        assert "<script>" not in page.text
        assert " onclick" not in page.text


def test_errors_are_pages_for_people_and_problems_for_programs(site: Site) -> None:
    page = site.client(accept="text/html").get("/nowhere?lang=zh-CN")
    problem = site.client().get("/nowhere")

    assert "没有找到" in page.text
    assert page.status_code == problem.status_code == 404
    assert problem.json()["code"] == "not_found"


def test_head_and_options_follow_from_get(site: Site) -> None:
    client = site.client()

    head = client.head("/healthz")
    assert (head.status_code, head.content) == (200, b"")
    options = client.options("/healthz")
    assert (options.status_code, options.headers["allow"]) == (204, "GET, HEAD, OPTIONS")
    assert client.options("/login").headers["allow"] == "GET, HEAD, POST, OPTIONS"
    assert client.post("/healthz").status_code == 405
    assert "access-control-allow-origin" not in client.get("/login").headers


def test_signed_in_pages_are_never_kept_by_caches(site: Site) -> None:
    site.user("maker", Role.BANK_MAKER, password=PASSWORD)
    client = site.signed_in(site.user("operator", Role.OPERATOR))

    assert client.get("/operator").headers["cache-control"] == "no-store"
    assert client.get("/me").status_code == 200


def test_static_files_are_kept_for_ever_under_their_hash_only(site: Site) -> None:
    client = site.client()
    plain = client.get("/static/app.css")
    tag = plain.headers["etag"].strip('"')

    pinned = client.get(f"/static/app.css?v={tag}")

    assert "no-cache" in plain.headers["cache-control"]
    assert "immutable" in pinned.headers["cache-control"]
    assert client.get("/static/app.css", headers={"if-none-match": f'"{tag}"'}).status_code == 304
    assert client.get("/static/..%2Fapp.py").status_code == 404
