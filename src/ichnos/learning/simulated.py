"""Batches of virtual patients for a training: each a pure function of the step's number, made ahead in a process of its own."""

from __future__ import annotations

from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from ichnos.inference import windows
from ichnos.learning.segmentation import Batch
from ichnos.simulation.patient import VirtualPatient
from ichnos.simulation.simulate import Wishes, simulate_patient
from ichnos.simulation.training import CropDrawer, Recipe

# The model's target -> the simulation's mask.
MASK_OF = {
    "brain": "brain",
    "ventricles": "ventricles",
    "ICH": "ich",
    "IVH": "ivh",
    "PHE": "phe",
    "leukoaraiosis": "leukoaraiosis",
    "tract_left": "tract_left",
    "tract_right": "tract_right",
}
_SAME_HEAD = 6  # patients in a row from one head: making a head ready takes longer than making a patient of it
_MNI = "mni152"


@dataclass(frozen=True)
class Population:
    """Whom to simulate: the label maps to start from (the MNI head beside them), and how many bleed."""

    heads: tuple[Path, ...] = ()  # label maps; empty: the MNI head alone
    haematoma_share: float = 0.65  # a third of the training heads never bleed
    spacing_mm: float = 2.0
    seed: int = 0

    def patient(self, number: int) -> VirtualPatient:
        """Make the patient of a number: the same number, the same patient."""
        from ichnos.simulation.label_heads import labelled_head
        from ichnos.simulation.mni_head import mni_head

        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        sources = [*self.heads, None]  # None: the MNI head
        source = sources[(number // _SAME_HEAD) % len(sources)]
        head = mni_head() if source is None else labelled_head(source)
        wishes = Wishes(spacing_mm=self.spacing_mm, haematoma_probability=self.haematoma_share, followup=False)
        return simulate_patient(seed, head, wishes)


@dataclass
class SimulatedBatches:
    """Call it with a step's number; it keeps the patients in use and has the next ones made meanwhile."""

    population: Population
    recipe: Recipe
    targets: tuple[str, ...]
    windows_hu: tuple[tuple[float, float], ...]
    size: int = 2  # crops per batch, each of another patient
    ahead: int = 2  # patients made in advance
    _makers: ProcessPoolExecutor | None = None
    _pending: dict[int, Future[VirtualPatient]] = field(default_factory=dict)
    _drawers: dict[int, tuple[CropDrawer, torch.Generator]] = field(default_factory=dict)

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step: crop `step` of each of `size` patients, who change every `crops_per_patient` steps."""
        block = step // self.recipe.crops_per_patient
        numbers = [block * self.size + k for k in range(self.size)]
        self._forget_others(numbers)
        crops = []
        for number in numbers:
            drawer, generator = self._drawer(number)
            seed = np.random.SeedSequence([self.population.seed, number, step])
            generator.manual_seed(int(seed.generate_state(1)[0]))
            crops.append(drawer.draw(rng=np.random.default_rng(seed)))
        channels = [crops[0].names.index(MASK_OF[target]) for target in self.targets]
        image = torch.stack([torch.from_numpy(windows(crop.hu.numpy(), self.windows_hu)) for crop in crops])
        truth = torch.stack([crop.targets[channels] for crop in crops]).float()
        return Batch(image, truth, torch.ones(len(crops), len(channels)))

    def _forget_others(self, numbers: list[int]) -> None:
        self._drawers = {n: drawer for n, drawer in self._drawers.items() if n in numbers}
        self._pending = {n: future for n, future in self._pending.items() if n >= numbers[0]}

    def _drawer(self, number: int) -> tuple[CropDrawer, torch.Generator]:
        if number not in self._drawers:
            for wanted in range(number, number + self.ahead + 1):
                if wanted not in self._pending and wanted not in self._drawers:
                    self._pending[wanted] = self._pool().submit(_make, self.population, wanted)
            patient = self._pending.pop(number).result()
            generator = torch.Generator().manual_seed(number)
            self._drawers[number] = (CropDrawer(patient, self.recipe, generator=generator), generator)
        return self._drawers[number]

    def _pool(self) -> ProcessPoolExecutor:
        if self._makers is None:
            self._makers = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,))
        return self._makers

    def close(self) -> None:
        """End the process that makes patients."""
        if self._makers is not None:
            self._makers.shutdown(cancel_futures=True)


def _make(population: Population, number: int) -> VirtualPatient:
    return population.patient(number)
