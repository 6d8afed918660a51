"""Schemathesis on our OpenAPI: no 5xx, no undocumented status, no answer beside its schema, no bad input accepted.

A short run here; TRACEBOND_CAMPAIGN=1 (make soak) takes a hundred times as many examples.
"""

import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import one_of

from api.app import create_app
from api.auth import partners
from api.auth.throttle import Throttle
from api.identity import Role
from api.services import Services, WebSettings
from ledger.database import open_database
from ledger.followers import run_all
from ledger.state import views
from tests.api.conftest import Clock, Random, Site
from tests.ledger.world import MAKER, World, packed, seen, sgtin, sscc

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.core.failures import Failure, FailureGroup
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        negative_data_rejection,
        response_schema_conformance,
        status_code_conformance,
    )


def no_server_error(context: Any, response: Any, case: Any) -> None:
    """No 5xx; a 503 that says which part this process lacks (chain, finance, gateway) is an answer, not a failure."""
    is_part_away = response.status_code == 503 and b"internal" not in response.content.lower()
    if response.status_code >= 500 and not is_part_away:
        raise Failure(
            operation=case.operation.label,
            title="Server error",
            message=f"{response.status_code} {response.text[:300]}",
        )


EXAMPLES = 200 if os.environ.get("TRACEBOND_CAMPAIGN") else 3
CHECKS = [
    no_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
KINDS = ("public", "partner", "regulator", "bank", "goods", "operator")
ROLES = {
    "regulator": (Role.REGULATOR,),
    "bank": (Role.BANK_MAKER, Role.BANK_CHECKER),
    "goods": (Role.FACTORY, Role.CUSTODIAN, Role.BORROWER),
    "operator": (Role.OPERATOR,),
}
# These end the session under test, or hold their answer open for ever.
LEFT_OUT = ("/logout", "/login", "/login/once")


@pytest.fixture(scope="module")
def site(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    path = tmp_path_factory.mktemp("openapi") / "openapi.db"
    shutil.copy(sqlite_template, path)
    database = open_database(f"sqlite:///{path}")
    world = World(database).start()
    world.master(MAKER, "https://id.gs1.org/01/09521000123458", "product", {"name_en": "Tin", "name_zh": "罐"})
    world.send("line-1", seen(1, step="commissioning", action="ADD", ilmd={"cbvmda:lotNumber": "L1"}))
    world.send("line-1", packed(sscc(1), [sgtin(1)]))
    world.step()
    run_all(database, views())
    services = Services(
        db=database, settings=WebSettings(base_url="https://x.example"), now_ms=Clock(), random=Random()
    )
    yield Site(create_app(services), database, Clock(), Random())
    database.close()


def headers_of(site: Site, kind: str) -> dict[str, str]:
    if kind == "public":
        return {}
    if kind == "partner":
        with site.database.transaction() as tx:
            partner = partners.create_partner(tx, name="fuzzer", gln="9521000000018", is_regulator=False, now_ms=0)
            key = partners.create_key(tx, partner, scopes=sorted(partners.SCOPES), now_ms=0, secret=b"f" * 32)
        return {"Authorization": f"Bearer {key}"}
    client = site.signed_in(site.user(f"fuzz-{kind}", *ROLES[kind]))
    cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    return {"Cookie": cookies, "X-CSRF-Token": client.headers["X-CSRF-Token"]}


@pytest.mark.parametrize("kind", KINDS)
def test_no_input_breaks_a_route_and_every_answer_is_documented(site: Site, kind: str) -> None:
    schema = schemathesis.openapi.from_asgi("/openapi.json", site.app)
    headers = headers_of(site, kind)
    wrong: dict[str, str] = {}
    for result in schema.get_all_operations():
        operation: Any = result.ok()
        if operation.path in LEFT_OUT:
            continue
        found = attacked(site, operation, headers)
        if found:
            wrong[f"{operation.method.upper()} {operation.path}"] = found

    assert wrong == {}


def attacked(site: Site, operation: Any, headers: dict[str, str]) -> str:
    """The first failure under generated input, valid and invalid, "" for none."""
    found: list[str] = []
    strategies = [operation.as_strategy(generation_mode=mode) for mode in GenerationMode]

    @seed(1)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=one_of(strategies))
    def attack(case: Any) -> None:
        # A fuzzer is one address; its unknown codes must not be throttled away.
        site.app.state.throttle = Throttle()
        try:
            case.call_and_validate(headers=headers, checks=CHECKS)
        except FailureGroup as failures:
            found.append(str(failures.exceptions[0])[:600])

    try:
        attack()
    except Unsatisfiable:
        return ""
    return found[0] if found else ""
