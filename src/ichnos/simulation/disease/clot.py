"""How dense a clot is: haematocrit, age, unevenness, and the signs that a plain CT shows of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ichnos.simulation.disease.arrival import HeadCrop
from ichnos.simulation.fields import smooth_noise
from ichnos.simulation.patient import Latent
from ichnos.volume import Floats

# about the volume of source tissue that a haematoma of one volume has taken; mass effect makes up the rest
SOURCE_SHARE = 0.65
# isodense parts: seen in anaemia and under anticoagulants; how often, our choice
ISODENSE_SHARE, ISODENSE_HU = 0.08, 38.0


def base_density_hu(haematocrit: float, hours: float) -> float:
    """Return HU of evenly clotted blood: it rises with haematocrit and, as the clot retracts, for hours.

    Whole blood has 55 to 57 HU, plasma 33 (Hübener 1979, Rofo 130:185; early: New 1976, Radiology 121:635),
    so 0.5 HU per 0.01 of haematocrit by our own sum; a clot, more packed, is given 0.85. Clots measure 59 HU
    +- 11.6, nearly all of 25 to 88 (289 scans, 2014: Characterization of intraventricular and intracerebral
    hematomas in CT). How fast retraction brightens is our choice.

    >>> round(base_density_hu(0.41, 3.0)), base_density_hu(0.30, 3.0) < 56
    (65, True)
    """
    return float(np.clip(63 + 85 * (haematocrit - 0.41) + 9 * np.tanh((hours - 2) / 4), 44, 90))


def densities(
    time: Tensor, crop: HeadCrop, latent: Latent, centre: Floats, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the blood's HU at baseline, with the signs, and at follow-up, when most have evened out."""
    device, shape = crop.tissue.device, tuple(crop.tissue.shape)
    noise = [
        smooth_noise(shape, correlation=c / crop.spacing_mm, generator=generator, device=device)[0]
        for c in (9, 4.5)
    ]
    spread = 2.2 + 1.6 * float(np.clip(latent.heterogeneity + 1, 0, 3.5))
    texture = 0.8 * noise[0] + 0.6 * noise[1]
    denser = 5.0 * float(torch.randn(1, generator=generator))
    hours = (latent.onset_to_ct_h, latent.onset_to_ct_h + latent.followup_interval_h)
    fresh, older = (base_density_hu(latent.haematocrit, age) + denser for age in hours)
    early, late = fresh + spread * texture, older + 2.5 * texture
    clot = _Clot(_filled_first(time, crop, latent.drawn_ich_ml), crop.points(), noise)
    changes = [_SIGN_HU.get(sign, _unchanged)(clot, generator) for sign in latent.signs]
    if float(torch.rand(1, generator=generator)) < ISODENSE_SHARE:
        changes.append(_isodense_hu(early, clot))
    if changes:
        early = early + torch.stack(changes).min(0).values
    return early.clamp(26, 100), late.clamp(40, 100)


@dataclass(frozen=True, eq=False)
class _Clot:
    """What the density signs are drawn on."""

    inside: Tensor  # (x, y, z) bool: the baseline haematoma
    points: Tensor  # (3, x, y, z) mm
    noise: list[Tensor]  # two smooth fields, the finer one last


def _filled_first(time: Tensor, crop: HeadCrop, ich_ml: float) -> Tensor:
    """Return the source tissue that the baseline haematoma takes (bool)."""
    voxels = max(1, int(1000 * SOURCE_SHARE * ich_ml / crop.spacing_mm**3))
    return time <= time.reshape(-1).kthvalue(voxels).values


def _blend_hu(clot: _Clot, generator: torch.Generator) -> Tensor:
    """Lower a part with a sharp border."""
    direction = _direction(clot, generator).reshape(3, 1, 1, 1)
    along = (clot.points * direction).sum(0) + 1.5 * clot.noise[0]
    drop = 14.0 + 16.0 * float(torch.rand(1, generator=generator))
    return -drop * torch.sigmoid((along - torch.quantile(along[clot.inside], 0.7)) / 0.35)


def _black_hole_hu(clot: _Clot, generator: torch.Generator) -> Tensor:
    """Lower a dark, encapsulated part away from the edge."""
    points, inside = clot.points, clot.inside
    side_mm = float(points[0, 1, 0, 0] - points[0, 0, 0, 0])
    radius = (3 * float(inside.sum()) / (4 * np.pi)) ** (1 / 3) * side_mm
    middle = (points * inside).sum((1, 2, 3)) / inside.sum()
    hole = middle + _direction(clot, generator) * radius * 0.35
    distance = ((points - hole.reshape(3, 1, 1, 1)) ** 2).sum(0).sqrt()
    return -31.0 * torch.sigmoid((0.34 * radius + 1.0 - distance - 0.6 * clot.noise[1]) / 0.4)


def _swirl_hu(clot: _Clot, _: torch.Generator) -> Tensor:
    """Lower curved bands of unclotted blood, about a fifth of the clot, whatever the noise's levels in it."""
    from_middle = (clot.noise[0] - clot.noise[0][clot.inside].median()).abs()
    return -17.0 * torch.exp(-((from_middle / torch.quantile(from_middle[clot.inside], 0.15)) ** 2))


def _fluid_level_hu(clot: _Clot, generator: torch.Generator) -> Tensor:
    """Let cells settle towards the back of the head; above them the clot is isodense."""
    share, above = (float(draw) for draw in torch.rand(2, generator=generator))
    level = torch.quantile(clot.points[1][clot.inside], 0.4 + 0.3 * share)
    return 8.0 - (26.0 + 14.0 * above) * torch.sigmoid((clot.points[1] - level) / 0.3)


def _unchanged(clot: _Clot, _: torch.Generator) -> Tensor:
    return torch.zeros_like(clot.noise[0])


# What each sign adds to the blood's HU; signs of the outline add nothing.
_SIGN_HU: dict[str, Callable[[_Clot, torch.Generator], Tensor]] = {
    "blend": _blend_hu,
    "black_hole": _black_hole_hu,
    "swirl": _swirl_hu,
    "fluid_level": _fluid_level_hu,
}


def _direction(clot: _Clot, generator: torch.Generator) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(3, generator=generator), dim=0).to(clot.points)


def _isodense_hu(density: Tensor, clot: _Clot) -> Tensor:
    """Return what makes a part of the clot as dense as brain: blood not clotted, or poor in cells."""
    noise = clot.noise[0]
    edge = torch.quantile(noise[clot.inside], 0.75)
    return -(density - ISODENSE_HU).clamp(min=0) * torch.sigmoid((noise - edge) / 0.15)
