"""Batches of patches of patients, each a pure function of its number, also mixed with simulated patients."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from ichnos.errors import UsageError
from ichnos.learning.loop.resources import Resources
from ichnos.learning.segmentation.augmentation import (
    network_input,
    rescanned,
    turned,
)
from ichnos.learning.segmentation.cases import DEGREE_STEPS, TrainingCase
from ichnos.learning.segmentation.objective import Batch, BatchAt
from ichnos.learning.segmentation.settings import OFF, Augmentation, TrainSettings
from ichnos.models import Preprocessing, TargetSpec
from ichnos.scan import AIR_HU
from ichnos.targets import mirrored, mirrored_channels


@dataclass(frozen=True, eq=False)
class CohortBatches:
    """Call it with a number: a batch of patches, evenly over patients, some centred on a target."""

    cases: Sequence[TrainingCase]
    targets: tuple[str, ...]
    how: Preprocessing
    size: int = 2
    foreground_share: float = 0.6  # share of patches centred on a voxel of a target, every target alike
    augmentation: Augmentation = OFF
    flat: bool = False  # the network sees slices: the z axis of one voxel is dropped
    device: str = "cpu"
    seed: int = 0

    def __call__(self, number: int) -> Batch:
        """Return the batch of a number."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, number]))
        generator = torch.Generator(device=self.device).manual_seed(int(rng.integers(2**62)))
        patches = [self._patch(self._case(rng), rng, generator) for _ in range(self.size)]
        image = network_input(torch.stack([hu for hu, _, _ in patches]), self.how)
        truth, known = torch.stack([t for _, t, _ in patches]), torch.stack([k for _, _, k in patches])
        return Batch(image[..., 0], truth[..., 0], known) if self.flat else Batch(image, truth, known)

    def _case(self, rng: np.random.Generator) -> TrainingCase:
        return self.cases[int(rng.integers(len(self.cases)))]

    def _patch(
        self, case: TrainingCase, rng: np.random.Generator, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return HU (x, y, z), degrees (target, x, y, z) and which targets are known (target,)."""
        change, patch = self.augmentation, self.how.patch
        is_turned = rng.random() < change.turned_share
        grow = [1 + change.margin if is_turned and n > 1 else 1.0 for n in patch]
        size = [int(np.ceil(n * g)) for n, g in zip(patch, grow, strict=True)]
        corner = self._centre(case, rng) - np.array(size) // 2
        region = torch.cat([part.to(self.device) for part in _cut(case, corner, size)])
        if is_turned:
            region = turned(region, patch, change, rng)
        hu, degrees = rescanned(region[0], change, rng, generator), region[1:]
        known = torch.tensor(case.known, dtype=torch.float32, device=self.device)
        if rng.random() < change.mirrored_share:
            order = self._mirrored()
            hu, degrees, known = hu.flip(0), degrees[order].flip(1), known[order]
        return hu, degrees, known

    def _mirrored(self) -> list[int]:
        """Return the channel of each target in a mirror image: left and right are exchanged."""
        alone = [t for t in self.targets if mirrored(t) not in self.targets]
        if alone:
            raise UsageError(
                f"{alone[0]} is trained without {mirrored(alone[0])}: train both, or turn mirroring off"
                " (mirrored_share=0)"
            )
        return mirrored_channels(self.targets)

    def _centre(self, case: TrainingCase, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Draw the voxel in the middle of a patch."""
        shape, centres = np.array(case.hu.shape), case.centres
        on_target = rng.random() < self.foreground_share
        if on_target and len(centres):
            channel = rng.choice(np.unique(centres[:, 0]))
            of_target = np.flatnonzero(centres[:, 0] == channel)
            jitter = np.round(rng.uniform(-0.25, 0.25, 3) * np.array(self.how.patch)).astype(int)
            return np.asarray(centres[rng.choice(of_target), 1:] + jitter, np.int64)
        half = np.minimum(np.array(self.how.patch) // 2, shape // 2)
        return np.asarray(rng.integers(half, np.maximum(shape - half, half + 1)), np.int64)


def _cut(
    case: TrainingCase, corner: npt.NDArray[np.int64], size: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Read a region (1, x, y, z) of HU and (target, x, y, z) of degrees, reaching beyond the grid into air
    where it must.
    """
    shape = case.hu.shape
    inside = tuple(
        slice(max(0, int(c)), min(n, int(c) + s)) for c, s, n in zip(corner, size, shape, strict=True)
    )
    into = tuple(slice(i.start - int(c), i.stop - int(c)) for i, c in zip(inside, corner, strict=True))
    hu = np.full(size, AIR_HU, np.float32)
    degrees = np.zeros((len(case.known), *size), np.float32)
    if all(i.start < i.stop for i in inside):
        hu[into] = case.hu[inside]
        degrees[(slice(None), *into)] = case.degrees[(slice(None), *inside)]
    return torch.from_numpy(hu)[None], torch.from_numpy(degrees / DEGREE_STEPS)


@dataclass(frozen=True, eq=False)
class Mixed:
    """Batches of two sources at a stated ratio, evenly interleaved; each source counts its own batches from
    0.

    >>> mixed = Mixed(lambda n: ("real", n), lambda n: ("simulated", n), simulated_share=0.25)
    >>> [mixed(n) for n in range(5)]
    [('real', 0), ('real', 1), ('real', 2), ('simulated', 0), ('real', 3)]
    """

    real: BatchAt
    simulated: BatchAt
    simulated_share: float

    def __call__(self, number: int) -> Batch:
        """Return the batch of a number."""
        before, after = (int(np.floor(n * self.simulated_share + 1e-9)) for n in (number, number + 1))
        return self.simulated(before) if after > before else self.real(number - before)


@dataclass(eq=False)
class Ahead:
    """Prefetch the next batches in threads; the batches are the same."""

    batch_at: BatchAt
    workers: int
    stride: int = 1  # numbers between two batches of this process (the size of the team)
    _pool: ThreadPoolExecutor | None = None
    _pending: dict[int, Future[Batch]] = field(default_factory=dict)

    def __call__(self, number: int) -> Batch:
        """Return the batch of a number."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.workers)
        for wanted in range(number, number + (self.workers + 1) * self.stride, self.stride):
            if wanted not in self._pending:
                self._pending[wanted] = self._pool.submit(self.batch_at, wanted)
        self._pending = {n: future for n, future in self._pending.items() if n >= number}
        return self._pending.pop(number).result()

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


_VIEW_MARGIN = 8  # voxels by which a view of a simulated patient is larger than a patch


def batch_source(settings: TrainSettings, cases: Sequence[TrainingCase], resources: Resources) -> BatchAt:
    """Return the batches of a training; `close` ends their threads and processes."""
    real: BatchAt = CohortBatches(
        [case for case in cases if case.split == "train"],
        settings.names,
        settings.preprocessing,
        size=settings.loop.batch,
        foreground_share=settings.sampling.foreground_share,
        augmentation=settings.sampling.augmentation,
        flat=settings.flat,
        device=resources.device,
        seed=settings.loop.seed,
    )
    if resources.workers:
        real = Ahead(real, resources.workers, resources.team.size)
    share = settings.sampling.simulated_share
    return Mixed(real, simulated_batches(settings, resources), share) if share > 0 else real


def close(source: object) -> None:
    """End threads and processes of a source of batches, where it has any."""
    for part in (source, getattr(source, "real", None), getattr(source, "simulated", None)):
        if hasattr(part, "close"):
            part.close()


def simulated_batches(settings: TrainSettings, resources: Resources) -> ChosenChannels:
    """Return batches of patients who are simulated during training, with the targets of the settings."""
    from ichnos.learning.virtual.batches import Population, Schedule, SimulatedBatches

    spacing, patch = settings.preprocessing.spacing_mm, settings.preprocessing.patch
    if len(set(spacing)) > 1 or settings.flat or not 2 <= spacing[0] <= 6:
        raise UsageError(
            "simulated patients can be mixed in at one voxel size of 2 to 6 mm in all directions, but"
            f" spacing {spacing} with patch {patch} was given; give --spacing 2,2,2 with a patch of three"
            " sides, or --simulated-share 0"
        )
    schedule = Schedule(
        patch, spacing_mm=spacing[0], size=settings.loop.batch, side=max(patch) + _VIEW_MARGIN
    )
    population = Population(heads=resources.anatomies, seed=settings.loop.seed, cache=resources.cache)
    # the brain says where a head is cut off
    simulated = (TargetSpec(name="brain"), *[t for t in settings.targets if t.name != "brain"])
    channels = [[t.name for t in simulated].index(name) for name in settings.names]
    batches = SimulatedBatches(population, schedule, simulated, settings.preprocessing.windows_hu)
    return ChosenChannels(batches, channels, resources.device)


@dataclass(frozen=True, eq=False)
class ChosenChannels:
    """Some channels of another source's batches, moved to the device of the network."""

    batch_at: BatchAt
    channels: list[int]
    device: str

    def __call__(self, number: int) -> Batch:
        """Return the batch of a number."""
        batch = self.batch_at(number)
        truth, known = batch.truth[:, self.channels], batch.known[:, self.channels]
        return Batch(batch.image.to(self.device), truth.to(self.device), known.to(self.device))

    def close(self) -> None:
        """End the processes of the other source."""
        close(self.batch_at)
