"""A query over events as conditions that are decided on an event's facts: pure, without a database."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal

from ledger.queryindex_facts import Facts

Comparison = Literal["EQ", "GT", "GE", "LT", "LE"]
_COMPARE: Final[Mapping[str, Callable[[Fraction, Fraction], bool]]] = {
    "EQ": operator.eq,
    "GT": operator.gt,
    "GE": operator.ge,
    "LT": operator.lt,
    "LE": operator.le,
}


@dataclass(frozen=True)
class AnyOf:
    """The event says at least one of these terms, or one that begins with one of these prefixes.

    Attributes:
        stems: for each prefix the terms under which the index lists a superset of what it matches; a class prefix has
            none, it is expanded from the classes that the index knows.
        is_open: the index lists no superset; the events themselves have to be read.
    """

    terms: frozenset[str]
    prefixes: tuple[str, ...] = ()
    stems: frozenset[str] = frozenset()
    is_open: bool = False

    def holds(self, facts: Facts) -> bool:
        """Whether the event fulfils it."""
        if not self.terms.isdisjoint(facts.terms):
            return True
        return bool(self.prefixes) and any(text.startswith(self.prefixes) for text in facts.terms)


@dataclass(frozen=True)
class Compared:
    """At least one number under one of the names compares so with one of the values; times are unix seconds."""

    names: tuple[str, ...]
    comparison: Comparison
    values: tuple[Fraction, ...]

    def holds(self, facts: Facts) -> bool:
        """Whether the event fulfils it."""
        compare = _COMPARE[self.comparison]
        return any(
            compare(found, value) for name in self.names for found in facts.numbers_of(name) for value in self.values
        )


Condition = AnyOf | Compared


@dataclass(frozen=True)
class Order:
    """The order of an answer: by record time, event time or a field's values; ties by log order, same direction.

    Attributes:
        fields: names whose first number or text orders the events, for an extension field.
    """

    by: Literal["recordTime", "eventTime", "field"] = "recordTime"
    is_descending: bool = False
    fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class Query:
    """What to find.

    Attributes:
        conditions: all must hold.
        record_ge_ms, record_lt_ms: bounds of the record time, unix ms.
        count_limit: at most this many events, the first in the order.
        count_max: more matching events than this are an error.
    """

    conditions: tuple[Condition, ...] = ()
    record_ge_ms: int | None = None
    record_lt_ms: int | None = None
    order: Order = Order()
    count_limit: int | None = None
    count_max: int | None = None

    def holds(self, facts: Facts, record_ms: int) -> bool:
        """Whether an event recorded at that time is found."""
        if self.record_ge_ms is not None and record_ms < self.record_ge_ms:
            return False
        if self.record_lt_ms is not None and record_ms >= self.record_lt_ms:
            return False
        return all(condition.holds(facts) for condition in self.conditions)
