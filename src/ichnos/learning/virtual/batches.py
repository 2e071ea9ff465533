"""Batches of virtual patients: each a pure function of the step's number, made ahead in processes of their
own.

Simulating a patient takes seconds, looking at one a second, learning from a look less: so a group of patients
is looked at a few times each (other pose, scanner, noise), and each look is learnt from a few times (other
place, offset, field of view) before the next group.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from ichnos.arrays import Floats32
from ichnos.inference import windows
from ichnos.learning.segmentation.objective import Batch
from ichnos.models import COORDINATE_MM, TargetSpec
from ichnos.scan import Scan
from ichnos.simulation.crops import CropDrawer, Recipe
from ichnos.simulation.exams.ct import simulate_ct
from ichnos.simulation.exams.scanners import CtProtocol
from ichnos.simulation.exams.truth import masks_on_grid
from ichnos.simulation.patient import VirtualPatient
from ichnos.simulation.simulate import PatientSpec, simulate_patient
from ichnos.targets import TARGETS, mirrored, truth_masks
from ichnos.volume import Volume

_AXES = ("mni_x", "mni_y", "mni_z")
_AIR_HU = -1000.0
SMALL_ML, DISEASED_ML = (0.8, 8.0), (2.0, 50.0)  # drawn evenly in their logarithm


@dataclass(frozen=True)
class Population:
    """Whom to simulate: the label maps to start from (the MNI head beside them), and how many bleed."""

    heads: tuple[Path, ...] = ()  # label maps; empty: the MNI head alone
    haematoma_share: float = 0.6  # the others never bled: what must be read without any blood
    small_share: float = (
        0.3  # of those who bled: a clot of SMALL_ML, which the cohorts' law hardly ever draws
    )
    diseased_share: float = 0.5  # of all: white-matter disease of DISEASED_ML, whatever the age
    spacing_mm: float = 2.0
    seed: int = 0
    cache: Path | None = None  # folder where heads that were made ready are kept

    def patient(self, number: int) -> VirtualPatient:
        """Make the patient of a number: the same number, the same patient."""
        from ichnos.simulation.heads.from_labels import labelled_head
        from ichnos.simulation.heads.from_mni import mni_head

        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        sources = [*self.heads, None]  # None: the MNI head
        source = sources[number % len(sources)]
        head = mni_head(self.cache) if source is None else labelled_head(source, self.cache)
        return simulate_patient(seed, head, self._spec(np.random.default_rng(seed)))

    def _spec(self, rng: np.random.Generator) -> PatientSpec:
        """Return what the law of the cohorts is overruled in: what is rare must be learnt as well."""
        small, diseased = (float(np.exp(rng.uniform(*np.log(limits)))) for limits in (SMALL_ML, DISEASED_ML))
        return PatientSpec(
            spacing_mm=self.spacing_mm,
            haematoma_probability=self.haematoma_share,
            ich_ml=small if rng.random() < self.small_share else None,
            leukoaraiosis_ml=diseased if rng.random() < self.diseased_share else None,
            mni=True,
        )


@dataclass(frozen=True)
class Schedule:
    """How much is learnt from whom.

    >>> Schedule(patch=(48, 64, 48), patients=8, looks=3, uses=5).steps_per_group
    120
    """

    patch: tuple[int, int, int]
    spacing_mm: float = 3.0
    patients: int = 8  # in a group
    looks: int = 3  # at each of them
    uses: int = 5  # of each look
    size: int = 1  # patches in a batch
    side: int = 64  # of a look, voxels

    @property
    def steps_per_group(self) -> int:
        """Return the number of steps until the next patients."""
        return self.patients * self.looks * self.uses // self.size


@dataclass(frozen=True, eq=False)
class Look:
    """One look at a patient, in little memory."""

    hu: npt.NDArray[np.int16]  # (x, y, z)
    degrees: npt.NDArray[np.uint8]  # (target, x, y, z), eighths
    mni: npt.NDArray[np.int16]  # (3, x, y, z), sixteenths of a millimetre


@dataclass
class SimulatedBatches:
    """Return the batch of a step; one group of patients is kept while the next group is simulated."""

    population: Population
    schedule: Schedule
    targets: tuple[TargetSpec, ...]
    windows_hu: tuple[tuple[float, float], ...]
    makers: int = 1  # processes
    _pool: ProcessPoolExecutor | None = None
    _pending: dict[int, list[Future[list[Look]]]] = field(default_factory=dict)
    _looks: dict[int, list[Look]] = field(default_factory=dict)

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step."""
        schedule = self.schedule
        group, place = divmod(step, schedule.steps_per_group)
        looks = self._group(group)
        order = np.random.default_rng([self.population.seed, group]).permuted(
            np.tile(np.arange(len(looks)), (schedule.uses, 1)), axis=1
        )
        chosen = order.ravel()[place * schedule.size : (place + 1) * schedule.size]
        rng = np.random.default_rng([self.population.seed, group, place])
        pairs = [self._patch(looks[index], rng) for index in chosen]
        image = torch.stack([torch.from_numpy(windows(hu, self.windows_hu)) for hu, _ in pairs])
        truth = torch.stack([torch.from_numpy(truth) for _, truth in pairs])
        return Batch(image, truth, torch.ones(truth.shape[:2]))

    def _patch(self, look: Look, rng: np.random.Generator) -> tuple[Floats32, Floats32]:
        """Cut a patch out of a look, and change it as scans differ: mirrored, another offset and noise,
        cut off, on a pillow.
        """
        at = tuple(
            slice(int(o), int(o) + p)
            for p in self.schedule.patch
            for o in [rng.integers(0, self.schedule.side - p + 1)]
        )
        flipped = rng.random() < 0.5
        hu, gone = _cut_off(_on_pillow(_noisy(look.hu[at].astype(np.float32), rng), rng), rng)
        truth = self._truth(look, at, flipped=flipped)
        coordinates = [target.kind == "coordinate" for target in self.targets]
        truth[..., gone] = np.where(coordinates, np.float32(np.nan), np.float32(0))[:, None, None, None]
        return (hu[::-1].copy(), truth[:, ::-1].copy()) if flipped else (hu, truth)

    def _truth(self, look: Look, at: tuple[slice, ...], *, flipped: bool) -> Floats32:
        """Return the targets of a patch, with the names and signs that they have in its mirror image."""
        known = masks_among(target.name for target in self.targets)
        masks = dict(zip(known, look.degrees[(slice(None), *at)].astype(np.float32) / 8, strict=True))
        units = look.mni[(slice(None), *at)].astype(np.float32) / (16 * COORDINATE_MM)
        mni = dict(zip(_AXES, units, strict=True))
        outside = masks["brain"] < 0.5
        planes = []
        for target in self.targets:
            if target.kind == "coordinate":
                plane = -mni[target.name] if flipped and target.name == "mni_x" else mni[target.name]
                planes.append(np.where(outside, np.float32(np.nan), plane))
            else:
                planes.append(masks[mirrored(target.name) if flipped else target.name])
        return np.stack(planes)

    def _group(self, group: int) -> list[Look]:
        if group not in self._looks:
            self._ask(group)
            self._looks = {group: [look for future in self._pending.pop(group) for look in future.result()]}
        self._ask(group + 1)
        return self._looks[group]

    def _ask(self, group: int) -> None:
        """Have a group's looks made, if that has not been asked for."""
        self._pending = {g: futures for g, futures in self._pending.items() if g in (group - 1, group)}
        if group in self._pending:
            return
        if self._pool is None:
            context = get_context("spawn")
            self._pool = ProcessPoolExecutor(
                self.makers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)
            )
        first = group * self.schedule.patients
        numbers = range(first, first + self.schedule.patients)
        names = tuple(target.name for target in self.targets)
        self._pending[group] = [
            self._pool.submit(looks_at, self.population, self.schedule, names, number) for number in numbers
        ]

    def close(self) -> None:
        """End the processes that make patients."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def scanned(
    patient: VirtualPatient, protocol: CtProtocol, seed: int, masks: Sequence[str]
) -> tuple[Scan, dict[str, Volume]]:
    """Scan a patient as a whole; return the scan and the truth's masks on its grid."""
    made = simulate_ct(patient, protocol, generator=torch.Generator().manual_seed(seed))
    truth = masks_on_grid(
        patient,
        masks,
        affine=made.volume.affine,
        shape=made.volume.shape,
        patient_from_exam=made.patient_from_exam,
        thickness_mm=protocol.thickness_mm,
        motion=made.motion,
    )
    return Scan(made.volume, made.acquisition), truth


