"""Blood finds its way: arrival times in an anisotropic speed field, on a crop of the source head."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from ichnos.simulation.fields import gathered, indices_of, looked_up, points_of
from ichnos.simulation.heads.source import SourceHead
from ichnos.simulation.patient import Tissue
from ichnos.volume import Floats

FAR = 1.0e4  # an arrival time that means never
SUPERFICIAL_SPEED = (
    0.7  # of blood in cortex and sulci beside a lobar bleed, relative to white matter: our choice
)
SULCUS_NEIGHBOURHOOD_MM = 9.0

_SPEED = {
    Tissue.WHITE: 1.0,
    Tissue.THALAMUS: 0.85,
    Tissue.CAUDATE: 0.8,
    Tissue.PUTAMEN: 1.0,
    Tissue.PALLIDUM: 0.9,
    Tissue.HIPPOCAMPUS: 0.6,
    Tissue.BRAINSTEM: 0.75,
    Tissue.CEREBELLAR_WHITE: 0.95,
    Tissue.CEREBELLAR_CORTEX: 0.6,
    Tissue.CORTEX: 0.38,
}
# 13 of the 26 neighbours; the others are their opposites
_FORWARD = [(x, y, z) for x, y, z in product((-1, 0, 1), repeat=3) if (x, y, z) > (0, 0, 0)]


@dataclass(frozen=True, eq=False)
class HeadCrop:
    """A cube of the source head around a bleeding point."""

    affine: Floats  # (4, 4) voxel index -> source mm
    tissue: Tensor  # (x, y, z) uint8 `Tissue`
    spacing_mm: float

    def points(self) -> Tensor:
        """Return source mm of each voxel, (3, x, y, z)."""
        return points_of(self.affine, tuple(self.tissue.shape), self.tissue.device)


def cropped(
    head: SourceHead, table: Tensor, centre_mm: Floats, *, half_mm: float, voxels: int = 46
) -> HeadCrop:
    """Cut a cube out of a head, with at most about `voxels` voxels a side and never finer than 1 mm."""
    spacing = max(1.0, 2 * half_mm / voxels)
    n = int(np.ceil(2 * half_mm / spacing)) + 1
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = centre_mm - spacing * (n - 1) / 2
    index = indices_of(points_of(affine, (n, n, n), head.codes.device), head.affine)
    return HeadCrop(affine, looked_up(table, gathered(head.codes, index)), spacing)


def slowness(tissue: Tensor, spacing_mm: float, *, into_sulci: bool = False) -> Tensor:
    """Return the time per mm in each tissue; `FAR` where blood does not go.

    With `into_sulci`, as near the surface, blood tears through cortex and the narrow sulci between two gyri,
    up to the inner table.
    """
    table = torch.full((256,), FAR)
    for code, speed in _SPEED.items():
        table[code] = 1 / speed
    if into_sulci:
        table[Tissue.CORTEX] = 1 / SUPERFICIAL_SPEED
    slow = looked_up(table.to(tissue.device), tissue)
    if into_sulci:
        slow = torch.where(narrow_fluid(tissue, spacing_mm), 1 / SUPERFICIAL_SPEED, slow)
    return slow


def narrow_fluid(tissue: Tensor, spacing_mm: float) -> Tensor:
    """Return sulci and the thin fluid under the skull, not cisterns (bool): fluid with little around."""
    fluid = tissue == Tissue.CSF
    side = 2 * max(1, round(SULCUS_NEIGHBOURHOOD_MM / (2 * spacing_mm))) + 1
    share = torch.nn.functional.avg_pool3d(
        fluid.float()[None, None], side, stride=1, padding=side // 2, count_include_pad=False
    )[0, 0]
    return fluid & (share < 0.45)


def arrival(
    start: Tensor,
    slow: Tensor,
    spacing_mm: float,
    *,
    fibre: Tensor | None = None,
    anisotropy: float = 0.0,
    metric: Floats | None = None,
    rounds: int = 60,
) -> Tensor:
    """Return when blood arrives, (x, y, z), by relaxing over the 26 neighbours until nothing changes.

    `start` is `FAR` where nothing is reached yet; crossing a `fibre` (3, x, y, z), unit vectors, costs
    `1 + anisotropy` times as much. `metric` (3, 3) measures lengths instead of the millimetre.
    """
    time = start.clone()
    metric = np.eye(3) if metric is None else metric
    edges = [_edge(d, slow, spacing_mm * metric, fibre, anisotropy) for d in _FORWARD]
    for turn in range(rounds):
        before = time.clone() if turn % 3 == 2 else None
        for here, there, cost in edges if turn % 2 == 0 else reversed(edges):
            time[here] = torch.minimum(time[here], time[there] + cost)
            time[there] = torch.minimum(time[there], time[here] + cost)
        if before is not None and torch.equal(before, time):
            break
    return time


_Slices = tuple[slice, slice, slice]


def _edge(
    d: tuple[int, int, int], slow: Tensor, step: Floats, fibre: Tensor | None, anisotropy: float
) -> tuple[_Slices, _Slices, Tensor]:
    """Return the two ends of all edges in one direction, and the time along them."""
    pairs = [
        (slice(max(0, -s), n - max(0, s)), slice(max(0, s), n + min(0, s)))
        for s, n in zip(d, slow.shape, strict=True)
    ]
    here: _Slices = (pairs[0][0], pairs[1][0], pairs[2][0])
    there: _Slices = (pairs[0][1], pairs[1][1], pairs[2][1])
    length = float(np.linalg.norm(step @ np.array(d)))
    cost = (slow[here] + slow[there]) * (0.5 * length)
    if fibre is not None and anisotropy > 0:
        unit = np.array(d) / np.linalg.norm(d)
        along = sum(float(unit[i]) * fibre[(i, *here)] for i in range(3))
        strength = (fibre[(slice(None), *here)] ** 2).sum(0)
        cost = cost * (1 + anisotropy * (strength - along**2).clamp(min=0))
    return here, there, cost
