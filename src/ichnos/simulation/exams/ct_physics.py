"""What a CT scanner adds to a slice: blur, noise with its texture, beam hardening, streaks.

All functions take stacks of slices (s, x, y) on any device. The ray sums are made on a coarse grid: what beam
hardening and photon starvation do to an image is smooth, and the coarse grid keeps a whole head under a
second on one core.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

from ichnos.simulation.exams.scanners import Kernel

RAYS = 80  # rays per view = side of the coarse grid
VIEWS = 64
RIM_MM = 9.0  # reach of the brightening under the inner table: our choice, no source looked up
WATER_PER_CM = 0.19  # linear attenuation of water at the mean energy of a 120 kV beam
REFERENCE_SUM = (
    4.1  # ray sum through the middle of a head at the ventricles, for which the protocol's noise is meant
)


@dataclass(frozen=True, eq=False)
class RayEffects:
    """What the rays do to each slice, on the coarse grid."""

    error_hu: torch.Tensor  # (s, r, r) to be added: cupping, dark bands, streaks
    noise: torch.Tensor  # (s, r, r) noise relative to mid-brain


def ray_effects(
    hu: torch.Tensor,
    *,
    pixel_mm: float,
    strength: float,
    generator: torch.Generator,
    metal: bool = False,
    cupping_hu: float = 0.0,
    streaks: float = 1.0,
) -> RayEffects:
    """Derive beam hardening and noise level from the ray sums of slices (s, r, r).

    `cupping_hu` brightens the brain beside the inner table, `streaks` scales those of starved rays.
    """
    pixel_cm = pixel_mm / 10.0
    water_cm, bone_cm, steel = _paths(hu, pixel_cm, metal=metal)
    total = WATER_PER_CM * water_cm + 0.33 * bone_cm + 2.0 * steel
    hardening = -strength * (0.0080 * bone_cm**2 + 0.0015 * bone_cm * water_cm) - 0.55 * steel**2
    # tube current modulation takes a quarter of the exponent
    variance = torch.exp(0.75 * (total - REFERENCE_SUM)).clamp(0.05, 400.0)
    grain = torch.randn(variance.shape, device=hu.device, generator=generator) * (0.010 * streaks)
    starved = grain * (variance.sqrt() - 1.5).clamp(min=0.0)
    smeared = back_projection(torch.cat([ramp_filtered(hardening + starved, pixel_cm), variance]))
    error, spread = smeared.chunk(2)
    error = error * 1000.0 + cupping_hu * bright_rim(hu, pixel_mm)
    return RayEffects(error, (spread / VIEWS).clamp(min=0.05).sqrt())


def _paths(
    hu: torch.Tensor, pixel_cm: float, *, metal: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return how much water, bone (cm) and steel each ray passes, (s, view, ray)."""
    water = (hu.clamp(-1000, 100) / 1000.0 + 1.0) * pixel_cm
    bone = (hu.clamp(120, 3000) - 120.0) / 1000.0 * pixel_cm
    water_cm, bone_cm = ray_sums(torch.cat([water, bone])).chunk(2)
    if not metal:
        return water_cm, bone_cm, torch.zeros_like(bone_cm)
    return water_cm, bone_cm, 6.0 * ray_sums((hu.clamp(3000, 12000) - 3000.0) / 9000.0 * pixel_cm)


