"""The default network: brain, ventricles, ICH, IVH, PHE, leukoaraiosis and both tracts in one pass, learnt
from virtual patients alone.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch

from ichnos.cohort import SIMULATED_ONLY
from ichnos.learning.loop.checkpoints import reached
from ichnos.learning.loop.resources import ON_CPU, Resources
from ichnos.learning.loop.settings import LoopSettings
from ichnos.learning.segmentation.objective import SegmentationSettings, train_segmentation
from ichnos.learning.segmentation.operating_points import operating_points
from ichnos.learning.segmentation.settings import Objective
from ichnos.learning.virtual.batches import Population, Schedule, SimulatedBatches
from ichnos.learning.virtual.origin import Origin, origin
from ichnos.models import (
    Manifest,
    Model,
    NetworkSpec,
    Preprocessing,
    Provenance,
    TargetSpec,
    load_model,
    save_model,
)
from ichnos.models.store import sha256

HEAD_WINDOWS_HU = ((-20, 100), (0, 40), (20, 80), (-1000, 1000))  # brain, white matter, blood, bone and air
HELD_OUT = 4  # the last label maps of a folder are never trained on
LIMITS = (
    SIMULATED_ONLY,
    "Never simulated: children, tumours, contrast agent, trauma, tumour surgery, air in the head.",
    "Never simulated: subdural or epidural blood; subarachnoid blood other than beside a superficial bleed.",
    "Its probabilities have not been calibrated on real scans.",
)
DEFAULT_TARGETS = (
    TargetSpec(name="brain"),
    TargetSpec(name="ventricles"),
    TargetSpec(name="ICH", group="haematoma"),
    TargetSpec(name="IVH", group="haematoma"),
    TargetSpec(name="PHE", group="haematoma"),
    TargetSpec(name="leukoaraiosis", group="leukoaraiosis"),
    TargetSpec(name="infarct", group="leukoaraiosis"),
    TargetSpec(name="tract_left", group="tract"),
    TargetSpec(name="tract_right", group="tract"),
    TargetSpec(name="followup", group="expansion"),
    TargetSpec(name="mni_x", kind="coordinate"),
    TargetSpec(name="mni_y", kind="coordinate"),
    TargetSpec(name="mni_z", kind="coordinate"),
)


_ARCHITECTURE = {
    "input_channels": 4,
    "num_classes": len(DEFAULT_TARGETS),
    "dim": 3,
    "features_per_stage": [16, 32, 64, 96, 128],
    "strides": [1, 2, 2, 2, 2],
    "n_conv_per_stage": [1, 1, 2, 2, 2],
    "n_conv_per_stage_decoder": [1, 1, 1, 1],
}
_GENTLER: dict[str, Any] = {
    "learning_rate": 8e-4,
    "sparse_weight": 0.2,
}  # for weights that have learnt already


def taught_heads(heads: tuple[Path, ...]) -> tuple[Path, ...]:
    """Return the label maps that are trained on: all of a folder but those held out.

    >>> len(taught_heads(tuple(Path(f"head{k}.nii") for k in range(10))))
    6
    """
    return heads[:-HELD_OUT] if len(heads) > HELD_OUT else heads


def default_settings(
    *,
    steps: int,
    patch: tuple[int, int, int] = (48, 64, 48),
    learning_rate: float = 1.5e-3,
    sparse_weight: float = 0.5,
) -> SegmentationSettings:
    """Return the settings of the default network: a residual U-Net at 3 mm that sees nearly the whole head
    at once, in four HU windows.
    """
    loop = LoopSettings(
        steps=steps, learning_rate=learning_rate, warm_up_steps=200, ema_decay=0.998, validations=0, batch=1
    )
    return SegmentationSettings(
        network=NetworkSpec(name="unet", arguments=_ARCHITECTURE),
        preprocessing=Preprocessing(spacing_mm=(3.0, 3.0, 3.0), windows_hu=HEAD_WINDOWS_HU, patch=patch),
        targets=DEFAULT_TARGETS,
        loop=loop,
        objective=Objective(sparse_weight=sparse_weight),
    )


def train_default(
    out: Path,
    *,
    heads: tuple[Path, ...],
    work: Path,
    steps: int,
    go_on_from: Path | None = None,
    resources: Resources = ON_CPU,
) -> Model:
    """Train, or go on training, within the time given; write the Model with its provenance to `out`.

    `work` holds the checkpoint that the next call goes on from; without one, training starts from the weights
    of the model folder `go_on_from`, if given, with a gentler learning rate and on unseen patients.
    """
    earlier = load_model(go_on_from) if go_on_from is not None else None
    began = origin(work, earlier)
    settings = default_settings(steps=steps, **(_GENTLER if began.steps else {}))
    settings = settings.model_copy(update={"data": _named(taught_heads(heads))})
    batches = _batches(settings.preprocessing, taught_heads(heads), began.steps, resources.cache)
    initial = earlier.network().state_dict() if earlier else None
    try:
        network = train_segmentation(settings, batches, work, initial=initial, resources=resources)
        unseen = _unseen(batches.schedule, reached(work))
        points = operating_points(network, batches, unseen, DEFAULT_TARGETS)
    finally:
        batches.close()
    provenance = simulated_provenance(settings.loop, began, taught_heads(heads), work, resources)
    return save_model(out, network, _manifest(settings, points, provenance))


def _named(heads: tuple[Path, ...]) -> str:
    """Return the heads as the checkpoint knows them: a training on others is another training."""
    return ", ".join(head.name for head in heads)


def _batches(how: Preprocessing, heads: tuple[Path, ...], seed: int, cache: Path | None) -> SimulatedBatches:
    """Return batches of simulated patients; with the earlier steps as seed, of patients not seen before."""
    population = Population(heads=heads, seed=seed, cache=cache)
    return SimulatedBatches(
        population, Schedule(how.patch, how.spacing_mm[0]), DEFAULT_TARGETS, how.windows_hu
    )


def _unseen(schedule: Schedule, done: int) -> range:
    """Return the steps that look once at each patient of a group far enough ahead that none of it was
    learnt from.
    """
    first = (done // schedule.steps_per_group + 2) * schedule.steps_per_group
    return range(first, first + schedule.patients * schedule.looks // schedule.size)


def simulated_provenance(
    loop: LoopSettings,
    began: Origin,
    heads: tuple[Path, ...],
    work: Path,
    resources: Resources,
    *seeds: int,
) -> Provenance:
    """Return where weights come from that were learnt from virtual patients, the earlier ones included."""
    cores = f"{torch.get_num_threads()} CPU core(s), {platform.machine()}"
    return Provenance.of_today(
        command=resources.command,
        seeds=(loop.seed, *seeds),
        steps=began.steps + reached(work),
        data={"mni152 (nilearn)": "as shipped", **{head.name: sha256(head) for head in heads}},
        hardware="1 GPU" if resources.device != "cpu" else cores,
        parents=began.parents,
    )


def _manifest(
    settings: SegmentationSettings, points: tuple[TargetSpec, ...], provenance: Provenance
) -> Manifest:
    return Manifest(
        name="ichnos-multi",
        version="0.1",
        limits=LIMITS,
        network=settings.network,
        preprocessing=settings.preprocessing,
        targets=points,
        provenance=provenance,
    )
