"""Generators of slices as Model folders, and the ledger of the images that they sampled."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from ichnos.errors import InputRefused
from ichnos.evidence.leakage import TrainingImage, write_training
from ichnos.files import atomic_file
from ichnos.inference.crops import PUBLISHED_SPACING_MM, WINDOW_90_45_HU
from ichnos.learning.expansion.settings import GeneratorKind, GeneratorLoop, GeneratorSettings
from ichnos.learning.expansion.slice_generator import Picture, taught
from ichnos.models import Manifest, Model, Preprocessing, Provenance, TargetSpec, load_model, save_model

_INTENDED_USE = "Research use only: images for training, never for reading a patient. Not a medical device."
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
    chosen = taught(trained_on, settings.kind)
    provenance = Provenance.of_today(
        command=command,
        seeds=(settings.loop.seed,),
        steps=steps,
        data={"slices": _sha256(*(p.image for p in chosen))},
        hardware="1 GPU" if device != "cpu" else "CPU",
    )
    return save_model(folder, network, _manifest(folder.name, settings, chosen, provenance))


def _manifest(
    name: str, settings: GeneratorSettings, chosen: Sequence[Picture], provenance: Provenance
) -> Manifest:
    return Manifest(
        name=name,
        version="1",
        intended_use=_INTENDED_USE,
        limits=_limits(chosen, settings.kind),
        network=settings.network(),
        preprocessing=_preprocessing(settings.size),
        targets=(_TARGET,),
        provenance=provenance,
    )


def _limits(chosen: Sequence[Picture], kind: GeneratorKind) -> tuple[str, str]:
    patients = len({p.patient for p in chosen})
    seen = (
        "with their outlines and outcomes"
        if kind == "conditional"
        else "of expanded haematomas, without outlines"
    )
    return (
        f"Trained on {len(chosen)} slices of {patients} patients, {seen}.",
        "Its samples derive from those patients: the ledger beside the synthetic images names them.",
    )


def _preprocessing(size: int) -> Preprocessing:
    return Preprocessing(
        spacing_mm=PUBLISHED_SPACING_MM, windows_hu=(WINDOW_90_45_HU,), patch=(size, size, 1)
    )


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


def write_pictures(pictures: Sequence[Picture], path: Path, key: str) -> None:
    """Keep sampled images of one generator under a key that says how they were made."""
    first = pictures[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            key=np.array(key),
            names=np.array([p.name for p in pictures]),
            images=np.stack([p.image for p in pictures]),
            masks=np.stack([p.mask for p in pictures]),
            outcome=np.array(first.outcome),
            sources=np.array(first.sources),
        )


def read_pictures(path: Path, key: str) -> list[Picture]:
    """Return the images kept under a key; none where there are none, or others."""
    if not path.is_file():
        return []
    with np.load(path) as kept:
        if str(kept["key"]) != key:
            return []
        outcome, sources = float(kept["outcome"]), tuple(map(str, kept["sources"]))
        parts = zip(kept["names"], kept["images"], kept["masks"], strict=True)
        return [Picture(str(name), image, mask, outcome, sources=sources) for name, image, mask in parts]


def _sha256(*images: npt.NDArray[np.float32]) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(image).tobytes() for image in images)).hexdigest()
