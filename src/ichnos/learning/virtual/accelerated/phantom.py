"""A virtual patient in few bytes: what a renderer needs to scan it, on one canvas around the brain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ichnos.simulation.exams.truth import fine_masks
from ichnos.simulation.patient import BRAIN_TISSUES, Moment, VirtualPatient

CANVAS_MM = (192.0, 240.0, 210.0)  # about the brain; what lies beyond is air
ABOVE_MM = 30.0  # of the canvas over the brain's highest voxel
MNI_STEP = 4  # canvas voxels per voxel of the MNI positions
DEGREES = ("ich", "ivh", "oedema", "leukoaraiosis", "infarct_acute", "infarct_old", "calcification")
# Bits of a voxel's label, in the order of the targets that they teach.
LABELS = (
    "brain",
    "ventricles",
    "ich",
    "ivh",
    "phe",
    "leukoaraiosis",
    "infarct",
    "tract_left",
    "tract_right",
    "followup",
)
_BLOOD_STEPS = 2  # of blood's HU
_PARTS = {
    "infarct": ("infarct_acute", "infarct_old"),
    "followup": ("ich_followup", "ivh_followup"),
}


@dataclass(frozen=True, eq=False)
class PhantomLayout:
    """The arrays of a phantom, one behind the other in a buffer.

    >>> PhantomLayout(spacing_mm=3.0).shape, PhantomLayout(spacing_mm=3.0).mni_shape
    ((65, 81, 73), (17, 21, 19))
    """

    spacing_mm: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the canvas in voxels, a multiple of MNI_STEP plus one."""
        x, y, z = (round(mm / self.spacing_mm / MNI_STEP) * MNI_STEP + 1 for mm in CANVAS_MM)
        return x, y, z

    @property
    def mni_shape(self) -> tuple[int, int, int]:
        """Return the grid of the MNI positions."""
        x, y, z = ((n - 1) // MNI_STEP + 1 for n in self.shape)
        return x, y, z

    @property
    def parts(self) -> dict[str, tuple[npt.DTypeLike, tuple[int, ...]]]:
        """Return type and shape of every array, the widest types first so that all lie aligned."""
        return {
            "facts": (np.float64, (5,)),
            "mni": (np.float32, (3, *self.mni_shape)),
            "labels": (np.int16, self.shape),
            "tissue": (np.uint8, self.shape),
            "degrees": (np.uint8, (len(DEGREES), *self.shape)),
            "blood": (np.uint8, self.shape),
        }

    @property
    def size(self) -> int:
        """Return the bytes of one phantom."""
        return sum(int(np.prod(shape)) * np.dtype(kind).itemsize for kind, shape in self.parts.values())

    def views(self, buffer: memoryview) -> dict[str, npt.NDArray[np.generic]]:
        """Return the arrays inside a buffer."""
        at, views = 0, {}
        for name, (kind, shape) in self.parts.items():
            count = int(np.prod(shape))
            views[name] = np.frombuffer(buffer, kind, count, at).reshape(shape)
            at += count * np.dtype(kind).itemsize
        return views


@dataclass(frozen=True, eq=False)
class Phantom:
    """One patient on a device: everything about it that no scanner changes."""

    spacing_mm: float
    maps: Moment  # on the canvas
    labels: torch.Tensor  # (x, y, z) float32, bits of LABELS
    mni_mm: torch.Tensor  # (3, x, y, z) on every fourth voxel
    haematocrit: float
    has_haematoma: bool
    old_infarct_hu: float
    number: int


def write_phantom(patient: VirtualPatient, number: int, layout: PhantomLayout, buffer: memoryview) -> None:
    """Write a patient's maps into a buffer."""
    views = layout.views(buffer)
    start = _start(patient, layout.shape)
    maps = patient.baseline
    views["facts"][:] = (
        number,
        patient.latent.haematocrit,
        patient.latent.has_haematoma,
        patient.spacing_mm,
        patient.latent.old_infarct_hu,
    )
    _paste(views["tissue"], maps.tissue.numpy(), start)
    for channel, name in enumerate(DEGREES):
        part = getattr(maps, name)
        if name == "calcification" or bool(part.any()):
            _paste(views["degrees"][channel], (part * 255).round().to(torch.uint8).numpy(), start)
        else:
            views["degrees"][channel] = 0
    blood = (maps.blood_hu * _BLOOD_STEPS).clamp(0, 255).round().to(torch.uint8)
    _paste(views["blood"], blood.numpy(), start)
    _paste(views["labels"], _labels(patient).numpy(), start)
    assert patient.mni_mm is not None
    views["mni"][:] = _positions(patient.mni_mm.numpy(), start, layout)


def read_phantom(buffer: memoryview, layout: PhantomLayout, device: torch.device | str) -> Phantom:
    """Copy a phantom from a buffer to a device."""
    views = layout.views(buffer)
    number, haematocrit, bled, spacing_mm, old_infarct_hu = views.pop("facts").tolist()
    on = {name: torch.tensor(view, device=device) for name, view in views.items()}
    degrees = on["degrees"].float() / 255
    maps = Moment(
        tissue=on["tissue"],
        blood_hu=on["blood"].float() / _BLOOD_STEPS,
        **{name: degrees[channel] for channel, name in enumerate(DEGREES)},
    )
    return Phantom(
        spacing_mm=spacing_mm,
        maps=maps,
        labels=on["labels"].float(),
        mni_mm=on["mni"],
        haematocrit=haematocrit,
        has_haematoma=bool(bled),
        old_infarct_hu=old_infarct_hu,
        number=int(number),
    )


def _start(patient: VirtualPatient, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return the patient's voxel at the canvas' first corner: the brain in the middle, ABOVE_MM over it."""
    brain = (patient.baseline.tissue[::2, ::2, ::2] >= int(min(BRAIN_TISSUES))).nonzero() * 2
    low, high = brain.amin(0).tolist(), brain.amax(0).tolist()
    x, y = ((low[axis] + high[axis] - shape[axis]) // 2 for axis in (0, 1))
    return x, y, high[2] + round(ABOVE_MM / patient.spacing_mm) - shape[2]


def _overlap(n: int, start: int, size: int) -> tuple[slice, slice]:
    """Return which part of a canvas axis a patient axis of `n` voxels fills, and with which of its own."""
    first, last = max(0, -start), min(size, n - start)
    return slice(first, max(first, last)), slice(first + start, max(first, last) + start)


def _paste(
    canvas: npt.NDArray[np.generic], array: npt.NDArray[np.generic], start: tuple[int, int, int]
) -> None:
    pairs = [_overlap(n, s, size) for n, s, size in zip(array.shape, start, canvas.shape, strict=True)]
    canvas[...] = 0
    canvas[tuple(to for to, _ in pairs)] = array[tuple(source for _, source in pairs)]


def _labels(patient: VirtualPatient) -> torch.Tensor:
    names = [part for label in LABELS for part in _PARTS.get(label, (label,)) if _known(patient, part)]
    masks = dict(zip(names, fine_masks(patient, names), strict=True))
    bits = torch.zeros(patient.shape, dtype=torch.int16)
    for channel, label in enumerate(LABELS):
        parts = [masks[part] for part in _PARTS.get(label, (label,)) if part in masks]
        for part in parts:
            bits |= part.to(torch.int16) << channel
    dark = (bits & (_bit("infarct") | _bit("ventricles"))) != 0
    bits[dark] &= ~_bit("leukoaraiosis")  # white-matter disease is neither a scar nor a ventricle
    return bits


def _bit(label: str) -> int:
    return 1 << LABELS.index(label)


def _known(patient: VirtualPatient, part: str) -> bool:
    return not part.endswith("_followup") or patient.followup is not None


def _positions(
    mni_mm: npt.NDArray[np.float32], start: tuple[int, int, int], layout: PhantomLayout
) -> npt.NDArray[np.float32]:
    """Return MNI positions on every fourth voxel of the canvas; beyond the patient, those of its rim."""
    at = [
        np.clip(np.arange(n) * MNI_STEP + s, 0, size - 1)
        for n, s, size in zip(layout.mni_shape, start, mni_mm.shape[1:], strict=True)
    ]
    return mni_mm[:, at[0][:, None, None], at[1][None, :, None], at[2][None, None, :]]
