"""What is measured of a pair of exams after registration: how much better it fits than wrong heads do.

The question "are these two exams of one head, rightly aligned?" is answered against wrong heads that are made
from the pair itself: the partner exam mirrored left to right, and stretched or squeezed by a twentieth along
each axis, each aligned anew as well as it will go. An exam of the same person beats them clearly; one of
another person, or one flipped, does not. Only the inside of the skull is compared: with the scalp included,
any two heads look much alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import product
from math import isnan

import numpy as np
from scipy import ndimage

from ichnos.arrays import Floats
from ichnos.registration.contrast import View, view
from ichnos.registration.register import Registration
from ichnos.registration.similarity import Samples, samples, similarity, similarity_at
from ichnos.registration.transform import Transform
from ichnos.volume import Affine, Volume, centroid_mm

STRETCH = 1.05
GAP_MM = 6.0  # bone thickened by this closes gaps of twice the width
MOSTLY_BRAIN = 1.6  # an exam that shows less than so many times the brain shows no whole head
_UNIT = np.array([0.05, 0.05, 0.05, 4.0, 4.0, 4.0])  # steps of the search: rad, mm
_WRONG: dict[str, tuple[float, float, float]] = {
    "mirror": (-1, 1, 1),
    "wide": (STRETCH, 1, 1),
    "narrow": (1 / STRETCH, 1, 1),
    "long": (1, STRETCH, 1),
    "short": (1, 1 / STRETCH, 1),
    "high": (1, 1, STRETCH),
    "low": (1, 1, 1 / STRETCH),
}
# A head that lies turned or leaning in the scan must be turned by twice as much once it is mirrored: tries of
# that, in rad, none first.
_TURNS = np.array(
    sorted(
        product((0.0,), (-0.28, -0.14, 0.0, 0.14, 0.28), (-0.28, -0.14, 0.0, 0.14, 0.28)), key=np.linalg.norm
    )
)


@dataclass(frozen=True)
class PairNumbers:
    """What was measured of a pair of exams after registration; NaN where it could not be."""

    # by how much the pair beats wrong heads on average, as a share of its own mutual information; 0 or less:
    # not at all
    margin: float
    least_margin: (
        float  # the same against the best of the wrong heads; a little below 0 happens with thick slices
    )
    mirror_margin: float  # the same against the mirrored exam alone: below 0 the flipped exam fits better
    similarity: float  # normalised mutual information in the skull after the rigid step, 1 … 2
    head_overlap: float  # Dice of the two heads where both exams reach; see `_overlap` for brains
    brain_coverage: (
        float  # share of the CT's brain that lies in the partner's field of view and shows tissue there
    )
    deformation_mm: float  # median displacement of the brain by the deformable step; NaN without one
    jacobian_min: float
    jacobian_max: float

    def as_row(self) -> dict[str, float | None]:
        """Return plain numbers for a table, to four digits; None for NaN."""
        values = {f.name: float(getattr(self, f.name)) for f in fields(self)}
        return {name: None if isnan(value) else round(value, 4) for name, value in values.items()}


def measure_pair(
    ct: Volume, partner: Volume, found: Registration, *, rng: np.random.Generator | None = None
) -> PairNumbers:
    """Measure how well a partner exam lies on its CT; `found.transform` maps CT points to partner points."""
    fixed, moving = view(ct, spacing_mm=2.0, contrast="ct"), view(partner, spacing_mm=2.0)
    rigid = Transform.of(found.transform.affine)
    brain = brain_of_ct(fixed)
    rim = View(fixed.image, brain.with_array(ndimage.binary_dilation(brain.array, iterations=2)), "ct")
    chosen = samples(rim, count=15000, rng=rng or np.random.default_rng(0), margin_mm=2.0)
    own = similarity(rigid, chosen, moving)
    wrong = dict(_wrong_heads(rigid, chosen, moving, centroid_mm(fixed.head)))
    margins = {name: (own - value) / max(own - 1, 1e-6) for name, value in wrong.items()}
    return PairNumbers(
        margin=float(np.mean(list(margins.values()))),
        least_margin=min(margins.values()),
        mirror_margin=margins["mirror"],
        similarity=own,
        head_overlap=_overlap(found, fixed, brain, moving),
        brain_coverage=_coverage(found.transform, brain, moving),
        deformation_mm=_deformation_mm(found.transform, brain),
        jacobian_min=found.jacobian_min,
        jacobian_max=found.jacobian_max,
    )


def brain_of_ct(seen: View) -> Volume:
    """Return the inside of the skull on the even grid of a CT's view: soft tissue that bone encloses, slice
    by slice.

    The bone is thickened first, so that sutures and thin or tilted bone leave no gap, and what it encloses
    grows back up to it.
    """
    step = seen.image.spacing_mm[0]
    bone = seen.image.array >= 0.99
    thicker = round(GAP_MM / step)
    wall = ndimage.binary_dilation(bone, iterations=thicker)
    hollow = (
        np.stack([ndimage.binary_fill_holes(wall[:, :, k]) for k in range(wall.shape[2])], axis=2) & ~wall
    )
    inside = ndimage.binary_dilation(hollow, iterations=thicker) & ~bone
    core = ndimage.binary_erosion(inside & (seen.image.array > 0.1), iterations=round(4 / step))
    labels, count = ndimage.label(core)
    if count == 0:
        return seen.head.with_array(core)
    largest = labels == 1 + int(np.bincount(labels.ravel())[1:].argmax())
    grown = ndimage.binary_dilation(largest, iterations=round(5 / step)) & inside
    return seen.head.with_array(grown)


def _overlap(found: Registration, fixed: View, brain: Volume, moving: View) -> float:
    """Return the Dice of the heads; where the partner shows little but brain (diffusion, a skull taken off),
    how far each holds the other.

    That is the lesser of two shares: of the CT's brain that the partner shows, and of what it shows that lies
    in the CT's head.
    """
    seen = found.transform.pull(moving.head.astype(np.uint8), brain, interpolation="nearest").array > 0
    whole = moving.head.with_array(np.ones(moving.head.shape, np.uint8))
    reached = brain.array & (found.transform.pull(whole, brain, interpolation="nearest").array > 0)
    if not reached.any() or not seen.any() or seen.sum() > MOSTLY_BRAIN * brain.array.sum():
        return found.head_overlap
    return float(min(seen[reached].mean(), fixed.head.array[seen].mean()))


def _coverage(found: Transform, brain: Volume, moving: View) -> float:
    where = brain.array > 0
    if not where.any():
        return float("nan")
    tissue = found.pull(moving.head.astype(np.uint8), brain, interpolation="nearest").array > 0
    return float(tissue[where].mean())


def _deformation_mm(found: Transform, brain: Volume) -> float:
    if not found.displacements:
        return float("nan")
    points = brain.world(np.argwhere(brain.array > 0)[::23])
    if not len(points):
        return float("nan")
    moved = found.map(points) - found.affine.map(points)
    return float(np.median(np.linalg.norm(moved, axis=1)))


def _wrong_heads(
    rigid: Transform, chosen: Samples, moving: View, centre: Floats
) -> Iterator[tuple[str, float]]:
    """Align wrong heads, made by mirroring and stretching, as well as they will go; yield the mutual
    information of each.
    """
    for name, scale in _WRONG.items():
        starts = _TURNS if name == "mirror" else _TURNS[:1]
        yield name, _aligned(rigid, _about(centre, np.array(scale)), chosen, moving, centre, starts)


def _aligned(
    rigid: Transform, wrong: Transform, chosen: Samples, moving: View, centre: Floats, turns: Floats
) -> float:
    from scipy.optimize import minimize

    few = Samples(chosen.points[::3], chosen.bins[::3])

    def moved(q: Floats) -> Floats:
        return rigid.affine.matrix @ _nudge(q * _UNIT, centre) @ wrong.affine.matrix

    starts = np.hstack([turns, np.zeros_like(turns)]) / _UNIT
    first = max(starts, key=lambda q: similarity_at(moved(q), few, moving)) if len(starts) > 1 else starts[0]
    options = {"maxfev": 90, "initial_simplex": first + np.vstack([np.zeros(6), np.eye(6)])}
    best = minimize(
        lambda q: -similarity_at(moved(q), few, moving), first, method="Nelder-Mead", options=options
    )
    return similarity_at(moved(best.x), chosen, moving)


def _about(centre: Floats, scale: Floats) -> Transform:
    matrix = np.diag([*scale, 1.0])
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre
    return Transform.of(Affine(matrix))


def _nudge(p: Floats, centre: Floats) -> Floats:
    from scipy.spatial.transform import Rotation

    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(p[:3]).as_matrix()
    matrix[:3, 3] = centre + p[3:] - matrix[:3, :3] @ centre
    return matrix
