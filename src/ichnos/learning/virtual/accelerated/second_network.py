"""Train the refinement against the clock, from scans that the first network has read on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from ichnos.inference.grid import axis_weights
from ichnos.inference.refine import LOGIT_LIMIT, NEAR_LOGIT
from ichnos.inference.sliding import tiles
from ichnos.learning.segmentation.losses import dice_and_cross_entropy
from ichnos.learning.virtual.accelerated.atlas_positions import atlas_at, smoothed_positions
from ichnos.learning.virtual.accelerated.densities import density_map, without_oedema
from ichnos.learning.virtual.accelerated.first_network import BRAIN_HU, first_image, windowed
from ichnos.learning.virtual.accelerated.looks import GRID, LOOK_TARGETS, STEP_MM, grid_heights, on_first_grid
from ichnos.learning.virtual.accelerated.phantom import Phantom
from ichnos.learning.virtual.accelerated.scanner import (
    FIELD,
    PIXEL_MM,
    Slices,
    draw_pose,
    draw_scanning,
    hu_weights,
    scan_phantom,
)
from ichnos.learning.virtual.accelerated.timed import Clock, Rhythm, TimedTraining
from ichnos.learning.virtual.refinement import HOW, NAMES
from ichnos.models import COORDINATE_MM, LOGIT_UNIT, NetworkSpec
from ichnos.targets import mirrored_channels

_CHANNELS = [LOOK_TARGETS.index(name) for name in NAMES]  # of the first network, in the refinement's order
_SWAPPED = mirrored_channels(NAMES)
_OWN = tuple(NAMES.index(name) for name in ("ICH", "IVH", "PHE", "leukoaraiosis"))
_OWN_SHARE = 0.6  # of the patches, laid around a voxel of these
_POINTS = 256  # voxels kept of each target, to lay patches around
_FOCAL = tuple(NAMES.index(name) for name in ("IVH", "PHE"))
_FOCAL_WEIGHT = 0.15
_LOGIT_STEPS, _SHARE_STEPS = 16, 255


@dataclass(frozen=True)
class SecondPlan:
    """How the refinement is trained."""

    features: tuple[int, ...] = (16, 32, 64)
    batch: int = 12
    patch: tuple[int, int, int] = HOW.patch
    scans_per_patient: int = 3
    wild_share: float = 0.4
    capacity: int = 1200  # scans kept
    least_scans: int = 24
    spacing_mm: float = 1.0
    held_out_patients: int = 28
    calibration_patients: int = 20
    feed_share: float = 0.30  # of the time, at most, that goes into scanning phantoms
    seed: int = 0
    channels_last: bool = False


def refiner_network(plan: SecondPlan) -> NetworkSpec:
    """Return the call that builds the refinement."""
    stages = len(plan.features)
    return NetworkSpec(
        name="refiner",
        arguments={
            "input_channels": len(HOW.windows_hu) + len(NAMES) + 2,
            "num_classes": len(NAMES),
            "first_logits": len(HOW.windows_hu),
            "logit_unit": LOGIT_UNIT,
            "features_per_stage": list(plan.features),
            "kernel_sizes": [[3, 3, 1], *[3] * (stages - 1)],
            "strides": [1, [2, 2, 1], *[2] * (stages - 2)],
        },
    )


@dataclass(frozen=True, eq=False)
class RefinerScan:
    """What the refinement is shown of one scan, and the truth, on its own grid (x, y, z)."""

    hu: Tensor  # int16, calibrated
    logits: Tensor  # (target, ...) int8, sixteenths
    atlas: Tensor  # (side, ...) uint8, 255ths
    truth: Tensor  # (target, ...) uint8, 255ths
    points: tuple[np.ndarray, ...]  # (n, 3) voxels of each target of _OWN that occurs
    box: tuple[tuple[int, int], ...]  # the region that is refined
    voxel_ml: float


def refiner_scan(
    phantom: Phantom,
    network: nn.Module,
    rng: np.random.Generator,
    generator: torch.Generator,
    *,
    wild: bool,
) -> RefinerScan | None:
    """Scan a head, let the first network read it, and lay both on the refinement's grid.

    None where the first network saw no brain.
    """
    phantom = without_oedema(phantom, rng)
    pose = draw_pose(phantom, rng, wild=wild)
    scanning = draw_scanning(pose, rng, wild=wild, even=True)
    hu = density_map(phantom, rng, generator, wild=wild)
    slices = scan_phantom(phantom, hu, pose, scanning, generator=generator, rng=rng)
    image, _ = on_first_grid(slices)
    with torch.inference_mode(), torch.autocast(image.device.type, torch.bfloat16):
        out = network(first_image(image[None]))[0].float()
    return _laid(slices, out.clone(), rng)


def _laid(slices: Slices, out: Tensor, rng: np.random.Generator) -> RefinerScan | None:
    brain = torch.sigmoid(out[LOOK_TARGETS.index("brain")])
    if int((brain > 0.5).sum()) < 2000:
        return None
    along, heights, step = _depths(slices)
    enlarged = _Enlargement.to(heights, out.device)
    place = smoothed_positions(out[len(LOOK_TARGETS) :] * COORDINATE_MM, brain, STEP_MM)
    logits = enlarged(out[_CHANNELS].clamp(-LOGIT_LIMIT, LOGIT_LIMIT))
    atlas = atlas_at(enlarged(place))
    hu = torch.einsum("zs,sxy->xyz", along, _softened(slices.hu))
    truth = torch.einsum("zs,csxy->cxyz", along, slices.masks[_CHANNELS].float())
    return RefinerScan(
        hu=(hu + _calibration(hu, logits)).clamp(-1024, 3000).round().to(torch.int16),
        logits=(logits * _LOGIT_STEPS).round().to(torch.int8),
        atlas=(atlas * _SHARE_STEPS).round().to(torch.uint8),
        truth=(truth * _SHARE_STEPS).round().to(torch.uint8),
        points=_own_points(truth, rng),
        box=_region(logits),
        voxel_ml=PIXEL_MM**2 * step / 1000,
    )


@dataclass(frozen=True, eq=False)
class _Enlargement:
    """Call it with a field (channel, x, y, z) on the first network's grid: the field on the refinement's."""

    along_x: Tensor  # (own, first)
    along_y: Tensor
    along_z: Tensor

    @classmethod
    def to(cls, heights: np.ndarray, device: torch.device) -> _Enlargement:
        """Return the enlargement to slices at these heights, mm."""
        x, y = (
            torch.from_numpy(axis_weights(m, STEP_MM, n, PIXEL_MM)).to(device)
            for n, m in zip(FIELD, GRID[:2], strict=True)
        )
        at = np.clip(heights, *grid_heights()[[0, -1]])
        return cls(x, y, hu_weights(grid_heights(), at, STEP_MM).to(device))

    def __call__(self, field: Tensor) -> Tensor:
        wide = torch.einsum("cxyz,wz->cxyw", field, self.along_z)
        flat = torch.einsum("cxyw,vy->cxvw", wide, self.along_y).flatten(2)
        return torch.matmul(self.along_x, flat).reshape(len(field), *FIELD, len(self.along_z))


def _depths(slices: Slices) -> tuple[Tensor, np.ndarray, float]:
    """Return weights from the scan's slices to the refinement's, their heights and their distance."""
    scanned = slices.scanning.heights_mm
    own = slices.scanning.step_mm
    step = own * max(1, round(HOW.spacing_mm[2] / own))
    count = max(1, int(np.ceil(len(scanned) * own / step - 1e-6)))
    weights = torch.from_numpy(axis_weights(len(scanned), own, count, step)).to(slices.hu.device)
    middle = (scanned[0] + scanned[-1]) / 2
    return weights, middle + (np.arange(count) - (count - 1) / 2) * step, step


def _softened(hu: Tensor) -> Tensor:
    """Blur slices as resampling to 1.5 mm does, by a triangle of that half width."""
    fx = torch.fft.fftfreq(FIELD[0], 1.0, device=hu.device)[:, None]
    fy = torch.fft.rfftfreq(FIELD[1], 1.0, device=hu.device)[None]
    triangle = (torch.sinc(fx) * torch.sinc(fy)) ** 2
    soft: Tensor = torch.fft.irfft2(torch.fft.rfft2(hu) * triangle, s=FIELD)
    return soft


def _calibration(hu: Tensor, logits: Tensor) -> Tensor:
    others = [k for k, name in enumerate(NAMES) if name in ("ventricles", "ICH", "IVH", "PHE")]
    tissue = (logits[NAMES.index("brain")] > 0) & (logits[others] < 0).all(0)
    return BRAIN_HU - hu[tissue].median() if bool(tissue.any()) else hu.new_zeros(())


def _region(logits: Tensor) -> tuple[tuple[int, int], ...]:
    inside = (logits[NAMES.index("brain")] > NEAR_LOGIT) | (logits[NAMES.index("ventricles")] > NEAR_LOGIT)
    box = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        where = inside.any(others[1]).any(others[0]).nonzero().cpu().numpy().ravel()
        n = inside.shape[axis]
        box.append((max(0, int(where[0]) - 5), min(n, int(where[-1]) + 6)) if len(where) else (0, n))
    return tuple(box)


def _own_points(truth: Tensor, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    points = []
    for channel in _OWN:
        at = (truth[channel] > 0.5).nonzero()
        if len(at) > 8:
            chosen = torch.from_numpy(rng.integers(0, len(at), _POINTS)).to(at.device)
            points.append(at[chosen].cpu().numpy())
    return tuple(points)


@dataclass
class RefinerFeed:
    """Phantoms to scans of the refinement."""

    plan: SecondPlan
    device: str
    scans: list[RefinerScan] = field(default_factory=list)
    patients: int = 0
    seconds: float = 0.0  # that went into scanning phantoms
    _next: int = 0

    def add(self, scan: RefinerScan) -> None:
        """Put a scan in; the oldest goes."""
        if len(self.scans) < self.plan.capacity:
            self.scans.append(scan)
        else:
            self.scans[self._next % self.plan.capacity] = scan
            self._next += 1


def refiner_batch(
    scans: list[RefinerScan],
    chosen: np.ndarray,
    patch: tuple[int, int, int],
    rng: np.random.Generator,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Return what the refinement sees (n, channel, x, y, z) and the truth (n, target, x, y, z)."""
    parts = [_cut_patch(scans[int(k)], patch, rng) for k in chosen]
    hu, logits, atlas, truth = (torch.stack(part).float() for part in zip(*parts, strict=True))
    logits, atlas, truth = logits / _LOGIT_STEPS, atlas / _SHARE_STEPS, truth / _SHARE_STEPS
    n, device = len(chosen), hu.device

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, generator=generator)

    grain = torch.rand(n, 1, 1, 1, device=device, generator=generator) * 6 - 3
    hu = hu + 1.2 * normal(n, 1, 1, 1) + normal(*hu.shape) * grain.clamp(min=0)
    some = (torch.rand(n, 1, 1, 1, 1, device=device, generator=generator) < 0.3).float()
    factor = 1 + some * (torch.rand(n, 1, 1, 1, 1, device=device, generator=generator) * 0.3 - 0.2)
    logits = logits * factor + some * 0.3 * normal(n, logits.shape[1], 1, 1, 1)
    if rng.random() < 0.5:
        hu, truth = hu.flip(1), truth[:, _SWAPPED].flip(2)
        logits, atlas = logits[:, _SWAPPED].flip(2), atlas.flip(1).flip(2)
    image = torch.cat([windowed(hu, HOW.windows_hu), logits / LOGIT_UNIT, 2 * atlas - 1], 1)
    return image, truth


