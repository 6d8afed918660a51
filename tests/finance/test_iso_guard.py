"""Hostile XML is refused before any schema code sees it, in little time and memory."""

import tracemalloc

import pytest

from core.errors import Rejected
from finance.iso20022.forms import NOTIFICATION, read
from finance.iso20022.guard import BYTES_MAX, DEPTH_MAX, guard_xml

pytestmark = pytest.mark.unit
NAMESPACE = "urn:iso:std:iso:20022:tech:xsd:camt.054.001.08"
LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
HOSTILE = {
    "dtd_refused": [
        '<!DOCTYPE Document [<!ENTITY x SYSTEM "file:///etc/passwd">]><Document>&x;</Document>',
        '<!DOCTYPE Document SYSTEM "http://127.0.0.1:9/x.dtd"><Document/>',
        f'<!DOCTYPE Document [<!ENTITY l0 "ha">{LAUGHS}]><Document>&l9;</Document>',
        '<!DOCTYPE Document [<!ENTITY % p SYSTEM "file:///dev/zero">%p;]><Document/>',
        "<!DOCTYPE Document><Document/>",
    ],
    "too_deep": ["<a>" * (DEPTH_MAX + 1) + "</a>" * (DEPTH_MAX + 1), "<a>" * 200_000],
    "too_many_elements": ["<a>" + "<b/>" * 100_001 + "</a>"],
    "bad_xml": [
        "", "no xml", "<a>", "<a></b>", "<a/><b/>", "<a>&undefined;</a>", "<a>\x00</a>", "<?php x ?><a/>",
        f"<a>{'x' * 5_000}</a>", f'<a b="{"x" * 5_000}"/>', '<?xml version="1.0" encoding="utf-7"?><a/>',
        '<?xml version="1.1"?><a/>',
    ],
}  # fmt: skip


@pytest.mark.parametrize(("code", "text"), [(code, text) for code, texts in HOSTILE.items() for text in texts])
def test_hostile_text_is_refused(code: str, text: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(Rejected) as caught:
            guard_xml(text.encode())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert caught.value.code == code
    assert peak < 16 * 1024 * 1024


def test_utf_16_does_not_hide_a_dtd() -> None:
    with pytest.raises(Rejected) as caught:
        guard_xml(HOSTILE["dtd_refused"][0].encode("utf-16"))

    assert caught.value.code == "bad_xml"


def test_ten_megabytes_are_refused_unread() -> None:
    body = b"<" + b"a" * (10 * 1024 * 1024)

    with pytest.raises(Rejected) as caught:
        guard_xml(body)

    assert caught.value.code == "too_large"
    # One byte below the limit is read, and is no XML.
    with pytest.raises(Rejected, match="bad_xml"):
        guard_xml(b"x" * BYTES_MAX)


@pytest.mark.parametrize(
    "body",
    [
        f'<Document xmlns="{NAMESPACE[:-1]}1"/>',
        "<Document/>",
        f'<Dokument xmlns="{NAMESPACE}"/>',
    ],
)
def test_another_message_is_named_and_refused(body: str) -> None:
    with pytest.raises(Rejected, match="unknown_message"):
        read(body.encode(), NOTIFICATION)


def test_what_the_schema_does_not_allow_is_refused() -> None:
    with pytest.raises(Rejected, match="invalid_message"):
        read(f'<Document xmlns="{NAMESPACE}"><BkToCstmrDbtCdtNtfctn/></Document>'.encode(), NOTIFICATION)
