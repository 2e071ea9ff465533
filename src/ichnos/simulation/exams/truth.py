"""The truth of a virtual patient on the grid of an exam: masks, the oracle's map, and the table of
volumes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from ichnos.simulation.exams.pose import HeadMotion, pull
from ichnos.simulation.patient import BRAIN_TISSUES, Moment, Tissue, VirtualPatient
from ichnos.targets import TARGETS, truth_masks
from ichnos.volume import Affine, Floats, Volume, volume_ml

_TRUTH = truth_masks(*TARGETS)
FOLLOWUP_MASKS = ("ich_followup", "ivh_followup", "phe_followup")
BASELINE_MASKS = tuple(name for name in _TRUTH if name not in FOLLOWUP_MASKS)


def fine_masks(patient: VirtualPatient, names: Sequence[str]) -> torch.Tensor:
    """Return the named masks (c, x, y, z) on the patient's own grid, bool."""
    return torch.stack([_fine_mask(patient, name) for name in names])


def _fine_mask(patient: VirtualPatient, name: str) -> torch.Tensor:
    moment = patient.moment(followup=name.endswith("_followup"))
    base = name.removesuffix("_followup")
    if base == "phe":
        return (moment.oedema >= 0.5) & (moment.ich + moment.ivh < 0.5)
    if base == "brain":
        return (moment.tissue >= min(BRAIN_TISSUES)) | _in_ventricles(moment)
    if base == "ventricles":
        return _in_ventricles(moment)
    if base.startswith("tract_"):
        return patient.tract[0 if base == "tract_left" else 1] >= 0.5
    degree: torch.Tensor = getattr(moment, base)
    return degree >= 0.5


def _in_ventricles(moment: Moment) -> torch.Tensor:
    return (moment.tissue == Tissue.VENTRICLE) | (moment.tissue == Tissue.CHOROID)


def masks_on_grid(
    patient: VirtualPatient,
    names: Sequence[str],
    *,
    affine: Floats,
    shape: Sequence[int],
    patient_from_exam: Affine,
    thickness_mm: float,
    motion: HeadMotion | None = None,
) -> dict[str, Volume]:
    """Return the named masks on an exam's grid: a voxel belongs to one if at least half of it does.

    Where the head moved, they lie where the slices show it. All masks travel as bits of one number, so that a
    dozen cost one resampling.
    """
    packed = torch.zeros(patient.shape, device=patient.device)
    for channel, name in enumerate(names):
        packed.add_(_fine_mask(patient, name), alpha=float(2**channel))
    reach = thickness_mm / float(np.linalg.norm(affine[:3, 2]))
    coarse, sides = coarser(shape, pixel_mm=float(np.linalg.norm(affine[:3, 0])))
    index_from_exam = np.linalg.inv(patient.affine) @ patient_from_exam.matrix
    planes: list[list[torch.Tensor]] = [[] for _ in names]
    for k in range(shape[2]):
        depths = _depths(_odd_count(thickness_mm), k, reach, index_from_exam, affine @ coarse, motion)
        samples = [pull(packed[None], at, (*sides, n), nearest=True, mode="zeros")[0] for at, n in depths]
        bits = torch.cat(samples, 2).round().to(torch.int32)
        for channel in range(len(names)):
            share = ((bits >> channel) & 1).to(torch.float32).mean(2)
            fits = share.shape == tuple(shape[:2])
            fine_share = (
                share
                if fits
                else functional.interpolate(share[None, None], size=tuple(shape[:2]), mode="bilinear")[0, 0]
            )
            planes[channel].append(fine_share >= 0.5)
    return {
        name: Volume(torch.stack(planes[c], dim=2).to(torch.uint8).cpu().numpy(), affine)
        for c, name in enumerate(names)
    }


def _odd_count(thickness_mm: float) -> int:
    """Return about one sample per millimetre: an odd number, since of an even one exactly half may lie inside
    and masks would come out too large (by 7 % of a 14 mL ball in slices of 2.5 and 6 mm).
    """
    return 2 * (round(thickness_mm) // 2) + 1


def _depths(
    samples: int,
    k: int,
    reach: float,
    index_from_exam: Floats,
    exam_from_out: Floats,
    motion: HeadMotion | None,
) -> list[tuple[Floats, int]]:
    """Return how to look up the samples through slice k: maps from its indices to the patient's, each with
    its number of samples.

    A head at rest is looked up at once, a restless one sample by sample.
    """

    def step(first: int, moved: Floats) -> Floats:
        along = np.eye(4)
        along[2, 2] = reach / samples
        along[2, 3] = k + reach * ((first + 0.5) / samples - 0.5)
        return index_from_exam @ moved @ exam_from_out @ along

    if motion is None:
        return [(step(0, np.eye(4)), samples)]
    return [(step(n, motion.at(k, (n + 0.5) / samples)), 1) for n in range(samples)]


def coarser(
    shape: Sequence[int], *, pixel_mm: float, least_mm: float = 0.9
) -> tuple[Floats, tuple[int, int]]:
    """Return the map from a coarser in-plane grid to an exam's indices, and that grid's size; the field of
    view is the same.
    """
    sides = [min(n, max(2, 2 * int(np.ceil(n * pixel_mm / least_mm / 2)))) for n in shape[:2]]
    matrix = np.eye(4)
    for axis, side in enumerate(sides):
        matrix[axis, axis] = shape[axis] / side
        matrix[axis, 3] = (shape[axis] / side - 1) / 2
    return matrix, (sides[0], sides[1])


def growth_on_grid(
    patient: VirtualPatient,
    *,
    affine: Floats,
    shape: Sequence[int],
    patient_from_exam: Affine,
    thickness_mm: float,
    motion: HeadMotion | None = None,
) -> Volume | None:
    """Return the oracle's probability of blood at follow-up on the baseline CT's grid, in steps of 1/250;
    None where it was not made.
    """
    if patient.growth_probability is None:
        return None
    index_from_exam = np.linalg.inv(patient.affine) @ patient_from_exam.matrix
    coarse, sides = coarser(shape, pixel_mm=float(np.linalg.norm(affine[:3, 0])))
    reach = thickness_mm / float(np.linalg.norm(affine[:3, 2]))
    slices = []
    for k in range(shape[2]):
        depths = _depths(
            max(1, round(thickness_mm / 1.25)), k, reach, index_from_exam, affine @ coarse, motion
        )
        slices.append(
            torch.cat(
                [pull(patient.growth_probability[None], at, (*sides, n))[0] for at, n in depths], 2
            ).mean(2)
        )
    fine = functional.interpolate(torch.stack(slices)[None], size=tuple(shape[:2]), mode="bilinear")[0]
    rounded = (fine.clamp(0, 1) * 250).round().div(250)
    return Volume(rounded.permute(1, 2, 0).contiguous().cpu().numpy(), affine)


def volumes_ml(masks: dict[str, Volume]) -> dict[str, float]:
    """Return the volume of each mask, in mL, to a thousandth.

    >>> from ichnos.volume import sphere
    >>> volumes_ml({"ich": sphere(radius_mm=10)})
    {'ich_ml': 4.175}
    """
    return {f"{name}_ml": round(volume_ml(mask), 3) for name, mask in masks.items()}
