"""The item page in a real browser: the proof check, scripts off, both languages, phone and desktop."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, sync_playwright

from api.app import create_app
from api.services import Services, WebSettings
from core.canonical import sha256
from core.crypto import Ed25519Private
from core.notes import COSIGNATURE, Verifier
from ledger.database import open_database, upgrade
from tests.conftest import free_port
from tests.story import AUD, NOW, ORIGIN, Story, tell

CHROMIUM = "/usr/bin/chromium"
# A mirror that the pages pin; it cosigns nothing unless a test lets it.
MIRROR_KEY = Ed25519Private(sha256(b"mirror"))
MIRROR = Verifier("mirror.example", MIRROR_KEY.public, COSIGNATURE)
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


@dataclass
class Served:
    url: str
    story: Story

    def page_of(self, name: str) -> str:
        return self.url + self.story.highlight(name).removeprefix("https://id.gs1.org")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("browser")
    database = open_database(f"sqlite:///{folder}/story.db")
    upgrade(database)
    story = tell(database, folder)
    settings = WebSettings(
        service=AUD,
        origin=ORIGIN,
        log_contract=story.place.contract,
        chain_id=story.place.chain_id,
        is_demo=True,
        mirror_keys=(MIRROR.encode(),),
    )
    app = create_app(
        Services(
            db=database,
            settings=settings,
            chain=story.chain,
            maps=story.maps,
            place=story.place,
            now_ms=lambda: NOW * 1_000 + 5_000,
        )
    )
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.05)
    yield Served(f"http://127.0.0.1:{port}", story)
    server.should_exit = True
    thread.join(10)
    database.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield opened
        opened.close()


@pytest.fixture
def phone(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport=PHONE, locale="en-GB")  # type: ignore[arg-type]
    yield context.new_page()
    context.close()


def outcome(page: Page) -> str:
    page.wait_for_selector("#proof-result:not([hidden])", timeout=15_000)
    return page.get_attribute("#proof-result", "data-outcome") or ""


@pytest.mark.parametrize("name", ["sold_tin", "pallet", "lot"])
def test_the_browser_checks_the_proof_and_says_what_it_found(phone: Page, served: Served, name: str) -> None:
    errors: list[str] = []
    phone.on("pageerror", lambda error: errors.append(str(error)))
    phone.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)

    phone.goto(served.page_of(name))

    assert outcome(phone) == "good"
    text = phone.inner_text("#proof-result")
    assert "according to the operator" in text
    assert "are not shown to you" in text
    assert phone.locator("#proof-steps li[data-state=done]").count() == 8
    assert phone.inner_text("#evidence-tile") == "The evidence holds"
    assert errors == []


def test_a_tampered_bundle_fails_and_the_page_says_so(phone: Page, served: Served) -> None:
    def tamper(route, request) -> None:  # type: ignore[no-untyped-def]
        bundle = json.loads(route.fetch().body())
        entry = next(e for e in bundle["entries"] if "disclosures" in e)
        head, payload, signature = entry["data"].split(".")
        clear = base64.urlsafe_b64decode(payload + "==").replace(b'"seq":', b'"seQ":')
        changed = base64.urlsafe_b64encode(clear).rstrip(b"=").decode()
        entry["data"] = f"{head}.{changed}.{signature}"
        text = json.dumps(bundle, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        route.fulfill(body=text.encode(), content_type="application/json")

    phone.route("**/proof", tamper)
    phone.goto(served.page_of("sold_tin"))

    assert outcome(phone) == "bad"
    assert "does not hold" in phone.inner_text("#proof-result")
    assert "not the one in the log" in phone.inner_text("#proof-result")
    assert phone.locator("#proof-steps li[data-state=failed]").count() == 1


def test_a_byte_changed_in_the_store_makes_the_proof_of_that_item_fail(phone: Page, served: Served) -> None:
    import sqlite3

    item = served.story.highlight("excursion_tin")
    path = served.story.database.url.removeprefix("sqlite:///")
    store = sqlite3.connect(path, timeout=20)
    try:
        (arrival, jwt) = store.execute(
            "SELECT arrival, jwt FROM messages WHERE instr(item_ids, ?) > 0 ORDER BY arrival LIMIT 1", (item.encode(),)
        ).fetchone()
        store.execute("DROP TRIGGER messages_no_update")
        flipped = jwt[:-1] + (b"A" if jwt[-1:] != b"A" else b"Q")
        store.execute("UPDATE messages SET jwt = ? WHERE arrival = ?", (flipped, arrival))
        store.commit()
        phone.goto(served.page_of("excursion_tin"))

        assert outcome(phone) == "bad"
        assert "does not hold" in phone.inner_text("#evidence-tile")
    finally:
        store.execute("UPDATE messages SET jwt = ? WHERE arrival = ?", (jwt, arrival))
        store.commit()
        store.close()


def test_a_node_of_another_chain_is_found_out(phone: Page, served: Served) -> None:
    def lie(route, request) -> None:  # type: ignore[no-untyped-def]
        body = request.post_data_json
        if body["method"] != "eth_chainId":
            route.continue_()
            return
        route.fulfill(
            body=json.dumps({"jsonrpc": "2.0", "id": body["id"], "result": "0x1"}), content_type="application/json"
        )

    phone.route("**/rpc", lie)
    phone.goto(served.page_of("sold_tin"))

    assert outcome(phone) == "bad"
    assert "another chain" in phone.inner_text("#proof-result")


def test_the_reader_can_name_another_node(phone: Page, served: Served) -> None:
    phone.goto(served.page_of("sold_tin"))
    assert outcome(phone) == "good"

    phone.click("#proof-form summary")
    phone.fill("#node", "http://127.0.0.1:9/")
    phone.click("#proof-run")
    phone.wait_for_selector("#proof-result[data-outcome=warn]", timeout=15_000)
    assert "cannot be reached" in phone.inner_text("#proof-result")

    phone.fill("#node", served.url + "/rpc")
    phone.click("#proof-run")
    phone.wait_for_selector("#proof-result[data-outcome=good]", timeout=15_000)


def test_without_webcrypto_the_page_says_why(phone: Page, served: Served) -> None:
    phone.add_init_script("Object.defineProperty(globalThis, 'crypto', { value: {} })")
    phone.goto(served.page_of("sold_tin"))

    assert outcome(phone) == "warn"
    assert "https" in phone.inner_text("#proof-result")


@pytest.mark.parametrize(("lang", "words"), [("en-GB", "first look since the sale"), ("zh-CN", "售出后的第一次查看")])
def test_with_scripts_off_the_verdict_and_the_journey_are_there(
    browser: Browser, served: Served, lang: str, words: str
) -> None:
    context = browser.new_context(viewport=PHONE, locale=lang, java_script_enabled=False)  # type: ignore[arg-type]
    page = context.new_page()

    page.goto(served.page_of("sold_tin"))

    headline = page.inner_text("#verdict")
    assert words in headline or page.get_attribute("[data-verdict]", "data-verdict") == "sold_before"
    assert page.locator(".timeline li").count() > 5
    assert page.locator(".thin svg.chart").first.is_visible()
    assert not page.locator("#proof").is_visible()
    context.close()


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("lang", ["en-GB", "zh-CN"])
@pytest.mark.parametrize("name", ["sold_tin", "recalled_tin", "pallet"])
def test_nothing_is_wider_than_the_screen(
    browser: Browser, served: Served, size: dict[str, int], lang: str, name: str
) -> None:
    context = browser.new_context(viewport=size, locale=lang)  # type: ignore[arg-type]
    page = context.new_page()

    page.goto(served.page_of(name))
    outcome(page)

    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    assert page.locator("html").get_attribute("lang") == ("zh-CN" if lang == "zh-CN" else "en")
    small = page.evaluate(
        "[...document.querySelectorAll('button, .button')].filter(e => e.offsetParent && "
        "!e.classList.contains('link') && e.getBoundingClientRect().height < 44).length"
    )
    assert small == 0
    context.close()


AXE = Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
# What people see of a code: sold, recalled or cold-broken goods, a unit, a lot, an unknown serial, the start page.
LOOKS = ("sold_tin", "excursion_tin", "pallet", "lot", "/01/09521000123458/21/NOBODY", "/")


@pytest.mark.skipif(not AXE.is_file(), reason="npm ci has not been run")
@pytest.mark.parametrize(("size", "locale"), [(PHONE, "zh-CN"), (PHONE, "en-GB"), (DESKTOP, "en-GB")])
def test_pages_of_codes_break_no_rule_of_wcag_and_fit_the_screen(
    browser: Browser, served: Served, size: dict[str, int], locale: str
) -> None:
    context = browser.new_context(viewport=size, locale=locale)  # type: ignore[arg-type]
    page = context.new_page()
    found: list[str] = []

    for name in LOOKS:
        page.goto(served.url + name if name.startswith("/") else served.page_of(name))
        page.evaluate(AXE.read_text(encoding="utf-8"))
        report = page.evaluate("tags => axe.run(document, {runOnly: tags})", WCAG)
        found += [f"{name}: {one['id']} at {one['nodes'][0]['target']}" for one in report["violations"]]
        wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        found += [f"{name}: {wide} pixels too wide"] if wide > 0 else []
    context.close()

    assert found == []