def masks_among(names: Iterable[str]) -> list[str]:
    """Return the targets among some names that simulation has a ground truth for, in the registry's order.

    >>> masks_among(["IVH", "mni_x", "ICH"])
    ['ICH', 'IVH']
    """
    wanted = set(names)
    return [name for name, target in TARGETS.items() if target.truth and name in wanted]


def looks_at(population: Population, schedule: Schedule, targets: tuple[str, ...], number: int) -> list[Look]:
    """Make a patient and look at it a few times: drawn at half the voxel size and averaged, as a real scan
    is when it is resampled.
    """
    patient = population.patient(number)
    recipe = Recipe(spacing_mm=schedule.spacing_mm / 2, side=2 * schedule.side)
    drawer = CropDrawer(patient, recipe, generator=torch.Generator().manual_seed(number))
    made = []
    for look in range(schedule.looks):
        rng = np.random.default_rng([population.seed, number, look])
        crop = drawer.draw(rng=rng)
        assert crop.mni_mm is not None
        names = list(crop.names)
        degrees = []
        for target in masks_among(targets):
            parts = [crop.targets[names.index(mask)] for mask in truth_masks(target)]
            degrees.append(torch.stack(parts).amax(0).float())
        hu = F.avg_pool3d(crop.hu[None, None], 2)[0, 0]
        eighths = F.avg_pool3d(torch.stack(degrees)[None], 2)[0] * 8
        mni = F.avg_pool3d(crop.mni_mm[None], 2)[0] * 16
        made.append(
            Look(hu.round().short().numpy(), eighths.round().byte().numpy(), mni.round().short().numpy())
        )
    return made


