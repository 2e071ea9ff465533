"""Slow down whoever guesses passwords."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field


@dataclass(eq=False)
class RateLimit:
    """Counts failed sign-ins per name and per address in a sliding window.

    >>> limit = RateLimit(failures=2, window_s=60)
    >>> limit.note("ann", 0), limit.note("ann", 1), limit.blocks("ann", 2), limit.blocks("ann", 100)
    (None, None, True, False)
    """

    failures: int = 8
    window_s: float = 300.0
    _times: dict[str, deque[float]] = field(default_factory=lambda: defaultdict(deque))

    def note(self, key: str, now: float) -> None:
        """Count one failure.

        >>> limit = RateLimit(failures=1)
        >>> limit.note("ann", 0.0)
        >>> limit.blocks("ann", 1.0), limit.blocks("bob", 1.0)
        (True, False)
        """
        self._times[key].append(now)

    def blocks(self, key: str, now: float) -> bool:
        """Tell whether a name or an address must wait.

        >>> RateLimit(failures=1).blocks("ann", 0.0)
        False
        """
        times = self._times[key]
        while times and times[0] < now - self.window_s:
            times.popleft()
        if not times:
            del self._times[key]
        return len(times) >= self.failures
