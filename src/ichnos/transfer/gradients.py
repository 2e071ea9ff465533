"""The gradient table of a diffusion exam: read, converted to world axes, and checked against the images
themselves.

Three faults are common and silent: a b-value in other units, a sign or an order of the vector components that
does not fit the image axes, and a table that belongs to another exam. The first shows in the mean
diffusivity, which in living brain is known to within a factor of two; the second in bundles whose course
everybody shares: under a wrong table the pyramidal tract does not run up the capsule, nor the callosum from
side to side.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path

import numpy as np

from ichnos.errors import InputRefused
from ichnos.verdict import Level, Reason, Verdict
from ichnos.volume import Array, Floats, Volume

B0_LIMIT = 50.0  # s/mm²: below it an image counts as unweighted
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
class GradientTable:
    """The b-value and direction of every image of a diffusion series."""

    b_values: Floats  # (n,), s/mm²
    directions: Floats  # (n, 3), unit vectors in RAS world axes; zero where unweighted

    def __post_init__(self) -> None:
        if self.directions.shape != (len(self.b_values), 3):
            raise InputRefused(
                f"{len(self.b_values)} b-values and directions of shape {self.directions.shape} do not belong"
                " together"
            )

    def __len__(self) -> int:
        return len(self.b_values)

    @property
    def unweighted(self) -> Array:
        """Return which images are unweighted, (n,) bool."""
        return np.asarray(self.b_values < B0_LIMIT)

    def scaled(self, factor: float) -> GradientTable:
        """Return the table with every b-value multiplied."""
        return GradientTable(self.b_values * factor, self.directions)

    def turned(self, matrix: Floats) -> GradientTable:
        """Return the table with every direction multiplied by a 3 x 3 matrix."""
        return GradientTable(self.b_values, self.directions @ np.asarray(matrix).T)


@dataclass(frozen=True, eq=False)
class TensorMaps:
    """The diffusion tensor, voxel by voxel."""

    fa: Array  # (x, y, z), 0…1
    md: Array  # (x, y, z), mm²/s
    direction: Array  # (x, y, z, 3), principal direction in the axes of the table it was fitted with


@dataclass(frozen=True, eq=False)
class CheckedGradients:
    """A table made to fit its images, with what was found and changed."""

    table: GradientTable
    tensor: TensorMaps  # fitted with the table returned; directions in world axes
    verdict: Verdict


def image_axes(affine: Floats) -> Floats:
    """Return the unit vectors of the voxel axes in world space, as columns; the nearest rotation (or
    reflection) to the affine.
    """
    left, _, right = np.linalg.svd(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    axes: Floats = left @ right
    return axes


def read_fsl_gradients(bval: Path, bvec: Path, *, affine: Floats) -> GradientTable:
    """Read .bval and .bvec files (FSL: components along voxel axes, the first reversed where the affine is
    right-handed).
    """
    for path, what in ((bval, "b-values (.bval)"), (bvec, "gradient directions (.bvec)")):
        if not Path(path).is_file():
            raise InputRefused(f"{path} does not exist: a diffusion exam needs its {what} beside the images")
    b_values = _numbers(bval).ravel()
    vectors = _numbers(bvec)
    if vectors.shape[0] == 3 and vectors.shape != (3, 3):
        vectors = vectors.T
    elif vectors.shape == (3, 3):
        vectors = vectors.T  # FSL's own layout: three rows
    if vectors.shape != (len(b_values), 3):
        raise InputRefused(
            f"{bvec} holds {vectors.shape} numbers and {bval} holds {len(b_values)}; three components per"
            " b-value are expected"
        )
    return fsl_gradients(b_values, vectors, affine=affine)


def fsl_gradients(b_values: Floats, vectors: Floats, *, affine: Floats) -> GradientTable:
    """Turn FSL's voxel-axis vectors (n, 3) into a table in world axes.

    >>> table = fsl_gradients(np.array([0.0, 1000.0]), np.array([[0.0, 0, 0], [1, 0, 0]]), affine=np.eye(4))
    >>> table.directions[1].tolist()
    [-1.0, 0.0, 0.0]
    """
    sign = np.array([-1.0 if np.linalg.det(affine[:3, :3]) > 0 else 1.0, 1.0, 1.0])
    return _table(b_values, (vectors * sign) @ image_axes(affine).T)


def read_mrtrix_gradients(path: Path) -> GradientTable:
    """Read MRtrix's four-column table (x y z b, world axes)."""
    rows = _numbers(path)
    if rows.ndim != 2 or rows.shape[1] != 4:
        raise InputRefused(
            f"{path} holds a table of shape {rows.shape}; MRtrix tables have four columns: x, y, z and b"
        )
    return _table(rows[:, 3], rows[:, :3])


def _numbers(path: Path) -> Floats:
    try:
        rows = [
            [float(word) for word in line.replace(",", " ").split()]
            for line in Path(path).read_text().splitlines()
        ]
        return np.array([row for row in rows if row], np.float64)
    except (ValueError, UnicodeDecodeError):
        raise InputRefused(f"{path} is not a table of numbers with rows of equal length") from None


