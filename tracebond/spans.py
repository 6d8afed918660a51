"""Spans of time as people write them on a command line."""

import re

from core.errors import Rejected

_SPAN = re.compile(r"([1-9][0-9]{0,4})([smhd])\Z")
_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def read_span_ms(text: str) -> int:
    """Milliseconds of a span like ``90s``, ``30m``, ``12h`` or ``7d``.

    Raises:
        Rejected: ``bad_span``.
    """
    match = _SPAN.match(text.strip())
    if match is None:
        raise Rejected("A span is a whole number and s, m, h or d: 30m, 12h, 7d.", code="bad_span")
    return int(match[1]) * _MS[match[2]]
