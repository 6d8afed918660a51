"""Where other people's test data lies: CONFORMANCE_DATA, else ../shared/data beside the checkout."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("CONFORMANCE_DATA", ROOT.parent / "shared" / "data"))


def files(folder: str, pattern: str) -> list[Path]:
    """The files of a folder of the data, in order; a test over none of them is skipped with the reason."""
    return sorted((DATA / folder).glob(pattern))


needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no conformance data at {DATA}; set CONFORMANCE_DATA")
