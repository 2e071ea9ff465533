"""One call that brings two exams together, and the numbers by which to judge it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ichnos.registration.contrast import FRESH_BLOOD_HU, ImageContrast, View, view
from ichnos.registration.deformable import DeformableBackend, deformed
from ichnos.registration.rigid import coarse_poses, refined_pose
from ichnos.registration.similarity import samples, similarity
from ichnos.registration.transform import Transform
from ichnos.volume import Volume

RegistrationKind = Literal["rigid", "affine", "deformable"]


@dataclass(frozen=True, eq=False)
class Registration:
    """How to get from the fixed exam to the moving one, and how well they match there."""

    transform: Transform  # maps points of the fixed exam's space to the moving exam's: moving_from_fixed
    kind: RegistrationKind
    # normalised mutual information in the head, 1 … 2; 1 means that neither tells anything about the other
    similarity: float
    rigid_similarity: float  # the same after the rigid step
    head_overlap: float  # Dice of the two heads where both fields of view reach; NaN if they do not meet
    coverage: float  # share of the fixed head that lies inside the moving field of view
    jacobian_min: float  # local volume change, 1 for rigid; NaN is never given
    jacobian_max: float

    def pull(self, moving: Volume, grid: Volume, *, fill: float = 0.0) -> Volume:
        """Bring an image of the moving exam onto a grid in the fixed exam's space."""
        return self.transform.pull(moving, grid, fill=fill)


def register(
    fixed: Volume,
    moving: Volume,
    *,
    kind: RegistrationKind = "rigid",
    exclude: Volume | None = None,
    fixed_contrast: ImageContrast | None = None,
    moving_contrast: ImageContrast | None = None,
    start: Transform | None = None,
    stiffness: float = 1.0,
    spacing_mm: float = 2.0,
    scale_limit: float = 1.06,
    backend: DeformableBackend = "greedy",
    rng: np.random.Generator | None = None,
    threads: int = 1,
) -> Registration:
    """Register two exams of one head, whatever their poses; `transform` then maps fixed points (RAS mm) to
    moving points.

    `exclude` is a mask in the fixed space (a haematoma and its oedema) that takes no part; fresh blood on a
    CT is left out of itself. `start` replaces the search for a pose: "rigid" and "affine" refine it,
    "deformable" builds on it as it is. `contrast` is found from the grey values unless given (say "ct" for a
    CT without its air). `spacing_mm` is the voxel size the metric works at; `stiffness` above 1 allows the
    deformable step less. An affine map may not change lengths by more than `scale_limit`: mutual information
    likes to shrink one head into the other.
    """
    seen = (
        view(fixed, spacing_mm=spacing_mm, contrast=fixed_contrast),
        view(moving, spacing_mm=spacing_mm, contrast=moving_contrast),
    )
    exclude = _all_excluded(fixed, seen[0], exclude)
    linear: dict[str, Any] = {"exclude": exclude, "threads": threads}
    rigid = start or _rigid(fixed, moving, seen, rng=rng or np.random.default_rng(0), **linear)
    found = rigid
    if kind == "affine" or (kind == "deformable" and start is None):
        found = _affine(rigid, *seen, scale_limit=scale_limit, **linear)
    elif kind == "rigid" and start is not None:
        found = refined_pose(rigid, *seen, kind="rigid", fine=True, **linear)[0]
    if kind == "deformable":
        found = deformed(*seen, found, stiffness=stiffness, backend=backend, **linear)
    return _judged(found, rigid, kind, *seen, exclude)


def assess(transform: Transform, fixed: Volume, moving: Volume, *, spacing_mm: float = 2.0) -> Registration:
    """Give the numbers of a transform that came from elsewhere: another program, or a person's hand."""
    seen = view(fixed, spacing_mm=spacing_mm)
    kind: RegistrationKind = "deformable" if transform.displacements else "affine"
    rigid = Transform.of(transform.affine)
    return _judged(
        transform, rigid, kind, seen, view(moving, spacing_mm=spacing_mm), _all_excluded(fixed, seen, None)
    )


