"""A phantom whose every place is known, for tests of the accelerated training: a ball of a skull with a
brain, a ventricle and a cube of blood on the left.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from ichnos.learning.virtual.accelerated.phantom import DEGREES, LABELS, MNI_STEP, Phantom, PhantomLayout
from ichnos.learning.virtual.accelerated.scanner import Pose, Scanning
from ichnos.simulation.exams.scanners import Kernel
from ichnos.simulation.patient import Moment, Tissue

SPACING_MM = 3.0
BRAIN_MM, SKULL_MM = 66.0, 75.0  # radii
CUBE_MM = 12.0  # half a side
CUBE_AT_MM = -30.0  # along x, from the middle


@lru_cache(maxsize=1)
def ball_phantom() -> Phantom:
    """Return the phantom on a canvas of 3 mm; its middle is the origin of its MNI positions."""
    layout = PhantomLayout(SPACING_MM)
    axes = [(torch.arange(n) - (n - 1) / 2) * SPACING_MM for n in layout.shape]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    radius = torch.sqrt(x**2 + y**2 + z**2)
    tissue = torch.full(layout.shape, int(Tissue.AIR), dtype=torch.uint8)
    tissue[radius < SKULL_MM] = int(Tissue.BONE)
    tissue[radius < BRAIN_MM] = int(Tissue.WHITE)
    ventricle = torch.sqrt((x / 8) ** 2 + (y / 24) ** 2 + ((z - 20) / 8) ** 2) < 1
    tissue[ventricle] = int(Tissue.VENTRICLE)
    blood = ((x - CUBE_AT_MM).abs() < CUBE_MM) & (y.abs() < CUBE_MM) & (z.abs() < CUBE_MM)
    around = ((x - CUBE_AT_MM).abs() < 18) & (y.abs() < 18) & (z.abs() < 18) & ~blood
    nothing = torch.zeros(layout.shape)
    labels = (
        (radius < BRAIN_MM) * _bit("brain")
        + ventricle * _bit("ventricles")
        + blood * _bit("ich")
        + around * _bit("phe")
    )
    maps = {name: nothing for name in DEGREES} | {"ich": blood.float(), "oedema": around.float()}
    moment = Moment(tissue=tissue, blood_hu=torch.full(layout.shape, 65.0), **maps)
    coarse = torch.stack([x, y, z])[:, ::MNI_STEP, ::MNI_STEP, ::MNI_STEP].float()
    return Phantom(SPACING_MM, moment, labels.float(), coarse, 0.42, True, 9.0, 0)


def bits_of(phantom: Phantom, label: str) -> torch.Tensor:
    """Return the mask (x, y, z) of one label, bool."""
    return (phantom.labels.to(torch.int32) >> LABELS.index(label) & 1).bool()


def straight_pose(*, mirrored: bool = False, half_mm: float = 80.0) -> Pose:
    """Return the pose of a phantom that lies straight, with its middle in the middle of the field."""
    turn = np.eye(3) * ([-1, 1, 1] if mirrored else [1, 1, 1])
    middle = (np.array(PhantomLayout(SPACING_MM).shape) - 1) / 2 * SPACING_MM
    return Pose(turn, middle, -half_mm, half_mm, mirrored)


def quiet_scanner(heights_mm: np.ndarray, thickness_mm: float, **changed: float) -> Scanning:
    """Return a scanner that adds nothing but its blur to slices at these heights, or what is `changed`."""
    settings: dict[str, float] = {
        "noise_hu": 0.0,
        "hardening": 0.0,
        "starving": 0.0,
        "cupping_hu": 0.0,
        "offset_hu": 0.0,
        "scale": 1.0,
        "motion_mm": 0.0,
        "streaks_hu": 0.0,
    } | changed
    return Scanning(heights_mm, thickness_mm, Kernel("", 0.6), **settings)


def seeded(seed: int) -> torch.Generator:
    """Return torch's random numbers of a seed."""
    return torch.Generator().manual_seed(seed)


def _bit(label: str) -> int:
    return 1 << LABELS.index(label)
