"""finance/PROPERTIES.md tells of tests that exist, and of every invariant by its number."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "finance" / "PROPERTIES.md").read_text()


def test_every_test_that_the_list_of_properties_names_exists() -> None:
    sources = "\n".join(path.read_text() for path in sorted((ROOT / "tests").rglob("test_*.py")))
    named = set(re.findall(r"`(test_\w+)`", TEXT))

    assert len(named) > 30
    assert {name for name in named if f"def {name}(" not in sources} == set()


def test_every_invariant_has_its_number_and_its_tests() -> None:
    rows = re.findall(r"^\| (V\d+) \| (.+?) \| (.+) \|$", TEXT, flags=re.MULTILINE)

    assert [number for number, _, _ in rows] == [f"V{number}" for number in range(1, 19)]
    assert {number for number, _, tests in rows if "`test_" not in tests and "machine" not in tests} == set()
    assert [number for number, _, tests in rows if tests.startswith("not covered")] == []
