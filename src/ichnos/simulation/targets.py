"""The truth of a virtual patient on the grid of an exam: masks, the oracle's map, and the table of volumes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from ichnos.simulation.patient import BRAIN_TISSUES, Tissue, VirtualPatient
from ichnos.simulation.pose import pull, pull_thick
from ichnos.volume import Affine, Floats, Volume, volume_ml

BASELINE_MASKS = ("ich", "ivh", "phe", "leukoaraiosis", "tract_left", "tract_right", "brain", "ventricles", "infarct_acute", "infarct_old")
FOLLOWUP_MASKS = ("ich_followup", "ivh_followup", "phe_followup")


def fine_masks(patient: VirtualPatient, names: Sequence[str]) -> torch.Tensor:
    """Return the named masks (c, x, y, z) on the patient's own grid, bool."""
    return torch.stack([_fine_mask(patient, name) for name in names])


def _fine_mask(patient: VirtualPatient, name: str) -> torch.Tensor:
    later = name.endswith("_followup")
    base = name.removesuffix("_followup")

    def part(field: str) -> torch.Tensor:
        value: torch.Tensor = getattr(patient, f"{field}_followup" if later else field)
        return value

    if base == "phe":
        return (part("oedema") >= 0.5) & (part("ich") + part("ivh") < 0.5)
    if base == "brain":
        return (part("tissue") >= min(BRAIN_TISSUES)) | (part("tissue") == Tissue.VENTRICLE) | (part("tissue") == Tissue.CHOROID)
    if base == "ventricles":
        return (part("tissue") == Tissue.VENTRICLE) | (part("tissue") == Tissue.CHOROID)
    if base.startswith("tract_"):
        return patient.tract[0 if base == "tract_left" else 1] >= 0.5
    return part(base) >= 0.5


def masks_on_grid(
    patient: VirtualPatient,
    names: Sequence[str],
    *,
    affine: Floats,
    shape: Sequence[int],
    patient_from_exam: Affine,
    thickness_mm: float,
) -> dict[str, Volume]:
    """Return the named masks on an exam's grid: a voxel belongs to one if at least half of it does.

    All masks travel as bits of one number, so that a dozen of them cost one resampling.
    """
    packed = torch.zeros(patient.tissue.shape, device=patient.device)
    for channel, name in enumerate(names):
        packed.add_(_fine_mask(patient, name), alpha=float(2**channel))
    index_from_exam = np.linalg.inv(patient.affine) @ patient_from_exam.matrix @ affine
    step_mm = float(np.linalg.norm(affine[:3, 2]))
    samples = max(1, round(thickness_mm))
    coarse, coarse_shape = coarser(shape, pixel_mm=float(np.linalg.norm(affine[:3, 0])))
    planes: list[list[torch.Tensor]] = [[] for _ in names]
    for k in range(shape[2]):
        at = np.eye(4)
        at[2, 3] = k
        bits = _samples(packed, index_from_exam @ coarse @ at, coarse_shape, samples, thickness_mm / step_mm)
        for channel in range(len(names)):
            share = ((bits >> channel) & 1).to(torch.float32).mean(2)
            fits = share.shape == tuple(shape[:2])
            fine_share = share if fits else functional.interpolate(share[None, None], size=tuple(shape[:2]), mode="bilinear")[0, 0]
            planes[channel].append(fine_share >= 0.5)
    return {name: Volume(torch.stack(planes[c], dim=2).to(torch.uint8).cpu().numpy(), affine) for c, name in enumerate(names)}


def _samples(packed: torch.Tensor, index_from_out: Floats, shape: Sequence[int], samples: int, reach: float) -> torch.Tensor:
    """Look up packed bits (m, m, samples) at points through one slice."""
    step = np.eye(4)
    step[2, 2] = reach / samples
    step[2, 3] = reach * (0.5 / samples - 0.5)
    found = pull(packed[None], index_from_out @ step, (shape[0], shape[1], samples), nearest=True, mode="zeros")[0]
    return found.round().to(torch.int32)


def coarser(shape: Sequence[int], *, pixel_mm: float, least_mm: float = 0.9) -> tuple[Floats, tuple[int, int]]:
    """Return the map from a coarser in-plane grid to an exam's indices, and that grid's size; the field of view is the same."""
    sides = [min(n, max(2, 2 * int(np.ceil(n * pixel_mm / least_mm / 2)))) for n in shape[:2]]
    matrix = np.eye(4)
    for axis, side in enumerate(sides):
        matrix[axis, axis] = shape[axis] / side
        matrix[axis, 3] = (shape[axis] / side - 1) / 2
    return matrix, (sides[0], sides[1])


def growth_on_grid(
    patient: VirtualPatient, *, affine: Floats, shape: Sequence[int], patient_from_exam: Affine, thickness_mm: float
) -> Volume | None:
    """Return the oracle's probability of blood at follow-up on the baseline CT's grid, in steps of 1/250; None where it was not made."""
    if patient.growth_probability is None:
        return None
    index_from_exam = np.linalg.inv(patient.affine) @ patient_from_exam.matrix @ affine
    coarse, sides = coarser(shape, pixel_mm=float(np.linalg.norm(affine[:3, 0])))
    step_mm = float(np.linalg.norm(affine[:3, 2]))
    share = pull_thick(
        patient.growth_probability[None],
        index_from_exam @ coarse,
        (*sides, shape[2]),
        samples=max(1, round(thickness_mm / 1.25)),
        reach=thickness_mm / step_mm,
    )[0]
    fine = functional.interpolate(share.permute(2, 0, 1)[None], size=tuple(shape[:2]), mode="bilinear")[0]
    rounded = (fine.clamp(0, 1) * 250).round().div(250)
    return Volume(rounded.permute(1, 2, 0).contiguous().cpu().numpy(), affine)


def volumes_ml(masks: dict[str, Volume]) -> dict[str, float]:
    """Return the volume of each mask, in mL, to a thousandth.

    >>> from ichnos.volume import sphere
    >>> volumes_ml({"ich": sphere(radius_mm=10)})
    {'ich_ml': 4.175}
    """
    return {f"{name}_ml": round(volume_ml(mask), 3) for name, mask in masks.items()}