def bright_rim(hu: torch.Tensor, pixel_mm: float) -> torch.Tensor:
    """Return how near bone a place of slices (s, r, r) is: 1 beside the inner table, 0 a centimetre off.

    By this much an over-corrected beam and the skull's veiling glare brighten the brain under the vault.
    """
    bone = ((hu - 150.0) / 600.0).clamp(0, 1)[None]
    side = 2 * max(1, round(RIM_MM / (2 * pixel_mm))) + 1
    for _ in range(2):
        bone = functional.avg_pool2d(bone, side, stride=1, padding=side // 2)
    return (bone[0] / 0.4).clamp(0, 1)


def ray_sums(slices: torch.Tensor) -> torch.Tensor:
    """Return the parallel ray sums (s, view, ray) of slices (s, r, r), in the unit of the pixels."""
    side = slices.shape[-1]
    at = (torch.arange(side, device=slices.device, dtype=torch.float32) * 2 + 1) / side - 1
    x, y = at.expand(side, side), at.view(-1, 1).expand(side, side)
    views = []
    for angle in _angles():
        cosine, sine = math.cos(angle), math.sin(angle)
        grid = torch.stack([cosine * x - sine * y, sine * x + cosine * y], dim=-1)[None]
        views.append(
            functional.grid_sample(
                slices[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False
            )[0].sum(1)
        )
    return torch.stack(views, dim=1)


def back_projection(sums: torch.Tensor) -> torch.Tensor:
    """Smear ray sums (s, view, ray) back over the slices (s, r, r): the sum over the views."""
    side = sums.shape[-1]
    at = (torch.arange(side, device=sums.device, dtype=torch.float32) - (side - 1) / 2).expand(side, side)
    # (view, ray, s): one row per ray, so that a look-up copies whole rows
    rows = sums.permute(1, 2, 0).contiguous()
    out = sums.new_zeros(side * side, sums.shape[0])
    for row, angle in zip(rows, _angles(), strict=True):
        ray = (
            (math.cos(angle) * at + math.sin(angle) * at.T + (side - 1) / 2)
            .clamp(0, side - 1.001)
            .reshape(-1)
        )
        low = ray.long()
        out += torch.lerp(row.index_select(0, low), row.index_select(0, low + 1), (ray - low)[:, None])
    return out.T.reshape(-1, side, side)


def ramp_filtered(sums: torch.Tensor, pixel_cm: float) -> torch.Tensor:
    """Filter ray sums (in cm) with the ramp of filtered backprojection, softened at its top; the result
    sums to density per view.
    """
    side = sums.shape[-1]
    frequency = torch.fft.rfftfreq(2 * side, device=sums.device)
    window = torch.cos(math.pi / 2 * frequency / 0.5) ** 2
    spectrum = torch.fft.rfft(sums, n=2 * side) * frequency * window
    filtered: torch.Tensor = torch.fft.irfft(spectrum, n=2 * side)[..., :side] * (math.pi / VIEWS / pixel_cm)
    return filtered


def _angles() -> list[float]:
    return [math.pi * view / VIEWS for view in range(VIEWS)]


def transfer(kernel: Kernel, frequency_per_mm: torch.Tensor) -> torch.Tensor:
    """Return the modulation transfer of a kernel at radial frequencies.

    >>> [round(float(m), 2) for m in transfer(Kernel("soft", 0.3), torch.tensor([0.0, 0.3]))]
    [1.0, 0.37]
    """
    relative = (frequency_per_mm / kernel.cutoff_per_mm) ** 2
    return (1.0 + 2.5 * kernel.enhancement * relative) * torch.exp(-relative)


def reconstruct(coarse: torch.Tensor, *, kernel: Kernel, matrix: int, pixel_mm: float) -> torch.Tensor:
    """Bring slices (s, m, m) to (s, matrix, matrix) with the resolution of a kernel; m may be smaller than
    the matrix.
    """
    m = coarse.shape[-1]
    fine_radius = _radius(matrix, pixel_mm, coarse.device)
    limit = 0.5 / (pixel_mm * matrix / m)  # what the coarse grid can carry
    taper = torch.cos((math.pi / 2) * ((fine_radius - 0.62 * limit) / (0.38 * limit)).clamp(0, 1)) ** 2
    filt = transfer(kernel, fine_radius) * taper * (matrix / m) ** 2
    half = m // 2
    out = []
    for part in coarse.split(8):
        spectrum = torch.fft.rfft2(part)
        wide = torch.zeros(part.shape[0], matrix, matrix // 2 + 1, dtype=spectrum.dtype, device=coarse.device)
        wide[:, :half, : half + 1] = spectrum[:, :half]
        wide[:, -half:, : half + 1] = spectrum[:, -half:]
        shift = torch.exp(_half_pixel_shift(matrix, m, coarse.device))
        out.append(torch.fft.irfft2(wide * (filt * shift), s=(matrix, matrix)))
    return torch.cat(out)


def _half_pixel_shift(matrix: int, m: int, device: torch.device) -> torch.Tensor:
    """Return the phase that puts the centre of fine pixel 0 beside the centre of coarse pixel 0, not on
    it.
    """
    offset = (matrix / m - 1) / 2  # in fine pixels: the first coarse centre lies this far inside
    fx = torch.fft.fftfreq(matrix, device=device)[:, None]
    fy = torch.fft.rfftfreq(matrix, device=device)[None]
    return torch.complex(torch.zeros_like(fx + fy), -2 * math.pi * offset * (fx + fy))


def _radius(matrix: int, pixel_mm: float, device: torch.device) -> torch.Tensor:
    fx = torch.fft.fftfreq(matrix, pixel_mm, device=device)[:, None]
    fy = torch.fft.rfftfreq(matrix, pixel_mm, device=device)[None]
    return torch.hypot(fx, fy)


def noise_spectrum(kernel: Kernel, frequency_per_mm: torch.Tensor) -> torch.Tensor:
    """Return the noise power of filtered backprojection, unscaled: a ramp times the squared transfer, with
    a little left at 0.
    """
    return (frequency_per_mm + 0.012) * transfer(kernel, frequency_per_mm) ** 2


def textured_noise(
    count: int, *, kernel: Kernel, matrix: int, pixel_mm: float, generator: torch.Generator
) -> torch.Tensor:
    """Draw noise (s, matrix, matrix) of standard deviation 1 with the texture of a kernel."""
    device = generator.device
    radius = _radius(matrix, pixel_mm, device)
    amplitude = noise_spectrum(kernel, radius).sqrt() * (radius < 0.5 / pixel_mm)
    doubled = torch.full_like(amplitude, 2.0)
    doubled[:, 0].fill_(1.0)
    doubled[:, -1].fill_(1.0)
    # so that the standard deviation is 1
    amplitude = amplitude / (amplitude.square() * doubled).sum().sqrt() * matrix
    slices = []
    for start in range(0, count, 8):
        n = min(8, count - start)
        white = torch.randn(n, matrix, matrix, device=device, generator=generator)
        slices.append(torch.fft.irfft2(torch.fft.rfft2(white) * amplitude, s=(matrix, matrix)))
    return torch.cat(slices)
