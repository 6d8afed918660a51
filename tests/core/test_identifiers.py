"""Identifiers: every spelling of one thing gives one string, and wrong ones are refused by code."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import Rejected
from core.gs1 import CSET_82, KEYS, check_digit, check_pair, is_fixed_length, pattern
from core.identifiers import (
    canonical,
    class_of,
    element_string,
    giai_id,
    gln_of,
    gtin_of,
    lot_id,
    org_id,
    parse,
)
from core.percent import percent_decoded, percent_encoded

DATA = Path(os.environ.get("CONFORMANCE_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
DICTIONARY = DATA / "gs1" / "gs1-syntax-dictionary.txt"
GS = "\x1d"

# Canonical string, then its other spellings. URN and Digital Link pairs are those of the EPC Tag Data Standard and of
# the event-hash vectors of the CBV; their check digits were computed there.
ALIASES = {
    "https://id.gs1.org/01/80614141123458/21/6789": [
        "urn:epc:id:sgtin:0614141.812345.6789",
        "URN:EPC:ID:SGTIN:0614141.812345.6789",
        "urn:epc:tag:sgtin-96:3.0614141.812345.6789",
        "http://id.gs1.org/01/80614141123458/21/6789",
        "https://shop.example.com/a/b/01/80614141123458/21/6789?17=260101#top",
        "https://shop.example.com:8443/gtin/80614141123458/ser/6789",
        "https://id.gs1.org/01/80614141123458/21/%36789",
        "https://id.gs1.org/01/80614141123458/10/LOT7/21/6789",
        "https://id.gs1.org/01/80614141123458/22/2A/10/LOT7/21/6789/",
        "(01)80614141123458(21)6789",
        "(21)6789(01)80614141123458",
        "(01)80614141123458(17)260101(10)LOT7(21)6789",
        f"0180614141123458216789{GS}10LOT7",
        "]C1018061414112345817260101216789",
        f"{GS}0180614141123458216789",
    ],
    "https://id.gs1.org/01/04012345123456/10/Lot987": [
        "urn:epc:class:lgtin:4012345.012345.Lot987",
        "https://id.gs1.de/01/4012345123456/10/Lot987",
        "(01)04012345123456(10)Lot987",
    ],
    "https://id.gs1.org/01/04012345123456": [
        "urn:epc:idpat:sgtin:4012345.012345.*",
        "https://example.org/01/4012345123456",
        "0104012345123456",
        "(01)04012345123456",
    ],
    "https://id.gs1.org/00/340123451111111111": [
        "urn:epc:id:sscc:4012345.3111111111",
        "https://example.com/sscc/340123451111111111",
        "(00)340123451111111111",
        "00340123451111111111",
        "(00)340123451111111111(401)4012345AB",
    ],
    "https://id.gs1.org/414/4012345000054": ["urn:epc:id:sgln:4012345.00005.0", "(414)4012345000054"],
    "https://id.gs1.org/414/4012345000054/254/122": [
        "urn:epc:id:sgln:4012345.00005.122",
        "https://example.com/gln/4012345000054/glnx/122",
        "(414)4012345000054(254)122",
    ],
    "https://id.gs1.org/417/4000001000005": ["urn:epc:id:pgln:4000001.00000", "(417)4000001000005"],
    "https://id.gs1.org/8004/4012345ABC345": ["urn:epc:id:giai:4012345.ABC345", "(8004)4012345ABC345"],
    "https://id.gs1.org/8003/04012345000221334455": ["(8003)04012345000221334455"],
    "https://id.gs1.org/8003/0401234566666387": ["urn:epc:id:grai:4012345.66666.87"],
    "https://id.gs1.org/8003/04012345666663": ["urn:epc:idpat:grai:4012345.66666.*"],
    "https://id.gs1.org/8018/401234598765400000": ["urn:epc:id:gsrn:4012345.9876540000"],
    "https://id.gs1.org/8017/401234500000987658": [
        "urn:epc:id:gsrnp:4012345.0000098765",
        "https://id.gs1.org/8017/401234500000987658/8019/12",
    ],
    "https://id.gs1.org/253/401234555555498": ["urn:epc:id:gdti:4012345.55555.98"],
    "https://id.gs1.org/253/4012345555554": ["urn:epc:idpat:gdti:4012345.55555.*"],
    "https://id.gs1.org/255/401234599999044": ["urn:epc:id:sgcn:4012345.99999.44"],
    "https://id.gs1.org/401/4012345333": ["urn:epc:id:ginc:4012345.333"],
    "https://id.gs1.org/402/40123459999876541": ["urn:epc:id:gsin:4012345.999987654"],
    "https://id.gs1.org/8006/040123451234560102/21/999": ["urn:epc:id:itip:4012345.012345.01.02.999"],
    "https://id.gs1.org/8006/040123451234560102": ["urn:epc:idpat:itip:4012345.012345.01.02.*"],
    "https://id.gs1.org/01/04012345123456/235/AB12": ["urn:epc:id:upui:4012345.012345.AB12"],
    "https://id.gs1.org/8010/4012345ABC/8011/123": ["urn:epc:id:cpi:4012345.ABC.123"],
    "https://id.gs1.org/8010/4012345ABC": ["urn:epc:idpat:cpi:4012345.ABC.*"],
    "https://id.gs1.org/8013/1987654Ad4X4bL5ttr2310c2K": ["(8013)1987654Ad4X4bL5ttr2310c2K"],
    "https://id.gs1.org/01/80614141123458/21/6789%2F%26%25%22%21%3F%28%29": [
        "urn:epc:id:sgtin:0614141.812345.6789%2F%26%25%22!%3F()",
        "https://id.gs1.org/01/80614141123458/21/6789%2f%26%25%22!%3F()",
        '(01)80614141123458(21)6789/&%"!?\\()',
    ],
}


@pytest.mark.parametrize(("wanted", "spelling"), [(c, s) for c, spellings in ALIASES.items() for s in (c, *spellings)])
def test_every_spelling_of_one_thing_gives_one_string(wanted: str, spelling: str) -> None:
    assert canonical(spelling) == wanted


@pytest.mark.parametrize(
    "uri",
    [
        "urn:uuid:374d95fc-9457-4a51-bd6a-0bba133845a8",
        "urn:epc:id:gid:95100000.12345.400",
        "urn:epc:idpat:sgtin:4012345.*.*",
        "http://transaction.acme.com/po/12345678",
        "https://example.com/01/2026",
        "https://example.com/orders?id=%c3%a9#Frag",
        "did:web:example.com",
        "ni:///sha-256;af76?ver=CBV2.0",
    ],
)
def test_any_other_absolute_uri_stays_byte_for_byte(uri: str) -> None:
    identifier = parse(uri)

    assert (identifier.kind, identifier.canonical, identifier.ai) == ("uri", uri, ())


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("https://id.gs1.org/01/80614141123457/21/6789", "bad_check_digit"),
        ("https://shop.example.com/01/80614141123457/21/6789", "bad_check_digit"),
        ("(01)80614141123457(21)6789", "bad_check_digit"),
        ("00340123451111111112", "bad_check_digit"),
        ("https://id.gs1.org/414/4012345000055", "bad_check_digit"),
        ("https://id.gs1.org/8013/1987654Ad4X4bL5ttr2310c2L", "bad_check_digit"),
        ("https://id.gs1.org/01/0614141123458", "bad_check_digit"),
        ("https://id.gs1.org/01/614141123/21/6", "bad_identifier"),
        ("https://id.gs1.org/01/80614141123458/21/6789/10/LOT7", "bad_identifier"),
        ("https://shop.example.com/01/80614141123458/21/6789/10/LOT7", "bad_identifier"),
        ("https://id.gs1.org/01/80614141123458/235/A/21/6", "bad_identifier"),
        ("https://id.gs1.org/01/80614141123458/21/123456789012345678901", "bad_identifier"),
        ("https://id.gs1.org/01/80614141123458/21/%C3%A9", "bad_identifier"),
        ("https://id.gs1.org/01/80614141123458/21/%2536%", "bad_identifier"),
        ("https://id.gs1.org/01/80614141123458/21/a%20b", "bad_identifier"),
        ("https://id.gs1.org/01/80614141123458/21/", "bad_identifier"),
        ("https://id.gs1.org/8006/040123451234560302", "bad_identifier"),
        ("https://id.gs1.org/8010/4012345abc", "bad_identifier"),
        ("https://id.gs1.org/8010/4012345ABC/8011/0123", "bad_identifier"),
        ("https://id.gs1.org/8003/14012345666660", "bad_identifier"),
        ("https://id.gs1.org/8004/AB12345", "bad_identifier"),
        ("https://id.gs1.org/ARFKk4XB0CDKWcnpq", "compressed_link"),
        ("https://id.gs1.org/01/80614141123458/ARFKk4XB0CDKWcnpq", "compressed_link"),
        ("https://id.gs1.org/voc", "bad_identifier"),
        ("urn:epc:id:sgtin:0614141.81234.6789", "bad_identifier"),
        ("urn:epc:id:sgtin:0614141.8123456.6789", "bad_identifier"),
        ("urn:epc:id:sgtin:0614141.812345.", "bad_identifier"),
        ("urn:epc:id:sgtin:0614141.812345", "bad_identifier"),
        ("urn:epc:id:sgtin:06141A1.812345.6", "bad_identifier"),
        ("urn:epc:id:sscc:4012345.311111111", "bad_identifier"),
        ("urn:epc:id:sgcn:4012345.99999.4x", "bad_identifier"),
        ("urn:epc:id:sgtin:0614141.812345.6 7", "bad_identifier"),
        ("(01)80614141123458(00)340123451111111111", "ambiguous_identifier"),
        ("(01)80614141123458(21)6789(21)6790", "ambiguous_identifier"),
        ("(17)260101", "bad_identifier"),
        ("(01)80614141123458(05)1", "bad_identifier"),
        ("80614141123458", "bad_identifier"),
        ("commissioning", "bad_identifier"),
        ("", "bad_identifier"),
        ("https://id.gs1.org/01/" + "0" * 3000, "bad_identifier"),
    ],
)
def test_wrong_identifier_is_refused_by_code(text: str, code: str) -> None:
    with pytest.raises(Rejected) as refusal:
        canonical(text)

    assert refusal.value.code == code


@given(st.text(alphabet=CSET_82, min_size=1, max_size=20))
def test_any_serial_keeps_its_characters_through_all_spellings(serial: str) -> None:
    wanted = canonical("https://id.gs1.org/01/80614141123458/21/" + percent_encoded(serial))

    assert parse(wanted).ai == (("01", "80614141123458"), ("21", serial))
    assert canonical(element_string(wanted)) == wanted
    assert canonical(f"018061414112345821{serial}{GS}") == wanted
    assert canonical("urn:epc:id:sgtin:0614141.812345." + percent_encoded(serial)) == wanted
    assert canonical(wanted) == wanted


@given(st.text(max_size=40))
def test_any_text_has_a_stable_string_or_is_refused(text: str) -> None:
    try:
        first = canonical(text)
    except Rejected:
        return

    assert canonical(first) == first


@given(st.text())
def test_percent_encoding_is_undone_by_decoding_once(text: str) -> None:
    assert percent_decoded(percent_encoded(text)) == text


def test_check_digit_of_the_general_specifications() -> None:
    # GS1 General Specifications 7.9.1: 37610425002123456 has the check digit 9; 629104150021 has 3.
    assert check_digit("37610425002123456") == "9"
    assert check_digit("629104150021") == "3"


def test_check_pair_of_the_general_specifications() -> None:
    assert check_pair("1987654Ad4X4bL5ttr2310c") == "2K"


def test_helpers_build_and_take_apart_canonical_strings() -> None:
    item = "https://id.gs1.org/01/80614141123458/21/6789"

    assert lot_id("80614141123458", "L/1") == "https://id.gs1.org/01/80614141123458/10/L%2F1"
    assert class_of(item) == "https://id.gs1.org/01/80614141123458"
    assert class_of("https://id.gs1.org/00/340123451111111111") is None
    assert gtin_of(parse(item)) == "80614141123458"
    assert org_id("4000001000005") == "https://id.gs1.org/417/4000001000005"
    assert gln_of("https://id.gs1.org/417/4000001000005") == "4000001000005"
    assert giai_id("4012345D-1") == "https://id.gs1.org/8004/4012345D-1"
    assert element_string(item) == "(01)80614141123458(21)6789"


def test_helpers_refuse_what_is_no_such_key() -> None:
    with pytest.raises(Rejected):
        org_id("4000001000006")
    with pytest.raises(Rejected):
        gln_of("https://id.gs1.org/00/340123451111111111")
    with pytest.raises(Rejected):
        element_string("urn:uuid:374d95fc-9457-4a51-bd6a-0bba133845a8")


needs_dictionary = pytest.mark.skipif(not DICTIONARY.exists(), reason=f"no GS1 syntax dictionary at {DICTIONARY}")


def _entries() -> list[tuple[str, str, str]]:
    """Application identifier, flags and the rest of its line, ranges written out."""
    entries = []
    for line in DICTIONARY.read_text().splitlines():
        match = re.match(r"(\d+)(?:-(\d+))?\s+([*?\"]*)\s+(\S.*?)(?:\s+#.*)?$", line)
        if match:
            width = len(match[1])
            for number in range(int(match[1]), int(match[2] or match[1]) + 1):
                entries.append((f"{number:0{width}}", match[3], match[4]))
    return entries


@needs_dictionary
def test_every_application_identifier_has_the_form_of_the_syntax_dictionary() -> None:
    for ai, flags, rest in _entries():
        parts = re.findall(r"(\[)?([NXYZ])(\.\.)?(\d+)", re.split(r"\s+(?:req|ex|dlpkey)", rest)[0])
        sample = {"N": "1", "X": "a", "Y": "A", "Z": "a"}
        shortest = "".join(sample[k] * (1 if dots else int(n)) for opt, k, dots, n in parts if not opt)
        longest = "".join(sample[k] * int(n) for _, k, _, n in parts)
        form = pattern(ai)
        assert form is not None, ai
        assert form.fullmatch(shortest), ai
        assert form.fullmatch(longest), ai
        assert not form.fullmatch(longest + sample[parts[-1][1]]), ai
        assert not form.fullmatch(shortest[:-1]), ai
        assert is_fixed_length(ai) == ("*" in flags), ai


@needs_dictionary
def test_every_digital_link_key_has_the_qualifiers_of_the_syntax_dictionary() -> None:
    wanted = {}
    for ai, _, rest in _entries():
        match = re.search(r"dlpkey(?:=(\S+))?", rest)
        if match:
            orders = match[1].split("|") if match[1] else []
            wanted[ai] = tuple(tuple(order.split(",")) for order in orders)

    assert {ai: key.qualifiers for ai, key in KEYS.items()} == wanted


@needs_dictionary
def test_no_application_identifier_is_known_that_the_syntax_dictionary_does_not_have() -> None:
    known = {ai for ai, _, _ in _entries()}
    numbers = [f"{n:0{width}}" for width in (2, 3, 4) for n in range(10**width)]

    assert {ai for ai in numbers if pattern(ai)} == known