def _rigid(
    fixed: Volume,
    moving: Volume,
    fine: tuple[View, View],
    *,
    exclude: Volume | None,
    rng: np.random.Generator,
    threads: int,
) -> Transform:
    coarse_f = view(fixed, spacing_mm=4.0, contrast=fine[0].contrast)
    coarse_m = view(moving, spacing_mm=4.0, contrast=fine[1].contrast)
    poses = coarse_poses(coarse_f, coarse_m, keep=3, rng=rng, exclude=exclude)
    if len(poses) > 1:
        tried = [
            refined_pose(pose, coarse_f, coarse_m, kind="rigid", exclude=exclude, fine=False, threads=threads)
            for pose in poses
        ]
        chosen = samples(coarse_f, count=8000, rng=rng, exclude=exclude)
        poses = sorted((pose for pose, _ in tried), key=lambda pose: -similarity(pose, chosen, coarse_m))
    return refined_pose(poses[0], *fine, kind="rigid", exclude=exclude, fine=True, threads=threads)[0]


def _affine(
    rigid: Transform, fixed: View, moving: View, *, exclude: Volume | None, scale_limit: float, threads: int
) -> Transform:
    """Return the best of the rigid map and two affine refinements of it, by our own measure and within the
    limit.
    """
    chosen = samples(fixed, count=8000, rng=np.random.default_rng(2), exclude=exclude)
    best, best_score, at = rigid, similarity(rigid, chosen, moving), rigid
    for fine in (False, True):
        at = refined_pose(at, fixed, moving, kind="affine", exclude=exclude, fine=fine, threads=threads)[0]
        stretch = np.linalg.svd(at.affine.matrix[:3, :3], compute_uv=False)
        if stretch.max() > scale_limit or stretch.min() < 1 / scale_limit:
            break
        score = similarity(at, chosen, moving)
        if score > best_score:
            best, best_score = at, score
    return best


def _all_excluded(fixed: Volume, seen: View, exclude: Volume | None) -> Volume | None:
    """Return the mask of what takes no part: what was asked, and fresh blood on a CT (bright, soft, well
    inside the head).
    """
    from scipy import ndimage

    if seen.contrast != "ct":
        return exclude
    even = ndimage.gaussian_filter(np.clip(fixed.on_grid(seen.image, fill=-1000.0).array, -100.0, 300.0), 1.0)
    inside = ndimage.binary_erosion(seen.head.array, iterations=max(1, round(12 / seen.image.spacing_mm[0])))
    blood = ndimage.binary_opening((even > FRESH_BLOOD_HU) & (even < 95.0) & inside)
    blood = ndimage.binary_dilation(blood, iterations=2) & inside
    if exclude is not None:
        blood |= exclude.astype(np.float32).on_grid(seen.image).array > 0.5
    return seen.head.with_array(blood)


def _judged(
    found: Transform,
    rigid: Transform,
    kind: RegistrationKind,
    fixed: View,
    moving: View,
    exclude: Volume | None,
) -> Registration:
    chosen = samples(fixed, count=20000, rng=np.random.default_rng(1), exclude=exclude)
    everywhere = moving.head.with_array(np.ones(moving.head.shape, np.uint8))
    in_view, head = (
        found.pull(mask, fixed.head, interpolation="nearest").array > 0
        for mask in (everywhere, moving.head.astype(np.uint8))
    )
    both = fixed.head.array & in_view
    total = int(both.sum()) + int(head.sum())
    determinants = [d.jacobian.array[fixed.head.array] for d in found.displacements]
    return Registration(
        transform=found,
        kind=kind,
        similarity=similarity(found, chosen, moving),
        rigid_similarity=similarity(rigid, chosen, moving),
        head_overlap=2 * int((both & head).sum()) / total if total else float("nan"),
        coverage=float(in_view[fixed.head.array].mean()),
        jacobian_min=min((float(np.percentile(d, 0.1)) for d in determinants), default=1.0),
        jacobian_max=max((float(np.percentile(d, 99.9)) for d in determinants), default=1.0),
    )
