"""A web application on a database of its own, users of every role, and clients that are signed in."""

import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import FastAPI

from api.app import create_app
from api.auth import sessions, users
from api.identity import Role
from api.services import Services, WebSettings
from ledger.database import Database

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from fastapi.testclient import TestClient

FIRST_BANK = "https://id.gs1.org/417/9526008000015"
SECOND_BANK = "https://id.gs1.org/417/9526009000014"
PASSWORD = "a long enough passphrase"
NOW_MS = 1_795_000_000_000


class Clock:
    """The time that the application sees."""

    def __init__(self) -> None:
        self.now_ms = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


class Random:
    """Bytes that are fresh in the whole session, also for a second application on one database."""

    _numbers = itertools.count(1)

    def __call__(self, length: int) -> bytes:
        return next(self._numbers).to_bytes(length, "big")


@dataclass
class Site:
    """The application with what tests need at hand."""

    app: FastAPI
    database: Database
    clock: Clock
    random: Random

    def client(self, **headers: str) -> TestClient:
        return TestClient(self.app, base_url="http://testserver", follow_redirects=False, headers=headers)

    def user(self, login: str, *roles: Role, org: str = FIRST_BANK, password: str | None = None) -> int:
        with self.database.transaction() as tx:
            person = users.create_person(tx, name=login.title(), now_ms=NOW_MS)
            return users.create_user(
                tx, person_id=person, login=login, org=org, roles=roles, now_ms=NOW_MS, password=password
            )

    def signed_in(self, user_id: int) -> TestClient:
        """A program's client: session cookie and CSRF token."""
        with self.database.transaction() as tx:
            token = sessions.create_one_time_login(
                tx, user_id, now_ms=self.clock.now_ms, token=self.random(sessions.TOKEN_BYTES)
            )
        client = self.client()
        answer = client.post("/login/once", json={"token": token})
        assert answer.status_code == 200, answer.text
        client.headers["X-CSRF-Token"] = answer.json()["csrf"]
        return client


@pytest.fixture
def make_site(sqlite_database: Database) -> Callable[..., Site]:
    def make(**services: Any) -> Site:
        clock, random = Clock(), Random()
        settings = services.pop("settings", WebSettings(base_url="https://trace.example", is_demo=True))
        app = create_app(Services(db=sqlite_database, settings=settings, now_ms=clock, random=random, **services))
        return Site(app, sqlite_database, clock, random)

    return make


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()
