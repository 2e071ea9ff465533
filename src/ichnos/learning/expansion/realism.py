"""What synthetic slices are described by, and how they are shown; `evidence` judges them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ichnos.arrays import Floats32
from ichnos.evidence.metrics.synthetic.judge import ImageSet
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


def image_set(pictures: Sequence[Picture]) -> ImageSet:
    """Return pictures as the arrays that `evidence.metrics.synthetic` judges."""
    return ImageSet(
        np.stack([p.image for p in pictures]),
        np.array([p.outcome for p in pictures], float),
        tuple(p.patient for p in pictures),
    )


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
