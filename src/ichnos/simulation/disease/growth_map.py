"""Where blood will be at follow-up: the hidden part drawn again and again, given what the baseline shows."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ichnos.simulation.disease import filling, haemorrhage, law, oracle
from ichnos.simulation.disease.arrival import narrow_fluid
from ichnos.simulation.disease.haemorrhage import Lesion
from ichnos.simulation.disease.moment import RenderedMoment, mass_effect_mm
from ichnos.simulation.fields import enlarged
from ichnos.simulation.heads.source import SourceHead
from ichnos.simulation.heads.variation import Variation
from ichnos.simulation.streams import random_stream


def growth_probability(
    head: SourceHead,
    table: Tensor,
    draws: law.Draws,
    variation: Variation,
    lesion: Lesion,
    baseline: RenderedMoment,
    samples: int,
) -> Tensor:
    """Return P(blood at follow-up) per voxel: the hidden part is drawn again and again, given all that the
    baseline shows.

    Each sample has its own volume at follow-up, its own new focus and its own mass effect. Samples grow on
    every second voxel of the lesion's crop, and blood is looked up on every second voxel of the patient: what
    the mean of many shows is smooth.
    """
    lesion = haemorrhage.halved(lesion)
    grid, half = variation.grid, variation.grid.step // 2
    generator = random_stream(int(draws.ich_ml[0] * 1e4), "resample")
    volumes_ml = oracle.resampled_followup_ml(draws, samples, generator)
    coarse_ich = baseline.maps.ich[:: grid.step, :: grid.step, :: grid.step]
    box = grid.box(coarse_ich > 0, margin=max(2, round(12 / (grid.step * grid.spacing_mm))))
    tissue = baseline.maps.tissue[grid.fine(box)][::half, ::half, ::half]
    allowed = haemorrhage.allowed(tissue)
    if lesion.into_sulci:
        allowed = allowed | narrow_fluid(tissue, half * grid.spacing_mm)
    voxel_ml = (half * grid.spacing_mm) ** 3 / 1000
    total = torch.zeros(allowed.shape, device=allowed.device)
    for ich_ml in volumes_ml.tolist():
        later = replace(lesion, time=haemorrhage.grown_later(lesion, baseline.limit, generator))
        push = mass_effect_mm(head, table, variation, later, (ich_ml, 0.0))
        source = variation.at(grid.coarse_points(push.device) - push)[(slice(None), *box)]
        time = haemorrhage.at(later, later.time, grid.enlarged(source, step=grid.step // half), fill=400.0)
        total += filling.filled(time, allowed, ich_ml / voxel_ml, softness=0.8)
    out = torch.zeros(grid.shape, device=total.device)
    out[grid.fine(box)] = enlarged((total / samples)[None], half)[0]
    return torch.maximum(out, baseline.maps.ivh)
