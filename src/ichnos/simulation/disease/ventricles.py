"""Blood in the ventricles: it pools in the dependent horns and near the rupture, and casts what it fills."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ichnos.simulation.fields import smooth_noise
from ichnos.simulation.patient import Latent

_Point = tuple[float, float, float]

# Axes of the parts of the ventricles from end to end, right side, MNI mm (read off the MNI152 template).
_PARTS: dict[str, tuple[_Point, _Point]] = {
    "frontal": ((10.0, 28.0, 4.0), (11.0, 12.0, 16.0)),
    "body": ((12.0, 6.0, 19.0), (17.0, -24.0, 22.0)),
    "atrium": ((24.0, -36.0, 18.0), (28.0, -46.0, 8.0)),
    "occipital": ((26.0, -46.0, 12.0), (26.0, -74.0, 8.0)),
    "temporal": ((30.0, -40.0, 2.0), (33.0, -14.0, -18.0)),
    "third": ((0.0, 2.0, -4.0), (0.0, -20.0, 4.0)),
    "fourth": ((0.0, -38.0, -26.0), (0.0, -44.0, -38.0)),
}
# Where a bleed of a site breaks through: our reading of anatomy.
_RUPTURE = {
    "putamen": "body",
    "thalamus": "body",
    "lobar": "atrium",
    "cerebellum": "fourth",
    "pons": "fourth",
    "caudate": "frontal",
}
# Chance that another part fills too, for 10 mL: sedimentation favours the occipital horns of a patient on the
# back. Set so that masks have the pieces and the fill of real ones (`ichnos simulate --check`).
_ALSO = (
    ("occipital", 1, 0.9),
    ("occipital", -1, 0.85),
    ("third", 1, 0.75),
    ("fourth", 1, 0.7),
    ("temporal", 1, 0.3),
    ("frontal", 1, 0.3),
    ("body", -1, 0.35),
)
_LEVEL = 0.5


@dataclass(frozen=True)
class Pool:
    """One part that blood fills from its axis outwards."""

    part: str
    ends_mm: tuple[_Point, _Point]  # of its axis, MNI
    weight: float  # how far it reaches, relative to the others


def drawn_pools(latent: Latent, ivh_ml: float, generator: torch.Generator) -> tuple[Pool, ...]:
    """Draw which parts of the ventricles hold blood, the one next to the rupture first."""
    side = -1.0 if latent.side == "left" else 1.0
    draw = torch.rand(2 * len(_ALSO) + 1, generator=generator).tolist()
    first = _RUPTURE.get(latent.site, "body")
    pools = [Pool(first, _mirrored(_PARTS[first], side), 0.7 + 0.5 * draw[-1])]
    more = min(1.0, 0.4 + 0.1 * ivh_ml)
    for k, (part, same, chance) in enumerate(_ALSO):
        if (part, same) != (first, 1) and draw[2 * k] < chance * more:
            pools.append(Pool(part, _mirrored(_PARTS[part], side * same), 0.6 + 0.7 * draw[2 * k + 1]))
    return tuple(pools)


def _mirrored(ends: tuple[_Point, _Point], side: float) -> tuple[_Point, _Point]:
    (a, b, c), (d, e, f) = ends
    return (side * a, b, c), (side * d, e, f)


def filling_order(pools: tuple[Pool, ...], mni_mm: Tensor, generator: torch.Generator) -> Tensor:
    """Return the order in which blood fills the ventricles, (x, y, z), at MNI positions (3, x, y, z)."""
    order = torch.full(tuple(mni_mm.shape[1:]), 1e3, device=mni_mm.device)
    for pool in pools:
        order = torch.minimum(order, _from_axis_mm(pool, mni_mm) / pool.weight)
    rough = smooth_noise(tuple(order.shape), correlation=2.0, generator=generator, device=order.device)[0]
    return order + 0.5 * rough


def _from_axis_mm(pool: Pool, mni_mm: Tensor) -> Tensor:
    """Return the distance from a part's axis; across a dependent horn it counts half: blood has a level."""
    first, last = (torch.tensor(end, device=mni_mm.device).reshape(3, 1, 1, 1) for end in pool.ends_mm)
    along = last - first
    share = (((mni_mm - first) * along).sum(0) / (along**2).sum()).clamp(0, 1)
    away = mni_mm - first - share * along
    if pool.part == "occipital":
        away = torch.stack([_LEVEL * away[0], away[1], _LEVEL * away[2]])
    return (away**2).sum(0).sqrt()


def distension(ivh_ml: float) -> float:
    """Return by what share of itself blood widens the part that it casts; more blood, more pressure.

    >>> distension(1.0) < distension(10.0) <= distension(60.0) == 0.5
    True
    """
    return min(0.5, 0.16 + 0.02 * ivh_ml)
