"""The refinement of a model: learnt from scans of virtual patients that the model has read, so that it learns
the model's own errors.

First a pool is made: patients are scanned, the model reads them, and what the refinement would be shown is
kept beside the truth. Then batches are drawn from the pool, each a pure function of its step's number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache as kept_once
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ichnos.arrays import Floats32
from ichnos.errors import InputRefused
from ichnos.inference import Predictor
from ichnos.inference.refine import RefinerInput, calibrated, channels_of, refiner_input, region_of
from ichnos.learning.loop.resources import ON_CPU, Resources
from ichnos.learning.loop.settings import LoopSettings
from ichnos.learning.segmentation.objective import (
    Batch,
    SegmentationSettings,
    train_segmentation,
)
from ichnos.learning.segmentation.settings import Objective
from ichnos.learning.virtual.batches import DISEASED_ML, SMALL_ML, scanned
from ichnos.learning.virtual.default_model import HEAD_WINDOWS_HU, LIMITS, simulated_provenance, taught_heads
from ichnos.learning.virtual.origin import origin
from ichnos.models import (
    ATLAS_CHANNELS,
    LOGIT_UNIT,
    Manifest,
    Model,
    NetworkSpec,
    Preprocessing,
    Provenance,
    TargetSpec,
    load_model,
    save_model,
)
from ichnos.models.store import REFINEMENT
from ichnos.runs import Numbered
from ichnos.simulation.exams.scanners import CENTRES, draw_protocol
from ichnos.simulation.heads.from_labels import labelled_head
from ichnos.simulation.heads.from_mni import mni_head
from ichnos.simulation.patient import SITES, VirtualPatient
from ichnos.simulation.simulate import PatientSpec, simulate_patient
from ichnos.targets import mirrored_channels, truth_masks
from ichnos.volume import Volume

# Operating points: where masks overlapped most, all rules of reading applied, on 21 simulated scans of
# training heads outside the pool.
# Blood is asked for what is sure of it: the scan's density draws its borders.
REFINED_TARGETS = (
    TargetSpec(name="brain", threshold=0.4),
    TargetSpec(name="ventricles", threshold=0.45),
    TargetSpec(name="ICH", group="haematoma", threshold=0.6),
    TargetSpec(name="IVH", group="haematoma", threshold=0.6),
    TargetSpec(name="PHE", group="haematoma", threshold=0.25),
    TargetSpec(name="leukoaraiosis", group="leukoaraiosis", threshold=0.35),
    TargetSpec(name="infarct", group="leukoaraiosis"),
    TargetSpec(name="tract_left", group="tract"),
    TargetSpec(name="tract_right", group="tract"),
)
NAMES = tuple(target.name for target in REFINED_TARGETS)
HOW = Preprocessing(spacing_mm=(1.5, 1.5, 3.0), windows_hu=HEAD_WINDOWS_HU, patch=(80, 96, 16))
LEAST_SCANS = 8  # of a pool
SCANS = 2  # of each patient, on different scanners
_SEED = 9_100_000
_BLEEDING, _SMALL, _DISEASED = 0.75, 0.4, 0.4  # shares of patients; the last two as in simulated.Population
_SHIFT_HU = 4.0  # sd of the error of a scanner's zero, which the first network has met as well
_LOGIT_STEPS, _SHARE_STEPS = 16, 255  # in which logits and shares are kept as small integers
# six patches of ten are laid around a voxel of these
_OWN = tuple(NAMES.index(name) for name in ("ICH", "IVH", "PHE", "leukoaraiosis"))
_SWAPPED = mirrored_channels(NAMES)
_ARCHITECTURE = {
    "input_channels": len(HOW.windows_hu) + len(NAMES) + ATLAS_CHANNELS,
    "num_classes": len(NAMES),
    "first_logits": len(HOW.windows_hu),
    "logit_unit": LOGIT_UNIT,
    "features_per_stage": [16, 32, 64],
    "kernel_sizes": [[3, 3, 1], 3, 3],
    "strides": [1, [2, 2, 1], 2],
}


def patient_of(
    number: int, heads: Sequence[Path], cache: Path | None, rng: np.random.Generator
) -> VirtualPatient:
    """Make the patient of a number, at 1 mm; small clots, at each site as often, and much leukoaraiosis
    are commoner than in cohorts.
    """
    source = [*heads, None][number % (len(heads) + 1)]
    head = mni_head(cache) if source is None else labelled_head(source, cache)
    small, diseased = (float(np.exp(rng.uniform(*np.log(limits)))) for limits in (SMALL_ML, DISEASED_ML))
    is_small = rng.random() < _SMALL
    spec = PatientSpec(
        haematoma_probability=_BLEEDING,
        followup=False,
        ich_ml=small if is_small else None,
        site=SITES[int(rng.integers(len(SITES)))] if is_small else None,
        leukoaraiosis_ml=diseased if rng.random() < _DISEASED else None,
    )
    return simulate_patient(_SEED + number, head, spec)


def looks(
    case: Numbered, folder: Path, *, model: Path, heads: tuple[Path, ...], cache: Path | None
) -> dict[str, Any]:
    """Scan a patient, let the model read each scan, and keep what the refinement would be shown with the
    truth.
    """
    torch.set_num_threads(1)
    rng = np.random.default_rng([_SEED, case.number])
    patient = patient_of(case.number, heads, cache, rng)
    masks = list(truth_masks(*NAMES))
    for k in range(SCANS):
        protocol = draw_protocol(CENTRES[sorted(CENTRES)[(case.number + 3 * k) % len(CENTRES)]], rng=rng)
        scan, truth = scanned(patient, protocol, SCANS * case.number + k, masks)
        shift = np.float32(np.clip(rng.normal(0, _SHIFT_HU), -9, 9))
        shifted = replace(
            scan, volume=scan.volume.with_array(np.asarray(scan.volume.array, np.float32) + shift)
        )
        look = refiner_input(_first(model)(shifted), NAMES, HOW.spacing_mm)
        true = np.stack(
            [np.maximum.reduce([_pulled(look, truth[mask]) for mask in truth_masks(name)]) for name in NAMES]
        )
        _keep(folder / f"{case.number:04d}_{k}.npz", look, true)
    return {"bled": bool(patient.latent.has_haematoma), "head": patient.latent.source}


@kept_once
def _first(model: Path) -> Predictor:
    """Return the predictor without its refinement, made once in each process."""
    return Predictor(load_model(model), threads=1, refine=False)


def _pulled(look: RefinerInput, mask: Volume) -> npt.NDArray[np.float32]:
    return look.grid.pull(np.asarray(mask.reoriented("RAS").array, np.float32))


def _keep(file: Path, look: RefinerInput, truth: npt.NDArray[np.float32]) -> None:
    np.savez(
        file,
        hu=np.clip(look.hu, -1024, 3000).round().astype(np.int16),
        lg=(look.logits * _LOGIT_STEPS).round().astype(np.int8),
        sh=(look.atlas * _SHARE_STEPS).round().astype(np.uint8),
        truth=(truth * _SHARE_STEPS).round().astype(np.uint8),
    )


@dataclass(frozen=True, eq=False)
class _Shown:
    """One scan of the pool, cut to the region that is refined."""

    hu: npt.NDArray[np.float32]  # calibrated
    logits: npt.NDArray[np.int8]
    atlas: npt.NDArray[np.uint8]
    truth: npt.NDArray[np.uint8]
    own: tuple[npt.NDArray[np.int32], ...]  # of each target of _OWN that occurs: its voxels

    @classmethod
    def of(cls, file: Path) -> _Shown:
        with np.load(file) as held:
            logits = held["lg"].astype(np.float32) / np.float32(_LOGIT_STEPS)
            box = region_of(logits, NAMES)
            at = (slice(None), *box.slices)
            hu = calibrated(held["hu"][box.slices].astype(np.float32), logits[at], NAMES)
            truth = held["truth"][at]
            own = [np.flatnonzero(truth[channel] > _SHARE_STEPS // 2).astype(np.int32) for channel in _OWN]
            return cls(
                hu, held["lg"][at], held["sh"][at], truth, tuple(where for where in own if len(where) > 8)
            )


@dataclass(eq=False)
class PoolBatches:
    """One patch of one scan of the pool per step; scans are read when they are first met."""

    files: tuple[Path, ...]
    seed: int = 0
    _shown: dict[Path, _Shown] = field(default_factory=dict)

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step."""
        rng = np.random.default_rng([self.seed, step])
        file = self.files[int(rng.integers(len(self.files)))]
        if file not in self._shown:
            self._shown[file] = _Shown.of(file)
        image, truth = _patch(self._shown[file], rng)
        return Batch(torch.from_numpy(image)[None], torch.from_numpy(truth)[None], torch.ones(1, len(NAMES)))


