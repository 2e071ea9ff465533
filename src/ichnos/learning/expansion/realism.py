"""How good and how new synthetic images are: distances to real ones, and a search for copies."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ichnos.arrays import Floats32
from ichnos.errors import InputRefused
from ichnos.files import atomic_file
from ichnos.learning.expansion.slice_generator import Picture


class RandomFeatures:
    """Features of a fixed random convolutional network (three levels, seed 2026); nothing is downloaded.

    It is untrained, so its distances compare arms of one study and cannot be compared with
    published FID, which rests on a network trained on photographs. Features: mean and standard deviation of
    each of 64 channels.
    """

    def __init__(self, seed: int = 2026) -> None:
        generator = torch.Generator().manual_seed(seed)
        widths = (1, 16, 32, 64)
        self.kernels = [
            torch.randn((b, a, 3, 3), generator=generator) * (2 / (9 * a)) ** 0.5
            for a, b in itertools.pairwise(widths)
        ]

    def __call__(self, images: Sequence[Floats32]) -> npt.NDArray[np.float64]:
        """Return features (n, 128) of images (size, size) in -1..1."""
        x = torch.from_numpy(np.stack(images))[:, None].float()
        for kernel in self.kernels:
            x = nn.functional.avg_pool2d(
                nn.functional.leaky_relu(nn.functional.conv2d(x, kernel, padding=1), 0.1), 2
            )
        return np.asarray(torch.cat([x.mean((2, 3)), x.std((2, 3))], 1).double().numpy(), np.float64)


def frechet_distance(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Return the Fréchet distance of two sets of features, as FID has it; with fewer images than features it
    is biased upward.

    >>> x = np.random.default_rng(0).normal(size=(500, 3))
    >>> round(frechet_distance(x, x), 6), round(frechet_distance(x, x + 1), 3)
    (0.0, 3.0)
    """
    if min(len(a), len(b)) < 2:
        raise InputRefused(
            f"the Fréchet distance needs at least 2 images on either side; there are {len(a)} and {len(b)}"
        )
    covariances = [np.atleast_2d(np.cov(part, rowvar=False)) for part in (a, b)]
    shared = np.sqrt(
        np.clip(np.real(np.linalg.eigvals(covariances[0] @ covariances[1])), 0, None)
    ).sum()  # trace of the product's root
    distance = (
        ((a.mean(0) - b.mean(0)) ** 2).sum()
        + np.trace(covariances[0])
        + np.trace(covariances[1])
        - 2 * shared
    )
    return max(0.0, float(distance))


def kernel_distance(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Return the unbiased squared maximum mean discrepancy with KID's cubic kernel; 0 on average for two
    samples of one distribution.
    """
    if min(len(a), len(b)) < 2:
        raise InputRefused(f"KID needs at least 2 images on either side; there are {len(a)} and {len(b)}")

    def kernel(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        out: npt.NDArray[np.float64] = (x @ y.T / x.shape[1] + 1) ** 3
        return out

    def within(x: npt.NDArray[np.float64]) -> float:
        k = kernel(x, x)
        return float((k.sum() - np.trace(k)) / (len(x) * (len(x) - 1)))

    return within(a) + within(b) - 2 * float(kernel(a, b).mean())


@dataclass(frozen=True)
class Novelty:
    """How near synthetic images come to training images, against how near other patients come."""

    # median distance of a synthetic image to the nearest training image (root mean square, 16 x 16 pixels)
    nearest_synthetic: float
    nearest_held_out: float  # the same for images of patients who were not trained on
    copies_share: float  # share of synthetic images nearer than the nearest hundredth of the held-out ones
    ratio: float  # nearest_synthetic / nearest_held_out: far below 1 speaks for memorised images


def novelty(
    synthetic: Sequence[Picture], trained_on: Sequence[Picture], held_out: Sequence[Picture]
) -> Novelty:
    """Compare nearest-neighbour distances; mirrored copies count as copies."""
    for name, part in (("synthetic", synthetic), ("trained on", trained_on), ("held out", held_out)):
        if not part:
            raise InputRefused(f"there is no {name} image, so copies cannot be looked for")
    known = np.concatenate([_thumbnails(trained_on), _thumbnails(trained_on, mirror=True)])
    near, far = (_nearest(_thumbnails(part), known) for part in (synthetic, held_out))
    limit = float(np.quantile(far, 0.01))
    return Novelty(
        float(np.median(near)),
        float(np.median(far)),
        float(np.mean(near < limit)),
        float(np.median(near) / np.median(far)),
    )


def _thumbnails(pictures: Sequence[Picture], *, mirror: bool = False) -> npt.NDArray[np.float64]:
    stack = torch.from_numpy(np.stack([p.image[:, ::-1].copy() if mirror else p.image for p in pictures]))[
        :, None
    ].float()
    small = nn.functional.interpolate(stack, size=(16, 16), mode="area")
    return small.flatten(1).double().numpy()


def _nearest(these: npt.NDArray[np.float64], those: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    from scipy.spatial.distance import cdist

    out: npt.NDArray[np.float64] = cdist(these, those).min(axis=1) / math.sqrt(these.shape[1])
    return out


def slice_sheet(rows: Sequence[tuple[str, Sequence[Picture]]], file: Path, *, columns: int = 10) -> None:
    """Draw pictures in titled rows as one PNG, from black at 0 HU to white at 90."""
    from matplotlib.figure import Figure

    lines = [
        (title if k == 0 else "", part[k : k + columns])
        for title, part in rows
        for k in range(0, len(part), columns)
    ]
    figure = Figure(figsize=(columns, 1.12 * len(lines) + 0.2), layout="constrained")
    axes = figure.subplots(len(lines), columns, squeeze=False)
    for line, (title, part) in zip(axes, lines, strict=True):
        for column, axis in enumerate(line):
            axis.set_axis_off()
            if column < len(part):
                axis.imshow(part[column].image, cmap="gray", vmin=-1, vmax=1)
        line[0].set_title(title, loc="left", fontsize=8)
    with atomic_file(file) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
