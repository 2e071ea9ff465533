"""What every simulated MRI shares: its grid, its pose, bias field and Rician noise; FLAIR and T1 are made
here.

Signals are relative (cerebral white matter 100 before the bias field), as MRI has no unit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch.nn import functional

from ichnos.simulation.exams.pose import pull_thick, rigid, slice_stack_affine
from ichnos.simulation.exams.tissue_hu import texture
from ichnos.simulation.patient import BRAIN_TISSUES, Tissue, VirtualPatient
from ichnos.volume import Affine, Floats, Volume

Contrast = Literal["flair", "t1"]

_SIGNAL: dict[Tissue, tuple[float, float]] = {  # FLAIR, T1
    Tissue.AIR: (0, 0),
    Tissue.SCALP: (70, 85),
    Tissue.FAT: (120, 150),
    Tissue.MUSCLE: (55, 55),
    Tissue.BONE: (6, 8),
    Tissue.DIPLOE: (60, 85),
    Tissue.AIR_CELL: (2, 2),
    Tissue.MUCOSA: (150, 60),
    Tissue.EYE: (14, 22),
    Tissue.LENS: (50, 55),
    Tissue.OPTIC_NERVE: (95, 80),
    Tissue.DURA: (60, 55),
    Tissue.VENOUS_SINUS: (30, 40),
    Tissue.ARTERY: (12, 25),
    Tissue.CSF: (16, 20),
    Tissue.VENTRICLE: (12, 18),
    Tissue.CHOROID: (85, 45),
    Tissue.CORTEX: (122, 66),
    Tissue.WHITE: (100, 100),
    Tissue.THALAMUS: (108, 82),
    Tissue.CAUDATE: (118, 74),
    Tissue.PUTAMEN: (112, 77),
    Tissue.PALLIDUM: (94, 90),
    Tissue.HIPPOCAMPUS: (126, 68),
    Tissue.BRAINSTEM: (102, 94),
    Tissue.CEREBELLAR_CORTEX: (112, 67),
    Tissue.CEREBELLAR_WHITE: (98, 98),
}


@dataclass(frozen=True)
class MriProtocol:
    """How one structural MRI is made."""

    contrast: Contrast = "flair"
    pixel_mm: float = 0.9
    thickness_mm: float = 4.5
    gap_mm: float = 0.5
    noise: float = 3.0  # standard deviation of each of the two channels, white matter being 100
    bias: float = 0.15  # standard deviation of the logarithm of the receive field
    # of the slices to the head's axial plane: -20 is parallel to the line between the commissures or so
    angle_deg: float = 0.0
    pose_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    cover_mm: float = 12.0  # beyond the brain
    field_strength_t: float = 3.0


@dataclass(frozen=True, eq=False)
class MriExam:
    """A simulated MRI with what only the simulation knows."""

    volume: Volume  # float32, RAS, relative signal
    protocol: MriProtocol
    patient_from_exam: Affine


def draw_mri_protocol(contrast: Contrast, *, rng: np.random.Generator) -> MriProtocol:
    """Draw how an MRI is made: FLAIR is thick and two-dimensional more often than not, T1 is nearly
    isotropic.
    """
    common = MriProtocol(
        contrast=contrast,
        noise=float(rng.uniform(1.5, 4.5)),
        bias=float(rng.uniform(0.05, 0.22)),
        pose_deg=(float(rng.normal(0, 5)), float(rng.normal(0, 3)), float(rng.normal(0, 4))),
        shift_mm=(float(rng.normal(0, 4)), float(rng.normal(0, 6)), float(rng.normal(0, 8))),
        field_strength_t=float(rng.choice([1.5, 3.0])),
    )
    if contrast == "t1" or rng.random() < 0.25:
        return replace(common, pixel_mm=1.0, thickness_mm=1.0, gap_mm=0.0, noise=common.noise * 1.2)
    return replace(
        common,
        pixel_mm=float(rng.choice([0.7, 0.86, 0.94])),
        thickness_mm=float(rng.choice([4.0, 4.5, 5.0])),
        gap_mm=float(rng.choice([0.0, 0.5, 1.0])),
        angle_deg=float(rng.normal(-8, 5)),
    )


def simulate_mri(patient: VirtualPatient, protocol: MriProtocol, *, generator: torch.Generator) -> MriExam:
    """Image a patient at baseline; white-matter disease, oedema and blood look as they do some hours after
    the bleed.
    """
    affine, shape, patient_from_exam = mri_grid(
        patient,
        pixel_mm=protocol.pixel_mm,
        step_mm=protocol.thickness_mm + protocol.gap_mm,
        angle_deg=protocol.angle_deg,
        pose_deg=protocol.pose_deg,
        shift_mm=protocol.shift_mm,
        cover_mm=protocol.cover_mm,
    )
    signal = tissue_signal(patient, protocol.contrast, generator=generator)
    index_from_exam = np.linalg.inv(patient.affine) @ patient_from_exam.matrix @ affine
    step_mm = protocol.thickness_mm + protocol.gap_mm
    samples = max(1, round(protocol.thickness_mm / 1.25))
    image = pull_thick(
        signal[None], index_from_exam, shape, samples=samples, reach=protocol.thickness_mm / step_mm
    )[0]
    spacing_mm = (protocol.pixel_mm, protocol.pixel_mm, step_mm)
    image = image * bias_field(shape, spacing_mm=spacing_mm, spread=protocol.bias, generator=generator)
    image = rician(image, sigma=protocol.noise, generator=generator)
    return MriExam(
        Volume((image * 4).round().cpu().numpy().astype(np.int16), affine), protocol, patient_from_exam
    )


def mri_grid(
    patient: VirtualPatient,
    *,
    pixel_mm: float,
    step_mm: float,
    angle_deg: float,
    pose_deg: tuple[float, float, float],
    shift_mm: tuple[float, float, float],
    cover_mm: float,
    in_plane_cover_mm: float = 26.0,
) -> tuple[Floats, tuple[int, int, int], Affine]:
    """Lay an axial stack around the brain as it lies in the magnet: affine, shape, and the map from exam
    mm to patient mm.
    """
    brain = _brain_mm(patient)
    centre = (brain.min(0) + brain.max(0)) / 2
    exam_from_patient = rigid(rotation_deg=pose_deg, about_mm=centre, shift_mm=-centre + np.asarray(shift_mm))
    stack = partial(slice_stack_affine, tilt_deg=angle_deg)
    axes = stack(centre_mm=np.zeros(3), shape=(1, 1, 1), pixel_mm=1.0, step_mm=1.0)[:3, :3]
    along = exam_from_patient.map(brain) @ axes  # orthonormal: coordinates along the stack's own axes
    low, high = along.min(0), along.max(0)
    size = high - low + 2 * np.array([in_plane_cover_mm, in_plane_cover_mm, cover_mm])
    count = np.maximum(1, np.round(size / np.array([pixel_mm, pixel_mm, step_mm]))).astype(int)
    shape = (int(count[0] + count[0] % 2), int(count[1] + count[1] % 2), int(count[2]))
    affine = stack(centre_mm=axes @ ((low + high) / 2), shape=shape, pixel_mm=pixel_mm, step_mm=step_mm)
    return affine, shape, ~exam_from_patient


def _brain_mm(patient: VirtualPatient) -> Floats:
    """Return patient mm of every sixth voxel of the brain, (n, 3)."""
    index = (patient.baseline.tissue[::6, ::6, ::6] >= int(min(BRAIN_TISSUES))).nonzero().cpu().numpy() * 6.0
    return Affine(patient.affine).map(index)


def tissue_signal(patient: VirtualPatient, contrast: Contrast, *, generator: torch.Generator) -> torch.Tensor:
    """Return the relative signal (x, y, z) of a patient before the magnet spoils it."""
    now = patient.baseline
    column = 0 if contrast == "flair" else 1
    grain = partial(texture, patient.shape, spacing_mm=patient.spacing_mm, generator=generator)
    signal = _healthy_signal(patient, column, generator)
    brain = (now.tissue >= int(min(BRAIN_TISSUES))).to(torch.float32)
    signal = signal * (1 + 0.02 * grain(scale_mm=4.0) * brain)
    gains = ((75.0, 65.0, 55.0), (-30.0, -28.0, -18.0))[column]
    degrees = (now.leukoaraiosis, now.oedema, now.infarct_acute)
    weighted = (gain * degree for gain, degree in zip(gains, degrees, strict=True))
    signal = signal + brain * sum(weighted, torch.zeros_like(signal)).clamp(min=-45.0, max=90.0)
    cavity = _cavity(now.infarct_old, column) - signal * now.infarct_old.clamp(0, 1)
    signal = signal + cavity * brain * (now.infarct_old > 0)
    clot = (105.0, 70.0)[column] + (18.0, 10.0)[column] * grain(scale_mm=7.0)
    edge = 4 * now.ich * (1 - now.ich)  # susceptibility darkens the rim
    signal = torch.lerp(signal, clot, (now.ich + now.ivh).clamp(0, 1)) * (1 - (0.45, 0.25)[column] * edge)
    return (signal * (1 - 0.6 * now.calcification.clamp(0, 1))).clamp(min=0)


def _healthy_signal(patient: VirtualPatient, column: int, generator: torch.Generator) -> torch.Tensor:
    """Return the signal of the tissues, each of which differs by 2 % between patients."""
    values = [signals[column] for _, signals in sorted(_SIGNAL.items())]
    table = torch.tensor(values, dtype=torch.float32, device=patient.device)
    table = table * (1 + 0.02 * torch.randn(len(table), device=patient.device, generator=generator))
    codes = patient.baseline.tissue.to(torch.int32).reshape(-1)
    return table.index_select(0, codes).reshape(patient.shape)


def _cavity(degree: torch.Tensor, column: int) -> torch.Tensor:
    """Return the share of the signal that an old infarct gives: fluid inside, a bright gliotic rim on
    FLAIR.
    """
    fluid, rim = ((14.0, 60.0), (20.0, 0.0))[column]
    return degree * fluid + rim * 4 * degree * (1 - degree)


def bias_field(
    shape: tuple[int, int, int],
    *,
    spacing_mm: tuple[float, float, float],
    spread: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """Draw a smooth positive receive field (x, y, z) around 1."""
    coarse = [max(2, round(n * s / 70.0) + 1) for n, s in zip(shape, spacing_mm, strict=True)]
    white = torch.randn(1, 1, *coarse, device=generator.device, generator=generator)
    smooth = functional.interpolate(white, size=shape, mode="trilinear", align_corners=True)[0, 0]
    return torch.exp(spread * 1.5 * smooth)


def rician(signal: torch.Tensor, *, sigma: float, generator: torch.Generator) -> torch.Tensor:
    """Return the magnitude of a signal with Gaussian noise in both of its channels.

    >>> rician(torch.tensor([3.0]), sigma=0.0, generator=torch.Generator().manual_seed(0)).item()
    3.0
    """
    real = signal + sigma * torch.randn(signal.shape, device=signal.device, generator=generator)
    imaginary = sigma * torch.randn(signal.shape, device=signal.device, generator=generator)
    return torch.hypot(real, imaginary)
