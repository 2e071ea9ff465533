"""The scans of a phantom on a GPU: pose, slices, partial volume, blur, noise, streaks, motion.

The same physics as `simulation.exams.ct`, in few large operations instead of many small ones, and on pixels
of 1.5 mm: what a network sees is never finer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ichnos.learning.virtual.accelerated.phantom import LABELS, MNI_STEP, Phantom
from ichnos.learning.virtual.accelerated.rays import smooth_errors
from ichnos.simulation.exams.ct_physics import noise_spectrum, transfer
from ichnos.simulation.exams.scanners import CENTRES, NOD_DEG, Kernel, draw_protocol
from ichnos.targets import mirrored_channels

PIXEL_MM = 1.5
FIELD = (128, 160)  # pixels along x and y: the head and some air
REACH_MM = 192.0  # greatest extent of a scan along z
_NATIVE_MM = 0.45  # pixels of a head CT as reconstructed
_AIR_HU = -1000.0
_CORD = 0.025  # of the brain lies lower than a head scan goes: the cord


@dataclass(frozen=True)
class Pose:
    """Where a head lies, and which part of it is scanned."""

    turn: npt.NDArray[np.float64]  # (3, 3) scan axes -> phantom axes
    centre_mm: npt.NDArray[np.float64]  # of the field, from the phantom's first voxel
    low_mm: float  # lowest and highest height of the scan, from the centre
    high_mm: float
    mirrored: bool


@dataclass(frozen=True)
class Scanning:
    """One scanner's way of making slices, as numbers."""

    heights_mm: npt.NDArray[np.float64]  # slice centres along z, from the field's centre, ascending
    thickness_mm: float
    kernel: Kernel
    noise_hu: float  # in mid-brain, of the slices as reconstructed
    hardening: float
    starving: float  # streaks of starved rays: 1 is usual
    cupping_hu: float  # beside the inner table, what a poor correction leaves
    offset_hu: float
    scale: float
    motion_mm: float
    streaks_hu: float

    @property
    def step_mm(self) -> float:
        """Return the greatest distance of two neighbouring slices."""
        return float(np.diff(self.heights_mm).max()) if len(self.heights_mm) > 1 else self.thickness_mm


def draw_pose(phantom: Phantom, rng: np.random.Generator, *, wild: bool) -> Pose:
    """Draw how a head lies and what of it is scanned; wild poses tilt up to 25 degrees and cut anywhere."""
    nod = rng.uniform(-20, 32) if wild else rng.normal(-NOD_DEG, 8)
    angles = np.deg2rad([nod, rng.normal(0, 4), rng.normal(0, 6)])
    turn = _rotation(*angles)
    mirrored = bool(rng.random() < 0.5)
    if mirrored:
        turn = turn * np.array([-1.0, 1.0, 1.0])
    low, high, middle = _extent(phantom, turn)
    below = rng.uniform(-60, 30) if wild and rng.random() < 0.5 else rng.uniform(-8, 22)
    above = rng.uniform(-50, 20) if wild and rng.random() < 0.3 else rng.uniform(4, 18)
    bottom, top = low[2] - below, high[2] + above
    if top - bottom < 30:
        bottom, top = low[2] - 10, high[2] + 10
    if top - bottom > REACH_MM:
        bottom = top - REACH_MM
    centre = middle + np.array([rng.normal(0, 4), rng.normal(0, 6), 0.0])
    centre[2] = (bottom + top) / 2 + rng.normal(0, 5)
    return Pose(turn, turn @ centre, bottom - centre[2], top - centre[2], mirrored)


