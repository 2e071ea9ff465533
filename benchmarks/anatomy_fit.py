"""Fit the tract's levels to the published sections: prints the rows of `_KNOTS` in `anatomy/tract_levels.py`.

python benchmarks/anatomy_fit.py [60 20 …]

Level by level, a section (centre, half length, half thickness, direction) is sought whose population,
shifted and thickened by `variation_mm`, has the area, centre, spread and direction of the published ones at
the shares 0.3 and 0.5, averaged over both atlases and both sides. Levels below -45 mm rest on few figures and
were smoothed by hand afterwards.
"""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.stats import norm, qmc

from ichnos.anatomy import tract
from ichnos.anatomy.published import SHARES, published_sections
from ichnos.anatomy.tract_levels import variation_mm

Floats = npt.NDArray[np.float64]
X, Y = np.meshgrid(np.arange(60.0), np.arange(-65.0, 15.0), indexing="ij")
PEOPLE = norm.ppf(qmc.Sobol(3, seed=1).random(64))  # shift along x and y, added half thickness
# What counts as one unit of misfit: share of area and spread, mm of centre, degrees.
AREA, SPREAD, CENTRE_MM, TURN_DEG = 0.1, 0.1, 0.6, 8.0


def wanted(z_mm: int) -> dict[float, Floats]:
    """Return the mean published section at each share: area, |x|, y, long and short spread, direction."""
    means = {}
    for share in SHARES:
        rows = []
        for side in tract.SIDES:
            for s in published_sections().get((side, share, z_mm), {}).values():
                angle = 180 - s.angle_deg if side == "left" else s.angle_deg
                rows.append((s.area_mm2, abs(s.x_mm), s.y_mm, s.sd_long_mm, s.sd_short_mm, angle))
        if rows:
            table = np.array(rows)
            turn = np.angle(np.exp(2j * np.radians(table[:, 5])).mean(), deg=True) / 2 % 180
            area = np.exp(np.log(table[:, 0]).mean())
            means[share] = np.array([area, *table[:, 1:5].mean(axis=0), turn])
    return means


def section_of_people(sheet: Floats, z_mm: float, passable: Floats) -> Floats:
    """Return the share of people whose section covers each point."""
    position, thickness = (float(sd[0]) for sd in variation_mm(z_mm))
    total = np.zeros(X.shape)
    for dx, dy, thicker in PEOPLE:
        distance = tract._distance(X - position * dx, Y - position * dy, sheet)
        total += np.clip(0.5 - distance + thickness * thicker, 0, 1)
    return total / len(PEOPLE) * passable


def described(population: Floats, share: float) -> Floats | None:
    """Measure a section with soft edges, so that the search sees a smooth function."""
    weight = np.clip((population - share) / 0.04 + 0.5, 0, 1)
    area = weight.sum()
    if area < 2:
        return None
    x, y = (weight * X).sum() / area, (weight * Y).sum() / area
    spread = np.cov(np.stack([X.ravel(), Y.ravel()]), aweights=weight.ravel(), ddof=0)
    values, vectors = np.linalg.eigh(spread)
    turn = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])) % 180
    short, long = np.sqrt(np.maximum(values, 1e-6))
    return np.array([area, x, y, long, short, turn])


def misfit(population: Floats, means: dict[float, Floats]) -> float:
    """Return the sum of squared misfits over the shares."""
    total = 0.0
    for share, mean in means.items():
        ours = described(population, share)
        if ours is None:
            return 1e3
        total += (np.log(ours[0] / mean[0]) / AREA) ** 2 + (
            np.log(ours[3:5] / mean[3:5]) ** 2
        ).sum() / SPREAD**2
        total += ((ours[1:3] - mean[1:3]) ** 2).sum() / CENTRE_MM**2
        stretch = np.clip(mean[3] / mean[4] - 1, 0.05, 1)
        total += (((ours[5] - mean[5] + 90) % 180 - 90) * stretch / TURN_DEG) ** 2
    return float(total)


def fitted(z_mm: int) -> tuple[Floats, float]:
    """Return centre, half length, half thickness and direction of the level, and the misfit."""
    means = wanted(z_mm)
    middle = means[max(means)]
    level = round(float(tract.atlas("right").mask.index((0, 0, z_mm))[2]))
    corner = np.round(tract.atlas("right").mask.index((X[0, 0], Y[0, 0], z_mm))).astype(int)
    passable = tract._passable()[corner[0] : corner[0] + 60, corner[1] : corner[1] + 80, level].astype(float)

    def cost(q: Floats) -> float:
        return misfit(section_of_people(_sheet(q), z_mm, passable), means)

    half = max(1.7 * (middle[3] - middle[4]), 1.0)
    start = np.array([middle[1], middle[2], np.log(half), np.log(1.9 * middle[4]), np.radians(middle[5])])
    simplex = start + np.vstack([np.zeros(5), np.diag([1, 1, 0.2, 0.2, 0.15])])
    options = {"maxfev": 350, "xatol": 1e-2, "fatol": 1e-2, "initial_simplex": simplex}
    best = minimize(cost, start, method="Nelder-Mead", options=options)
    return best.x, float(best.fun)


def _sheet(q: Floats) -> Floats:
    length, thickness = np.exp(q[2:4])
    return np.array([q[0], q[1], length * np.cos(q[4]), length * np.sin(q[4]), thickness])


if __name__ == "__main__":
    for level_mm in [int(word) for word in sys.argv[1:]] or range(70, -61, -5):
        found, cost = fitted(level_mm)
        half_length, half_thickness = np.exp(found[2:4])
        spread = ", ".join(f"{float(sd[0]):g}" for sd in variation_mm(level_mm))
        print(
            f"({level_mm}, {found[0]:.1f}, {found[1]:.1f}, {half_length:.1f}, {half_thickness:.1f},"
            f" {np.degrees(found[4]):.0f}, {spread}),  # misfit {cost:.1f}",
            flush=True,
        )