def _patch(shown: _Shown, rng: np.random.Generator) -> tuple[Floats32, Floats32]:
    """Cut a patch and change it a little: another zero, grain, a first network that is more or less sure,
    left and right exchanged.
    """
    at = _place(shown, rng)
    every = (slice(None), *at)
    logits = shown.logits[every].astype(np.float32) / np.float32(_LOGIT_STEPS)
    atlas = shown.atlas[every].astype(np.float32) / np.float32(_SHARE_STEPS)
    truth = shown.truth[every].astype(np.float32) / np.float32(_SHARE_STEPS)
    hu = shown.hu[at] + np.float32(rng.normal(0, 1.2))
    if rng.random() < 0.4:
        hu = hu + rng.standard_normal(hu.shape, np.float32) * np.float32(rng.uniform(0, 3))
    if rng.random() < 0.3:
        moved = rng.normal(0, 0.3, (len(logits), 1, 1, 1)).astype(np.float32)
        logits = logits * np.float32(rng.uniform(0.8, 1.1)) + moved
    if rng.random() < 0.5:
        hu, atlas = hu[::-1], atlas[::-1, ::-1]
        logits, truth = logits[_SWAPPED][:, ::-1], truth[_SWAPPED][:, ::-1]
    missing = [(0, 0), *((0, wanted - n) for wanted, n in zip(HOW.patch, hu.shape, strict=True))]
    image = np.pad(channels_of(hu, logits, atlas, HOW), missing, constant_values=HOW.padding)
    return image, np.pad(truth, missing)