def _rotation(x: float, y: float, z: float) -> npt.NDArray[np.float64]:
    about_x = np.array([[1, 0, 0], [0, math.cos(x), -math.sin(x)], [0, math.sin(x), math.cos(x)]])
    about_y = np.array([[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]])
    about_z = np.array([[math.cos(z), -math.sin(z), 0], [math.sin(z), math.cos(z), 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x)


def _extent(
    phantom: Phantom, turn: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the brain's lowest and highest corner and its middle, mm along the turned axes."""
    step = 4
    coarse = phantom.labels[::step, ::step, ::step]
    brain = (coarse.to(torch.int32) & 1).bool().nonzero().cpu().numpy() * step * phantom.spacing_mm
    points = brain @ turn  # the rows are turn^T @ point
    low, high = points.min(0), points.max(0)
    low[2] = np.quantile(points[:, 2], _CORD)
    return low, high, (low + high) / 2


def draw_scanning(pose: Pose, rng: np.random.Generator, *, wild: bool, even: bool = False) -> Scanning:
    """Draw a scanner: as one of the simulated centres works, or anything that a CT can look like.

    `even` keeps all slices at one distance.
    """
    return _wild_scanning(pose, rng, even=even) if wild else _scanning_of_a_centre(pose, rng)


def _scanning_of_a_centre(pose: Pose, rng: np.random.Generator) -> Scanning:
    protocol = draw_protocol(CENTRES[sorted(CENTRES)[int(rng.integers(len(CENTRES)))]], rng=rng)
    return Scanning(
        heights_mm=_heights(pose, protocol.thickness_mm, rng),
        thickness_mm=protocol.thickness_mm,
        kernel=protocol.kernel,
        noise_hu=protocol.noise_hu,
        hardening=protocol.beam_hardening,
        starving=protocol.streaks,
        cupping_hu=protocol.cupping_hu,
        offset_hu=protocol.offset_hu,
        scale=protocol.scale,
        motion_mm=protocol.motion_mm,
        streaks_hu=0.0,
    )


def _wild_scanning(pose: Pose, rng: np.random.Generator, *, even: bool) -> Scanning:
    thickness = float(np.exp(rng.uniform(np.log(0.6), np.log(10.0))))
    return Scanning(
        heights_mm=(_heights if even else _mixed_heights)(pose, thickness, rng),
        thickness_mm=thickness,
        kernel=Kernel("", float(rng.uniform(0.22, 0.60)), float(rng.uniform(0, 0.7))),
        noise_hu=float(np.clip(np.exp(rng.normal(np.log(4.0), 0.5)) * math.sqrt(5 / thickness), 1, 22)),
        hardening=float(rng.uniform(0.0, 2.2)),
        starving=float(rng.uniform(0.0, 4.0)),
        cupping_hu=float(rng.uniform(0, 18)) if rng.random() < 0.5 else 0.0,
        offset_hu=float(rng.uniform(-10, 10)) if rng.random() < 0.85 else float(rng.uniform(-22, 22)),
        scale=float(rng.normal(1.0, 0.03)),
        motion_mm=float(rng.uniform(1, 5)) if rng.random() < 0.1 else 0.0,
        streaks_hu=float(rng.uniform(3, 25)) if rng.random() < 0.2 else 0.0,
    )


def _heights(pose: Pose, step: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    step = max(step, PIXEL_MM)
    count = max(4, round((pose.high_mm - pose.low_mm) / step))
    return np.asarray(pose.low_mm + (np.arange(count) + rng.uniform(0, 1)) * step, np.float64)


def _mixed_heights(pose: Pose, thickness: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return slices with gaps or overlaps, and in some scans thinner steps through the base than above."""
    ratio = rng.choice([1.0, rng.uniform(0.5, 1.0), rng.uniform(1.0, 1.4)])
    heights = _heights(pose, min(thickness * ratio, 10.0), rng)
    if thickness > 4 and rng.random() < 0.25:
        split = pose.low_mm + rng.uniform(0.2, 0.5) * (pose.high_mm - pose.low_mm)
        fine = _heights(replace(pose, high_mm=split), thickness / 2, rng)
        heights = np.concatenate([fine, heights[heights > fine[-1] + 0.5 * thickness]])
    return heights


@dataclass(frozen=True, eq=False)
class Slices:
    """A scan as its scanner makes it, on pixels of 1.5 mm, and what is true of every voxel."""

    hu: Tensor  # (slice, x, y) float32
    masks: Tensor  # (label, slice, x, y) uint8: at least half of the voxel
    scanning: Scanning
    pose: Pose


def hu_weights(
    heights_mm: npt.NDArray[np.float64], at_mm: npt.NDArray[np.float64], least_mm: float
) -> Tensor:
    """Return weights (at, slice) that bring slices to other heights, as reading does it.

    Linear between slices farther apart than `least_mm`, a triangle of that half width where they are nearer;
    rows beyond the scan are zero.

    >>> hu_weights(np.array([0.0, 5.0]), np.array([2.5, 9.0]), 3.0).tolist()
    [[0.5, 0.5], [0.0, 0.0]]
    """
    steps = np.diff(heights_mm) if len(heights_mm) > 1 else np.array([least_mm])
    own = np.r_[steps[:1], np.maximum(steps[1:], steps[:-1]), steps[-1:]]
    reach = np.maximum(own, least_mm)
    weights = np.maximum(0.0, 1.0 - np.abs(at_mm[:, None] - heights_mm[None]) / reach[None])
    inside = (at_mm > heights_mm[0] - own[0] / 2 - 1e-6) & (at_mm < heights_mm[-1] + own[-1] / 2 + 1e-6)
    total = weights.sum(1, keepdims=True)
    return torch.from_numpy(
        np.where(inside[:, None], weights / np.maximum(total, 1e-6), 0).astype(np.float32)
    )


def scan_phantom(
    phantom: Phantom,
    hu: Tensor,
    pose: Pose,
    scanning: Scanning,
    *,
    generator: torch.Generator,
    rng: np.random.Generator,
) -> Slices:
    """Scan a phantom whose HU map (x, y, z) is given."""
    samples = 2 * (round(scanning.thickness_mm / PIXEL_MM) // 2) + 1  # odd: more than half, or less, is mask
    grid = _sampling_grid(phantom, pose, scanning, samples, rng)
    count = len(scanning.heights_mm)
    fine = functional.grid_sample((hu - _AIR_HU)[None, None], grid, align_corners=True)[0, 0] + _AIR_HU
    slices = fine.reshape(count, samples, *FIELD).mean(1)
    bits = functional.grid_sample(phantom.labels[None, None], grid, mode="nearest", align_corners=True)[0, 0]
    packed = bits.reshape(count, samples, *FIELD).round().to(torch.int16)
    masks = torch.stack([((packed >> c) & 1).float().mean(1) >= 0.5 for c in range(len(LABELS))])
    if pose.mirrored:
        masks = masks[mirrored_channels(LABELS)]
    image = _imaged(slices, scanning, generator, rng)
    return Slices(image, masks.to(torch.uint8), scanning, pose)


def positions(phantom: Phantom, pose: Pose, axes_mm: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Return MNI positions (3, z, x, y) of a grid given by its axes, mm from the field's centre."""
    at = _points(phantom, pose, axes_mm, coarse=MNI_STEP)
    mni = functional.grid_sample(phantom.mni_mm[None], at, padding_mode="border", align_corners=True)[0]
    if pose.mirrored:
        mni = mni * mni.new_tensor([-1.0, 1.0, 1.0]).view(3, 1, 1, 1)
    return mni


def _points(
    phantom: Phantom,
    pose: Pose,
    axes_mm: tuple[Tensor, Tensor, Tensor],
    *,
    coarse: int = 1,
    moved: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return where grid points lie in the phantom's unit cube, (1, z, x, y, 3), torch's order of axes."""
    x, y, z = axes_mm
    shape = tuple(phantom.labels.shape)
    along_x, along_y = x.view(1, -1, 1), y.view(1, 1, -1)
    if moved is not None:
        along_x, along_y = along_x + moved[0].view(-1, 1, 1), along_y + moved[1].view(-1, 1, 1)
    parts = []
    for axis in (2, 1, 0):
        size = (shape[axis] - 1) // coarse * coarse * phantom.spacing_mm
        row = pose.turn[axis] * (2.0 / size)
        start = float(pose.centre_mm[axis]) * 2.0 / size - 1.0
        parts.append(along_x * row[0] + along_y * row[1] + (z * row[2] + start).view(-1, 1, 1))
    return torch.stack(torch.broadcast_tensors(*parts), dim=-1)[None].float()


def field_axes(device: torch.device, step_mm: float) -> tuple[Tensor, Tensor]:
    """Return the positions of the field's pixels along x and y, from its centre.

    >>> x, y = field_axes(torch.device("cpu"), 3.0)
    >>> float(x[0]), float(y[-1])
    (-94.5, 118.5)
    """
    axes = [
        (
            torch.arange(round(n * PIXEL_MM / step_mm), device=device, dtype=torch.float32)
            - (round(n * PIXEL_MM / step_mm) - 1) / 2
        )
        * step_mm
        for n in FIELD
    ]
    return axes[0], axes[1]


def _sampling_grid(
    phantom: Phantom, pose: Pose, scanning: Scanning, samples: int, rng: np.random.Generator
) -> Tensor:
    device = phantom.labels.device
    within = ((np.arange(samples) + 0.5) / samples - 0.5) * scanning.thickness_mm
    heights = (scanning.heights_mm[:, None] + within[None]).ravel()
    z = torch.from_numpy(heights.astype(np.float32)).to(device)
    moved = None
    if scanning.motion_mm > 0:
        jumps = rng.normal(0, 1, (2, len(heights)))
        walk = np.cumsum(jumps * (np.abs(jumps) > 2) * scanning.motion_mm / 2, axis=1)
        away = np.clip(walk - np.median(walk, axis=1, keepdims=True), -scanning.motion_mm, scanning.motion_mm)
        both = torch.from_numpy(away.astype(np.float32)).to(device)
        moved = (both[0], both[1])
    x, y = field_axes(device, PIXEL_MM)
    return _points(phantom, pose, (x, y, z), moved=moved)


def _imaged(
    slices: Tensor, scanning: Scanning, generator: torch.Generator, rng: np.random.Generator
) -> Tensor:
    """Add what the scanner adds to ideal slices (slice, x, y)."""
    slices = _on_pillow(slices, rng)
    error, level = smooth_errors(
        slices, scanning.step_mm, scanning.hardening, generator, streaks=scanning.starving
    )
    if scanning.cupping_hu > 0:
        error = error + scanning.cupping_hu * _beside_bone(slices, float(rng.uniform(3, 12)))
    if scanning.streaks_hu > 0:
        error = error + scanning.streaks_hu * _streaks(slices, rng)
    radius = _frequencies(slices.device)
    smooth: Tensor = torch.fft.irfft2(torch.fft.rfft2(slices) * transfer(scanning.kernel, radius), s=FIELD)
    image = smooth * scanning.scale + scanning.offset_hu + error
    noise, share = _noise(len(slices), scanning.kernel, radius, generator)
    thin = math.sqrt(min(1.0, scanning.thickness_mm / PIXEL_MM))  # thinner slices are averaged when read
    image = image + noise * level * (scanning.noise_hu * share * thin)
    return image.clamp(-1024, 3071)


def _frequencies(device: torch.device) -> Tensor:
    fx = torch.fft.fftfreq(FIELD[0], PIXEL_MM, device=device)[:, None]
    fy = torch.fft.rfftfreq(FIELD[1], PIXEL_MM, device=device)[None]
    return torch.hypot(fx, fy)


def _noise(count: int, kernel: Kernel, radius: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
    """Return noise of standard deviation 1, and how much of the reconstructed noise it stands for.

    Frequencies that pixels of 1.5 mm cannot carry are lost.
    """
    device = radius.device
    limit = 0.5 / PIXEL_MM
    amplitude = noise_spectrum(kernel, radius).sqrt() * (radius < limit)
    white = torch.randn(count, *FIELD, device=device, generator=generator)
    field = torch.fft.irfft2(torch.fft.rfft2(white) * amplitude, s=FIELD)
    native = np.linspace(0, 0.5 / _NATIVE_MM, 400, dtype=np.float32)
    power = noise_spectrum(kernel, torch.from_numpy(native)).numpy() * native
    share = math.sqrt(float(power[native < limit].sum() / power.sum()))
    return field / field.std().clamp(min=1e-6), share


def _on_pillow(slices: Tensor, rng: np.random.Generator) -> Tensor:
    """Lay a pillow or a holder's shell behind the head in half of the scans, only in what is air."""
    if rng.random() < 0.5:
        return slices
    width, depth = FIELD
    x = torch.linspace(-1, 1, width, device=slices.device)[:, None]
    y = torch.arange(depth, device=slices.device, dtype=torch.float32)[None]
    curve = float(rng.uniform(0, 0.25)) * x**2 * depth
    behind = y < depth * float(rng.uniform(0, 0.45)) + curve
    shell = (y - depth * float(rng.uniform(0, 0.2)) - curve).abs() < float(rng.uniform(0.6, 2.0))
    free = slices < -600
    slices = torch.where(free & behind, slices.new_tensor(float(rng.uniform(-980, -850))), slices)
    return torch.where(free & (shell & behind), slices.new_tensor(float(rng.uniform(-400, 150))), slices)


def _beside_bone(slices: Tensor, reach_mm: float) -> Tensor:
    """Return 1 in what touches much bone and less farther off: a false rim along the inner table."""
    size = 2 * round(reach_mm / PIXEL_MM) + 1
    bone = (slices > 300).float()[:, None]
    for _ in range(2):
        bone = functional.avg_pool2d(bone, size, stride=1, padding=size // 2)
    return bone[:, 0] * 2


def _streaks(slices: Tensor, rng: np.random.Generator) -> Tensor:
    """Return bands across some slices, dark and bright, as dense bone and metal throw them."""
    x, y = field_axes(slices.device, PIXEL_MM)
    field = torch.zeros(FIELD, device=slices.device)
    for _ in range(int(rng.integers(1, 6))):
        angle, middle = rng.uniform(0, math.pi), rng.uniform(-50, 50)
        width = float(rng.uniform(2, 9))
        away = x[:, None] * math.cos(angle) + y[None] * math.sin(angle) - float(middle)
        field = field + float(rng.choice([-1.0, 1.0])) * torch.exp(-((away / width) ** 2))
    heights = torch.arange(len(slices), device=slices.device, dtype=torch.float32)
    reach = max(1.0, float(rng.uniform(0.03, 0.2)) * len(slices))
    where = torch.exp(-(((heights - float(rng.uniform(0, len(slices)))) / reach) ** 2))
    return where.view(-1, 1, 1) * field
