"""Cross-sections of the corticospinal tract level by level in MNI152 space, and how they vary between people.

At each height the tract is a sheet: a straight middle line from the leg's fibres (behind) to the face's (in
front) in the axial plane, and a half thickness around it. The knots were fitted to area, centre, spread and
direction of two published population atlases (`anatomy/published.py` cites them) at the shares 0.3 and 0.5:
`python benchmarks/anatomy_fit.py` repeats the fit, `python benchmarks/anatomy.py` prints how well it holds.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ichnos.arrays import Floats

if TYPE_CHECKING:
    from scipy.interpolate import PchipInterpolator

# Right side, MNI mm: height, centre x and y, half length and half thickness of the sheet, direction of its
# front end (degrees from right to front), then standard deviations between people of position and of half
# thickness: what the fall from share 0.5 to 0.3 implies, smoothed along the tract. Source: the fit named
# above; 78 mm lies above the published figures and only closes the tract towards the vertex.
_KNOTS: tuple[tuple[float, ...], ...] = (
    (78, 12.5, -24.5, 8.0, 7.0, 76, 5.0, 0.7),
    (70, 15.2, -24.0, 9.8, 8.3, 76, 5.0, 0.7),
    (65, 17.3, -26.3, 5.3, 9.8, 82, 5.0, 0.7),
    (60, 19.9, -25.9, 4.4, 10.3, 66, 4.6, 0.7),
    (55, 21.3, -26.0, 6.4, 8.1, 85, 2.6, 0.7),
    (50, 22.7, -25.1, 8.8, 5.8, 91, 1.8, 0.7),
    (45, 24.2, -23.9, 9.2, 5.2, 92, 1.4, 0.7),
    (40, 25.2, -22.0, 10.0, 5.1, 88, 1.1, 0.7),
    (35, 26.8, -20.6, 9.0, 5.5, 83, 1.05, 0.7),
    (30, 27.7, -18.9, 8.0, 5.7, 82, 1.0, 0.7),
    (25, 26.7, -17.2, 7.7, 5.4, 83, 0.95, 0.7),
    (20, 25.0, -16.1, 6.8, 5.0, 86, 0.95, 0.7),
    (15, 24.6, -15.6, 6.7, 4.0, 95, 0.75, 0.5),
    (10, 23.9, -15.3, 6.3, 3.2, 106, 0.55, 0.5),
    (5, 22.8, -14.5, 5.1, 2.9, 113, 0.5, 0.5),
    (0, 21.2, -14.2, 3.5, 3.3, 117, 0.5, 0.5),
    (-5, 19.0, -14.5, 1.6, 4.1, 89, 0.6, 0.5),
    (-10, 16.3, -16.5, 3.9, 3.5, 75, 0.6, 0.5),
    (-15, 13.6, -18.5, 4.3, 3.3, 80, 0.65, 0.5),
    (-20, 11.0, -20.8, 4.5, 2.9, 85, 0.8, 0.5),
    (-25, 9.4, -22.9, 4.3, 2.8, 91, 1.1, 0.5),
    (-30, 7.9, -24.3, 3.5, 3.1, 94, 1.1, 0.5),
    (-35, 6.9, -26.0, 2.8, 3.1, 95, 1.1, 0.5),
    (-40, 6.6, -28.6, 1.7, 3.5, 99, 1.1, 0.5),
    (-45, 5.5, -31.0, 0.8, 2.0, 92, 1.1, 0.5),
    (-50, 5.1, -31.8, 1.0, 1.6, 90, 0.9, 0.5),
    (-55, 5.0, -33.3, 1.1, 1.6, 90, 0.9, 0.5),
    (-60, 4.8, -35.5, 1.1, 1.3, 90, 0.9, 0.5),
)
TOP_MM, BOTTOM_MM = _KNOTS[0][0], _KNOTS[-1][0]

# Heights at which fibres leave for the cortex, by their position along the sheet: the leg's area lies at the
# vertex, the face's low on the side (the homunculus of Penfield and Boldrey, Brain 1937;60:389).
BODY_PARTS = {"leg": -1.0, "trunk": -0.55, "arm": -0.15, "hand": 0.35, "face": 1.0}
_CORTEX_MM = {"leg": 82.0, "trunk": 78.0, "arm": 72.0, "hand": 64.0, "face": 48.0}


def sheet_at(z_mm: npt.ArrayLike) -> Floats:
    """Return the right sheet at heights (n,), as (n, 5) in mm.

    Columns: centre x and y, half of the way from leg to face along x and y, half thickness.

    >>> x, y, to_face_x, to_face_y, thickness = sheet_at(10.0)[0]
    >>> bool(20 < x < 26), bool(to_face_y > 5), bool(2 < thickness < 5)
    (True, True, True)
    """
    return np.asarray(_curve()(np.atleast_1d(z_mm))[:, :5], np.float64)


def variation_mm(z_mm: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Return how position (each axis) and half thickness vary at heights: standard deviations, mm.

    Beyond the ends of the tract the values of the ends hold.

    >>> position, thickness = variation_mm([70.0, 5.0])
    >>> bool(position[0] > 3 * position[1])
    True
    """
    curve = _curve()(np.clip(np.atleast_1d(z_mm), BOTTOM_MM, TOP_MM))
    return np.asarray(curve[:, 5]), np.asarray(curve[:, 6])


def last_position(z_mm: npt.ArrayLike) -> Floats:
    """Return the position (-1 leg … 1 face) of the foremost fibre that has not left for the cortex yet.

    >>> last_position([20.0, 64.0]).tolist()
    [1.0, 0.35]
    """
    heights = [_CORTEX_MM[part] for part in BODY_PARTS]
    return np.asarray(np.interp(np.atleast_1d(z_mm), heights[::-1], list(BODY_PARTS.values())[::-1]))


def cortex_mm(position: float) -> float:
    """Return the height at which a fibre reaches the cortex.

    >>> cortex_mm(BODY_PARTS["leg"]), cortex_mm(BODY_PARTS["face"])
    (78.0, 48.0)
    """
    heights = [min(_CORTEX_MM[part], TOP_MM) for part in BODY_PARTS]
    return float(np.interp(position, list(BODY_PARTS.values()), heights))


@lru_cache(maxsize=1)
def _curve() -> PchipInterpolator:
    from scipy.interpolate import PchipInterpolator  # a reading looks the atlas up and never draws it

    knots = np.array(_KNOTS[::-1], np.float64)
    z, x, y, length, thickness, angle, position_sd, thickness_sd = knots.T
    turn = np.radians(angle)
    columns = (x, y, length * np.cos(turn), length * np.sin(turn), thickness, position_sd, thickness_sd)
    return PchipInterpolator(z, np.column_stack(columns), axis=0)
