"""The default network: brain, ventricles, ICH, IVH, PHE, leukoaraiosis and both tracts in one pass, learnt from virtual patients alone."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable
from pathlib import Path

import torch

import ichnos
from ichnos.learning.segmentation import Progress, Settings, train
from ichnos.learning.simulated import Population, SimulatedBatches
from ichnos.models import Manifest, Model, NetworkSpec, Preprocessing, Provenance, TargetSpec, load_model, save_model
from ichnos.models.store import sha256
from ichnos.simulation.training import Recipe

HELD_OUT = 4  # the last label maps of a folder are never trained on
LIMITS = (
    "Trained on simulated patients only; it has never seen a real scan.",
    "Never simulated: children, tumours, contrast agent, trauma, operated heads, air in the head.",
    "Never simulated: blood outside the brain and its ventricles (subdural, epidural, subarachnoid).",
    "Its probabilities have not been calibrated on real scans.",
)
TARGETS = (
    TargetSpec(name="brain"),
    TargetSpec(name="ventricles"),
    TargetSpec(name="ICH", group="haematoma"),
    TargetSpec(name="IVH", group="haematoma"),
    TargetSpec(name="PHE", group="haematoma"),
    TargetSpec(name="leukoaraiosis", group="leukoaraiosis"),
    TargetSpec(name="tract_left", group="tract"),
    TargetSpec(name="tract_right", group="tract"),
)


def default_settings(*, steps: int, side: int = 64) -> Settings:
    """Return the settings of the default network: a residual U-Net at 2 mm with four HU windows."""
    return Settings(
        network=NetworkSpec(
            name="unet",
            arguments={
                "input_channels": 4,
                "num_classes": len(TARGETS),
                "dim": 3,
                "features_per_stage": [16, 32, 64, 96],
                "strides": [1, 2, 2, 2],
                "n_conv_per_stage": [1, 1, 2, 2],
                "n_conv_per_stage_decoder": [1, 1, 1],
            },
        ),
        preprocessing=Preprocessing(
            spacing_mm=(2.0, 2.0, 2.0), windows_hu=((-20, 100), (0, 40), (20, 80), (-1000, 1000)), patch=(side, side, side)
        ),
        targets=TARGETS,
        steps=steps,
        learning_rate=2e-3,
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
    report: Callable[[Progress], None] = lambda progress: None,
) -> Model:
    """Train, or go on training, for at most `seconds`; write the Model with its provenance to `out`."""
    settings = default_settings(steps=steps)
    used = heads[:-HELD_OUT] if len(heads) > HELD_OUT else heads
    how = settings.preprocessing
    batches = SimulatedBatches(
        Population(heads=used),
        Recipe(spacing_mm=how.spacing_mm[0], side=how.patch[0], crops_per_patient=6),
        tuple(target.name for target in TARGETS),
        how.windows_hu,
    )
    done = 0

    def follow(progress: Progress) -> None:
        nonlocal done
        done = progress.step
        report(progress)

    try:
        network = train(settings, batches, work, device=device, seconds=seconds, report=follow)
    finally:
        batches.close()
    return save_model(out, network, _manifest(settings, used, done, command, device))


def _manifest(settings: Settings, heads: tuple[Path, ...], steps: int, command: str, device: str) -> Manifest:
    cores = torch.get_num_threads()
    provenance = Provenance(
        code_version=ichnos.__version__,
        command=command,
        seeds=(settings.seed,),
        steps=steps,
        data={"mni152 (nilearn)": "as shipped", **{head.name: sha256(head) for head in heads}},
        hardware="1 GPU" if device != "cpu" else f"{cores} CPU core(s), {platform.machine()}",
        trained=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )
    return Manifest(
        name="ichnos-multi",
        version="0.1",
        limits=LIMITS,
        network=settings.network,
        preprocessing=settings.preprocessing,
        targets=settings.targets,
        provenance=provenance,
    )


def default_model() -> Model:
    """Return the default network that ships with ichnos."""
    from ichnos.models.store import SHIPPED

    return load_model(SHIPPED / "multi")