def _table(b_values: Floats, vectors: Floats) -> GradientTable:
    """Make directions unit vectors; a vector of another length scales its b-value by the square of that
    length, as scanners mean it.
    """
    b_values = np.nan_to_num(np.asarray(b_values, np.float64))
    vectors = np.nan_to_num(np.asarray(vectors, np.float64))
    if (b_values < 0).any():
        raise InputRefused("the table holds negative b-values; they are expected in s/mm², zero or more")
    length = np.linalg.norm(vectors, axis=1)
    weighted = length > 0.05
    unit = np.where(weighted[:, None], vectors / np.maximum(length, 1e-9)[:, None], 0.0)
    square = np.where(weighted & (np.abs(length - 1) > 0.02) & (length < 1), length**2, 1.0)
    return GradientTable(b_values * square, unit)


def fit_tensor(data: Array, table: GradientTable, mask: Array) -> TensorMaps:
    """Fit the diffusion tensor by weighted least squares inside a mask; shells above 1600 s/mm² are left out
    where others exist.

    `data` is (x, y, z, n); principal directions come back in the axes that the table's directions have.
    """
    use = (table.b_values <= 1600) | table.unweighted
    if (use & ~table.unweighted).sum() < 6:
        use = np.ones(len(table), bool)
    signal = np.maximum(data[mask][:, use].astype(np.float64), 1e-6)
    b, g = table.b_values[use] * 1e-3, table.directions[use]
    design = np.column_stack(
        [-b[:, None] * g**2, -2 * b[:, None] * g[:, [0, 0, 1]] * g[:, [1, 2, 2]], np.ones(len(b))]
    )
    log = np.log(np.maximum(signal, signal.max(axis=1, keepdims=True) * 1e-3))
    first = log @ np.linalg.pinv(design).T
    weight = np.exp(2 * np.clip(first @ design.T - first[:, -1:], -10, 2))
    normal = np.einsum("vn,ni,nj->vij", weight, design, design, optimize=True)
    d = np.linalg.solve(
        normal + 1e-9 * np.eye(7), np.einsum("vn,vn,ni->vi", weight, log, design, optimize=True)[..., None]
    )[..., 0]
    tensor = d[:, [0, 3, 4, 3, 1, 5, 4, 5, 2]].reshape(-1, 3, 3)
    values, vectors = np.linalg.eigh(tensor)
    values = np.maximum(values, 1e-4)  # μm²/ms
    md = values.mean(axis=1)
    fa = np.sqrt(1.5 * ((values - md[:, None]) ** 2).sum(axis=1) / (values**2).sum(axis=1))
    maps = [np.zeros((*mask.shape, *tail), np.float32) for tail in ((), (), (3,))]
    maps[0][mask], maps[1][mask], maps[2][mask] = fa, md * 1e-3, vectors[:, :, 2]
    return TensorMaps(*maps)


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
    change, before, after = best_reading(
        tensor.fa, tensor.direction @ axes, expected @ axes
    )  # directions in voxel axes
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
    if abs(factor - 1) < 1e-6:
        return guess, tensor, Reason("b_scale", "pass", f"b-values fit the images {found}", factor)
    return (
        guess,
        tensor,
        Reason(
            "b_scale", "warn", f"b-values were multiplied by {factor:g} to fit the images {found}", factor
        ),
    )


def _power_to(value: float) -> float:
    """Return the power of ten that brings a largest b-value nearest to 1000 s/mm², on a logarithmic scale."""
    return float(10.0 ** np.round(np.log10(1000.0 / value))) if value > 0 else 1.0


def readings() -> tuple[Floats, ...]:
    """Return the 24 ways to misread vector components: every order, with at most one sign reversed (the
    others are equal to these).
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
    if np.isnan(before):
        return Reason(
            "bvec_reading",
            "warn",
            "too little white matter is seen to check signs and order of the gradient vectors",
            before,
        )
    if not np.array_equal(change, np.eye(3)):
        names = ["xyz"[int(np.argmax(np.abs(row)))] for row in change]
        signed = ", ".join(
            ("-" if row.sum() < 0 else "") + name for row, name in zip(change, names, strict=True)
        )
        gain = f"misfit to the atlas's large bundles {after:.2f} instead of {before:.2f}"
        return Reason(
            "bvec_reading",
            "warn",
            f"the gradient vectors were read as ({signed}) along the image axes: {gain}",
            before,
        )
    if before > MISFIT_MOST:
        text = (
            f"under no reading of the vectors do fibres run as the large bundles do (misfit {before:.2f} as"
            f" given, {after:.2f} at best)"
        )
        return Reason("bvec_reading", "warn", text, before)
    return Reason(
        "bvec_reading",
        "pass",
        f"fibres run as the atlas's large bundles do (misfit {before:.2f}; by chance 0.67)",
        before,
    )


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
