"""The default network: brain, ventricles, ICH, IVH, PHE, leukoaraiosis and both tracts in one pass, learnt
from virtual patients alone.
"""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable
from pathlib import Path

import torch

import ichnos
from ichnos.learning.loop.settings import LoopSettings
from ichnos.learning.loop.training import Progress
from ichnos.learning.segmentation.objective import SegmentationSettings, train_segmentation
from ichnos.learning.segmentation.operating_points import operating_points
from ichnos.learning.segmentation.settings import Objective
from ichnos.learning.virtual.batches import Population, Schedule, SimulatedBatches
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

HELD_OUT = 4  # the last label maps of a folder are never trained on
LIMITS = (
    "Trained on simulated patients only; it has never seen a real scan.",
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
    return SegmentationSettings(
        network=NetworkSpec(
            name="unet",
            arguments={
                "input_channels": 4,
                "num_classes": len(DEFAULT_TARGETS),
                "dim": 3,
                "features_per_stage": [16, 32, 64, 96, 128],
                "strides": [1, 2, 2, 2, 2],
                "n_conv_per_stage": [1, 1, 2, 2, 2],
                "n_conv_per_stage_decoder": [1, 1, 1, 1],
            },
        ),
        preprocessing=Preprocessing(
            spacing_mm=(3.0, 3.0, 3.0), windows_hu=((-20, 100), (0, 40), (20, 80), (-1000, 1000)), patch=patch
        ),
        targets=DEFAULT_TARGETS,
        loop=LoopSettings(
            steps=steps,
            learning_rate=learning_rate,
            warm_up_steps=200,
            ema_decay=0.998,
            validations=0,
            batch=1,
        ),
        objective=Objective(sparse_weight=sparse_weight),
    )


def train_default(
    out: Path,
    *,
    heads: tuple[Path, ...],
    work: Path,
    steps: int,
    seconds: float,
    device: str = "cpu",
    command: str = "",
    cache: Path | None = None,
    go_on_from: Path | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Model:
    """Train, or go on training, for at most `seconds`; write the Model with its provenance to `out`.

    `work` holds the checkpoint that the next call goes on from; without one, training starts from the weights
    of the model folder `go_on_from`, if given: a new schedule, a gentler learning rate, and patients that it
    has not seen.
    """
    earlier = load_model(go_on_from) if go_on_from is not None else None
    settings = (
        default_settings(steps=steps)
        if earlier is None
        else default_settings(steps=steps, learning_rate=8e-4, sparse_weight=0.2)
    )
    used = taught_heads(heads)
    how = settings.preprocessing
    taught = earlier.manifest.provenance.steps if earlier else 0
    batches = SimulatedBatches(
        Population(heads=used, seed=taught, cache=cache),
        Schedule(how.patch, how.spacing_mm[0]),
        DEFAULT_TARGETS,
        how.windows_hu,
    )
    done = 0

    def follow(progress: Progress) -> None:
        nonlocal done
        done = progress.step
        report(progress)

    try:
        network = train_segmentation(
            settings,
            batches,
            work,
            device=device,
            seconds=seconds,
            report=follow,
            initial=earlier.network().state_dict() if earlier else None,
        )
        points = operating_points(network, batches, _unseen(batches.schedule, done), DEFAULT_TARGETS)
    finally:
        batches.close()
    return save_model(
        out, network, _manifest(settings, points, used, taught + done, command, device, earlier)
    )


def _unseen(schedule: Schedule, done: int) -> range:
    """Return the steps that look once at each patient of a group far enough ahead that none of it was
    learnt from.
    """
    first = (done // schedule.steps_per_group + 2) * schedule.steps_per_group
    return range(first, first + schedule.patients * schedule.looks // schedule.size)


def _manifest(
    settings: SegmentationSettings,
    points: tuple[TargetSpec, ...],
    heads: tuple[Path, ...],
    steps: int,
    command: str,
    device: str,
    earlier: Model | None,
) -> Manifest:
    cores = torch.get_num_threads()
    provenance = Provenance(
        code_version=ichnos.__version__,
        command=command,
        seeds=(settings.loop.seed,),
        steps=steps,
        data={"mni152 (nilearn)": "as shipped", **{head.name: sha256(head) for head in heads}},
        hardware="1 GPU" if device != "cpu" else f"{cores} CPU core(s), {platform.machine()}",
        parents=(*earlier.manifest.provenance.parents, earlier.manifest.weights_sha256) if earlier else (),
        trained=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )
    return Manifest(
        name="ichnos-multi",
        version="0.1",
        limits=LIMITS,
        network=settings.network,
        preprocessing=settings.preprocessing,
        targets=points,
        provenance=provenance,
    )
