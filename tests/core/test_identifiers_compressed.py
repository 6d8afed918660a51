"""Compressed Digital Links, against vectors of the GS1 toolkit's algorithm."""

import pytest

from core.errors import Rejected
from core.gs1_compress import expand, looks_compressed

pytestmark = pytest.mark.unit

# Vectors of the tests of gs1-compression 0.1.3 (PyPI, Apache 2.0), a port of the GS1 Digital Link toolkit.
VECTORS = {
    "ARHKVAdpQg": ({"01": "09780345418913"}, {}),
    "AQnYUc1gmiERBhQ0ytiyZuAGOLc1TXgpNWCv1": (
        {"01": "05412345000013", "10": "ABC&+123", "7003": "1903061658"},
        {"k1": "v1"},
    ),
    "ABeRcNWtKMPA": ({"00": "106141412345678908"}, {}),
    "QUCO_anbfA": ({"414": "0614141123452"}, {}),
    "JAaasHt_dNNt4ADESMALumsUfMAm34": ({"240": "qwe390023", "8003": "09421012301014f9804dbf"}, {}),
}


@pytest.mark.parametrize("text", sorted(VECTORS))
def test_a_compressed_link_is_read(text: str) -> None:
    values, others = expand(text)

    assert (dict(values), dict(others)) == VECTORS[text]
    assert looks_compressed(text)


@pytest.mark.parametrize("text", ["ARHKVAdpQgAA", "ARHK", "AR HKVAdpQg", "________", "ARHKVAdpQ", "A" * 401, ""])
def test_what_is_no_compressed_link_is_refused(text: str) -> None:
    with pytest.raises(Rejected) as refused:
        expand(text)

    assert refused.value.code == "bad_identifier"


@pytest.mark.parametrize("word", ["something-else", "favicon_ico", "regulator", "docs"])
def test_other_words_are_not_taken_for_links(word: str) -> None:
    assert not looks_compressed(word)
