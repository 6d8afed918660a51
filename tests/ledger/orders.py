"""One story told twice, for rules whose outcome must not depend on the order in which messages came."""

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings

T = TypeVar("T")
# The log is shared by all examples of a module: each tells its story about goods of its own.
STORM = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], print_blob=True)


def told_in_any_order(tell: Callable[[Any, list[int]], T], story: Sequence[Any], seed: int) -> T:
    """What stands after the story, told in order and then shuffled by the seed."""
    order = list(range(len(story)))
    random.Random(seed).shuffle(order)
    clean = tell(story, list(range(len(story))))

    assert tell(story, order) == clean
    return clean
