"""Looks at phantoms: whole heads on the first network's grid, kept on the device and drawn from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ichnos.inference.grid import axis_weights
from ichnos.learning.virtual.accelerated.densities import density_map, without_oedema
from ichnos.learning.virtual.accelerated.phantom import LABELS, Phantom
from ichnos.learning.virtual.accelerated.scanner import (
    FIELD,
    PIXEL_MM,
    Pose,
    Slices,
    draw_pose,
    draw_scanning,
    field_axes,
    hu_weights,
    positions,
    scan_phantom,
)
from ichnos.models import COORDINATE_MM
from ichnos.targets import mirrored_channels

GRID = (64, 80, 64)  # voxels (x, y, z) of a look: the whole head at 3 mm
STEP_MM = 3.0
_SHARES = 255  # of a mask's degree
_AIR_HU = -1000.0
LOOK_TARGETS = (
    "brain",
    "ventricles",
    "ICH",
    "IVH",
    "PHE",
    "leukoaraiosis",
    "infarct",
    "tract_left",
    "tract_right",
    "followup",
)
assert len(LOOK_TARGETS) == len(LABELS)
_EXCHANGED = mirrored_channels(LOOK_TARGETS)


@dataclass(frozen=True, eq=False)
class HeadLook:
    """One scan of one head on the first network's grid."""

    hu: Tensor  # (x, y, z) int16
    degrees: Tensor  # (target, x, y, z) uint8, 255ths
    mni: Tensor  # (3, x, y, z) float16, units of COORDINATE_MM


def look_pair(
    phantom: Phantom, rng: np.random.Generator, generator: torch.Generator, *, wild_share: float
) -> tuple[HeadLook, HeadLook]:
    """Scan one head in one pose by two scanners."""
    phantom = without_oedema(phantom, rng)
    wild = bool(rng.random() < wild_share)
    pose = draw_pose(phantom, rng, wild=wild)
    mni = _positions_of(phantom, pose)
    first, second = (
        _look(phantom, pose, mni, rng, generator, wild=wild or bool(rng.random() < wild_share / 2))
        for _ in range(2)
    )
    return first, second


def single_look(
    phantom: Phantom, rng: np.random.Generator, generator: torch.Generator, *, wild: bool
) -> HeadLook:
    """Scan a head once."""
    pose = draw_pose(phantom, rng, wild=wild)
    return _look(phantom, pose, _positions_of(phantom, pose), rng, generator, wild=wild)


def _look(
    phantom: Phantom,
    pose: Pose,
    mni: Tensor,
    rng: np.random.Generator,
    generator: torch.Generator,
    *,
    wild: bool,
) -> HeadLook:
    hu = density_map(phantom, rng, generator, wild=wild)
    slices = scan_phantom(
        phantom, hu, pose, draw_scanning(pose, rng, wild=wild), generator=generator, rng=rng
    )
    image, degrees = on_first_grid(slices)
    if wild and rng.random() < 0.2:
        image = _cut(image, rng)
    return HeadLook(image.round().to(torch.int16), (degrees * _SHARES).round().to(torch.uint8), mni)


