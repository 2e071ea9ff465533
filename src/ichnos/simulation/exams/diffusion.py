"""Diffusion MRI of a virtual patient: one zeppelin per fibre bundle and balls for the rest, in the exam's
own pose and grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ichnos.errors import InputRefused
from ichnos.simulation.exams.mri import bias_field, mri_grid, rician
from ichnos.simulation.exams.pose import pull, pull_thick
from ichnos.simulation.patient import BRAIN_TISSUES, Fibres, Moment, Tissue, VirtualPatient
from ichnos.volume import Affine, Floats, Volume

# Diffusivities in 1e-3 mm2/s.
ALONG, ACROSS = 1.75, 0.28
FREE_WATER, GREY, WHITE_REST, OEDEMA, BLOOD, OUTSIDE = 3.0, 0.80, 0.70, 1.5, 0.55, 0.3
_UNWEIGHTED = (230.0, 100.0, 118.0, 165.0, 60.0, 18.0)  # signal at b = 0, in the order of `_tissue_shares`
_FIBROUS = (Tissue.WHITE, Tissue.BRAINSTEM, Tissue.CEREBELLAR_WHITE, Tissue.THALAMUS, Tissue.PALLIDUM)


@dataclass(frozen=True)
class DiffusionProtocol:
    """How one diffusion exam is made."""

    voxel_mm: float = 2.2
    b_values: tuple[int, ...] = (1000,)  # shells, s/mm2
    directions: int = 32  # per shell
    unweighted: int = 2  # images at b = 0
    noise: float = 4.0  # standard deviation of each of the two channels; white matter at b = 0 is 100
    bias: float = 0.10
    distortion_mm: float = (
        0.0  # largest shift along the phase direction (y) by the field near air; 0: corrected or none
    )
    pose_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class DiffusionExam:
    """A simulated diffusion exam with what only the simulation knows."""

    volume: Volume  # (x, y, z, n) int16, relative signal
    b_values: Floats  # (n,) s/mm2
    # (n, 3) as FSL writes them: along the voxel axes, x negated where the affine is not mirrored; 0 at b = 0
    b_vectors: Floats
    protocol: DiffusionProtocol
    patient_from_exam: Affine


def draw_diffusion_protocol(*, rng: np.random.Generator) -> DiffusionProtocol:
    """Draw how a diffusion exam is made."""
    return DiffusionProtocol(
        voxel_mm=float(rng.choice([2.0, 2.2, 2.5])),
        b_values=(1000,) if rng.random() < 0.8 else (1000, 2000),
        noise=float(rng.uniform(2.5, 5.5)),
        bias=float(rng.uniform(0.03, 0.15)),
        distortion_mm=float(rng.uniform(1, 4)) if rng.random() < 0.4 else 0.0,
        pose_deg=(float(rng.normal(0, 5)), float(rng.normal(0, 3)), float(rng.normal(0, 4))),
        shift_mm=(float(rng.normal(0, 4)), float(rng.normal(0, 6)), float(rng.normal(0, 8))),
    )


def simulate_diffusion(
    patient: VirtualPatient, protocol: DiffusionProtocol, *, generator: torch.Generator
) -> DiffusionExam:
    """Image a patient at baseline; needs a patient with fibres."""
    if patient.fibres is None:
        raise InputRefused(
            "this virtual patient was made without fibres; make it with fibres=True to simulate a diffusion"
            " exam"
        )
    v = protocol.voxel_mm
    pose: dict[str, Any] = {"pose_deg": protocol.pose_deg, "shift_mm": protocol.shift_mm}
    grid = mri_grid(patient, pixel_mm=v, step_mm=v, angle_deg=0.0, cover_mm=8.0, **pose)
    affine, shape, patient_from_exam = grid
    compartments, bundles = _compartments(patient, *grid), _bundles(patient.fibres, *grid)
    b_values, world = gradient_table(protocol)
    in_patient = world @ patient_from_exam.matrix[:3, :3].T
    field = bias_field(shape, spacing_mm=(v, v, v), spread=protocol.bias, generator=generator)
    shift = _distortion(patient, *grid, protocol)
    images = []
    for b, direction in zip(b_values, in_patient, strict=True):
        clean = _signal(compartments, bundles, b / 1000.0, direction)
        clean = clean if shift is None else _shifted(clean, shift)
        noisy = rician(clean * field, sigma=protocol.noise, generator=generator)
        images.append((noisy * 8).round().clamp(max=32000).to(torch.int16))
    volume = Volume(torch.stack(images, dim=3).cpu().numpy(), affine)
    return DiffusionExam(volume, b_values, fsl_vectors(world, affine), protocol, patient_from_exam)


def gradient_table(protocol: DiffusionProtocol) -> tuple[Floats, Floats]:
    """Return b-values (n,) and unit directions (n, 3) in exam RAS axes; zeros at b = 0.

    >>> b, g = gradient_table(DiffusionProtocol(directions=30))
    >>> b.shape, float(abs((g[2:] ** 2).sum(1) - 1).max()) < 1e-12
    ((32,), True)
    """
    k = np.arange(protocol.directions)
    z = (k + 0.5) / protocol.directions  # a golden spiral over half the sphere
    azimuth = k * np.pi * (3 - np.sqrt(5))
    half = np.stack([np.sqrt(1 - z**2) * np.cos(azimuth), np.sqrt(1 - z**2) * np.sin(azimuth), z], axis=1)
    half[1::2] *= -1
    b = [
        np.zeros(protocol.unweighted),
        *[np.full(protocol.directions, float(shell)) for shell in protocol.b_values],
    ]
    g = [np.zeros((protocol.unweighted, 3)), *[half for _ in protocol.b_values]]
    return np.concatenate(b), np.concatenate(g)


def fsl_vectors(world: Floats, affine: Floats) -> Floats:
    """Turn directions (n, 3) in RAS axes into FSL's: along the voxel axes, x negated unless the affine
    mirrors.

    >>> fsl_vectors(np.array([[1.0, 0.0, 0.0]]), np.diag([2.0, 2.0, 2.0, 1.0])).tolist()
    [[-1.0, 0.0, 0.0]]
    """
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    along = world @ axes
    if np.linalg.det(axes) > 0:
        along[:, 0] *= -1
    return np.asarray(along + 0.0, np.float64)


@dataclass(frozen=True, eq=False)
class _Compartments:
    """Per voxel of the exam: signal at b = 0, and the shares of what diffuses how."""

    unweighted: torch.Tensor  # (x, y, z)
    shares: torch.Tensor  # (c, x, y, z), sum to 1
    diffusivity: tuple[float, ...]  # (c,) of each share; the share at `white` is split among fibres
    white: int


def _compartments(
    patient: VirtualPatient, affine: Floats, shape: tuple[int, int, int], patient_from_exam: Affine
) -> _Compartments:
    index_from_exam = np.linalg.inv(patient.affine) @ patient_from_exam.matrix @ affine
    shares = _tissue_shares(patient.baseline)
    pulled = pull_thick(shares.to(torch.float32), index_from_exam, shape, samples=2)
    weighted = pulled * torch.tensor(_UNWEIGHTED, device=pulled.device).view(-1, 1, 1, 1)
    total = weighted.sum(0)
    diffusivity = (FREE_WATER, WHITE_REST, GREY, OEDEMA, BLOOD, OUTSIDE)
    return _Compartments(total, weighted / total.clamp(min=1e-3), diffusivity, white=1)


def _tissue_shares(now: Moment) -> torch.Tensor:
    """Return each voxel's share of fluid, white, grey and wet tissue, blood, and the rest: (6, x, y, z)."""
    tissue = now.tissue
    fluid = (tissue == Tissue.CSF) | (tissue == Tissue.VENTRICLE)
    white = torch.zeros_like(fluid)
    for code in _FIBROUS:
        white |= tissue == code
    grey = (tissue >= int(min(BRAIN_TISSUES))) & ~white
    inside = (tissue > 0) & ~fluid & ~white & ~grey & (tissue != Tissue.AIR_CELL) & (tissue != Tissue.BONE)
    blood = (now.ich + now.ivh).clamp(0, 1)
    clear = 1 - blood
    wet = (0.7 * now.oedema + 0.35 * now.leukoaraiosis + 0.8 * now.infarct_old).clamp(0, 1)
    shares = (
        fluid * clear,
        white * clear * (1 - wet),
        grey * clear * (1 - wet),
        (white | grey) * clear * wet,
        blood,
        inside * clear,
    )
    return torch.stack(shares)


