"""Random numbers of a patient: a stream of its own for each part, so that no part changes another."""

from __future__ import annotations

import torch

_PARTS = (
    "law",
    "haematoma",
    "variation",
    "chronic",
    "tract",
    "ivh",
    "lesion",
    "later",
    "resample",
    "operation",
)


def random_stream(seed: int, part: str) -> torch.Generator:
    """Return the generator of one part of a patient: asking for more maps changes none of the others.

    >>> first, again = (torch.rand(1, generator=random_stream(7, "ivh")) for _ in range(2))
    >>> bool(first == again), bool(first == torch.rand(1, generator=random_stream(7, "tract")))
    (True, False)
    """
    return torch.Generator().manual_seed((seed * 1_000_003 + 7919 * _PARTS.index(part)) % 2**63)
