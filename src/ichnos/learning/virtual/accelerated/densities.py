"""HU maps of a phantom: as the simulator has them, or strongly randomised.

Random maps teach a network to trust shapes where densities differ from scanner to scanner: grey and white
matter fall into sub-clusters of their own, contrast is stretched, blood may be isodense, a flap of bone may
be missing.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ichnos.learning.virtual.accelerated.phantom import LABELS, Phantom
from ichnos.simulation.exams.tissue_hu import hounsfield, texture
from ichnos.simulation.patient import Moment, Tissue

_NO_OEDEMA, _FLAP, _FAINT = 0.15, 0.05, 0.15  # shares of scans
_WATER_HU = 30.0  # about which contrast is stretched
_SOFT_HU = (-60.0, 140.0)
_PHE = 1 << LABELS.index("phe")


def without_oedema(phantom: Phantom, rng: np.random.Generator) -> Phantom:
    """Return the phantom, in some of the calls without the oedema around its haematoma."""
    if not phantom.has_haematoma or rng.random() >= _NO_OEDEMA:
        return phantom
    bits = phantom.labels.to(torch.int32)
    maps = replace(phantom.maps, oedema=torch.zeros_like(phantom.maps.oedema))
    return replace(phantom, maps=maps, labels=(bits & ~_PHE).float())


def density_map(
    phantom: Phantom, rng: np.random.Generator, generator: torch.Generator, *, wild: bool
) -> Tensor:
    """Return HU (x, y, z) of a phantom; every call draws new densities."""
    maps = phantom.maps
    if wild:
        shift = float(rng.uniform(-22, -8)) if rng.random() < _FAINT else float(rng.normal(0, 6))
        maps = replace(maps, blood_hu=maps.blood_hu + shift)
    hu = hounsfield(
        maps,
        haematocrit=phantom.haematocrit,
        spacing_mm=phantom.spacing_mm,
        generator=generator,
        old_infarct_hu=phantom.old_infarct_hu,
    )
    if wild:
        hu = hu + _clusters(maps, phantom.spacing_mm, rng, generator)
        factor = float(np.exp(rng.normal(0, 0.25)))
        soft = (hu > _SOFT_HU[0]) & (hu < _SOFT_HU[1])
        hu = torch.where(soft, _WATER_HU + (hu - _WATER_HU) * factor, hu)
        dense = hu > 250
        hu = torch.where(dense, 250 + (hu - 250) * float(rng.uniform(0.5, 1.5)), hu)
    if rng.random() < (2 * _FLAP if wild else _FLAP):
        hu = _without_flap(hu, maps, phantom.spacing_mm, rng)
    return hu


def _clusters(
    maps: Moment, spacing_mm: float, rng: np.random.Generator, generator: torch.Generator
) -> Tensor:
    """Return an offset for each of 4 to 8 random sub-clusters of grey and of white matter."""
    count = int(rng.integers(4, 9))
    shape = tuple(maps.tissue.shape)
    field = texture(shape, scale_mm=float(rng.uniform(8, 40)), spacing_mm=spacing_mm, generator=generator)
    cluster = ((field + 2) * (count / 4)).clamp(0, count - 1).long()
    tissues = len(Tissue)
    spread = float(rng.uniform(0, 3))
    table = torch.from_numpy(rng.normal(0, spread, (tissues, count)).astype(np.float32)).to(field.device)
    table[: int(Tissue.CSF)] = 0
    offset = table.reshape(-1)[maps.tissue.long() * count + cluster]
    blood = (maps.ich + maps.ivh).clamp(0, 1)
    return offset * (1 - blood)


def _without_flap(hu: Tensor, maps: Moment, spacing_mm: float, rng: np.random.Generator) -> Tensor:
    """Take bone out of a ball somewhere on the vault, as after a craniectomy, or thin it to a plate."""
    bone = (maps.tissue == int(Tissue.BONE)) | (maps.tissue == int(Tissue.DIPLOE))
    coarse = bone[::4, ::4, ::4].nonzero()
    if not len(coarse):
        return hu
    upper = coarse[coarse[:, 2] > coarse[:, 2].float().mean()]
    centre = (upper[int(rng.integers(len(upper)))] * 4).tolist()
    radius = float(rng.uniform(18, 45)) / spacing_mm
    axes = [
        torch.arange(n, device=hu.device, dtype=torch.float32) - c
        for n, c in zip(hu.shape, centre, strict=True)
    ]
    ball = axes[0].view(-1, 1, 1) ** 2 + axes[1].view(-1, 1) ** 2 + axes[2] ** 2 < radius**2
    filling = float(rng.choice([20.0, 45.0, 900.0])) + float(rng.normal(0, 6))
    return torch.where(ball & bone, hu.new_tensor(filling), hu)
