"""Rigid and affine registration that does not depend on where it starts.

A coarse search over poses, scored by normalised mutual information at a few thousand points, hands its best
few to SimpleITK's gradient descent; the best of those wins. Points inside `exclude` (a haematoma, which the
other exam may not show) take no part.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any, Literal

import numpy as np

from ichnos.registration.contrast import View
from ichnos.registration.similarity import Samples, samples, similarity_at
from ichnos.registration.transform import Transform
from ichnos.volume import Affine, Floats, Volume, centroid_mm

LinearKind = Literal["rigid", "affine"]
_TURNS_DEG = (-30.0, -15.0, 0.0, 15.0, 30.0)
_SHIFTS_MM = (-60.0, -30.0, 0.0, 30.0, 60.0)


def coarse_poses(
    fixed: View, moving: View, *, keep: int, rng: np.random.Generator, exclude: Volume | None
) -> list[Transform]:
    """Try poses up to 30 degrees and some centimetres from centre to centre; return the best few after a
    local search, best first.
    """
    chosen = samples(fixed, count=4000, rng=rng, exclude=exclude)
    few = Samples(chosen.points[:1500], chosen.bins[:1500])
    centre_f, centre_m = centroid_mm(fixed.head), centroid_mm(moving.head)
    if not np.isfinite(centre_f).all() or not np.isfinite(centre_m).all():
        centre_f, centre_m = fixed.image.centre_mm, moving.image.centre_mm
    starts = sorted(_starts(), key=lambda p: -similarity_at(_pose(p, centre_f, centre_m), few, moving))
    refined = [_locally_best(p, centre_f, centre_m, chosen, moving) for p in _distinct(starts, 3 * keep)]
    refined.sort(key=lambda found: -found[0])
    return [
        Transform.of(Affine(_pose(p, centre_f, centre_m))) for p in _distinct([p for _, p in refined], keep)
    ]


def refined_pose(
    start: Transform,
    fixed: View,
    moving: View,
    *,
    kind: LinearKind,
    exclude: Volume | None,
    fine: bool,
    threads: int,
) -> tuple[Transform, float]:
    """Follow the gradient of Mattes mutual information from a start; return the map and its (negative)
    metric.
    """
    method = _descent(fine=fine, threads=threads)
    method.SetMetricFixedMask(_metric_mask(fixed, exclude).to_sitk())
    moved = _to_itk(start, kind, fixed.head)
    method.SetInitialTransform(moved, inPlace=True)
    try:
        with _threads_of_itk(threads):
            method.Execute(fixed.image.to_sitk(), moving.image.to_sitk())
    except RuntimeError:  # the images drifted apart: this start leads nowhere
        return start, 0.0
    return Transform.of(_from_itk(moved)), float(method.GetMetricValue())


@contextmanager
def _threads_of_itk(count: int) -> Iterator[None]:
    """Hold ITK's own default: parts of a registration follow it, whatever the method was told, and sum in
    another order with another count.
    """
    import SimpleITK as sitk

    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(count)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def _descent(*, fine: bool, threads: int) -> Any:
    """Return SimpleITK's gradient descent: quick, or `fine` with more samples and shorter steps."""
    import SimpleITK as sitk

    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(threads)
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(0.5 if fine else 0.2, 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        1.0 if fine else 4.0, 0.01 if fine else 0.1, 100, gradientMagnitudeTolerance=1e-6
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([1])
    method.SetSmoothingSigmasPerLevel([0.0])
    return method


def _starts() -> Iterator[Floats]:
    for x, y, z, dz in product(_TURNS_DEG, _TURNS_DEG, _TURNS_DEG, _SHIFTS_MM):
        yield np.array([np.radians(x), np.radians(y), np.radians(z), 0.0, 0.0, dz])


def _pose(p: Floats, centre_f: Floats, centre_m: Floats) -> Floats:
    """Turn about the fixed centre by three angles (rad), then shift centre to centre and by some more
    (mm).
    """
    from scipy.spatial.transform import Rotation

    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", p[:3]).as_matrix()
    matrix[:3, 3] = centre_m + p[3:] - matrix[:3, :3] @ centre_f
    return matrix


def _distinct(poses: list[Floats], keep: int) -> list[Floats]:
    """Keep the first few that differ by more than 8 degrees or 12 mm."""
    kept: list[Floats] = []
    for p in poses:
        apart = [
            max(np.degrees(np.abs(p[:3] - q[:3])).max() / 8, np.abs(p[3:] - q[3:]).max() / 12) for q in kept
        ]
        if min(apart, default=2.0) > 1:
            kept.append(p)
        if len(kept) == keep:
            break
    return kept


def _locally_best(
    p: Floats, centre_f: Floats, centre_m: Floats, chosen: Samples, moving: View
) -> tuple[float, Floats]:
    from scipy.optimize import minimize

    unit = np.array([0.1, 0.1, 0.1, 8.0, 8.0, 8.0])
    simplex = np.vstack([p, p + np.diag(unit)]) / unit
    found = minimize(
        lambda q: -similarity_at(_pose(q * unit, centre_f, centre_m), chosen, moving),
        p / unit,
        method="Nelder-Mead",
        options={"maxfev": 150, "initial_simplex": simplex, "xatol": 0.02, "fatol": 1e-5},
    )
    return -float(found.fun), found.x * unit


def _metric_mask(fixed: View, exclude: Volume | None) -> Volume:
    from scipy import ndimage

    where = ndimage.binary_dilation(fixed.head.array, iterations=max(1, round(8 / fixed.image.spacing_mm[0])))
    if exclude is not None:
        where = where & (exclude.astype(np.float32).on_grid(fixed.image).array < 0.5)
    return fixed.head.with_array(where.astype(np.uint8))


_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def _to_itk(start: Transform, kind: LinearKind, head: Volume) -> Any:
    import SimpleITK as sitk

    lps = _LPS @ start.affine.matrix @ _LPS
    centre = (_LPS[:3, :3] @ np.nan_to_num(centroid_mm(head))).tolist()
    moved: Any = sitk.Euler3DTransform() if kind == "rigid" else sitk.AffineTransform(3)
    moved.SetCenter(centre)
    rotation = lps[:3, :3]
    if kind == "rigid":
        left, _, right = np.linalg.svd(rotation)
        rotation = left @ right
    moved.SetMatrix(rotation.ravel().tolist(), *([1e-6] if kind == "rigid" else []))
    moved.SetTranslation((lps[:3, :3] @ centre + lps[:3, 3] - centre).tolist())
    return moved


def _from_itk(moved: Any) -> Affine:
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(moved.GetMatrix()).reshape(3, 3)
    centre = np.array(moved.GetCenter())
    matrix[:3, 3] = np.array(moved.GetTranslation()) + centre - matrix[:3, :3] @ centre
    return Affine(_LPS @ matrix @ _LPS)
