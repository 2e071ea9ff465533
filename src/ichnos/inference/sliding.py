"""Sliding window: tiles of one size over a grid, blended by a Gaussian, accumulated in place."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator

import numpy as np

from ichnos.arrays import Floats32
from ichnos.inference.backends import outputs_of


def slide(
    image: Floats32,
    run: Callable[[Floats32], Floats32],
    *,
    patch: tuple[int, int, int],
    channels: int,
    overlap: float = 0.5,
    padding: float = -1.0,
) -> Floats32:
    """Return the blended output (channels, x, y, z) of `run` over an image (input channel, x, y, z).

    An image smaller than a tile is padded with -1, the lower edge of every window, unless told otherwise.

    >>> slide(np.ones((1, 5, 5, 5), np.float32), lambda t: 2 * t, patch=(4, 4, 4), channels=1).round(5).max()
    np.float32(2.0)
    """
    padded, own = _padded(image, patch, padding)
    total = np.zeros((channels, *padded.shape[1:]), np.float32)
    weight, window = np.zeros(padded.shape[1:], np.float32), _window(patch)
    places = list(tiles(padded.shape[1:], patch, overlap))
    inputs = (np.ascontiguousarray(padded[(slice(None), *place)][None]) for place in places)
    for place, output in zip(places, outputs_of(run, inputs), strict=True):
        total[(slice(None), *place)] += output[0] * window
        weight[place] += window
    total /= weight
    return total[(slice(None), *own)]


def _padded(
    image: Floats32, patch: tuple[int, int, int], padding: float
) -> tuple[Floats32, tuple[slice, ...]]:
    """Pad an image on both sides to a whole tile, as nnU-Net and MONAI do it; return where it lies in it."""
    missing = [max(0, p - n) for n, p in zip(image.shape[1:], patch, strict=True)]
    before = [m // 2 for m in missing]
    widths = [(0, 0), *[(b, m - b) for b, m in zip(before, missing, strict=True)]]
    own = tuple(slice(b, b + n) for b, n in zip(before, image.shape[1:], strict=True))
    return (np.pad(image, widths, constant_values=padding) if any(missing) else image), own


def tiles(shape: tuple[int, ...], patch: tuple[int, ...], overlap: float) -> Iterator[tuple[slice, ...]]:
    """Yield the fewest evenly spread tiles that cover a shape with at least this overlap of neighbours.

    >>> [tile[0] for tile in tiles((10,), (6,), 0.5)]
    [slice(0, 6, None), slice(2, 8, None), slice(4, 10, None)]
    """
    starts = []
    for n, p in zip(shape, patch, strict=True):
        count = 1 + int(np.ceil((n - p) / max(1.0, p * (1 - overlap)) - 1e-9)) if n > p else 1
        starts.append(sorted({round(s) for s in np.linspace(0, n - p, count)}))
    for corner in itertools.product(*starts):
        yield tuple(slice(s, s + p) for s, p in zip(corner, patch, strict=True))


@functools.cache
def _window(patch: tuple[int, int, int]) -> Floats32:
    """A Gaussian of an eighth of the tile as standard deviation: a tile's rim knows least."""
    axes = [np.exp(-0.5 * ((np.arange(p) - (p - 1) / 2) / (p / 8)) ** 2) for p in patch]
    return np.asarray(np.einsum("i,j,k->ijk", *axes), np.float32)
