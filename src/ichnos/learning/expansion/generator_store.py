"""Generators of slices as Model folders, and the ledger of the images that they sampled."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from ichnos import __version__
from ichnos.errors import InputRefused
from ichnos.evidence.leakage import TrainingImage, write_training
from ichnos.inference.crops import PUBLISHED_SPACING_MM, WINDOW_90_45_HU
from ichnos.learning.expansion.settings import GeneratorLoop, GeneratorSettings
from ichnos.learning.expansion.slice_generator import Picture
from ichnos.models import Manifest, Model, Preprocessing, Provenance, TargetSpec, load_model, save_model

_TARGET = TargetSpec(name="haematoma_slices", kind="image", group="expansion")


def save_generator(
    network: nn.Module,
    settings: GeneratorSettings,
    folder: Path,
    *,
    trained_on: Sequence[Picture],
    steps: int,
    command: str,
    device: str = "cpu",
) -> Model:
    """Write a generator as a Model folder. Its samples may not train a model that its patients evaluate."""
    chosen = [p for p in trained_on if settings.kind == "conditional" or p.outcome > 0]
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(p.image).tobytes() for p in chosen)).hexdigest()
    seen = (
        "with their outlines and outcomes"
        if settings.kind == "conditional"
        else "of expanded haematomas, without outlines"
    )
    manifest = Manifest(
        name=folder.name,
        version="1",
        intended_use=(
            "Research use only: images for training, never for reading a patient. Not a medical device."
        ),
        limits=(
            f"Trained on {len(chosen)} slices of {len({p.patient for p in chosen})} patients, {seen}.",
            ("Its samples derive from those patients: the ledger beside the synthetic images names them."),
        ),
        network=settings.network(),
        preprocessing=Preprocessing(
            spacing_mm=PUBLISHED_SPACING_MM,
            windows_hu=(WINDOW_90_45_HU,),
            patch=(settings.size, settings.size, 1),
        ),
        targets=(_TARGET,),
        provenance=Provenance(
            code_version=__version__,
            command=command,
            seeds=(settings.loop.seed,),
            steps=steps,
            data={"slices": digest},
            hardware="1 GPU" if device != "cpu" else "CPU",
            trained=datetime.datetime.now(datetime.UTC).date().isoformat(),
        ),
    )
    return save_model(folder, network, manifest)


def load_generator(folder: str | Path, *, device: str = "cpu") -> tuple[nn.Module, GeneratorSettings]:
    """Load a Model folder as a generator, with the settings that `sample_pictures` takes."""
    model = load_model(folder)
    manifest, arguments = model.manifest, model.manifest.network.arguments
    if manifest.targets != (_TARGET,):
        raise InputRefused(
            f"{folder} samples no images (network {manifest.network.name}); a generator that"
            " `ichnos synthesize` wrote is expected"
        )
    settings = GeneratorSettings(
        kind="conditional" if "condition_channels" in arguments else "published",
        size=manifest.preprocessing.patch[0],
        noise_steps=arguments["T"],
        ch=arguments["ch"],
        ch_mult=tuple(arguments["ch_mult"]),
        embed_dims=tuple(arguments["embed_dims"]),
        res_blocks=arguments["num_res_blocks"],
        dropout=arguments["dropout"],
        loop=GeneratorLoop(steps=max(1, manifest.provenance.steps), seed=manifest.provenance.seeds[0]),
    )
    return model.network(device=device), settings


def ledger_of(pictures: Sequence[Picture], *, split: str = "train") -> tuple[TrainingImage, ...]:
    """Return the ledger's line of every image: the patients it derives from, and the hash of its pixels."""
    return tuple(
        TrainingImage(image=p.name, split=split, sources=p.sources, sha256=_sha256(p.image)) for p in pictures
    )


def write_ledger(pictures: Sequence[Picture], path: Path) -> None:
    """Write the ledger of synthetic images, as `evidence.leakage.read_training` reads it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_training(ledger_of(pictures), path)


def _sha256(image: npt.NDArray[np.float32]) -> str:
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()
