"""A start for a classifier of slices where no pretrained weights are at hand: tell what was measured.

From random weights a transformer does not learn from the two hundred expanded patients of a study. Weights of
everyday photographs are the usual start (`vit_weights`). Without them it first learns to tell the measures of
the patient's haematoma (volume, shape, density, signs) from the slice. No outcome is used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ichnos.files import atomic_file
from ichnos.learning.expansion.classifier import augmented, standard_of
from ichnos.learning.expansion.examples import ImageExample
from ichnos.learning.expansion.settings import ClassifierLoop
from ichnos.learning.loop.resources import ON_CPU, Resources
from ichnos.learning.loop.steps import Loss, Step
from ichnos.learning.loop.training import train
from ichnos.models import NetworkSpec

START = "start.pt"  # the weights, as `vit_weights` of a classifier takes them
_HEAD = "head."


def measured_start(
    examples: Sequence[ImageExample],
    network: NetworkSpec,
    loop: ClassifierLoop,
    out: Path,
    *,
    resources: Resources = ON_CPU,
) -> Path:
    """Train a classifier's network to tell each example's features from its image; return its weights' file.

    What is not known of a patient counts as the mean. The same call resumes where it was stopped.
    """
    standard = standard_of(examples)
    wanted = torch.nan_to_num(standard([e.features for e in examples]))
    spec = NetworkSpec(name=network.name, arguments={**network.arguments, "num_classes": wanted.shape[1]})
    images = torch.from_numpy(np.stack([e.image for e in examples]))
    loss = _MeasureLoss(images, wanted, loop, resources.device)
    data = hashlib.sha256(images.numpy().tobytes() + wanted.numpy().tobytes()).hexdigest()[:16]
    trained = train(spec, loop.for_examples(len(examples)), loss, out, data=data, resources=resources)
    with atomic_file(out / START) as temporary:
        torch.save(_without_head(trained.state_dict()), temporary)
    return out / START


@dataclass(frozen=True, eq=False)
class _MeasureLoss:
    """Call it with a network and a step: how far the measures that a batch of images tells are off."""

    images: Tensor  # (example, channel, y, x)
    wanted: Tensor  # (example, measure), standardised
    loop: ClassifierLoop
    device: str

    def __call__(self, network: nn.Module, step: Step) -> Loss:
        rng = np.random.default_rng([self.loop.seed, step.number])
        at = torch.from_numpy(rng.choice(len(self.images), self.loop.batch))
        image = augmented(self.images[at].to(self.device), rng, crop=False)
        with step.autocast():
            told = network(image)
        return Loss(F.smooth_l1_loss(told.float(), self.wanted[at].to(self.device)))


def _without_head(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in state.items() if not name.startswith(_HEAD)}
