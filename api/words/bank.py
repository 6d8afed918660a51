"""Words of the consoles of bank, goods side, regulator and operator."""

from typing import Final

WORDS: Final[dict[str, tuple[str, str]]] = {}
