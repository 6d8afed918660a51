"""halmos 0.3.3 with one fault mended: it declares SHA-256 over as many bits as the input has bytes."""

import sys
from typing import Any

from halmos import sevm
from halmos.__main__ import main
from halmos.utils import BitVecSorts

_function = sevm.Function


def _mended(name: str, *sorts: Any) -> Any:
    if name.startswith("f_sha256_"):
        sorts = (BitVecSorts[8 * int(name.removeprefix("f_sha256_"))], *sorts[1:])
    return _function(name, *sorts)


sevm.Function = _mended
sys.exit(main())
