"""What each tissue of a virtual patient is worth in Hounsfield units, before a scanner has seen it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from ichnos.simulation.patient import Moment, Tissue


@dataclass(frozen=True)
class Density:
    """HU of one tissue: its mean, how far patients differ, and its roughness inside one patient."""

    mean_hu: float
    between_hu: float  # standard deviation between patients
    within_hu: float  # standard deviation of a smooth texture within the tissue


# Set to usual values. Textbooks give white matter 20 to 30, grey 37 to 45 (Buzug 2008 and others);
# normal volunteers had 30 in white and 33 in deep grey matter on an early scanner (Cala 1981, AJNR 2:41), and
# tissue composition alone explains 5.5 between them (J Comput Assist Tomogr 1980, 4:489): our contrast of 8
# to 9 is at the high end. No source was looked up for the other tissues and for the spreads.
DENSITY: dict[Tissue, Density] = {
    Tissue.AIR: Density(-1000, 0, 0),
    Tissue.SCALP: Density(15, 12, 9),
    Tissue.FAT: Density(-95, 6, 10),
    Tissue.MUSCLE: Density(52, 4, 4),
    Tissue.BONE: Density(1250, 120, 140),
    Tissue.DIPLOE: Density(500, 90, 110),
    Tissue.AIR_CELL: Density(-960, 15, 20),
    Tissue.MUCOSA: Density(35, 6, 8),
    Tissue.EYE: Density(10, 3, 1),
    Tissue.LENS: Density(70, 8, 2),
    Tissue.OPTIC_NERVE: Density(32, 3, 1),
    Tissue.DURA: Density(56, 5, 3),
    Tissue.VENOUS_SINUS: Density(56, 2, 2),
    Tissue.ARTERY: Density(46, 2, 2),
    Tissue.CSF: Density(8, 1.2, 0.8),
    Tissue.VENTRICLE: Density(6, 1.2, 0.5),
    Tissue.CHOROID: Density(42, 5, 5),
    Tissue.CORTEX: Density(38.2, 0.8, 0.9),
    Tissue.WHITE: Density(29.4, 0.8, 0.9),
    Tissue.THALAMUS: Density(36.0, 0.8, 0.8),
    Tissue.CAUDATE: Density(37.5, 0.8, 0.7),
    Tissue.PUTAMEN: Density(37.5, 0.8, 0.7),
    Tissue.PALLIDUM: Density(35.5, 1.0, 0.8),
    Tissue.HIPPOCAMPUS: Density(36.5, 0.8, 0.8),
    Tissue.BRAINSTEM: Density(31.5, 0.8, 0.9),
    Tissue.CEREBELLAR_CORTEX: Density(38.5, 0.8, 0.9),
    Tissue.CEREBELLAR_WHITE: Density(32.0, 0.8, 0.9),
}

# What disease takes away or adds: no source looked up.
OEDEMA_DROP_HU = 10.0  # full degree, in white matter
LEUKOARAIOSIS_DROP_HU = 10.0
INFARCT_DROP_HU = 8.0
OLD_INFARCT_HU = 9.0  # of a cavity that is nearly fluid
CALCIUM_RISE_HU = 250.0
FAT_ABOVE, FAT_STEEPNESS = (
    0.75,
    5.0,
)  # where the roughness of muscle and scalp is above this, there is fat: about a quarter of them


def hounsfield(
    moment: Moment,
    *,
    haematocrit: float,
    spacing_mm: float,
    generator: torch.Generator,
    old_infarct_hu: float = OLD_INFARCT_HU,
) -> torch.Tensor:
    """Return the HU map (x, y, z) of a patient, float32; texture and the patient's own tissue means come
    from the generator.
    """
    hu = _healthy_hu(moment.tissue, haematocrit, spacing_mm, generator)
    is_brain = (moment.tissue >= int(Tissue.CORTEX)).to(torch.float32)
    hu = hu - is_brain * (
        LEUKOARAIOSIS_DROP_HU * moment.leukoaraiosis
        + OEDEMA_DROP_HU * moment.oedema
        + INFARCT_DROP_HU * moment.infarct_acute
    ).clamp(max=18.0)
    hu = torch.lerp(hu, torch.full_like(hu, old_infarct_hu), moment.infarct_old * is_brain)
    blood = (moment.ich + moment.ivh).clamp(0, 1)
    return torch.lerp(hu, moment.blood_hu, blood) + CALCIUM_RISE_HU * moment.calcification


def _healthy_hu(
    tissue: torch.Tensor, haematocrit: float, spacing_mm: float, generator: torch.Generator
) -> torch.Tensor:
    """Return the HU of the tissues with their texture; the roughest of muscle and scalp is fat."""
    density = [[d.mean_hu, d.between_hu, d.within_hu] for _, d in sorted(DENSITY.items())]
    table = torch.tensor(density, device=tissue.device)
    means = table[:, 0] + table[:, 1] * _tied_scores(tissue.device, generator)
    means[Tissue.VENOUS_SINUS] += (haematocrit - 0.42) * 90.0
    means[Tissue.ARTERY] += (haematocrit - 0.42) * 70.0
    shape, codes = tuple(tissue.shape), tissue.to(torch.int32).reshape(-1)
    hu, roughness = (column.index_select(0, codes).reshape(shape) for column in (means, table[:, 2]))
    field = texture(shape, scale_mm=4.0, spacing_mm=spacing_mm, generator=generator)
    hu += roughness * field
    soft = (tissue == int(Tissue.MUSCLE)) | (tissue == int(Tissue.SCALP))
    fat = torch.sigmoid(FAT_STEEPNESS * (field - FAT_ABOVE)) * soft
    return torch.lerp(hu, means[Tissue.FAT].expand_as(hu), fat)


def _tied_scores(device: torch.device, generator: torch.Generator) -> torch.Tensor:
    """Draw one standard score per tissue; grey and white matter of one patient move together, so that
    their contrast stays.
    """
    own = torch.randn(len(DENSITY), device=device, generator=generator)
    brain = torch.arange(len(DENSITY), device=device) >= Tissue.CORTEX
    shared = torch.randn(1, device=device, generator=generator)
    return torch.where(brain, 0.85 * shared + 0.53 * own, own).clamp(-2.5, 2.5)


def texture(
    shape: tuple[int, ...], *, scale_mm: float, spacing_mm: float, generator: torch.Generator
) -> torch.Tensor:
    """Draw a smooth random field of mean 0 and variance about 1 (x, y, z), from white noise on a coarse
    grid.
    """
    coarse = [max(2, round(n * spacing_mm / scale_mm) + 1) for n in shape]
    white = torch.randn(1, 1, *coarse, device=generator.device, generator=generator)
    field = functional.interpolate(white, size=shape, mode="trilinear", align_corners=True)[0, 0]
    return field * 1.84  # a trilinear blend of eight independent values has a mean variance of (2/3)**3
