"""Virtual patients on the fly: crops of 1 or 2 mm with every target, for training without a disk.

Simulating a patient takes seconds, scanning a crop of one a fraction of a second, so each patient gives
several crops: each with its own pose, slice thickness, kernel, noise, beam hardening and offset. On a GPU,
drawing a crop moves nothing between host and device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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


class CropDrawer:
    """Draws crops of one patient; everything that does not change from crop to crop is made once."""

    def __init__(self, patient: VirtualPatient, recipe: Recipe, *, generator: torch.Generator) -> None:
        self.recipe = recipe
        self.generator = generator
        grown = FOLLOWUP_MASKS if patient.followup is not None else ()
        self.names = (*BASELINE_MASKS, *grown)
        self.mirrored = [self.names.index(mirrored(name)) for name in self.names]
        self.spacing_mm = patient.spacing_mm
        latent, finite = patient.latent, patient.followup is not None
        self.expansion = float(patient.expanded) if latent.has_haematoma and finite else float("nan")
        self.expansion_probability = patient.expansion_probability
        hu = hounsfield(
            patient.baseline,
            haematocrit=latent.haematocrit,
            spacing_mm=patient.spacing_mm,
            generator=generator,
            old_infarct_hu=latent.old_infarct_hu,
        )
        self.hu = hu[None, None]
        self.pool = max(1, round(recipe.spacing_mm / patient.spacing_mm))
        if self.pool > 1:
            self.hu = functional.avg_pool3d(self.hu, self.pool)
        masks = fine_masks(patient, self.names)
        weights = 2 ** torch.arange(len(self.names), dtype=torch.int32, device=masks.device)
        self.mni_mm = None if patient.mni_mm is None else patient.mni_mm[None]
        self.packed = (
            (masks * weights.view(-1, 1, 1, 1)).sum(0, dtype=torch.int32).to(torch.float32)[None, None]
        )
        brain = patient.baseline.tissue[::4, ::4, ::4] >= int(min(BRAIN_TISSUES))
        blood = (patient.baseline.ich + patient.baseline.ivh)[::4, ::4, ::4] >= 0.5
        self.brain, self.blood = brain.to(torch.float32), blood.to(torch.float32)
        at = brain.nonzero().to(torch.float32) * 4
        self.middle = (at.amin(0) + at.amax(0)) / 2  # voxel index of the brain's middle

    def draw(self, *, rng: np.random.Generator) -> Crop:
        """Scan one crop."""
        recipe = self.recipe
        turn = self._turn(rng)
        mirror = bool(rng.random() < recipe.mirrored_share)
        if mirror:
            turn = turn * turn.new_ones(3).cumsum(0).sub(1.5).sign()  # the first column, x, changes its sign
        centre = self._centre(foreground=bool(rng.random() < recipe.foreground_share))
        hu = self._scanned(turn, centre, rng)
        bits = self._pulled(
            self.packed, turn, centre, (recipe.side,) * 3, (recipe.spacing_mm,) * 3, pool=1, nearest=True
        )
        packed = bits.round().to(torch.int32)
        order = self.mirrored if mirror else range(len(self.names))
        targets = torch.stack([((packed >> channel) & 1).to(torch.uint8) for channel in order])
        return Crop(
            hu,
            targets,
            self.names,
            self.expansion,
            self.expansion_probability,
            self._positions(turn, centre, mirror),
        )

    def _positions(self, turn: torch.Tensor, centre: torch.Tensor, mirror: bool) -> torch.Tensor | None:
        """Return MNI positions (3, side, side, side), left and right exchanged where the crop is mirrored."""
        if self.mni_mm is None:
            return None
        side, step = self.recipe.side, self.recipe.spacing_mm
        axes = [
            self._pulled(self.mni_mm[:, k : k + 1], turn, centre, (side,) * 3, (step,) * 3, pool=1)
            for k in range(3)
        ]
        return torch.stack([-axes[0] if mirror else axes[0], *axes[1:]])

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
        turn: torch.Tensor,
        centre: torch.Tensor,
        shape: tuple[int, int, int],
        steps_mm: tuple[float, float, float],
        *,
        pool: int,
        heights_mm: torch.Tensor | None = None,
        nearest: bool = False,
    ) -> torch.Tensor:
        """Sample a map (1, 1, x, y, z) on a grid around a patient voxel; the third axis may lie at
        `heights_mm`.
        """
        device = maps.device
        axes = [
            (torch.arange(n, device=device, dtype=torch.float32) - (n - 1) / 2) * step
            for n, step in zip(shape, steps_mm, strict=True)
        ]
        axes[2] = axes[2] if heights_mm is None else heights_mm
        rows = turn / self.spacing_mm
        points = []
        for axis in (2, 1, 0):
            at = (
                (axes[0] * rows[axis, 0]).view(-1, 1, 1)
                + (axes[1] * rows[axis, 1]).view(-1, 1)
                + (axes[2] * rows[axis, 2] + centre[axis])
            )
            at = (at - (pool - 1) / 2) / pool
            points.append(at * (2.0 / (maps.shape[2 + axis] - 1)) - 1)
        grid = torch.stack(points, dim=-1)[None]
        mode = "nearest" if nearest else "bilinear"
        padding = "zeros" if nearest else "border"
        return functional.grid_sample(maps, grid, mode=mode, padding_mode=padding, align_corners=True)[0, 0]

    def _scanned(self, turn: torch.Tensor, centre: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Return HU (side, side, side) as the crop of a scan that was resampled to the crop's spacing."""
        recipe = self.recipe
        side, spacing = recipe.side, recipe.spacing_mm
        thickness = max(float(rng.choice(recipe.thickness_mm)), spacing)
        upper = max(thickness, 7.0) if rng.random() < recipe.two_steps else thickness
        count = math.ceil(side * spacing / thickness) + 2
        samples = max(1, round(upper / max(1.25, spacing)))
        phase_mm = float(rng.uniform(-0.5, 0.5)) * thickness
        heights_mm, steps_mm = _slices(count, thickness, upper, float(rng.uniform(0.3, 0.7)), self.hu.device)
        heights_mm = heights_mm + phase_mm
        within = (torch.arange(samples, device=self.hu.device) + 0.5) / samples - 0.5
        fine = self._pulled(
            self.hu,
            turn,
            centre,
            (side, side, count * samples),
            (spacing, spacing, 1.0),
            pool=self.pool,
            heights_mm=(heights_mm[:, None] + within * steps_mm[:, None]).reshape(-1),
        )
        slices = fine.reshape(side, side, count, samples).mean(3).permute(2, 0, 1)
        kernel = Kernel("", float(rng.uniform(0.26, 0.45)), float(rng.uniform(0, 0.4)))
        effects = self._effects(turn, centre, thickness, heights_mm, rng)
        noise = textured_noise(count, kernel=kernel, matrix=side, pixel_mm=spacing, generator=self.generator)
        level = float(rng.uniform(*recipe.noise_hu)) * math.sqrt(5.0 / max(thickness, 1.5)) ** 0.5
        slices = slices + effects[0] + noise * effects[1] * level
        slices = slices * float(rng.normal(1.0, 0.01)) + self._offset_hu(rng)
        return _between_slices(slices, side, spacing, heights_mm).clamp(-1024, 3071)

    def _offset_hu(self, rng: np.random.Generator) -> float:
        recipe = self.recipe
        usual, far = (
            float(rng.uniform(-recipe.offset_hu, recipe.offset_hu)),
            float(rng.uniform(*recipe.shifted_zero_hu)),
        )
        return far if rng.random() < recipe.shifted_zero and recipe.offset_hu > 0 else usual

    def _effects(
        self,
        turn: torch.Tensor,
        centre: torch.Tensor,
        thickness: float,
        heights_mm: torch.Tensor,
        rng: np.random.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return beam-hardening error and noise level (count, side, side), computed on whole coarse slices
        of the head.
        """
        recipe = self.recipe
        together = max(1, round(8.0 / thickness))
        count = len(heights_mm)
        groups = math.ceil(count / together)
        padded = functional.pad(heights_mm[None], (0, groups * together - count), mode="replicate")
        pixel = _FIELD_MM / RAYS
        away = turn.T @ (self.middle - centre) * self.spacing_mm  # the head's middle in the crop's axes, mm
        across = turn @ torch.cat([away[:2], torch.zeros_like(away[:1])]) / self.spacing_mm
        coarse = self._pulled(
            self.hu,
            turn,
            centre + across,
            (RAYS, RAYS, groups),
            (pixel, pixel, 1.0),
            pool=self.pool,
            heights_mm=padded.reshape(groups, together).mean(1),
        ).permute(2, 0, 1)
        rays = ray_effects(
            coarse,
            pixel_mm=pixel,
            strength=float(rng.uniform(*recipe.beam_hardening)),
            generator=self.generator,
            cupping_hu=recipe.cupping_hu * float(rng.random()) ** 2,
            streaks=0.5 + 2.5 * float(rng.random()) ** 2,
        )
        step = (torch.arange(recipe.side, device=coarse.device) - (recipe.side - 1) / 2) * recipe.spacing_mm
        x, y = ((step - away[axis]) * (2.0 / _FIELD_MM) for axis in (0, 1))
        grid = torch.stack(
            [y.view(1, -1).expand(recipe.side, -1), x.view(-1, 1).expand(-1, recipe.side)], dim=-1
        )[None]
        both = torch.cat([rays.error_hu, rays.noise])[None]
        spread = functional.grid_sample(both, grid, padding_mode="border", align_corners=False)[0]
        error, level = spread.repeat_interleave(together, dim=0).split(groups * together)
        return error[:count], level[:count]


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
    at = (torch.arange(side, device=slices.device, dtype=torch.float32) - (side - 1) / 2) * spacing_mm
    above = torch.searchsorted(heights_mm, at).clamp(1, len(heights_mm) - 1)
    low, high = heights_mm.index_select(0, above - 1), heights_mm.index_select(0, above)
    part = ((at - low) / (high - low)).clamp(0, 1).view(-1, 1, 1)
    return torch.lerp(slices.index_select(0, above - 1), slices.index_select(0, above), part).permute(1, 2, 0)
