"""The strict parser: one meaning for each text, and limits on everything."""

import random
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import canonical
from core.canonical import b64u, canonical_bytes, dump_json, parse_json, unb64u
from core.errors import Rejected

pytestmark = pytest.mark.unit


def parse(text: str) -> object:
    return parse_json(text.encode(), bytes_max=10_000)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('{"a":1,"a":2}', "duplicate_key"),
        ('{"x":{"a":1,"b":{"a":1,"\\u0061":2}}}', "duplicate_key"),
        ("NaN", "bad_number"),
        ("[Infinity]", "bad_number"),
        ("-Infinity", "bad_number"),
        ("9007199254740992", "bad_number"),
        ("-9007199254740992", "bad_number"),
        ("1e400", "bad_number"),
        ("1e-400", "bad_number"),
        ("0." + "1" * 60, "bad_number"),
        ("1" * 5000, "bad_number"),
        ("[" * 17 + "]" * 17, "too_deep"),
        ("[" * 4000 + "]" * 4000, "too_deep"),
        ('{"a":' * 17 + "1" + "}" * 17, "too_deep"),
        ("{", "bad_json"),
        ("", "bad_json"),
        ("[1,]", "bad_json"),
        ("{'a':1}", "bad_json"),
        ('"\\ud800"', "bad_json"),
        ('{"\\udfff":1}', "bad_json"),
        ("1 2", "bad_json"),
        ("\ufeff1", "bad_json"),
    ],
)
def test_text_with_two_meanings_or_none_is_refused(text: str, code: str) -> None:
    with pytest.raises(Rejected) as refused:
        parse(text)

    assert refused.value.code == code


def test_size_is_checked_before_anything_else() -> None:
    with pytest.raises(Rejected, match="too_large"):
        parse_json(b"[" * 50, bytes_max=49)


def test_bytes_that_are_not_utf8_are_refused() -> None:
    with pytest.raises(Rejected, match="bad_json"):
        parse_json(b'"\xff"', bytes_max=10)


def test_decimals_keep_their_digits_and_integers_stay_integers() -> None:
    assert (
        dump_json(parse('{"a":1.10,"b":9007199254740991,"c":-0.5E3}')) == b'{"a":1.10,"b":9007199254740991,"c":-5E+2}'
    )
    assert parse("1.10") == Decimal("1.10")
    assert parse("[" * 16 + "]" * 16)


def test_brackets_within_strings_do_not_count_as_depth() -> None:
    assert parse('"' + "[{" * 50 + '\\""') == "[{" * 50 + '"'


def test_canonical_bytes_are_those_of_rfc_8785() -> None:
    # Order of keys by UTF-16 code units: RFC 8785, section 3.2.3.
    value = {"\u20ac": "Euro Sign", "\r": "CR", "\U0001f600": "Smiley", "1": "One", "\u0080": "C", "\ufb33": "D"}

    assert list(parse_json(canonical_bytes(value), bytes_max=1000)) == [
        "\r",
        "1",
        "\u0080",
        "\u20ac",
        "\U0001f600",
        "\ufb33",
    ]
    assert canonical_bytes({"b": [1, True, None], "a": "\u00e9\n"}) == '{"a":"é\\n","b":[1,true,null]}'.encode()


@pytest.mark.parametrize("value", [1.5, {"a": [Decimal("1.5")]}, 2**53])
def test_canonical_bytes_hold_no_fractions_and_no_large_integers(value: object) -> None:
    with pytest.raises(Rejected, match="bad_number"):
        canonical_bytes(value)


@given(st.binary(max_size=100))
def test_base64url_has_one_spelling_for_each_byte_string(data: bytes) -> None:
    assert unb64u(b64u(data)) == data


@pytest.mark.parametrize("text", ["AA==", "AB", "A", "A+/A", "AA\n", "é", "AAB"])
def test_other_spellings_of_base64url_are_refused(text: str) -> None:
    with pytest.raises(Rejected, match="bad_base64url"):
        unb64u(text)


def test_texts_written_our_way_are_read_as_any_other_text_is(monkeypatch: pytest.MonkeyPatch) -> None:
    seed = 20261125
    chance = random.Random(seed)
    texts = [_json_text(chance).encode("utf-8", "surrogatepass") for _ in range(4_000)]
    depths = [chance.choice((2, 4, 16)) for _ in texts]

    quick = [_outcome(text, depth) for text, depth in zip(texts, depths, strict=True)]
    monkeypatch.setattr(canonical, "_COMPACT_MAX", -1)
    thorough = [_outcome(text, depth) for text, depth in zip(texts, depths, strict=True)]

    assert quick == thorough, f"seed {seed}"
    assert {kind for kind, _ in quick} == {"read", "refused"}


_PIECES = (
    '"a"', '"\\u00e9"', '"é"', "1", "-0", "0", "1.0", "1.50", "1e5", "1E+5", "9007199254740991", "9007199254740992",
    "1" * 30, "0.1e-50", "true", "null", "NaN", '"\\ud800"', '"\\/"', '"\\n"', "1.0E400", "00", "1.", '"\x7f"', "x",
)  # fmt: skip


def _json_text(chance: random.Random, depth: int = 0) -> str:
    kind = chance.randrange(12)
    if depth > 3 or kind < 4:
        return chance.choice(_PIECES)
    inner = [_json_text(chance, depth + 1) for _ in range(chance.randrange(4))]
    if kind < 8:
        return "[" + ",".join(inner) + "]"
    return "{" + ",".join(f'"{chance.choice("abc")}":{one}' for one in inner) + "}"


def _outcome(text: bytes, depth_max: int) -> tuple[str, str]:
    try:
        return "read", repr(parse_json(text, bytes_max=10_000, depth_max=depth_max))
    except Rejected as error:
        return "refused", error.code