def _cut_patch(
    scan: RefinerScan, patch: tuple[int, int, int], rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    starts = []
    centre = None
    if scan.points and rng.random() < _OWN_SHARE:
        of = scan.points[int(rng.integers(len(scan.points)))]
        centre = of[int(rng.integers(len(of)))]
    for axis, p in enumerate(patch):
        first, last = scan.box[axis]
        end = max(first, last - p)
        if centre is None:
            starts.append(int(rng.integers(first, end + 1)))
        else:
            start = int(centre[axis]) - p // 2 + int(rng.integers(-(p // 4), p // 4 + 1))
            starts.append(min(max(first, start), end))
    at = tuple(slice(s, s + p) for s, p in zip(starts, patch, strict=True))
    every = (slice(None), *at)
    return (
        _filled(scan.hu[at], patch, -1024),
        _filled(scan.logits[every], patch, round(-LOGIT_LIMIT * _LOGIT_STEPS)),
        _filled(scan.atlas[every], patch, 0),
        _filled(scan.truth[every], patch, 0),
    )


def _filled(part: Tensor, patch: tuple[int, int, int], value: int) -> Tensor:
    missing = [max(0, p - n) for p, n in zip(patch, part.shape[-3:], strict=True)]
    if not any(missing):
        return part
    x, y, z = missing
    return nn.functional.pad(part, (0, z, 0, y, 0, x), value=value)


@dataclass(frozen=True)
class SecondNote:
    """What one step of the refinement was like, for a log."""

    step: int
    done: float
    loss: float
    patients: int
    scans: int
    steps_per_s: float


def train_second(
    plan: SecondPlan,
    feed: RefinerFeed,
    pump: Callable[[float], None],
    training: TimedTraining,
    clock: Clock,
    *,
    note: Callable[[SecondNote], None] = lambda note: None,
    note_every_s: float = 15.0,
) -> None:
    """Train until the clock's time is spent; `pump` adds what scans have become ready, waiting so long."""
    while len(feed.scans) < plan.least_scans and not clock.over:
        pump(0.5)
    rng = np.random.default_rng([plan.seed, 5, training.step])
    generator = torch.Generator(training.device).manual_seed(plan.seed + 5)
    lines = Rhythm(note_every_s, training.step)
    while not clock.over and feed.scans:
        if feed.seconds < plan.feed_share * clock.spent_s + 5.0:
            pump(0.0)
        done, chosen = clock.done, rng.integers(0, len(feed.scans), plan.batch)
        loss = _refiner_loss(training, *refiner_batch(feed.scans, chosen, plan.patch, rng, generator))
        training.update(loss, done)
        if (rate := lines.steps_per_s(training.step)) is not None:
            note(SecondNote(training.step, done, float(loss.detach()), feed.patients, len(feed.scans), rate))


def _refiner_loss(training: TimedTraining, image: Tensor, truth: Tensor) -> Tensor:
    with torch.autocast(torch.device(training.device).type, torch.bfloat16):
        logits = training.network(training.laid_out(image))
    known = torch.ones(truth.shape[:2], device=truth.device)
    return dice_and_cross_entropy(logits, truth, known) + _FOCAL_WEIGHT * _focal_loss(logits, truth)


def _focal_loss(logits: Tensor, truth: Tensor) -> Tensor:
    own, wanted = (torch.stack([field[:, k] for k in _FOCAL], 1).float() for field in (logits, truth))
    entropy = nn.functional.binary_cross_entropy_with_logits(own, wanted, reduction="none")
    weighted = (torch.sigmoid(own) - wanted) ** 2 * entropy
    return (weighted.sum((0, 2, 3, 4)) / (wanted.sum((0, 2, 3, 4)) + 500.0)).mean()


def refiner_image(scan: RefinerScan) -> Tensor:
    """Return what the refinement sees of a whole scan (channel, x, y, z), unchanged."""
    logits, atlas = scan.logits.float() / _LOGIT_STEPS, scan.atlas.float() / _SHARE_STEPS
    channels = windowed(scan.hu.float()[None], HOW.windows_hu)[0]
    return torch.cat([channels, logits / LOGIT_UNIT, 2 * atlas - 1])


def refined_shares(
    network: nn.Module, image: Tensor, box: tuple[tuple[int, int], ...], patch: tuple[int, int, int]
) -> Tensor:
    """Return probabilities (target, x, y, z) of a whole scan, tile by tile inside its region, 0 outside."""
    at = tuple(slice(first, last) for first, last in box)
    inner = _filled(image[(slice(None), *at)], patch, -1)
    total = torch.zeros((len(NAMES), *inner.shape[1:]), device=image.device)
    weight = torch.zeros(inner.shape[1:], device=image.device)
    axes = [torch.exp(-0.5 * ((torch.arange(p) - (p - 1) / 2) / (p / 8)) ** 2) for p in patch]
    window = torch.einsum("i,j,k->ijk", *axes).to(image.device)
    for tile in tiles(tuple(inner.shape[1:]), patch, 0.25):
        with torch.inference_mode(), torch.autocast(image.device.type, torch.bfloat16):
            out = network(inner[(slice(None), *tile)][None])[0].float()
        total[(slice(None), *tile)] += out * window
        weight[tile] += window
    shares = torch.zeros((len(NAMES), *image.shape[1:]), device=image.device)
    own = shares[(slice(None), *at)]
    sizes = tuple(slice(0, n) for n in own.shape[1:])
    shares[(slice(None), *at)] = torch.sigmoid(total / weight)[(slice(None), *sizes)]
    return shares
