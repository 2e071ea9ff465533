"""The shape of a bleed's mask: how long, how flat, how compact, how round."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ichnos.volume import Floats, Volume

LEAST_PIECE_ML = 0.1
# pi / 4: by this the steps along a digital contour overstate its length, averaged over directions
STAIRCASE = np.pi / 4


@dataclass(frozen=True)
class Shape:
    """The form of a mask; ratios have no unit and are those of its largest piece."""

    volume_ml: float
    pieces: int  # larger than 0.1 mL
    elongation: float  # first over second standard deviation
    flatness: float  # second over third
    fill: float  # volume over that of the ellipsoid with the same second moments
    roundness: float  # 4 pi area / perimeter^2 of the largest slice


def shape_of(mask: Volume) -> Shape | None:
    """Measure a mask (x, y, slices); None where no piece is larger than 0.1 mL.

    >>> from ichnos.volume import sphere
    >>> ball = shape_of(sphere(radius_mm=14))
    >>> round(ball.elongation, 1), round(ball.flatness, 1), round(ball.fill, 1), ball.pieces
    (1.0, 1.0, 1.0, 1)
    """
    (box,) = ndimage.find_objects((mask.array > 0).astype(np.uint8)) or (None,)
    if box is None:
        return None
    labels, _ = ndimage.label(mask.array[box] > 0, structure=np.ones((3, 3, 3)))
    sizes_ml = np.bincount(labels.ravel())[1:] * mask.voxel_ml
    if sizes_ml.max() <= LEAST_PIECE_ML:
        return None
    piece = labels == 1 + int(sizes_ml.argmax())
    spreads = _spreads_mm(piece, mask)
    ellipsoid_ml = 4 / 3 * np.pi * 5**1.5 * float(np.prod(spreads)) / 1000
    return Shape(
        volume_ml=float(sizes_ml.sum()),
        pieces=int((sizes_ml > LEAST_PIECE_ML).sum()),
        elongation=float(spreads[0] / spreads[1]),
        flatness=float(spreads[1] / spreads[2]),
        fill=float(sizes_ml.max() / ellipsoid_ml),
        roundness=_roundness(piece[:, :, int(piece.sum((0, 1)).argmax())], mask),
    )


def _spreads_mm(piece: np.ndarray, mask: Volume) -> Floats:
    """Return standard deviations along the principal axes, longest first; a voxel has its own extent."""
    points = np.argwhere(piece) @ mask.affine[:3, :3].T
    own = (mask.affine[:3, :3] @ mask.affine[:3, :3].T) / 12
    variances = np.linalg.eigvalsh(np.atleast_2d(np.cov(points.T)) + own)[::-1]
    return np.asarray(np.sqrt(variances), np.float64)


def _roundness(cut: np.ndarray, mask: Volume) -> float:
    """Return 4 pi A / P^2 of a slice; the perimeter counts pixel edges, less what a staircase adds."""
    x_mm, y_mm = (float(np.linalg.norm(mask.affine[:3, axis])) for axis in (0, 1))
    padded = np.pad(cut, 1).astype(np.int8)
    edges_mm = np.abs(np.diff(padded, axis=0)).sum() * y_mm + np.abs(np.diff(padded, axis=1)).sum() * x_mm
    return float(4 * np.pi * cut.sum() * x_mm * y_mm / (edges_mm * STAIRCASE) ** 2)