def _cut(image: Tensor, rng: np.random.Generator) -> Tensor:
    """End the field of view inside the head, on one side."""
    axis = int(rng.integers(2))
    n = image.shape[axis]
    width = int(rng.integers(4, n // 4))
    where = image.narrow(axis, 0 if rng.random() < 0.5 else n - width, width)
    where.fill_(_AIR_HU)
    return image


def _positions_of(phantom: Phantom, pose: Pose) -> Tensor:
    device = phantom.labels.device
    x, y = field_axes(device, STEP_MM)
    z = torch.from_numpy(grid_heights().astype(np.float32)).to(device)
    mni = positions(phantom, pose, (x, y, z)).permute(0, 2, 3, 1)
    return (mni / COORDINATE_MM).to(torch.float16)


def grid_heights() -> np.ndarray:
    """Return the heights of a look's planes from the field's centre, mm.

    >>> float(grid_heights()[0]), float(grid_heights()[-1])
    (-94.5, 94.5)
    """
    return (np.arange(GRID[2]) - (GRID[2] - 1) / 2) * STEP_MM


def on_first_grid(slices: Slices) -> tuple[Tensor, Tensor]:
    """Bring slices to the first network's grid as reading does: HU (x, y, z), degrees (target, x, y, z)."""
    device = slices.hu.device
    along_z = hu_weights(slices.scanning.heights_mm, grid_heights(), STEP_MM).to(device)
    along_x, along_y = (
        torch.from_numpy(axis_weights(n, PIXEL_MM, m, STEP_MM)).to(device)
        for n, m in zip(FIELD, GRID[:2], strict=True)
    )

    def brought(stack: Tensor) -> Tensor:  # (c, slice, x, y) -> (c, x, y, z)
        flat = torch.matmul(along_x, torch.matmul(stack, along_y.T))
        return torch.einsum("zs,csxy->cxyz", along_z, flat)

    image = brought(slices.hu[None] - _AIR_HU)[0] + _AIR_HU
    return image, brought(slices.masks.float())


class LookStore:
    """A ring of looks on the device; looks that are learnt badly are drawn more often."""

    def __init__(self, capacity: int, device: torch.device | str, *, to_hu: float) -> None:
        self.capacity, self.to_hu = capacity, to_hu
        self.hu = torch.zeros((capacity, *GRID), dtype=torch.int16, device=device)
        self.degrees = torch.zeros((capacity, len(LOOK_TARGETS), *GRID), dtype=torch.uint8, device=device)
        self.mni = torch.zeros((capacity, 3, *GRID), dtype=torch.float16, device=device)
        self.shift = torch.zeros(capacity, device=device)  # HU that bring a look's median to `to_hu`
        self.difficulty = np.ones(capacity)
        self.size = self._next = 0

    def add(self, looks: tuple[HeadLook, ...]) -> None:
        """Put looks in, the oldest go."""
        for look in looks:
            at = self._next
            self.hu[at], self.degrees[at], self.mni[at] = look.hu, look.degrees, look.mni
            self.shift[at] = recentring(look.hu[None].float(), self.to_hu)[0]
            self.difficulty[at] = self.difficulty[: max(1, self.size)].mean()
            self._next = (at + 1) % self.capacity
            self.size = min(self.capacity, max(self.size, at + 1))

    def pick(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draw look numbers, `count` even: pairs of one head beside each other."""
        pairs = self.size // 2
        hard = np.add.reduceat(self.difficulty[: 2 * pairs], np.arange(0, 2 * pairs, 2)) / 2
        weight = np.clip(hard / hard.mean(), 0.4, 3.0)
        chosen = rng.choice(pairs, count // 2, replace=pairs < count // 2, p=weight / weight.sum())
        return np.stack([2 * chosen, 2 * chosen + 1], 1).ravel()

    def remember(self, chosen: np.ndarray, loss: np.ndarray) -> None:
        """Note how badly looks were learnt."""
        self.difficulty[chosen] = 0.5 * self.difficulty[chosen] + 0.5 * loss


@dataclass(frozen=True, eq=False)
class LookBatch:
    """Looks to learn from, cut and changed."""

    hu: Tensor  # (n, x, y, z) float32, recentred
    truth: Tensor  # (n, target, x, y, z) float32 degrees
    mni: Tensor  # (n, 3, x, y, z) float32, NaN outside the brain


def batch_of(
    store: LookStore,
    chosen: np.ndarray,
    patch: tuple[int, int, int],
    rng: np.random.Generator,
    generator: torch.Generator,
) -> LookBatch:
    """Cut one patch out of each look and change it: mirrored, shifted in HU, noisy."""
    device = store.hu.device
    index = torch.from_numpy(chosen).to(device)
    x, y, z = (
        slice(o, o + p) for n, p in zip(GRID, patch, strict=True) for o in [int(rng.integers(0, n - p + 1))]
    )
    hu = store.hu[index, x, y, z].float() + store.shift[index].view(-1, 1, 1, 1)
    truth = store.degrees[index, :, x, y, z].float() / _SHARES
    mni = store.mni[index, :, x, y, z].float()
    mni = torch.where(truth[:, :1] >= 0.5, mni, float("nan"))
    if rng.random() < 0.5:
        hu, truth, mni = hu.flip(1), truth[:, _EXCHANGED].flip(2), mni.flip(2)
        mni = mni * mni.new_tensor([-1.0, 1.0, 1.0]).view(1, 3, 1, 1, 1)
    n = len(chosen)
    shift = torch.randn(n, 1, 1, 1, device=device, generator=generator) * 1.5
    grain = torch.rand(n, 1, 1, 1, device=device, generator=generator) * 6.0 - 3.0
    noise = torch.randn(hu.shape, device=device, generator=generator) * grain.clamp(min=0)
    return LookBatch(hu + shift + noise, truth, mni)


def recentring(hu: Tensor, to_hu: float) -> Tensor:
    """Return the HU (n,) that bring each scan's median to `to_hu`: the twin of `inference.recentred`."""
    soft = ((hu > -60) & (hu < 130)).float()[:, None]
    core = (-functional.max_pool3d(-soft, 7, stride=1, padding=3))[:, 0] > 0.5
    count = core.flatten(1).sum(1)
    values = torch.where(core, hu, float("nan")).flatten(1)
    median = values.nanmedian(dim=1).values
    return torch.where(count >= 500, to_hu - median.nan_to_num(to_hu), 0.0)
