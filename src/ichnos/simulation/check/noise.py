"""The noise power spectrum of a CT, measured in the brain."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ichnos.volume import Array, Floats, Volume

PATCH = 40  # pixels of a square patch


def measured_noise_power(ct: Volume, brain: Array, *, most: int = 40) -> tuple[Floats, Floats] | None:
    """Return the radial noise power spectrum (frequency per mm, HU2 mm2) of brain patches without blood, bone
    or fluid.

    Each patch is freed of its second-order trend; anatomy that is left raises the lowest frequencies.
    """
    pixel_mm = ct.spacing_mm[0]
    patches = [p for p, _ in zip(_patches(ct, brain), range(most), strict=False)]
    if not patches:
        return None
    y, x = np.mgrid[:PATCH, :PATCH] / PATCH
    trend = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=-1).reshape(-1, 6)
    project = np.eye(PATCH * PATCH) - trend @ np.linalg.pinv(trend)
    power = np.mean(
        [np.abs(np.fft.fft2((project @ p.ravel()).reshape(PATCH, PATCH))) ** 2 for p in patches], axis=0
    )
    power *= pixel_mm**2 / PATCH**2
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(PATCH, pixel_mm), np.fft.fftfreq(PATCH, pixel_mm)))
    edges = np.linspace(0, 1.1, 23)
    band = np.digitize(frequency, edges)
    centres = (edges[:-1] + edges[1:]) / 2
    means = np.array([power[band == k].mean() if (band == k).any() else np.nan for k in range(1, len(edges))])
    return centres, means


def _patches(ct: Volume, brain: Array) -> Iterator[Floats]:
    step = PATCH
    for k in range(2, ct.shape[2] - 2, 2):
        inside = brain[:, :, k] == 1
        for i in range(0, ct.shape[0] - step, step):
            for j in range(0, ct.shape[1] - step, step):
                if inside[i : i + step, j : j + step].mean() > 0.97:
                    patch = np.asarray(ct.array[i : i + step, j : j + step, k], np.float64)
                    if patch.max() < 80 and patch.min() > -10:
                        yield patch
