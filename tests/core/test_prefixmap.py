"""The prefix map's reference: presence, absence, and every forged answer refused."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import Rejected
from core.prefixmap import EMPTY, MapProof, map_key, map_root, map_value, prove, step_head, verify_map

pytestmark = pytest.mark.unit

keys = st.binary(min_size=32, max_size=32)
crowded_keys = st.builds(
    lambda head, tail: head + bytes(30) + tail, st.sampled_from([b"\x00", b"\x80"]), st.binary(min_size=1, max_size=1)
)
maps = st.dictionaries(st.one_of(keys, crowded_keys), keys, max_size=20)


def by_definition(entries: dict[bytes, bytes], prefix: str = "") -> bytes:
    """The root by the page's words, bit strings and all."""
    inside = {k: v for k, v in entries.items() if f"{int.from_bytes(k):0256b}".startswith(prefix)}
    if not inside:
        return bytes(32)
    if len(inside) == 1:
        ((key, value),) = inside.items()
        return sha256(b"\x02" + key + value).digest()
    return sha256(b"\x03" + by_definition(inside, prefix + "0") + by_definition(inside, prefix + "1")).digest()


@given(maps)
def test_root_is_that_of_the_definition(entries: dict[bytes, bytes]) -> None:
    assert map_root(entries) == by_definition(entries)


@given(maps, keys)
def test_what_is_there_and_what_is_not_is_proven_and_nothing_else(entries: dict[bytes, bytes], absent: bytes) -> None:
    root = map_root(entries)
    for key, value in entries.items():
        proof = prove(entries, key)
        verify_map(key, value, proof, root)
        with pytest.raises(Rejected):
            verify_map(key, None, proof, root)
        with pytest.raises(Rejected):
            verify_map(key, sha256(value).digest(), proof, root)
    if absent not in entries:
        proof = prove(entries, absent)
        verify_map(absent, None, proof, root)
        with pytest.raises(Rejected):
            verify_map(absent, bytes(32), proof, root)


def test_absence_cannot_be_shown_by_a_leaf_off_the_way() -> None:
    here, there = b"\x00" * 32, b"\xff" * 32
    entries = {here: b"\x01" * 32, there: b"\x02" * 32}
    proof = MapProof(prove(entries, here).siblings, (there, entries[there]))

    with pytest.raises(Rejected, match="way"):
        verify_map(here, None, proof, map_root(entries))


def test_an_empty_map_has_the_empty_root() -> None:
    assert map_root({}) == EMPTY == bytes(32)


def test_key_head_and_value_are_the_hashes_of_the_page() -> None:
    key = map_key("item", "https://id.gs1.org/01/09521234543213")
    head = step_head(bytes(32), 7, 2, b"\x11" * 32)

    assert key == sha256(b"tracebond/item/1\x00https://id.gs1.org/01/09521234543213").digest()
    assert head == sha256(b"\x05" + bytes(32) + (7).to_bytes(8, "big") + (2).to_bytes(4, "big") + b"\x11" * 32).digest()
    assert map_value(1, head) == sha256(b"\x04" + (1).to_bytes(8, "big") + head).digest()


def test_an_unknown_kind_of_key_is_refused() -> None:
    with pytest.raises(Rejected, match="bad_kind"):
        map_key("pallet", "x")