def _noisy(hu: Floats32, rng: np.random.Generator) -> Floats32:
    """Shift the whole scale, add grain."""
    hu = hu + np.float32(rng.normal(0, 3))
    if rng.random() < 0.5:
        hu = hu + rng.standard_normal(hu.shape, np.float32) * np.float32(rng.uniform(0, 4))
    return np.asarray(hu, np.float32)


def _on_pillow(hu: Floats32, rng: np.random.Generator) -> Floats32:
    """Lay something under the head, or around it: a pillow, a holder's shell, blankets; only in what is
    air, behind some plane.
    """
    if rng.random() < 0.5:
        return hu
    depth = hu.shape[1]
    curve = (
        rng.uniform(0, 0.25)
        * (np.abs(np.arange(hu.shape[0]) - hu.shape[0] / 2)[:, None, None] / hu.shape[0]) ** 2
        * 4
        * depth
    )
    behind = np.arange(depth)[None, :, None] < depth * rng.uniform(0, 0.45) + curve
    shell = np.abs(np.arange(depth)[None, :, None] - depth * rng.uniform(0, 0.2) - curve) < rng.uniform(
        0.4, 1.2
    )
    free = hu < -600
    hu = np.where(free & behind, np.float32(rng.uniform(-980, -850)), hu)
    return np.where(free & shell & behind, np.float32(rng.uniform(-400, 150)), hu)


def _cut_off(hu: Floats32, rng: np.random.Generator) -> tuple[Floats32, slice]:
    """End the scan above the patch's lower edge, in a third of the patches; return the planes that are
    gone.
    """
    gone = slice(0, int(rng.integers(1, hu.shape[2] // 2))) if rng.random() < 0.33 else slice(0, 0)
    hu[:, :, gone] = _AIR_HU
    return hu, gone
