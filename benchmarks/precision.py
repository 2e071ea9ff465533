"""A training step of every network of the recipe `small`, of the default one and of the two largest of the
recipe `published`, in fp32 and in bf16.

Seconds are processor time of one thread, forward and backward pass of one batch of random numbers, without
data and optimiser: median of some steps in turn, which a busy machine disturbs less than the clock does. The
choice that a training makes for itself (`loop.precision: auto`) measures the same with its own data.
python benchmarks/precision.py
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from ichnos.learning.expansion.settings import ForecastSettings, GeneratorSettings
from ichnos.learning.loop.settings import Precision, changed
from ichnos.learning.loop.steps import autocast
from ichnos.learning.recipes import (
    classifier_recipe,
    forecast_recipe,
    generator_recipe,
    segmentation_recipe,
)
from ichnos.learning.segmentation.settings import TrainSettings
from ichnos.learning.segmentation.training import segmentation_network
from ichnos.learning.virtual.default_model import default_settings
from ichnos.models import NetworkSpec
from ichnos.networks import build
from run import table

_STEPS = 3  # timed in each precision; a first one is not counted
_FACTS = 8  # clinical facts that our classifier sees
_FEW = 2  # images of a batch under the recipe `published`, where 32 would take minutes


@dataclass(frozen=True)
class Trained:
    """A network as a recipe trains it: with what it is called in a step."""

    name: str
    spec: NetworkSpec
    shape: tuple[int, ...]  # of a batch
    facts: int = 0  # clinical facts beside each image
    timed: bool = False  # takes a step of the diffusion beside each image


def segmenter(name: str, settings: TrainSettings) -> Trained:
    """Return a network that outlines, with a batch of its patches."""
    how, spec = settings.preprocessing, segmentation_network(settings)
    patch = how.patch[: spec.arguments.get("dim", 3)]
    return Trained(name, spec, (settings.loop.batch, len(how.windows_hu), *patch))


def trained_networks() -> Iterator[Trained]:
    """Yield the default network, those of the recipe `small`, and two of `published` with a smaller batch."""
    whole = default_settings(steps=1)
    spec, patch = whole.network, whole.preprocessing.patch
    yield Trained("default network", spec, (whole.loop.batch, spec.arguments["input_channels"], *patch))
    for name, targets in (
        ("haematoma: U-Mamba (Enc)", "haematoma"),
        ("leukoaraiosis: U-Net of slices", "leukoaraiosis"),
        ("tract: U-Net", "tract"),
    ):
        settings = segmentation_recipe(targets, "small")
        assert isinstance(settings, TrainSettings)
        yield segmenter(name, settings)
        if targets == "haematoma":
            yield segmenter("its plain twin", settings.changed(network="unet"))
    for name, kind in (("expansion: published ViT", "published"), ("expansion: ours", "ours")):
        classifier = classifier_recipe("small", kind=kind, features=_FACTS)
        arguments, facts = classifier.network.arguments, _FACTS if kind == "ours" else 0
        shape = (classifier.loop.batch, arguments["input_channels"], *arguments["image_size"])
        yield Trained(name, classifier.network, shape, facts)
    yield slices("synthesis: Diffusion U-KAN", generator_recipe("small"))
    yield region("follow-up: published warp", forecast_recipe("small"))
    yield region("follow-up: ours", forecast_recipe("small", kind="forecast"))
    vit = classifier_recipe("published").network
    yield Trained("recipe published: ViT-B/16", vit, (_FEW, 3, *vit.arguments["image_size"]))
    kan = generator_recipe("published")
    yield slices("recipe published: Diffusion U-KAN", changed(kan, {"batch": _FEW}))


def slices(name: str, settings: GeneratorSettings) -> Trained:
    """Return a generator of slices with a batch of noisy ones."""
    spec = settings.network()
    channels = spec.arguments.get("in_channels", 3)
    return Trained(name, spec, (settings.loop.batch, channels, settings.size, settings.size), timed=True)


def region(name: str, settings: ForecastSettings) -> Trained:
    """Return a forecaster with a batch of regions around a haematoma."""
    spec = settings.network()
    seen = settings.patch or settings.shape
    return Trained(name, spec, (settings.loop.batch, spec.arguments["input_channels"], *seen))


def seconds(precision: Precision, network: torch.nn.Module, given: tuple[Any, ...]) -> float:
    """Return the processor time of a forward and backward pass."""
    network.zero_grad(set_to_none=True)
    began = time.process_time()
    with autocast("cpu", precision):
        out = network(*given)
    outputs = out if isinstance(out, (list, tuple)) else [out]
    torch.stack([torch.square(o.float()).mean() for o in outputs]).sum().backward()
    return time.process_time() - began


def row(case: Trained) -> dict[str, Any]:
    """Measure a network in both precisions, in turn."""
    torch.manual_seed(0)
    network, count = build(case.spec.name, **case.spec.arguments).train(), case.shape[0]
    given: tuple[Any, ...] = (torch.randn(case.shape),)
    given += (torch.zeros(count, case.facts),) if case.facts else ()
    given += (torch.full((count,), 500),) if case.timed else ()
    kinds: tuple[Precision, ...] = ("fp32", "bf16")
    each = [[seconds(kind, network, given) for kind in kinds] for _ in range(1 + _STEPS)][1:]
    fp32, bf16 = (median(column) for column in zip(*each, strict=True))
    batch = f"{count} x {' x '.join(map(str, case.shape[2:]))}"
    return {
        "network": case.name,
        "batch": batch,
        "fp32, s": fp32,
        "bf16, s": bf16,
        "fp32 / bf16": fp32 / bf16,
    }


def main() -> list[dict[str, Any]]:
    """Return a row per network."""
    torch.set_num_threads(1)
    return [row(case) for case in trained_networks()]


if __name__ == "__main__":
    print(table(main()), flush=True)