def _place(shown: _Shown, rng: np.random.Generator) -> tuple[slice, ...]:
    room = [max(0, n - p) for n, p in zip(shown.hu.shape, HOW.patch, strict=True)]
    if shown.own and rng.random() < 0.6:
        where = shown.own[int(rng.integers(len(shown.own)))]
        centre = np.unravel_index(where[int(rng.integers(len(where)))], shown.hu.shape)
        corner = [
            int(c) - p // 2 + int(rng.integers(-p // 4, p // 4 + 1))
            for c, p in zip(centre, HOW.patch, strict=True)
        ]
        starts = [min(max(0, c), last) for c, last in zip(corner, room, strict=True)]
    else:
        starts = [int(rng.integers(0, last + 1)) for last in room]
    return tuple(slice(start, start + p) for start, p in zip(starts, HOW.patch, strict=True))


def refinement_settings(
    *, steps: int, pool: Sequence[Path], learning_rate: float = 2e-3
) -> SegmentationSettings:
    """Return the settings of the refinement: two resolutions of small width, for all else the first
    network has seen.
    """
    return SegmentationSettings(
        network=NetworkSpec(name="refiner", arguments=_ARCHITECTURE),
        preprocessing=HOW,
        targets=REFINED_TARGETS,
        loop=LoopSettings(
            steps=steps,
            learning_rate=learning_rate,
            warm_up_steps=50,
            ema_decay=0.998,
            validations=0,
            batch=1,
        ),
        objective=Objective(sparse_weight=0.0),
        data=f"{len(pool)} scans from {pool[0].name} to {pool[-1].name}" if pool else "",
    )


def train_refinement(
    model: Model,
    scans: tuple[Path, ...],
    *,
    heads: tuple[Path, ...],
    work: Path,
    steps: int,
    anew: bool = False,
    resources: Resources = ON_CPU,
) -> Model:
    """Train, or go on training, within the time given; write the refinement with its provenance into the
    model's folder.

    `work` holds the checkpoint that the next call goes on from; without one, training starts from the
    refinement that is there, unless `anew`.
    """
    if len(scans) < LEAST_SCANS:
        raise InputRefused(
            f"{len(scans)} scan(s) are too few to learn a refinement from; make {LEAST_SCANS} at least"
        )
    earlier = None if anew else model.refinement()
    settings = refinement_settings(steps=steps, pool=scans)
    began = origin(work, earlier)
    batches = PoolBatches(scans, seed=began.steps)
    initial = earlier.network().state_dict() if earlier else None
    network = train_segmentation(settings, batches, work, initial=initial, resources=resources)
    provenance = simulated_provenance(settings.loop, began, taught_heads(heads), work, resources, _SEED)
    return save_model(model.folder / REFINEMENT, network, _manifest(model, settings, provenance))


def scans_of(pool: Path, number: int) -> tuple[Path, ...]:
    """Return the scans of a patient in a pool."""
    return tuple(sorted(pool.glob(f"{number:04d}_*.npz")))


def _manifest(model: Model, settings: SegmentationSettings, provenance: Provenance) -> Manifest:
    return Manifest(
        name=f"{model.manifest.name}-refinement",
        version=model.manifest.version,
        limits=LIMITS,
        network=settings.network,
        preprocessing=HOW,
        targets=REFINED_TARGETS,
        refines=model.manifest.weights_sha256,
        provenance=provenance,
    )
