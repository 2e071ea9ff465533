"""The batches of a segmentation training: from patients of the cohort, from simulated patients, or both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ichnos.errors import UsageError
from ichnos.learning.loop.resources import Resources
from ichnos.learning.segmentation.batches import Ahead, CohortBatches, Mixed
from ichnos.learning.segmentation.cases import TrainingCase
from ichnos.learning.segmentation.objective import Batch, BatchAt
from ichnos.learning.segmentation.settings import TrainSettings
from ichnos.models import TargetSpec

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
