"""Change patches on the device as heads and scanners differ: pose, size, HU calibration, noise, sharpness,
slice thickness, side.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from ichnos.learning.segmentation.settings import Augmentation
from ichnos.models import Preprocessing
from ichnos.scan import AIR_HU


def turned(
    region: torch.Tensor, patch: tuple[int, int, int], how: Augmentation, rng: np.random.Generator
) -> torch.Tensor:
    """Cut the patch out of the middle of a region (channel, x, y, z), rotated and scaled; channel 0 is HU,
    the others degrees.
    """
    flat = patch[2] == 1
    angles = np.radians(rng.uniform(-how.turn_deg, how.turn_deg, 3)) * ((0, 0, 1) if flat else (1, 1, 1))
    scale = 1 + rng.uniform(-how.zoom, how.zoom)
    matrix = _rotation(angles) * scale  # patch offsets -> region offsets, both in voxels
    device = region.device
    axes = [torch.arange(n, device=device, dtype=torch.float32) - (n - 1) / 2 for n in patch]
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1) @ torch.tensor(
        matrix.T, dtype=torch.float32, device=device
    )
    half = torch.tensor([max(n - 1, 1) / 2 for n in region.shape[1:]], device=device)
    grid = (offsets / half).flip(-1)[None]
    raised = torch.cat([region[:1] - AIR_HU, region[1:]])  # outside lies air, and no target
    out = F.grid_sample(raised[None], grid, mode="bilinear", padding_mode="zeros", align_corners=True)[0]
    out[0] += AIR_HU
    return out


def _rotation(angles: np.ndarray) -> np.ndarray:
    out = np.eye(3)
    for axis, angle in enumerate(angles):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        about = np.eye(3)
        about[[first, second], [first, second]] = math.cos(angle)
        about[first, second], about[second, first] = -math.sin(angle), math.sin(angle)
        out = about @ out
    return out


def rescanned(
    hu: torch.Tensor, how: Augmentation, rng: np.random.Generator, generator: torch.Generator
) -> torch.Tensor:
    """Return HU (x, y, z) as another scanner would give them."""
    if rng.random() < how.blurred_share:
        hu = _blurred(hu, float(rng.uniform(0.5, 1.0)))
    if rng.random() < how.thick_share and hu.shape[2] >= 2 * how.thick_factor:
        hu = _thick(hu, int(rng.integers(2, how.thick_factor + 1)) if how.thick_factor > 1 else 1)
    if rng.random() < how.noisy_share:
        noise = torch.randn(hu.shape, generator=generator, device=hu.device)
        hu = hu + noise * float(rng.uniform(0, how.noise_hu))
    gain, offset = 1 + rng.uniform(-how.gain, how.gain), rng.uniform(-how.offset_hu, how.offset_hu)
    return hu * float(gain) + float(offset)


def _blurred(hu: torch.Tensor, sigma: float) -> torch.Tensor:
    at = torch.arange(-3, 4, device=hu.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (at / sigma) ** 2)
    kernel = kernel / kernel.sum()
    out = hu[None, None]
    for axis in (0, 1):  # in the plane: across slices the thickness decides
        size = [1, 1, 1]
        size[axis] = 7
        pad = [0, 0, 0, 0, 0, 0]
        pad[2 * (2 - axis)] = pad[2 * (2 - axis) + 1] = 3
        out = F.conv3d(F.pad(out, pad, mode="replicate"), kernel.view(1, 1, *size))
    return out[0, 0]


def _thick(hu: torch.Tensor, factor: int) -> torch.Tensor:
    """Average `factor` slices into one and interpolate between the thick ones."""
    thick = F.avg_pool3d(hu[None, None], (1, 1, factor), ceil_mode=True, count_include_pad=False)
    return F.interpolate(thick, size=tuple(hu.shape), mode="trilinear", align_corners=False)[0, 0]


def network_input(hu: torch.Tensor, how: Preprocessing) -> torch.Tensor:
    """Turn HU (batch, x, y, z) into channels, as `inference.input_channels` does for reading.

    >>> how = Preprocessing(spacing_mm=(1, 1, 5), windows_hu=((0, 80),), patch=(64, 64, 1))
    >>> network_input(torch.tensor([-50.0, 40.0, 90.0]).reshape(1, 1, 1, 3), how).flatten().tolist()
    [-1.0, 0.0, 1.0]
    """
    channels = []
    for k, (low, high) in enumerate(how.windows_hu):
        if how.z_score:
            mean, sd = how.z_score[k]
            channels.append((hu.clamp(low, high) - mean) / sd)
        else:
            channels.append(((hu - low) * (2 / (high - low)) - 1).clamp(-1, 1))
    return torch.stack(channels, dim=1)
