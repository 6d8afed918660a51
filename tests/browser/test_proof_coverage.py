"""What the page says of completeness: cosigned by mirrors that it pins, by strangers, or a part of the history only."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from core.canonical import canonical_bytes, sha256
from core.crypto import Ed25519Private
from core.notes import COSIGNATURE, Verifier, cosign
from ledger import proofs
from tests.browser.test_item_page import MIRROR, MIRROR_KEY, PHONE, Served, browser, outcome, served

__all__ = ["browser", "served"]
COSIGNED_AT = 1_764_000_000
STRANGER_KEY = Ed25519Private(sha256(b"stranger"))
STRANGER = Verifier("stranger.example", STRANGER_KEY.public, COSIGNATURE)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport=PHONE, locale="en-GB")  # type: ignore[arg-type]
    yield context.new_page()
    context.close()


def cosigned_by(page: Page, *signers: tuple[Verifier, Ed25519Private], time: int = COSIGNED_AT) -> None:
    """Serve the bundle with these cosignatures on its checkpoint."""

    def add(route: Any) -> None:
        bundle = json.loads(route.fetch().body())
        text = bundle["checkpoint"].rpartition("\n\n")[0] + "\n"
        for verifier, key in sorted(signers, key=lambda signer: signer[0].encode()):
            bundle["cosigners"].append(verifier.encode())
            bundle["checkpoint"] += cosign(text, verifier.name, key, time=time)
        route.fulfill(body=canonical_bytes(bundle), content_type="application/json")

    page.route("**/proof", add)


def test_a_pinned_mirrors_cosignature_makes_it_complete_as_of_the_checkpoint(page: Page, served: Served) -> None:
    cosigned_by(page, (MIRROR, MIRROR_KEY), (STRANGER, STRANGER_KEY))

    page.goto(served.page_of("sold_tin"))

    assert outcome(page) == "good"
    text = page.inner_text("#proof-result")
    assert "Complete as of" in text
    assert "cosigned by mirror.example." in text
    assert "stranger.example" in text
    assert "according to the operator" not in text


def test_a_strangers_cosignature_counts_for_nothing_and_is_named(page: Page, served: Served) -> None:
    cosigned_by(page, (STRANGER, STRANGER_KEY))

    page.goto(served.page_of("sold_tin"))

    assert outcome(page) == "good"
    text = page.inner_text("#proof-result")
    assert "Complete according to the operator" in text
    assert "stranger.example" in text


def test_a_cosignature_by_another_key_under_the_mirrors_name_fails(page: Page, served: Served) -> None:
    cosigned_by(page, (MIRROR, STRANGER_KEY))

    page.goto(served.page_of("sold_tin"))

    assert outcome(page) == "bad"
    assert "does not hold" in page.inner_text("#proof-result")


@pytest.mark.parametrize(
    ("histories", "words"),
    [(1, "Only the records of this very code are in the bundle"), (3, "only a part is in the bundle")],
)
def test_a_bundle_that_covers_less_says_so_even_when_a_mirror_cosigned(
    page: Page, served: Served, monkeypatch: pytest.MonkeyPatch, histories: int, words: str
) -> None:
    # The ledger stops following related histories there, as it does in bundles that would grow too large.
    monkeypatch.setattr(proofs, "HISTORIES_MAX", histories)
    cosigned_by(page, (MIRROR, MIRROR_KEY))

    page.goto(served.page_of("sold_tin"))

    assert outcome(page) == "good"
    text = page.inner_text("#proof-result")
    assert words in text
    assert "Complete according to the operator" in text
