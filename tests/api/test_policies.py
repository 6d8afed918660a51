"""Default deny: every route has a policy, and every cell of routes x roles does what the policy says."""

import pytest
from fastapi import FastAPI

from api.identity import Role
from api.machine import describe
from api.mirrors import MIRROR
from api.policy import PUBLIC, Routes, policy_table
from core.errors import Broken
from tests.api.conftest import Site

# Path parameters for the matrix: values that fit, of things that are not there.
VALUES = {
    "ai": "01",
    "compressed": "ARHKVAdpQg",
    "path": "09521234543213",
    "epc": "01%2F09521234543213",
    "token": "x",
    "name": "app.css",
    "row_id": "1",
    "id": "1",
    "case": "1",
    "record_id": "A" * 43,
    "kid": "A" * 43,
}


def filled(path: str) -> str:
    for name, value in VALUES.items():
        path = (
            path.replace("{" + name + "}", value)
            .replace("{" + name + ":path}", value)
            .replace("{" + name + ":gs1}", value)
        )
    return path


def test_a_route_without_a_policy_does_not_start(site: Site) -> None:
    @site.app.get("/forgotten")
    async def forgotten() -> None: ...

    with pytest.raises(Broken, match="unguarded_route"):
        policy_table(site.app)


def test_a_mounted_application_counts_as_unguarded() -> None:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.mount("/elsewhere", FastAPI())

    with pytest.raises(Broken, match="unguarded_route"):
        policy_table(app)


@pytest.mark.parametrize("role", [None, *Role])
def test_every_route_asks_for_its_roles(site: Site, role: Role | None) -> None:
    client = site.client() if role is None else site.signed_in(site.user(f"a-{role}", role))
    wrong: list[str] = []
    for method, path, policy in policy_table(site.app):
        if path in ("/logout", "/login/once") or method == "WEBSOCKET":
            continue
        answer = client.request(method, filled(path), headers={"accept": "application/json"}, json={})
        is_let_in = answer.status_code not in (401, 403)
        expected = policy.roles is None or (role is not None and role in policy.roles)
        # A session never opens what mirrors fetch with signed requests.
        expected = expected and policy is not MIRROR
        is_public_refusal = policy is PUBLIC and answer.status_code == 401 and path == "/login"
        if is_let_in != expected and not is_public_refusal:
            wrong.append(f"{method} {path} as {role}: {answer.status_code}")
        if answer.status_code >= 500 and answer.status_code != 503:
            wrong.append(f"{method} {path} as {role}: {answer.status_code} {answer.text[:200]}")
        if not expected:
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["code"] == ("unauthenticated" if role is None or policy is MIRROR else "forbidden")

    assert wrong == []


def test_a_public_policy_is_given_only_to_these_routes(site: Site) -> None:
    public = {path for _, path, policy in policy_table(site.app) if policy is PUBLIC}

    assert public == {
        "/",
        "/healthz",
        "/readyz",
        "/metrics",
        "/rpc",
        "/factory/records",
        "/factory/records/{record_id}",
        "/factory/devices/claim",
        "/factory/devices/credentials",
        "/log/checkpoint",
        "/log/checkpoint/{size}",
        "/log/receipt-keys",
        "/log/refusals/{message}",
        "/log/states",
        "/mirrors",
        "/log/tile/{path:path}",
        "/openapi.json",
        "/docs",
        "/static/{name}",
        "/login",
        "/login/once/{token}",
        "/login/once",
        "/items/{epc:path}",
        "/items/{epc:path}/proof",
        "/items/{epc:path}/trace",
        "/.well-known/gs1resolver",
        "/.well-known/gs1resolver-context.jsonld",
        "/page/{path:path}",
        "/{ai:gs1}/{path:path}",
        "/{ai}/{path:path}",
        "/{compressed}",
    }


def test_the_description_names_every_route_for_programs(site: Site) -> None:
    document = describe(site.app)

    assert document["openapi"].startswith("3.1")
    assert {"/items/{epc}", "/rpc", "/healthz", "/log/checkpoint", "/login"} <= set(document["paths"])
    body = document["paths"]["/login"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["additionalProperties"] is False


def test_routes_refuse_to_be_added_without_a_policy() -> None:
    with pytest.raises(TypeError):
        Routes(FastAPI()).get("/x", lambda: None)  # type: ignore[call-arg]