def _bundles(
    fibres: Fibres, affine: Floats, shape: tuple[int, int, int], patient_from_exam: Affine
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the bundles' weights (k, x, y, z) and orientations (k, 3, x, y, z), in patient axes, on the
    exam's grid.
    """
    index_from_exam = np.linalg.inv(fibres.affine) @ patient_from_exam.matrix @ affine
    weight = pull(fibres.weight, index_from_exam, shape)
    flat = fibres.orientation.flatten(0, 1)
    direction = pull(flat, index_from_exam, shape, nearest=True).reshape(len(fibres.weight), 3, *shape)
    return weight, direction


def _signal(
    compartments: _Compartments, bundles: tuple[torch.Tensor, torch.Tensor], b: float, direction: Floats
) -> torch.Tensor:
    """Return the noise-free signal (x, y, z) at b (in 1000 s/mm2) along a direction in patient axes."""
    if b == 0:
        return compartments.unweighted
    weight, orientation = bundles
    g = torch.tensor(direction, dtype=torch.float32, device=weight.device)
    cosine2 = torch.einsum("kcxyz,c->kxyz", orientation, g).square()
    fibre = torch.exp(-b * (ACROSS + (ALONG - ACROSS) * cosine2))
    rest = (1 - weight.sum(0)).clamp(min=0)
    white = (weight * fibre).sum(0) + rest * float(np.exp(-b * WHITE_REST))
    mixed = compartments.shares[compartments.white] * white
    for part, (share, d) in enumerate(zip(compartments.shares, compartments.diffusivity, strict=True)):
        if part != compartments.white:
            mixed = mixed + share * float(np.exp(-b * d))
    return compartments.unweighted * mixed


def _distortion(
    patient: VirtualPatient,
    affine: Floats,
    shape: tuple[int, int, int],
    patient_from_exam: Affine,
    protocol: DiffusionProtocol,
) -> torch.Tensor | None:
    """Return the shift along y in voxels that air near the brain causes, (x, y, z); None without
    distortion.
    """
    if protocol.distortion_mm == 0:
        return None
    index_from_exam = np.linalg.inv(patient.affine) @ patient_from_exam.matrix @ affine
    field = pull(
        (patient.baseline.tissue == Tissue.AIR_CELL).to(torch.float32)[None], index_from_exam, shape
    )[None]
    for _ in range(3):
        field = functional.avg_pool3d(field, 7, stride=1, padding=3, count_include_pad=False)
    return (field[0, 0] / field.max().clamp(min=1e-6)) * (protocol.distortion_mm / protocol.voxel_mm)


def _shifted(image: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Displace an image along y by a shift in voxels; signal piles up where the shift falls off, as in
    EPI.
    """
    y = torch.arange(image.shape[1], device=image.device, dtype=torch.float32).view(1, -1, 1) - shift
    low = y.floor().clamp(0, image.shape[1] - 2).long()
    part = (y - low).clamp(0, 1)
    moved = torch.lerp(image.gather(1, low), image.gather(1, low + 1), part)
    stretch = 1 - torch.gradient(shift, dim=1)[0]
    return moved * stretch.clamp(0.3, 2.0)
