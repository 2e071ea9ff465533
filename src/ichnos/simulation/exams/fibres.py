"""Fibre orientations in the patient: the atlas bundles, turned and moved as the patient's deformation has
it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ichnos.anatomy import bundles
from ichnos.simulation.fields import Grid, sampled
from ichnos.simulation.heads.source import SourceHead
from ichnos.simulation.patient import Fibres, Tissue

_FIBROUS = (Tissue.WHITE, Tissue.BRAINSTEM, Tissue.CEREBELLAR_WHITE, Tissue.THALAMUS, Tissue.PALLIDUM)


def fibres_of(head: SourceHead, source_mm: Tensor, tissue: Tensor, grid: Grid) -> Fibres:
    """Return orientations and weights on every second voxel of the patient's grid."""
    half = grid.step // 2
    atlas = bundles.bundles()
    mni_coarse = sampled(head.mni_mm, head.feature_affine, source_mm)
    turn = _directions_back(mni_coarse, grid)
    mni = grid.enlarged(mni_coarse, step=grid.step // half)
    k = len(bundles.SLOTS)
    stack = torch.from_numpy(atlas.orientation).reshape(3 * k, *atlas.orientation.shape[2:]).to(mni)
    there = sampled(stack, atlas.affine, mni).reshape(k, 3, *mni.shape[1:])
    weight = sampled(torch.from_numpy(atlas.weight).to(mni), atlas.affine, mni)
    matrix = grid.enlarged(turn.reshape(9, *turn.shape[2:]), step=grid.step // half).reshape(
        3, 3, *mni.shape[1:]
    )
    here = torch.einsum("ijxyz,kjxyz->kixyz", matrix, there)
    here = torch.nn.functional.normalize(here, dim=1)
    fibrous = torch.isin(
        tissue[::half, ::half, ::half], torch.tensor(_FIBROUS, device=tissue.device, dtype=torch.uint8)
    )
    weight = weight * fibrous
    affine = grid.affine.copy()
    affine[:3, :3] *= half
    return Fibres(affine, here * (weight > 0)[:, None], weight, bundles.SLOTS)


def _directions_back(mni_mm: Tensor, grid: Grid) -> Tensor:
    """Return the matrices (3, 3, x, y, z) that take a direction in MNI space to the patient: the inverse
    of the map's derivative.
    """
    step_mm = grid.step * grid.spacing_mm
    # d mni_i / d patient_j
    rows = torch.stack([torch.stack(torch.gradient(component)) for component in mni_mm]) / step_mm
    square = rows.permute(2, 3, 4, 0, 1) + 1e-3 * torch.eye(3, device=mni_mm.device)
    inverse: Tensor = torch.linalg.inv(square)
    return inverse.permute(3, 4, 0, 1, 2)
