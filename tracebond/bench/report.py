"""What a benchmark says: rows of figures measured in one run, as a table and as JSON."""

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Say = Callable[[str], None]
_LIBRARIES = ("cryptography", "paho-mqtt", "psycopg", "sqlalchemy", "web3")


@dataclass(frozen=True)
class Row:
    """One figure of one run.

    Args:
        name: what was measured, with its sizes.
        value: the figure, in ``unit``.
        ceiling: the raw limit measured in the same run, same unit.
        naive: the naive way measured in the same run, same unit.
        target: what must be reached, same unit; a share where ``is_share_target``.
        is_lower_better: times and costs are better when smaller; rates when larger.
        is_share_target: the target is a share of the ceiling.
    """

    name: str
    value: float
    unit: str
    ceiling: float | None = None
    naive: float | None = None
    target: float | None = None
    is_lower_better: bool = False
    is_share_target: bool = False

    @property
    def share(self) -> float | None:
        """How much of the ceiling is reached, 1 for all of it."""
        if not self.ceiling or not self.value:
            return None
        return self.ceiling / self.value if self.is_lower_better else self.value / self.ceiling

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if self.target is None:
            return None
        if self.is_share_target:
            return self.share is not None and self.share >= self.target
        return self.value <= self.target if self.is_lower_better else self.value >= self.target


@dataclass(frozen=True)
class Report:
    """All rows of one part, with the machine and the versions they were measured on."""

    part: str
    rows: Sequence[Row]

    def as_json(self) -> dict[str, Any]:
        """The members that ``--json`` writes."""
        return {
            "part": self.part,
            "machine": machine(),
            "versions": versions(),
            "rows": [_row(row) for row in self.rows],
        }

    def lines(self) -> list[str]:
        """A table for people."""
        head = ("measured", "value", "unit", "ceiling", "share", "naive", "target", "met")
        cells = [head, *(_cells(row) for row in self.rows)]
        widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
        return [
            "  ".join(
                cell.ljust(width) if column in (0, 2, 7) else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in cells
        ]

    def write(self, path: Path) -> None:
        """Write the JSON form to ``path``."""
        path.write_text(json.dumps(self.as_json(), indent=1) + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """What the figures were measured on; no names of hosts or people."""
    return {"cores": os.cpu_count(), "processor": platform.machine(), "system": platform.system()}


def versions() -> dict[str, str]:
    """Python and the libraries whose speed shows."""
    return {"python": sys.version.split()[0]} | {name: importlib.metadata.version(name) for name in _LIBRARIES}


def _row(row: Row) -> dict[str, Any]:
    kept = {name: value for name, value in asdict(row).items() if not name.startswith("is_")}
    return kept | {"share": row.share, "met": row.met}


def _cells(row: Row) -> tuple[str, ...]:
    target = (
        "" if row.target is None else f"{row.target:.2f} of ceiling" if row.is_share_target else _number(row.target)
    )
    share = "" if row.share is None else f"{row.share:.2f}"
    met = "" if row.met is None else "yes" if row.met else "NO"
    return (row.name, _number(row.value), row.unit, _number(row.ceiling), share, _number(row.naive), target, met)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
