"""Alarms in a real browser: raised by readings, acknowledged and cleared by a person, shown without a reload."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import uvicorn
from playwright.sync_api import Page, sync_playwright

from api.auth import sessions, users
from api.identity import Role
from core.canonical import sha256
from ledger.database import Database
from tests.api.capture_rig import CaptureRig, make_rig
from tests.api.conftest import NOW_MS
from tests.api.test_alarms import follow, warm
from tests.conftest import free_port
from tests.ledger.world import MAKER


@dataclass
class Served:
    url: str
    rig: CaptureRig
    page: Page


@pytest.fixture
def served(sqlite_database: Database) -> Iterator[Served]:
    rig, port = make_rig(sqlite_database), free_port()
    server = uvicorn.Server(uvicorn.Config(rig.app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.05)
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=arguments)
        context = browser.new_context(viewport={"width": 1280, "height": 900}, locale="en-GB")
        yield Served(f"http://127.0.0.1:{port}", rig, context.new_page())
        browser.close()
    server.should_exit = True
    thread.join(10)


def sign_in(served: Served, login: str, role: Role) -> None:
    """By the link that a new user gets."""
    with served.rig.database.transaction() as tx:
        person = users.create_person(tx, name=login, now_ms=NOW_MS)
        user = users.create_user(
            tx, person_id=person, login=login, org=MAKER, roles=[role], now_ms=NOW_MS, password=None
        )
        token = sessions.create_one_time_login(tx, user, now_ms=served.rig.clock.now_ms, token=sha256(login.encode()))
    served.page.goto(f"{served.url}/login/once/{token}?lang=en")
    served.page.locator("main button").first.click()
    served.page.wait_for_url(lambda url: "/login" not in url)


def test_a_person_acknowledges_and_clears_what_readings_raised(served: Served) -> None:
    sign_in(served, "keeper", Role.FACTORY)
    page = served.page
    page.goto(f"{served.url}/factory/alarms?lang=en")
    assert page.locator("#alarm-list td.empty").count() == 1
    page.get_by_text("New rule").click()
    page.get_by_label("Name", exact=True).fill("Cold room")
    page.locator("#rule-kind").select_option("excursion")
    page.locator("#rule-low").fill("2")
    page.locator("#rule-high").fill("8")
    page.locator("#rule-for").fill("600")
    page.get_by_role("button", name="Save").click()

    page.goto(f"{served.url}/factory/alarms?lang=en")
    for number, value in enumerate((5, 9, 12, 14, 13)):
        warm(served.rig.world, number * 5, value, 1)
    follow(served.rig.database, served.rig.world)
    # Nobody reloads: the list keeps itself as it is now.
    page.locator("#alarm-list .badge.bad").wait_for(timeout=20_000)
    page.locator("#alarm-list a", has_text="Cold room").click()
    assert page.locator("#alarm-chart svg").first.is_visible()

    page.get_by_label("Note").fill("The door was open.")
    page.get_by_role("button", name="Acknowledge").click()
    page.locator("h1 .badge.warn").wait_for()
    assert page.get_by_role("button", name="Acknowledge").count() == 0
    page.get_by_label("Note").fill("Moved to another room.")
    page.get_by_role("button", name="Clear").click()
    page.locator("h1 .badge.good").wait_for()

    told = page.locator("#alarm-history li").all_inner_texts()
    assert [line.count("keeper") for line in told] == [0, 1, 1]
    assert "The door was open." in told[1]
    assert "Moved to another room." in told[2]
    assert page.locator("form[action$='/ack']").count() == 0
    page.goto(f"{served.url}/factory/alarms?lang=en")
    assert page.locator("#alarm-list td.empty").count() == 1
    page.goto(f"{served.url}/factory/alarms?state=all&lang=en")
    assert page.locator("#alarm-list .badge.good").count() == 1


def test_the_operator_finds_the_alarms_from_the_own_page(served: Served) -> None:
    sign_in(served, "watcher", Role.OPERATOR)
    page = served.page
    page.goto(f"{served.url}/operator?lang=en")

    page.get_by_role("link", name="See the alarms").click()

    assert page.url.startswith(f"{served.url}/factory/alarms")
    assert page.locator("h1").inner_text() == "Alarms"
