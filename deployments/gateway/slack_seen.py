"""What was seen before: signatures, envelopes. Bounded in number and in time."""

import time
from collections import OrderedDict
from collections.abc import Callable


class Seen:
    """Remembers keys for a while.

    A full memory takes no new key instead of forgetting an old one: what is forgotten could be
    played again.
    """

    def __init__(
        self, keep_s: float, most: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Empty.

        Args:
            keep_s: how long a key is remembered, seconds.
            most: keys at once.
            clock: seconds, never going back.
        """
        self._keep_s, self._most, self._clock = keep_s, most, clock
        self._kept: OrderedDict[str, float] = OrderedDict()

    def first(self, key: str) -> bool:
        """Whether the key is new; from now on it is not.

        Raises:
            OverflowError: there is no room, so nothing is known of it.
        """
        now = self._clock()
        while self._kept and next(iter(self._kept.values())) <= now - self._keep_s:
            self._kept.popitem(last=False)
        if key in self._kept:
            return False
        if len(self._kept) >= self._most:
            raise OverflowError(f"more than {self._most} in {self._keep_s:.0f} s")
        self._kept[key] = now
        return True
