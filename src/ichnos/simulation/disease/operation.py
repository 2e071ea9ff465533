"""What an earlier operation leaves behind: a drain, a craniotomy, fluid over the brain."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ichnos.simulation.fields import Grid
from ichnos.simulation.patient import BRAIN_TISSUES, Tissue

# Right side, MNI mm: Kocher's point to the foramen of Monro, and the middle of a frontotemporal flap.
_DRAIN = ((30.0, 22.0, 85.0), (6.0, 6.0, 6.0))
_FLAP = (58.0, 8.0, 38.0)
_DRAIN_RADIUS_MM, _BURR_HOLE_MM = 1.6, 5.0
DRAIN_CALCIUM = 0.7  # silicone filled with barium, about as bright as calcium of this fraction


@dataclass(frozen=True)
class Operation:
    """What was done, and on which side; 0 is not done."""

    side: float  # -1 left, 1 right
    drain: bool
    flap_mm: float  # radius of a craniotomy
    flap_missing: bool  # the bone was not put back
    hygroma_mm: float  # thickness of the fluid over the frontal convexity


def operation_words(operation: Operation | None) -> str:
    """Return what is to be seen, as words for a table.

    >>> operation_words(Operation(1.0, drain=True, flap_mm=0.0, flap_missing=False, hygroma_mm=6.0))
    'drain hygroma'
    """
    if operation is None:
        return ""
    words = ["drain"] if operation.drain else []
    if operation.flap_mm > 0:
        words.append("craniectomy" if operation.flap_missing else "craniotomy")
    return " ".join([*words, "hygroma"] if operation.hygroma_mm > 0 else words)


def drawn_operation(probability: float, generator: torch.Generator) -> Operation | None:
    """Draw an operation, or None; one of four leaves more than one trace."""
    draw = torch.rand(7, generator=generator).tolist()
    if draw[0] >= probability:
        return None
    kind = int(3 * draw[1])
    return Operation(
        side=-1.0 if draw[2] < 0.5 else 1.0,
        drain=kind == 0 or draw[3] < 0.25,
        flap_mm=24.0 + 14.0 * draw[4] if kind == 1 or draw[3] > 0.85 else 0.0,
        flap_missing=draw[5] < 0.3,
        hygroma_mm=4.0 + 8.0 * draw[6] if kind == 2 else 0.0,
    )


def operated(
    operation: Operation, tissue: Tensor, mni_mm: Tensor, depth_mm: Tensor, grid: Grid
) -> tuple[Tensor, Tensor]:
    """Return the tissue after the operation, and the drain as a fraction of calcium (x, y, z).

    `mni_mm` (3, x, y, z) and the depth inside the skull `depth_mm` (x, y, z) lie on the coarse grid.
    """
    tissue, dense = tissue.clone(), torch.zeros(grid.shape, device=tissue.device)
    if operation.hygroma_mm > 0:
        _lay_hygroma(operation, tissue, mni_mm, depth_mm, grid)
    if operation.flap_mm > 0:
        _cut_flap(operation, tissue, mni_mm, grid)
    if operation.drain:
        _lay_drain(operation, tissue, dense, mni_mm, grid)
    return tissue, dense


def _point(values: tuple[float, float, float], side: float, like: Tensor) -> Tensor:
    return torch.tensor([side * values[0], values[1], values[2]], device=like.device).reshape(3, 1, 1, 1)


def _lay_hygroma(operation: Operation, tissue: Tensor, mni_mm: Tensor, depth_mm: Tensor, grid: Grid) -> None:
    away = (mni_mm - _point((40.0, 35.0, 40.0), operation.side, mni_mm)).norm(dim=0)
    layer_mm = operation.hygroma_mm * (1 - away / 60.0).clamp(min=0)
    excess = layer_mm - depth_mm  # where the fluid is deeper than the place
    box = grid.box((excess > -6.0) & (layer_mm > 0), margin=1)
    fine = grid.fine(box)
    within = grid.enlarged(torch.stack([excess, layer_mm])[(slice(None), *box)])
    part = tissue[fine]
    brain = (part >= int(min(BRAIN_TISSUES))) & (part <= int(Tissue.WHITE))
    tissue[fine] = torch.where(brain & (within[0] > 0) & (within[1] > 1.0), int(Tissue.CSF), part).to(
        torch.uint8
    )


def _cut_flap(operation: Operation, tissue: Tensor, mni_mm: Tensor, grid: Grid) -> None:
    away = (mni_mm - _point(_FLAP, operation.side, mni_mm)).norm(dim=0)
    box = grid.box(away < operation.flap_mm + 8.0, margin=1)
    fine = grid.fine(box)
    distance = grid.enlarged(away[(None, *box)])[0]
    part = tissue[fine]
    bone = (part == int(Tissue.BONE)) | (part == int(Tissue.DIPLOE))
    gone = distance < operation.flap_mm
    if not operation.flap_missing:
        gone = gone & (distance > operation.flap_mm - 3.0)
    tissue[fine] = torch.where(bone & gone, int(Tissue.MUSCLE), part).to(torch.uint8)


def _lay_drain(operation: Operation, tissue: Tensor, dense: Tensor, mni_mm: Tensor, grid: Grid) -> None:
    first, last = (_point(end, operation.side, mni_mm) for end in _DRAIN)
    along = last - first
    share = (((mni_mm - first) * along).sum(0) / (along**2).sum()).clamp(0, 1)
    box = grid.box((mni_mm - first - share * along).norm(dim=0) < 12.0, margin=1)
    fine = grid.fine(box)
    place = grid.enlarged(mni_mm[(slice(None), *box)])
    share = (((place - first) * along).sum(0) / (along**2).sum()).clamp(0, 1)
    distance = (place - first - share * along).norm(dim=0)
    part = tissue[fine]
    bone = (part == int(Tissue.BONE)) | (part == int(Tissue.DIPLOE))
    tissue[fine] = torch.where(bone & (distance < _BURR_HOLE_MM), int(Tissue.MUSCLE), part).to(torch.uint8)
    tube = ((_DRAIN_RADIUS_MM - distance) / grid.spacing_mm + 0.5).clamp(0, 1)
    dense[fine] = DRAIN_CALCIUM * tube * (part != int(Tissue.AIR))
