"""The truth of a virtual patient on the grid of an exam: masks, the oracle's map, and the table of
volumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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

    Where the head moved, they lie where the slices show it.
    """
    # all masks travel as bits of one number, so that a dozen cost one resampling
    packed = torch.zeros(patient.shape, device=patient.device)
    for channel, name in enumerate(names):
        packed.add_(_fine_mask(patient, name), alpha=float(2**channel))
    index_from_exam = np.linalg.inv(patient.affine) @ patient_from_exam.matrix
    slices = _Slices(affine, shape, thickness_mm, index_from_exam, motion, _odd_count(thickness_mm))
    planes: list[list[torch.Tensor]] = [[] for _ in names]
    for k in range(shape[2]):
        bits = slices.sampled(packed, k, nearest=True, mode="zeros").round().to(torch.int32)
        for channel, plane in enumerate(planes):
            share = ((bits >> channel) & 1).to(torch.float32).mean(2)
            plane.append(_in_plane(share, shape) >= 0.5)
    masks = [torch.stack(plane, dim=2).to(torch.uint8).cpu().numpy() for plane in planes]
    return {name: Volume(mask, affine) for name, mask in zip(names, masks, strict=True)}


def _in_plane(share: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Bring a plane of the coarser grid to an exam's pixels."""
    sides = (shape[0], shape[1])
    if share.shape == sides:
        return share
    return functional.interpolate(share[None, None], size=sides, mode="bilinear")[0, 0]


def _odd_count(thickness_mm: float) -> int:
    """Return about one sample per millimetre: an odd number, since of an even one exactly half may lie inside
    and masks would come out too large (by 7 % of a 14 mL ball in slices of 2.5 and 6 mm).
    """
    return 2 * (round(thickness_mm) // 2) + 1


@dataclass(frozen=True, eq=False)
class _Slices:
    """An exam's slices, to be looked up in a map of the patient at samples through their thickness."""

    affine: Floats  # (4, 4) voxel index -> exam mm
    shape: Sequence[int]
    thickness_mm: float
    index_from_exam: Floats  # (4, 4) exam mm -> voxel index of the patient
    motion: HeadMotion | None
    samples: int  # through one slice

    def sampled(
        self, field: torch.Tensor, k: int, *, nearest: bool = False, mode: str = "border"
    ) -> torch.Tensor:
        """Return what slice k shows of a map, on the coarser in-plane grid: (x, y, sample).

        A head at rest is looked up at once, a restless one sample by sample.
        """
        coarse, sides = coarser(self.shape, pixel_mm=float(np.linalg.norm(self.affine[:3, 0])))
        exam_from_out = self.affine @ coarse
        if self.motion is None:
            at = self.index_from_exam @ exam_from_out @ self._along(k, 0)
            return pull(field[None], at, (*sides, self.samples), nearest=nearest, mode=mode)[0]
        parts = []
        for n in range(self.samples):
            moved = self.motion.at(k, (n + 0.5) / self.samples)
            at = self.index_from_exam @ moved @ exam_from_out @ self._along(k, n)
            parts.append(pull(field[None], at, (*sides, 1), nearest=nearest, mode=mode)[0])
        return torch.cat(parts, 2)

    def _along(self, k: int, first: int) -> Floats:
        """Return the map from samples of slice k, from the `first` one on, to indices along the slices."""
        reach = self.thickness_mm / float(np.linalg.norm(self.affine[:3, 2]))
        along = np.eye(4)
        along[2, 2] = reach / self.samples
        along[2, 3] = k + reach * ((first + 0.5) / self.samples - 0.5)
        return along


def coarser(
    shape: Sequence[int], *, pixel_mm: float, least_mm: float = 0.9
) -> tuple[Floats, tuple[int, int]]:
    """Return the map from a coarser in-plane grid to an exam's indices, and that grid's size; the field of
    view is the same.

    >>> coarser((512, 512, 30), pixel_mm=0.45)[1]
    (256, 256)
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
    growth = patient.growth_probability
    if growth is None:
        return None
    index_from_exam = np.linalg.inv(patient.affine) @ patient_from_exam.matrix
    samples = max(1, round(thickness_mm / 1.25))
    slices = _Slices(affine, shape, thickness_mm, index_from_exam, motion, samples)
    planes = torch.stack([slices.sampled(growth, k).mean(2) for k in range(shape[2])])
    fine = functional.interpolate(planes[None], size=tuple(shape[:2]), mode="bilinear")[0]
    rounded = (fine.clamp(0, 1) * 250).round().div(250)
    return Volume(rounded.permute(1, 2, 0).contiguous().cpu().numpy(), affine)


def volumes_ml(masks: dict[str, Volume]) -> dict[str, float]:
    """Return the volume of each mask, in mL, to a thousandth.

    >>> from ichnos.volume import sphere
    >>> volumes_ml({"ich": sphere(radius_mm=10)})
    {'ich_ml': 4.175}
    """
    return {f"{name}_ml": round(volume_ml(mask), 3) for name, mask in masks.items()}
