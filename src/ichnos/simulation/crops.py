"""Virtual patients on the fly: crops of 1 or 2 mm with every target, for training without a disk.

Simulating a patient takes seconds, scanning a crop of one a fraction of a second, so each patient gives
several crops: each with its own pose, slice thickness, kernel, noise, beam hardening and offset. On a GPU,
drawing a crop moves nothing between host and device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional

from ichnos.errors import UsageError
from ichnos.simulation.exams.ct_physics import RAYS, ray_effects, textured_noise
from ichnos.simulation.exams.scanners import Kernel
from ichnos.simulation.exams.tissue_hu import hounsfield
from ichnos.simulation.exams.truth import BASELINE_MASKS, FOLLOWUP_MASKS, fine_masks
from ichnos.simulation.patient import BRAIN_TISSUES, VirtualPatient
from ichnos.targets import mirrored

_FIELD_MM = 232.0  # field of view of the coarse slices from which beam hardening is computed


@dataclass(frozen=True)
class Recipe:
    """What crops look like."""

    spacing_mm: float = 2.0  # 1 to 3
    side: int = 96  # voxels
    foreground_share: float = 0.6  # share of crops centred on blood, if there is any; the others on brain
    thickness_mm: tuple[float, ...] = (0.0, 2.5, 5.0, 5.0, 5.0, 7.0)  # 0: as thin as the voxels; drawn evenly
    tilt_deg: float = 12.0  # standard deviation of the nod, gantry tilt included
    noise_hu: tuple[float, float] = (1.5, 5.0)  # in the crop's voxels
    offset_hu: float = 8.0  # greatest, either way
    shifted_zero: float = 0.1  # share of scans whose zero lies further off, as in some exports
    shifted_zero_hu: tuple[float, float] = (-14.0, 22.0)
    cupping_hu: float = 20.0  # greatest brightening beside the inner table; little in most scans
    two_steps: float = 0.15  # share of scans whose upper slices are thicker than the lower ones
    beam_hardening: tuple[float, float] = (0.3, 1.6)
    mirrored_share: float = 0.5  # left and right exchanged, with the targets of both sides

    def __post_init__(self) -> None:
        if not 1.0 <= self.spacing_mm <= 3.0:
            raise UsageError(f"crops of {self.spacing_mm:g} mm were asked for; 1 to 3 mm can be made")


@dataclass(frozen=True, eq=False)
class Crop:
    """One training example."""

    hu: torch.Tensor  # (side, side, side) float32
    targets: torch.Tensor  # (t, side, side, side) uint8, in the order of `names`
    names: tuple[str, ...]
    expansion: float  # 1 expanded, 0 not; NaN without haematoma or follow-up
    expansion_probability: float  # the oracle's
    mni_mm: torch.Tensor | None = (
        None  # (3, side, side, side) MNI152 position of what is seen, for patients made with it
    )


@dataclass(frozen=True, eq=False)
class _Pose:
    """How a crop lies in the patient."""

    turn: torch.Tensor  # (3, 3) from the crop's axes to the patient's; it mirrors if `mirrored`
    centre: torch.Tensor  # (3,) voxel index of the crop's middle
    mirrored: bool


@dataclass(frozen=True, eq=False)
class _Stack:
    """The slices of the scan that a crop is cut from, about the crop's middle."""

    thickness_mm: float  # of the lower slices
    heights_mm: torch.Tensor  # (s,)
    steps_mm: torch.Tensor  # (s,) thickness of each
    samples: int  # through each

    @property
    def sample_heights_mm(self) -> torch.Tensor:
        """Return the heights of all samples, (s * samples,)."""
        within = (torch.arange(self.samples, device=self.heights_mm.device) + 0.5) / self.samples - 0.5
        return (self.heights_mm[:, None] + within * self.steps_mm[:, None]).reshape(-1)


