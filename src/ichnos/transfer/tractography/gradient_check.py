"""A gradient table checked against the images themselves, and corrected where they prove it wrong.

Three faults are common and silent: a b-value in other units, a sign or an order of the vector components that
does not fit the image axes, and a table that belongs to another exam. The first shows in the mean
diffusivity, which in living brain is known to within a factor of two; the second in bundles whose course
everybody shares: under a wrong table the pyramidal tract does not run up the capsule, nor the callosum from
side to side.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product

import numpy as np

from ichnos.arrays import Array, Floats
from ichnos.errors import InputRefused
from ichnos.transfer.tractography.gradients import (
    B0_LIMIT,
    GradientTable,
    TensorMaps,
    fit_tensor,
    image_axes,
)
from ichnos.verdict import Level, Reason, Verdict
from ichnos.volume import Volume

MEAN_DIFFUSIVITY = (
    0.35e-3,
    1.6e-3,
)  # mm²/s: median over living brain tissue at 37 °C is 0.7–0.9e-3; wider for age and oedema
MISFIT_GAIN = 0.7  # another reading of the vectors must leave so little of the misfit before it is believed
# mean squared sine of the angle to the atlas above which no reading is believed; directions by chance have
# 2/3
MISFIT_MOST = 0.4
MIN_VOXELS = 200  # white-matter voxels of known course needed to judge
MIN_FA = 0.25


@dataclass(frozen=True, eq=False)
class CheckedGradients:
    """A table made to fit its images, with what was found and changed."""

    table: GradientTable
    tensor: TensorMaps  # fitted with the table returned; directions in world axes
    verdict: Verdict


def check_gradients(dwi: Volume, table: GradientTable, brain: Array, expected: Array) -> CheckedGradients:
    """Check a table against its images, correct what the images prove wrong, and refuse what cannot be used.

    `dwi` is (x, y, z, n), `brain` a mask on its grid, `expected` (x, y, z, 3) the world directions of bundles
    of known course, zero elsewhere. Every change is a "warn" with its reason.
    """
    largest = float(table.b_values.max(initial=0))
    guess = table if 100 <= largest <= 20000 else table.scaled(_power_to(largest))
    _refuse_unusable(dwi, guess)
    scaled, tensor, reason = _checked_scale(dwi, guess, brain, given=largest)
    reasons = [reason]
    axes = image_axes(dwi.affine)
    # directions in voxel axes
    change, before, after = best_reading(tensor.fa, tensor.direction @ axes, expected @ axes)
    reasons.append(_reading_reason(change, before, after))
    turn = axes @ change @ axes.T
    tensor = TensorMaps(tensor.fa, tensor.md, (tensor.direction @ turn.T).astype(np.float32))
    reasons.append(_count_reason(scaled))
    return CheckedGradients(scaled.turned(turn), tensor, Verdict(tuple(reasons)))


def _refuse_unusable(dwi: Volume, table: GradientTable) -> None:
    images = dwi.array.shape[3] if dwi.array.ndim == 4 else 1
    if images != len(table):
        raise InputRefused(
            f"the diffusion exam holds {images} images and its gradient table {len(table)} rows; they must be"
            " equally many"
        )
    if not table.unweighted.any():
        raise InputRefused(
            f"no image is unweighted (smallest b-value {table.b_values.min():g} s/mm²); one with b <"
            f" {B0_LIMIT:g} is needed"
        )
    weighted = table.directions[~table.unweighted]
    products = weighted[:, [0, 1, 2, 0, 0, 1]] * weighted[:, [0, 1, 2, 1, 2, 2]]
    if len(weighted) < 6 or np.linalg.matrix_rank(products, tol=0.05) < 6:
        raise InputRefused(
            f"the table has {len(weighted)} weighted directions that do not span a tensor; six or more"
            " different ones are needed"
        )


def _checked_scale(
    dwi: Volume, guess: GradientTable, brain: Array, *, given: float
) -> tuple[GradientTable, TensorMaps, Reason]:
    """Find the power of ten that brings the mean diffusivity to that of living brain; `given` is the
    largest b-value in the file.
    """
    tensor = fit_tensor(dwi.array, guess, brain)
    md = float(np.median(tensor.md[brain]))
    if not MEAN_DIFFUSIVITY[0] <= md <= MEAN_DIFFUSIVITY[1]:
        guess = guess.scaled(float(10.0 ** np.round(np.log10(md / 0.8e-3))))
        tensor = fit_tensor(dwi.array, guess, brain)
        md = float(np.median(tensor.md[brain]))
    found = f"(mean diffusivity {md * 1e3:.2f}e-3 mm²/s, largest b {guess.b_values.max():.0f} s/mm²)"
    if not MEAN_DIFFUSIVITY[0] <= md <= MEAN_DIFFUSIVITY[1]:
        raise InputRefused(
            f"the b-values do not belong to these images {found}: living brain has 0.7–0.9e-3; check the"
            " .bval file"
        )
    factor = float(guess.b_values.max() / given)
    kept = abs(factor - 1) < 1e-6
    did = "b-values fit" if kept else f"b-values were multiplied by {factor:g} to fit"
    return guess, tensor, Reason("b_scale", "pass" if kept else "warn", f"{did} the images {found}", factor)


def _power_to(value: float) -> float:
    """Return the power of ten that brings a largest b-value nearest to 1000 s/mm², on a logarithmic scale."""
    return float(10.0 ** np.round(np.log10(1000.0 / value))) if value > 0 else 1.0


def readings() -> tuple[Floats, ...]:
    """Return the 24 ways to misread vector components: every order, with at most one sign reversed (the
    others are equal to these).

    >>> len(readings()), bool((readings()[0] == np.eye(3)).all())
    (24, True)
    """
    found = []
    for order, flip in product(permutations(range(3)), (None, 0, 1, 2)):
        matrix = np.eye(3)[list(order)]
        if flip is not None:
            matrix[flip] *= -1
        found.append(matrix)
    return tuple(found)


def best_reading(fa: Array, direction: Array, expected: Array) -> tuple[Floats, float, float]:
    """Find the order and signs of the components under which fibres run as expected.

    Returns the 3 x 3 matrix to apply to the vectors in voxel axes, and the misfit (mean squared sine of the
    angle, weighted by anisotropy) as the table is given and of the best reading; NaN where too little is seen
    to tell. The matrix is the identity unless another reading is clearly better.
    """
    seen = (fa > MIN_FA) & expected.any(axis=-1)
    if np.count_nonzero(seen) < MIN_VOXELS:
        return np.eye(3), float("nan"), float("nan")
    ways, wanted, weight = direction[seen], expected[seen], fa[seen]
    misfits = [
        (1 - float(np.average(((ways @ change.T) * wanted).sum(axis=1) ** 2, weights=weight)), change)
        for change in readings()
    ]
    given = misfits[0][0]  # the first reading is the identity
    best, change = min(misfits, key=lambda item: item[0])
    return (change if best <= min(MISFIT_GAIN * given, MISFIT_MOST) else np.eye(3)), given, best


def _reading_reason(change: Floats, before: float, after: float) -> Reason:
    level: Level = "warn"
    if np.isnan(before):
        text = "too little white matter is seen to check signs and order of the gradient vectors"
    elif not np.array_equal(change, np.eye(3)):
        gain = f"misfit to the atlas's large bundles {after:.2f} instead of {before:.2f}"
        text = f"the gradient vectors were read as ({_axes(change)}) along the image axes: {gain}"
    elif before > MISFIT_MOST:
        text = (
            f"under no reading of the vectors do fibres run as the large bundles do (misfit {before:.2f} as"
            f" given, {after:.2f} at best)"
        )
    else:
        level = "pass"
        text = f"fibres run as the atlas's large bundles do (misfit {before:.2f}; by chance 0.67)"
    return Reason("bvec_reading", level, text, before)


def _axes(change: Floats) -> str:
    """Name the axes that a reading of the vectors takes their components from.

    >>> _axes(np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]))
    'y, -x, z'
    """
    names = ["xyz"[int(np.argmax(np.abs(row)))] for row in change]
    return ", ".join(("-" if row.sum() < 0 else "") + name for row, name in zip(change, names, strict=True))


def _count_reason(table: GradientTable) -> Reason:
    count = int((~table.unweighted).sum())
    level: Level = "pass" if count >= 28 else "warn"
    text = f"{count} weighted directions up to b = {table.b_values.max():.0f} s/mm²"
    return Reason(
        "directions",
        level,
        text if level == "pass" else text + "; crossing fibres need about 28 or more",
        float(count),
    )
