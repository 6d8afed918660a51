"""The proof check where something is missing: WebCrypto, Ed25519, a node, the newest checkpoint, or some fields."""

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.test_item_page import PHONE, Served, browser, outcome, served

__all__ = ["browser", "served"]


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport=PHONE, locale="en-GB")  # type: ignore[arg-type]
    yield context.new_page()
    context.close()


def test_without_a_secure_context_the_page_says_why_it_cannot_check(page: Page, served: Served) -> None:
    page.add_init_script("Object.defineProperty(Crypto.prototype, 'subtle', { get: () => undefined })")

    page.goto(served.page_of("sold_tin"))

    assert outcome(page) == "warn"
    assert "not opened over https" in page.inner_text("#proof-result")


def test_without_ed25519_it_is_complete_according_to_the_operator(page: Page, served: Served) -> None:
    page.add_init_script(
        "const real = SubtleCrypto.prototype.importKey;"
        "SubtleCrypto.prototype.importKey = function (form, data, algorithm, ...rest) {"
        "  if ((algorithm.name ?? algorithm) === 'Ed25519') throw new DOMException('no', 'NotSupportedError');"
        "  return real.call(this, form, data, algorithm, ...rest); };"
    )

    page.goto(served.page_of("sold_tin"))

    assert outcome(page) == "good"
    text = page.inner_text("#proof-result")
    assert "Complete according to the operator" in text
    assert "does not know Ed25519" in text


def test_a_log_that_has_grown_since_is_told_as_an_older_checkpoint(page: Page, served: Served) -> None:
    def grown(route) -> None:  # type: ignore[no-untyped-def]
        origin, size, rest = route.fetch().text().split("\n", 2)
        route.fulfill(body=f"{origin}\n{int(size) + 7}\n{rest}", content_type="text/plain; charset=utf-8")

    page.route("**/log/checkpoint", grown)
    page.goto(served.page_of("sold_tin"))

    assert outcome(page) == "good"
    assert "the log has grown by 7 entries since" in page.inner_text("#proof-result")


def test_what_is_kept_from_a_consumer_is_counted_on_the_page(page: Page, served: Served) -> None:
    page.goto(served.page_of("sold_tin"))

    assert outcome(page) == "good"
    text = page.inner_text("#proof-result")
    assert "more fields in the records of its containers, lots and inputs are not shown" in text
    assert "are kept back; their histories are proven all the same" in text
    assert "older checkpoint" not in text


def test_another_node_may_be_named_and_a_lying_one_is_found_out(page: Page, served: Served) -> None:
    asked: list[str] = []

    def other_node(route, request) -> None:  # type: ignore[no-untyped-def]
        asked.append(request.url)
        answer = route.fetch(url=served.url + "/rpc", method="POST", post_data=request.post_data)
        body = answer.json()
        if json.loads(request.post_data)["method"] == "eth_chainId":
            body["result"] = "0x99"
        route.fulfill(json=body, headers={"access-control-allow-origin": "*"})

    page.route("**/other-node", other_node)
    page.goto(served.page_of("sold_tin"))
    assert outcome(page) == "good"
    page.click("#proof-form summary")
    page.fill("#node", served.url + "/other-node")
    page.click("#proof-run")
    page.wait_for_selector("#proof-result[data-outcome=bad]")

    assert asked
    assert "another chain" in page.inner_text("#proof-result")


def test_a_bundle_by_another_contract_or_a_second_log_is_told(page: Page, served: Served) -> None:
    def two_logs(route, request) -> None:  # type: ignore[no-untyped-def]
        body = route.fetch().json()
        if '"0x28874705"' in request.post_data.replace(" ", ""):
            body["result"] = "0x" + f"{2:064x}"
        route.fulfill(json=body)

    page.route("**/rpc", two_logs)
    page.goto(served.page_of("sold_tin"))

    assert outcome(page) == "good"
    assert "The contract holds 1 more logs, which were not checked" in page.inner_text("#proof-result")
