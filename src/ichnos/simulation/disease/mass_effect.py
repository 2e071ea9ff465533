"""Mass effect: blood makes room for itself, and the brain flows, without being compressed, out of the clot
and into the fluid spaces.

With u the pull-back displacement (what is now at y came from y - u(y)), div u is the share of new volume at
y: positive in the clot, negative where ventricles and sulci are squeezed out, zero elsewhere; over the rigid
skull it adds up to zero. u = grad(phi) follows from a Poisson equation, solved by FFT on the coarse grid,
again and again until next to nothing flows through the skull.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len
from torch import Tensor

from ichnos.simulation.fields import Grid

# new volume per volume of blood: the clot itself and a quarter of its oedema (0.58 of it), which is water
DISPLACING_SHARE = 1.2
# over such a cube the new volume is spread: tissue beside the clot swells too, and the clot's own shape is
# kept
SWOLLEN_MM = 28.0
VENTRICLES_YIELD = 2.5  # relative to sulci
# over which fluid gives way; both are set so that clots of 30 to 60 mL shift the midline by 3 to 6 mm (our
# aim; no source looked up)
_REACH_MM = 120.0
_VACUO_MM = 15.0  # over which fluid widens beside shrunken tissue; our choice
BOUNDARY_ROUNDS = 4  # more change the shift of the midline by less than a tenth


def displacement(
    blood: Tensor,
    fluid: Tensor,
    ventricle: Tensor,
    depth_mm: Tensor,
    grid: Grid,
    *,
    distended: Tensor | None = None,
) -> Tensor:
    """Return u (3, x, y, z) in mm on the coarse grid.

    `blood`, `fluid` and `ventricle` are volume fractions (x, y, z), `depth_mm` the depth inside the skull;
    `distended` is the share of new volume where blood casts ventricles (None: they are squeezed out only).
    """
    step_mm = grid.step * grid.spacing_mm
    inside = torch.sigmoid((depth_mm - 1.5) / 1.2)
    source = _swollen(blood, inside, step_mm)
    squeezed = ventricle  # ventricles give way before sulci do
    if distended is not None:
        source = source + distended
        squeezed = ventricle * (distended <= 0) * 0.4
    if float(source.sum()) <= 0:
        return torch.zeros((3, *blood.shape), device=blood.device)
    yielding = fluid * (1 - ventricle) + VENTRICLES_YIELD * squeezed
    wish = yielding * _nearness(blood, step_mm) * inside
    return _contained(source - _sink(wish, 0.9 * fluid * inside, source.sum()), inside, step_mm)


def _swollen(blood: Tensor, inside: Tensor, step_mm: float) -> Tensor:
    """Return the share of new volume at each place: that of the blood, spread within the skull."""
    spread = _spread(DISPLACING_SHARE * blood, round(SWOLLEN_MM / (2 * step_mm))) * inside
    return spread * (DISPLACING_SHARE * blood.sum() / spread.sum().clamp(min=1e-3))


def shrinkage(lost: Tensor, fluid: Tensor, ventricle: Tensor, depth_mm: Tensor, grid: Grid) -> Tensor:
    """Return u (3, x, y, z) in mm where tissue has shrunk by the shares `lost` (x, y, z): fluid nearby, that
    of ventricles before that of sulci, takes its room.
    """
    step_mm = grid.step * grid.spacing_mm
    inside = torch.sigmoid((depth_mm - 1.5) / 1.2)
    lost = lost * inside
    wish = (fluid * (1 - ventricle) + VENTRICLES_YIELD * ventricle) * inside
    wish = wish * _nearness(lost, step_mm, reach_mm=_VACUO_MM)
    gained = wish * (lost.sum() / wish.sum().clamp(min=1e-3))
    return _contained(gained - lost, inside, step_mm)


def _spread(source: Tensor, reach: int) -> Tensor:
    """Return the mean over cubes of 2 * reach + 1 voxels."""
    spread, width = source[None, None], 2 * reach + 1
    for side in ((width, 1, 1), (1, width, 1), (1, 1, width)):
        spread = F.avg_pool3d(spread, side, 1, [n // 2 for n in side])
    return spread[0, 0]


def _sink(wish: Tensor, room: Tensor, total: Tensor) -> Tensor:
    """Return what the fluid spaces give up: by the wish, at most their room, and what one lacks the others
    give.
    """
    sink = torch.minimum(wish * (total / wish.sum().clamp(min=1e-3)), room)
    for _ in range(4):
        open_to_more = wish * (sink < room)
        more = open_to_more * ((total - sink.sum()).clamp(min=0) / open_to_more.sum().clamp(min=1e-3))
        sink = torch.minimum(sink + more, room)
    return sink


def _contained(divergence: Tensor, inside: Tensor, step_mm: float) -> Tensor:
    """Return the flow with this divergence that no skull lets out: what would leave is turned back, round
    by round.
    """
    charge = divergence
    flow = inside * _gradient_of_inverse_laplacian(charge, step_mm)
    for _ in range(BOUNDARY_ROUNDS):
        divergence_now = (
            sum(
                (torch.gradient(part, dim=axis)[0] for axis, part in enumerate(flow)),
                torch.zeros_like(charge),
            )
            / step_mm
        )
        charge = charge + (divergence - divergence_now)
        flow = inside * _gradient_of_inverse_laplacian(charge, step_mm)
    return flow


def _nearness(blood: Tensor, step_mm: float, *, reach_mm: float = _REACH_MM) -> Tensor:
    """Return a weight that falls off with the distance from the blood's centre."""
    axes = [torch.arange(n, device=blood.device, dtype=torch.float32) for n in blood.shape]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    centre = (points * blood).sum((1, 2, 3)) / blood.sum().clamp(min=1e-6)
    distance = ((points - centre.reshape(3, 1, 1, 1)) ** 2).sum(0).sqrt() * step_mm
    return torch.exp(-distance / reach_mm)


def _gradient_of_inverse_laplacian(divergence: Tensor, step_mm: float) -> Tensor:
    """Return the curl-free field (mm) with this divergence and no flow at infinity."""
    shape = [next_fast_len(n + 6, real=True) for n in divergence.shape]
    spectrum = torch.fft.rfftn(divergence, s=shape)
    k = [torch.fft.fftfreq(n, device=divergence.device) for n in shape[:2]]
    k.append(torch.fft.rfftfreq(shape[2], device=divergence.device))
    kx, ky, kz = torch.meshgrid(*[2 * np.pi * f for f in k], indexing="ij")
    square = kx**2 + ky**2 + kz**2
    square[0, 0, 0] = 1.0
    potential = -spectrum / square
    potential[0, 0, 0] = 0
    nx, ny, nz = divergence.shape
    parts = [
        torch.fft.irfftn(1j * component * potential, s=shape)[:nx, :ny, :nz] for component in (kx, ky, kz)
    ]
    return torch.stack(parts) * step_mm
