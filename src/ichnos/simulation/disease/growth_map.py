"""Where blood will be at follow-up: the hidden part drawn again and again, given what the baseline shows."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ichnos.simulation.disease import filling, haemorrhage, law, oracle
from ichnos.simulation.disease.haemorrhage import Lesion
from ichnos.simulation.disease.moment import Background, RenderedMoment, mass_effect_mm
from ichnos.simulation.fields import enlarged
from ichnos.simulation.streams import random_stream


def growth_probability(
    background: Background, draws: law.Draws, lesion: Lesion, baseline: RenderedMoment, samples: int
) -> Tensor:
    """Return P(blood at follow-up) per voxel, given all that the baseline shows.

    Each sample has its own volume, new focus and mass effect. They grow and are looked up on every second
    voxel: what the mean of many shows is smooth.
    """
    lesion = haemorrhage.halved(lesion)
    grid, half = background.grid, background.grid.step // 2
    generator = random_stream(int(draws.ich_ml[0] * 1e4), "resample")
    bled = baseline.maps.ich[:: grid.step, :: grid.step, :: grid.step] > 0
    box = grid.box(bled, margin=max(2, round(12 / (grid.step * grid.spacing_mm))))
    tissue = baseline.maps.tissue[grid.fine(box)][::half, ::half, ::half]
    where = haemorrhage.reachable(lesion, tissue, half * grid.spacing_mm)
    voxel_ml = (half * grid.spacing_mm) ** 3 / 1000
    total = torch.zeros_like(where, dtype=torch.float32)
    for ich_ml in oracle.resampled_followup_ml(draws, samples, generator).tolist():
        later = replace(lesion, time=haemorrhage.grown_later(lesion, baseline.limit, generator))
        push = mass_effect_mm(background, later, (ich_ml, 0.0))
        source = background.variation.at(grid.coarse_points(push.device) - push)[(slice(None), *box)]
        time = haemorrhage.at(later, later.time, grid.enlarged(source, step=grid.step // half), fill=400.0)
        total += filling.filled(time, where, ich_ml / voxel_ml, softness=0.8)
    out = torch.zeros(grid.shape, device=total.device)
    out[grid.fine(box)] = enlarged((total / samples)[None], half)[0]
    return torch.maximum(out, baseline.maps.ivh)