class CropDrawer:
    """Draws crops of one patient; everything that does not change from crop to crop is made once."""

    def __init__(self, patient: VirtualPatient, recipe: Recipe, *, generator: torch.Generator) -> None:
        self.recipe = recipe
        self.generator = generator
        latent, has_followup = patient.latent, patient.followup is not None
        self.names = (*BASELINE_MASKS, *(FOLLOWUP_MASKS if has_followup else ()))
        self.mirrored = [self.names.index(mirrored(name)) for name in self.names]
        self.spacing_mm = patient.spacing_mm
        self.expansion = float(patient.expanded) if latent.has_haematoma and has_followup else math.nan
        self.expansion_probability = patient.expansion_probability
        hu = hounsfield(
            patient.baseline,
            haematocrit=latent.haematocrit,
            spacing_mm=patient.spacing_mm,
            generator=generator,
            old_infarct_hu=latent.old_infarct_hu,
        )
        self.pool = max(1, round(recipe.spacing_mm / patient.spacing_mm))
        self.hu = functional.avg_pool3d(hu[None, None], self.pool) if self.pool > 1 else hu[None, None]
        self.mni_mm = None if patient.mni_mm is None else patient.mni_mm[None]
        self.packed = _packed(fine_masks(patient, self.names))[None, None]
        brain = patient.baseline.tissue[::4, ::4, ::4] >= int(min(BRAIN_TISSUES))
        blood = (patient.baseline.ich + patient.baseline.ivh)[::4, ::4, ::4] >= 0.5
        self.brain, self.blood = brain.to(torch.float32), blood.to(torch.float32)
        at = brain.nonzero().to(torch.float32) * 4
        self.middle = (at.amin(0) + at.amax(0)) / 2  # voxel index of the brain's middle

    def draw(self, *, rng: np.random.Generator) -> Crop:
        """Scan one crop."""
        pose = self._pose(rng)
        hu = self._scanned(pose, rng)
        packed = self._pulled(self.packed, pose, self._axes_mm(), nearest=True).round().to(torch.int32)
        order = self.mirrored if pose.mirrored else range(len(self.names))
        targets = torch.stack([((packed >> channel) & 1).to(torch.uint8) for channel in order])
        positions = self._positions(pose)
        return Crop(hu, targets, self.names, self.expansion, self.expansion_probability, positions)

    def _axes_mm(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return where the crop's voxels lie along its three axes."""
        axis = _about_zero(self.recipe.side, self.recipe.spacing_mm, self.hu.device)
        return axis, axis, axis

    def _pose(self, rng: np.random.Generator) -> _Pose:
        turn = self._turn(rng)
        mirror = bool(rng.random() < self.recipe.mirrored_share)
        if mirror:
            turn = turn * turn.new_ones(3).cumsum(0).sub(1.5).sign()  # the first column, x, changes its sign
        centre = self._centre(foreground=bool(rng.random() < self.recipe.foreground_share))
        return _Pose(turn, centre, mirror)

    def _positions(self, pose: _Pose) -> torch.Tensor | None:
        """Return MNI positions (3, side, side, side), left and right exchanged where the crop is mirrored."""
        if self.mni_mm is None:
            return None
        x, y, z = (self._pulled(self.mni_mm[:, k : k + 1], pose, self._axes_mm()) for k in range(3))
        return torch.stack([-x if pose.mirrored else x, y, z])

    def _turn(self, rng: np.random.Generator) -> torch.Tensor:
        """Draw the rotation from the crop's axes to the patient's (3, 3), on the device."""
        spread = (self.recipe.tilt_deg, 4.0, 6.0)
        x, y, z = (math.radians(float(rng.normal(0, s))) for s in spread)
        # Products of rotations about x, y and z, written out: building them on the host would copy to the
        # device.
        eye = torch.eye(3, device=self.hu.device)

        def about(axis: int, angle: float) -> torch.Tensor:
            first, second = eye[(axis + 1) % 3], eye[(axis + 2) % 3]
            plane = torch.outer(first, first) + torch.outer(second, second)
            return (
                eye
                + (math.cos(angle) - 1) * plane
                + math.sin(angle) * (torch.outer(second, first) - torch.outer(first, second))
            )

        return about(2, z) @ about(1, y) @ about(0, x)

    def _centre(self, *, foreground: bool) -> torch.Tensor:
        """Draw the patient voxel in the middle of the crop (3,): in the blood if wanted and there, else in
        the brain.
        """
        score = torch.rand(self.brain.shape, device=self.brain.device, generator=self.generator) + self.brain
        if foreground:
            score = score + 2 * self.blood
        flat = score.flatten().argmax()
        _, height, depth = self.brain.shape
        voxel = (
            torch.stack([flat // (height * depth), (flat // depth) % height, flat % depth]).to(torch.float32)
            * 4
        )
        jitter = torch.rand(3, device=self.brain.device, generator=self.generator) - 0.5
        half_mm = self.recipe.side * self.recipe.spacing_mm / 2
        near = voxel + jitter * 0.3 * half_mm / self.spacing_mm
        reach = 1.0 if half_mm < 60 else 0.35  # a crop as large as the head stays near its middle
        return self.middle + reach * (near - self.middle)

    def _pulled(
        self,
        maps: torch.Tensor,
        pose: _Pose,
        axes_mm: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        *,
        pool: int = 1,
        nearest: bool = False,
    ) -> torch.Tensor:
        """Sample a map (1, 1, x, y, z), `pool` voxels in one, at all points of three axes about the pose."""
        rows = pose.turn / self.spacing_mm
        x, y, z = axes_mm
        points = []
        for axis in (2, 1, 0):
            at = (
                (x * rows[axis, 0]).view(-1, 1, 1)
                + (y * rows[axis, 1]).view(-1, 1)
                + (z * rows[axis, 2] + pose.centre[axis])
            )
            at = (at - (pool - 1) / 2) / pool
            points.append(at * (2.0 / (maps.shape[2 + axis] - 1)) - 1)
        grid = torch.stack(points, dim=-1)[None]
        mode, padding = ("nearest", "zeros") if nearest else ("bilinear", "border")
        return functional.grid_sample(maps, grid, mode=mode, padding_mode=padding, align_corners=True)[0, 0]

    def _scanned(self, pose: _Pose, rng: np.random.Generator) -> torch.Tensor:
        """Return HU (side, side, side) as the crop of a scan that was resampled to the crop's spacing."""
        recipe = self.recipe
        side, spacing = recipe.side, recipe.spacing_mm
        stack = self._stack(rng)
        across, _, _ = self._axes_mm()
        fine = self._pulled(self.hu, pose, (across, across, stack.sample_heights_mm), pool=self.pool)
        count = len(stack.heights_mm)
        slices = fine.reshape(side, side, count, stack.samples).mean(3).permute(2, 0, 1)
        kernel = Kernel("", float(rng.uniform(0.26, 0.45)), float(rng.uniform(0, 0.4)))
        error_hu, relative = self._effects(pose, stack, rng)
        noise = textured_noise(count, kernel=kernel, matrix=side, pixel_mm=spacing, generator=self.generator)
        level = float(rng.uniform(*recipe.noise_hu)) * math.sqrt(5.0 / max(stack.thickness_mm, 1.5)) ** 0.5
        slices = slices + error_hu + noise * relative * level
        slices = slices * float(rng.normal(1.0, 0.01)) + self._offset_hu(rng)
        return _between_slices(slices, side, spacing, stack.heights_mm).clamp(-1024, 3071)

    def _stack(self, rng: np.random.Generator) -> _Stack:
        """Draw the slices of the scan; the upper ones may be thicker."""
        recipe = self.recipe
        thickness = max(float(rng.choice(recipe.thickness_mm)), recipe.spacing_mm)
        upper = max(thickness, 7.0) if rng.random() < recipe.two_steps else thickness
        count = math.ceil(recipe.side * recipe.spacing_mm / thickness) + 2
        phase_mm = float(rng.uniform(-0.5, 0.5)) * thickness
        heights, steps = _slices(count, thickness, upper, float(rng.uniform(0.3, 0.7)), self.hu.device)
        samples = max(1, round(upper / max(1.25, recipe.spacing_mm)))
        return _Stack(thickness, heights + phase_mm, steps, samples)

    def _offset_hu(self, rng: np.random.Generator) -> float:
        recipe = self.recipe
        usual, far = (
            float(rng.uniform(-recipe.offset_hu, recipe.offset_hu)),
            float(rng.uniform(*recipe.shifted_zero_hu)),
        )
        return far if rng.random() < recipe.shifted_zero and recipe.offset_hu > 0 else usual

    def _effects(
        self, pose: _Pose, stack: _Stack, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return beam-hardening error and noise level (s, side, side), computed on whole coarse slices of the
        head.
        """
        recipe, count = self.recipe, len(stack.heights_mm)
        together = max(1, round(8.0 / stack.thickness_mm))
        away = (
            pose.turn.T @ (self.middle - pose.centre) * self.spacing_mm
        )  # the head's middle in the crop, mm
        rays = ray_effects(
            self._whole_slices(pose, away, _means(stack.heights_mm, together)),
            pixel_mm=_FIELD_MM / RAYS,
            strength=float(rng.uniform(*recipe.beam_hardening)),
            generator=self.generator,
            cupping_hu=recipe.cupping_hu * float(rng.random()) ** 2,
            streaks=0.5 + 2.5 * float(rng.random()) ** 2,
        )
        step = _about_zero(recipe.side, recipe.spacing_mm, away.device)
        x, y = ((step - away[axis]) * (2.0 / _FIELD_MM) for axis in (0, 1))
        grid = torch.stack(torch.meshgrid(y, x, indexing="xy"), dim=-1)[None]
        both = torch.cat([rays.error_hu, rays.noise])[None]
        spread = functional.grid_sample(both, grid, padding_mode="border", align_corners=False)[0]
        error, level = spread.repeat_interleave(together, dim=0).chunk(2)
        return error[:count], level[:count]

    def _whole_slices(self, pose: _Pose, away_mm: torch.Tensor, heights_mm: torch.Tensor) -> torch.Tensor:
        """Return coarse slices (s, RAYS, RAYS) of the head at some heights, its middle in their middle."""
        sideways = torch.cat([away_mm[:2], torch.zeros_like(away_mm[:1])])
        middle = replace(pose, centre=pose.centre + pose.turn @ sideways / self.spacing_mm)
        axis = _about_zero(RAYS, _FIELD_MM / RAYS, away_mm.device)
        return self._pulled(self.hu, middle, (axis, axis, heights_mm), pool=self.pool).permute(2, 0, 1)


def _packed(masks: torch.Tensor) -> torch.Tensor:
    """Return masks (c, x, y, z) as bits of one number, float32: they are resampled at once."""
    weights = 2 ** torch.arange(len(masks), dtype=torch.int32, device=masks.device)
    return (masks * weights.view(-1, 1, 1, 1)).sum(0, dtype=torch.int32).to(torch.float32)


def _about_zero(count: int, step_mm: float, device: torch.device) -> torch.Tensor:
    """Return so many points in steps about 0, mm."""
    return (torch.arange(count, device=device, dtype=torch.float32) - (count - 1) / 2) * step_mm


def _means(heights_mm: torch.Tensor, together: int) -> torch.Tensor:
    """Return the means of groups of neighbours; the last height fills up the last group."""
    groups = math.ceil(len(heights_mm) / together)
    missing = groups * together - len(heights_mm)
    padded = functional.pad(heights_mm[None], (0, missing), mode="replicate")
    return padded.reshape(groups, together).mean(1)


def _slices(
    count: int, lower_mm: float, upper_mm: float, split: float, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return heights about the middle, and thicknesses, of slices that are thicker above a share of them."""
    index = torch.arange(count, device=device)
    steps = torch.where(index < split * count, lower_mm, upper_mm)
    heights = steps.cumsum(0) - steps / 2
    middle = heights.sum() / count if upper_mm == lower_mm else heights[count // 2]
    return heights - middle, steps


def _between_slices(
    slices: torch.Tensor, side: int, spacing_mm: float, heights_mm: torch.Tensor
) -> torch.Tensor:
    """Interpolate slices (s, x, y) at their heights to `side` planes about 0; returns (x, y, side)."""
    at = _about_zero(side, spacing_mm, slices.device)
    above = torch.searchsorted(heights_mm, at).clamp(1, len(heights_mm) - 1)
    low, high = heights_mm.index_select(0, above - 1), heights_mm.index_select(0, above)
    part = ((at - low) / (high - low)).clamp(0, 1).view(-1, 1, 1)
    return torch.lerp(slices.index_select(0, above - 1), slices.index_select(0, above), part).permute(1, 2, 0)
