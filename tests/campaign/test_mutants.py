"""The campaign of mutants as a test: no rule can be dropped or shifted unnoticed (C5). Part of ``make soak`` alone."""

import pytest

from contracts import compiler
from tests.campaign import mutants


@pytest.mark.parametrize("name", compiler.NAMES)
def test_every_mutant_is_noticed_or_explained(name: str) -> None:
    assert mutants.main(["--only", name]) == 0
