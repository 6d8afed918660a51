"""What a query needs from the database before it is complete: namespaces, descendants of places, master data."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import sqlalchemy as sa

from core.errors import Rejected
from ledger.database import Tx
from ledger.queryindex import NAME_KINDS
from ledger.queryindex_tables import query_names
from ledger.queryindex_terms import SEPARATOR, identity
from ledger.tables import masters

SUBJECTS_MAX: Final = 1_000
_PREFIXES_MAX: Final = 20
_BOUND_MAX: Final = 2_000  # ours: prefixes looked at for one name
_DEPTH_MAX: Final = 16


class Lookup(Protocol):
    """Answers to what a parameter leaves open."""

    def namespaces_of(self, prefix: str) -> tuple[str, ...]:
        """The namespaces that events have bound to a prefix."""

    def names_in(self, iri: str) -> tuple[str, ...]:
        """A full name as events may write it: with each prefix that they have bound to its beginning."""

    def with_descendants(self, places: Iterable[str]) -> set[str]:
        """Places and what master data put below them, canonical."""

    def with_attribute(self, name: str, values: frozenset[str] | None) -> set[str]:
        """Subjects whose master data have an attribute, with one of the values unless None."""


@dataclass(frozen=True)
class DatabaseLookup:
    """Answers from the index and the master records."""

    tx: Tx

    def namespaces_of(self, prefix: str) -> tuple[str, ...]:
        """The namespaces that events have bound to a prefix."""
        name = query_names.c.name
        query = sa.select(name).where(query_names.c.kind == NAME_KINDS.index("prefix"), name > prefix + SEPARATOR)
        query = query.where(name < prefix + "\x20").order_by(name).limit(_PREFIXES_MAX)
        return tuple(found.partition(SEPARATOR)[2] for found in self.tx.execute(query).scalars())

    def names_in(self, iri: str) -> tuple[str, ...]:
        """A full name as events may write it: with each prefix that they have bound to its beginning."""
        name = query_names.c.name
        query = sa.select(name).where(query_names.c.kind == NAME_KINDS.index("prefix")).order_by(name)
        bound = (found.partition(SEPARATOR) for found in self.tx.execute(query.limit(_BOUND_MAX)).scalars())
        return tuple(f"{prefix}:{iri[len(start) :]}" for prefix, _, start in bound if start and iri.startswith(start))

    def with_descendants(self, places: Iterable[str]) -> set[str]:
        """Places and what master data put below them: a ``place`` fact names its ``parent`` or its ``children``."""
        below: dict[str, set[str]] = {}
        for subject, value in self._facts("place").items():
            if isinstance(value.get("parent"), str):
                below.setdefault(identity(value["parent"]), set()).add(subject)
            for child in value["children"] if isinstance(value.get("children"), list) else ():
                below.setdefault(subject, set()).add(identity(str(child)))
        found = set(places)
        level = set(found)
        for _ in range(_DEPTH_MAX):
            level = {child for place in level for child in below.get(place, ())} - found
            if not level:
                break
            found |= level
        return _bounded(found)

    def with_attribute(self, name: str, values: frozenset[str] | None) -> set[str]:
        """Subjects whose newest master data have an attribute, with one of the values unless None."""
        found: set[str] = set()
        wanted = _local(name)
        for fact in ("place", "product", "party"):
            for subject, attributes in self._facts(fact).items():
                given = (value for known, value in attributes.items() if known == name or _local(known) == wanted)
                if any(value is not None and (values is None or _text(value) in values) for value in given):
                    found.add(subject)
        return _bounded(found)

    def _facts(self, fact: str) -> Mapping[str, Mapping[str, Any]]:
        query = sa.select(masters.c.subject, masters.c.value).where(masters.c.fact == fact).order_by(masters.c.leaf)
        return {subject: json.loads(value) for subject, value in self.tx.execute(query)}


def _local(name: str) -> str:
    """An attribute's own name: CBV writes it as ``urn:epcglobal:cbv:mda:site``, ``cbvmda:site`` or a web address."""
    return re.split("[:/#]", name)[-1]


def _text(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _bounded(found: set[str]) -> set[str]:
    if len(found) > SUBJECTS_MAX:
        raise Rejected(f"The parameter stands for more than {SUBJECTS_MAX} names.", code="query_too_complex")
    return found
