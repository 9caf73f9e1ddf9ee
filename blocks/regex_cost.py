"""How many ways a regular expression can be tried in: a bound on the time of one match. Pure.

Python's `re` goes back and tries again, holds every thread meanwhile, and knows no time limit:
`(a+)+b` on forty characters takes hours. So what is dear is refused before it is ever matched.
"""

import importlib
import math
import re
from collections.abc import Iterable
from typing import Any

MATCHED = 256
"""Characters of a value that are matched."""
MOST_TRIES = 24.1
"""As a power of two: three of `.*` on 256 characters. None such takes longer than a second."""
_LONGEST = 500
_REPEATS = {"MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"}


def tries(pattern: str) -> float:
    """The logarithm (base 2) of the ways in which it can be tried on 256 characters, at most.

    Args:
        pattern: one that compiles.

    Raises:
        re.error: it does not, or it is too long.
    """
    if len(pattern) > _LONGEST:
        raise re.error(f"it has more than {_LONGEST} characters")
    # The parser of `re` itself; it has no public name since Python 3.11.
    return _sequence(importlib.import_module("re._parser").parse(pattern))


def _sequence(parts: Iterable[tuple[Any, Any]]) -> float:
    """One after the other: every way of the one with every way of the other."""
    return sum(_part(str(kind), given) for kind, given in parts)


def _part(kind: str, given: Any) -> float:
    if kind in _REPEATS:
        least, most, body = int(given[0]), min(int(given[1]), MATCHED), _sequence(given[2])
        return most * body + math.log2(max(1, most - least + 1))
    if kind == "BRANCH":
        ways = [_sequence(way) for way in given[1]]
        return max(ways) + math.log2(len(ways))
    if kind == "SUBPATTERN":
        return _sequence(given[3])
    if kind in ("ASSERT", "ASSERT_NOT"):
        return _sequence(given[1])
    if kind == "ATOMIC_GROUP":
        return _sequence(given)
    if kind == "GROUPREF_EXISTS":
        return max(_sequence(given[1]), _sequence(given[2] or ()))
    return 0.0
