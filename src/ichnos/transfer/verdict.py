"""May a pair of exams be trusted? Numbers, each with a limit, and a cause for a person.

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

from ichnos.registration.contrast import View, view
from ichnos.registration.register import Registration
from ichnos.registration.similarity import Samples, samples, similarity, similarity_at
from ichnos.registration.transform import Transform
from ichnos.verdict import Level, Reason, Verdict
from ichnos.volume import Affine, Floats, Volume, centroid_mm

STRETCH = 1.05
GAP_MM = 6.0  # bone thickened by this closes gaps of twice the width
_UNIT = np.array([0.05, 0.05, 0.05, 4.0, 4.0, 4.0])  # steps of the search: rad, mm


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


@dataclass(frozen=True)
class Limits:
    """Limits of the numbers: (warn, refuse). Chosen on simulated pairs; docs/transfer.md says how."""

    margin: tuple[float, float] = (0.08, 0.04)
    least_margin: tuple[float, float] = (-0.05, -0.15)
    mirror_margin: tuple[float, float] = (0.08, 0.03)
    head_overlap: tuple[float, float] = (0.93, 0.88)
    brain_coverage: tuple[float, float] = (0.92, 0.75)
    jacobian_min: tuple[float, float] = (0.3, 0.05)
    jacobian_max: tuple[float, float] = (3.0, 6.0)
    deformation_mm: tuple[float, float] = (3.0, 6.0)
    interval_d: tuple[float, float] = (90.0, 1500.0)
    landmark_mm: tuple[float, float] = (4.0, 8.0)


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


def judge_pair(
    numbers: PairNumbers,
    *,
    limits: Limits | None = None,
    interval_h: float | None = None,
    landmark_mm: float = float("nan"),
) -> Verdict:
    """Turn the numbers of a pair into a verdict with causes: "refuse" means that its target must not be used.

    `interval_h` is the time between the exams, `landmark_mm` how far marked points are left apart, where
    these are known.
    """
    limits = limits or Limits()
    found = [
        _below(
            "wrong_head",
            numbers.margin,
            limits.margin,
            "the partner exam fits the CT no better than a wrong head does: another patient?",
        ),
        _below(
            "wrong_shape",
            numbers.least_margin,
            limits.least_margin,
            "a stretched partner exam fits the CT better: another patient?",
        ),
        _below(
            "flipped",
            numbers.mirror_margin,
            limits.mirror_margin,
            "the partner exam mirrored fits as well: left and right swapped?",
        ),
        _below(
            "head_overlap",
            numbers.head_overlap,
            limits.head_overlap,
            "the heads do not cover each other: not aligned, or not whole",
        ),
        _below(
            "brain_coverage",
            numbers.brain_coverage,
            limits.brain_coverage,
            "the partner exam does not show the CT's whole brain",
        ),
        _below(
            "folding",
            numbers.jacobian_min,
            limits.jacobian_min,
            "the deformable step presses tissue together too far",
        ),
        _above(
            "stretching",
            numbers.jacobian_max,
            limits.jacobian_max,
            "the deformable step stretches tissue too far",
        ),
        _above(
            "deformation",
            numbers.deformation_mm,
            limits.deformation_mm,
            "the deformable step moves the brain too far",
            "mm",
        ),
    ]
    if interval_h is not None:
        text = "the exams lie far apart in time, and the target may have changed in between"
        found.append(_above("interval", abs(interval_h) / 24, limits.interval_d, text, "d"))
    found.append(
        _above("landmarks", landmark_mm, limits.landmark_mm, "points marked in both exams do not meet", "mm")
    )
    return Verdict(tuple(found))


@dataclass(frozen=True)
class Plausible:
    """What a target may be like."""

    least_ml: float
    most_ml: float
    both_sides: bool = False  # each side must hold at least a fifth of the larger one
    empty_is: Level = "pass"


PLAUSIBLE: dict[str, Plausible] = {
    "leukoaraiosis": Plausible(0.0, 200.0),
    "tract_left": Plausible(1.0, 40.0, empty_is="refuse"),
    "tract_right": Plausible(1.0, 40.0, empty_is="refuse"),
    "expansion": Plausible(0.0, 250.0, empty_is="warn"),
}


def judge_target(name: str, mask: Volume, brain: Volume) -> Verdict:
    """Judge whether a target on the CT grid can be true: its volume, and that it lies in the brain (a mask
    on any grid).
    """
    expected = PLAUSIBLE[name]
    size_ml = float(np.count_nonzero(mask.array)) * mask.voxel_ml
    if size_ml == 0:
        return Verdict((Reason(f"{name}_volume", expected.empty_is, f"{name} is empty", 0.0, "mL"),))
    level: Level = "pass" if expected.least_ml <= size_ml <= expected.most_ml else "warn"
    text = f"{name} has {size_ml:.1f} mL; {expected.least_ml:g} to {expected.most_ml:g} mL are usual"
    inside = brain.astype(np.float32).on_grid(mask).array > 0.5
    share = float((inside & (mask.array > 0)).sum() / np.count_nonzero(mask.array))
    place = _below(f"{name}_place", share, (0.85, 0.5), f"{name} does not lie in the brain")
    return Verdict((Reason(f"{name}_volume", level, text, size_ml, "mL"), place))


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


def _wrong_heads(
    rigid: Transform, chosen: Samples, moving: View, centre: Floats
) -> Iterator[tuple[str, float]]:
    """Align wrong heads, made by mirroring and stretching, as well as they will go; yield the mutual
    information of each.
    """
    for name, scale in _WRONG.items():
        starts = _TURNS if name == "mirror" else _TURNS[:1]
        yield name, _aligned(rigid, _about(centre, np.array(scale)), chosen, moving, centre, starts)


MOSTLY_BRAIN = 1.6  # an exam that shows less than so many times the brain shows no whole head

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


def _about(centre: Floats, scale: Floats) -> Transform:
    matrix = np.diag([*scale, 1.0])
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre
    return Transform.of(Affine(matrix))


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


def _nudge(p: Floats, centre: Floats) -> Floats:
    from scipy.spatial.transform import Rotation

    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(p[:3]).as_matrix()
    matrix[:3, 3] = centre + p[3:] - matrix[:3, :3] @ centre
    return matrix


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


def _below(name: str, value: float, limits: tuple[float, float], text: str, unit: str = "") -> Reason:
    """Judge a number that should be large; one that could not be measured is a reason to warn."""
    if isnan(value):
        return Reason(name, "warn", f"{text} (could not be measured)", None, unit)
    level: Level = "refuse" if value < limits[1] else "warn" if value < limits[0] else "pass"
    said = (
        f"{text} ({value:.3g}; at least {limits[0]:g} expected)"
        if level != "pass"
        else f"{name}: {value:.3g}"
    )
    return Reason(name, level, said, value, unit)


def _above(name: str, value: float, limits: tuple[float, float], text: str, unit: str = "") -> Reason:
    """Judge a number that should be small; NaN means that there was nothing to measure."""
    if isnan(value):
        return Reason(name, "pass", f"{name}: not measured", None, unit)
    level: Level = "refuse" if value > limits[1] else "warn" if value > limits[0] else "pass"
    said = (
        f"{text} ({value:.3g} {unit}; at most {limits[0]:g} expected)"
        if level != "pass"
        else f"{name}: {value:.3g}"
    )
    return Reason(name, level, said, value, unit)
