"""Classifiers of haematoma expansion from images, as published and ours, with ways to balance the classes.

Arms bring training to one ratio of expanded to not: as the data are (`as is`), with synthetic images
(`synthesis`), by oversampling the expanded (`oversample`), by weighting their loss (`weight`), or by the
focal loss with the same weights (`focal`). A balanced classifier overstates the risk, so every arm is
recalibrated to the true prevalence, on patients it was not trained on (`learning.expansion.ensemble`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ichnos import networks
from ichnos.arrays import Floats
from ichnos.errors import InputRefused, UsageError, require
from ichnos.evidence.metrics.discrimination import auc
from ichnos.learning.expansion.examples import ImageExample
from ichnos.learning.expansion.settings import CURVE, ClassifierSettings
from ichnos.learning.loop.resources import ON_CPU, Resources
from ichnos.learning.loop.steps import Loss, Step
from ichnos.learning.loop.training import train
from ichnos.networks.checkpoints import load_vit_weights, read_weights

FOCAL_GAMMA = 2.0
LEAST_EACH = 2


@dataclass(frozen=True, eq=False)
class Standard:
    """Means and spreads of the features in the training set; NaN stays NaN."""

    mean: Floats
    spread: Floats

    def __call__(self, features: Sequence[Sequence[float]]) -> Tensor:
        table = (np.asarray(features, float) - self.mean) / self.spread
        return torch.from_numpy(np.clip(table, -5, 5).astype(np.float32))


def standard_of(examples: Sequence[ImageExample]) -> Standard:
    """Measure the features of a training set."""
    table = np.array([e.features for e in examples], float).reshape(len(examples), -1)
    known = np.isfinite(table)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, table, 0).sum(0) / count
    spread = np.sqrt(np.where(known, (table - mean) ** 2, 0).sum(0) / count)
    return Standard(mean, np.where(spread > 1e-9, spread, 1.0))


def check_examples(train: Sequence[ImageExample], *held_out: Sequence[ImageExample]) -> None:
    """Refuse examples of one class only, with values that are not finite, or of patients who are held out."""
    outcomes = {e.patient or f"made {k}": e.outcome for k, e in enumerate(train)}
    events = sum(outcomes.values())
    if min(events, len(outcomes) - events) < LEAST_EACH:
        raise InputRefused(
            f"the training set has {events:.0f} expanded of {len(outcomes)} patients; at least {LEAST_EACH}"
            " of each class are needed"
        )
    bad = [e.patient for e in train if not np.isfinite(e.image).all()]
    if bad:
        raise InputRefused(
            f"the images of {', '.join(bad[:5])} hold NaN or infinite values; look at those scans"
        )
    behind = {p for e in train for p in (e.patient, *e.sources) if p}
    both = sorted(behind & {e.patient for part in held_out for e in part})
    if both:
        raise InputRefused(
            f"{len(both)} patient(s) are behind training images and also held out: {', '.join(both[:5])};"
            " split patients, not images"
        )


def train_classifier(
    train_on: Sequence[ImageExample],
    settings: ClassifierSettings,
    out: Path,
    *,
    validation: Sequence[ImageExample] = (),
    resources: Resources = ON_CPU,
) -> tuple[nn.Module, Standard]:
    """Train one classifier to its last step; the same call resumes where it was stopped.

    With `loop.validations`, `out` gets the curve of the validation patients; nothing is chosen by it.
    """
    check_examples(train_on, validation)
    standard = standard_of([e for e in train_on if e.patient] or train_on)
    network = train(
        settings.network,
        settings.loop.for_examples(len(train_on)),
        _ClassifierLoss.of(train_on, settings, standard, resources.device),
        out,
        data=examples_fingerprint(train_on, settings),
        validate=_Watch(out / CURVE, standard, validation, resources.device) if validation else None,
        initial=_initial_weights(settings),
        resources=resources,
    )
    return network, standard


@dataclass(frozen=True, eq=False)
class _ClassifierLoss:
    """Call it with a network and a step: the loss of a batch of augmented images."""

    settings: ClassifierSettings
    balance: _Balance
    images: Tensor  # (example, channel, ...)
    features: Tensor  # (example, feature)
    outcomes: Tensor  # (example,)
    device: str

    @classmethod
    def of(
        cls, train_on: Sequence[ImageExample], settings: ClassifierSettings, standard: Standard, device: str
    ) -> _ClassifierLoss:
        balance = _Balance.of(train_on, settings)
        images = torch.from_numpy(np.stack([e.image for e in train_on]))
        features = standard([e.features for e in train_on])
        outcomes = torch.tensor([int(e.outcome) for e in train_on])
        return cls(settings, balance, images, features, outcomes, device)

    def __call__(self, network: nn.Module, step: Step) -> Loss:
        how = self.settings
        rng = np.random.default_rng([how.loop.seed, step.number])
        at = torch.from_numpy(rng.choice(len(self.images), how.loop.batch, p=self.balance.chances))
        image = augmented(self.images[at].to(self.device), rng, crop=how.crop)
        with step.autocast():
            logits = _logits(network, image, self.features[at].to(self.device))
        return Loss(self.balance.loss(logits, self.outcomes[at].to(self.device), focal=how.arm == "focal"))


@dataclass(frozen=True, eq=False)
class _Watch:
    """Writes how well patients who are not trained on are told apart as a training goes on."""

    file: Path
    standard: Standard
    examples: Sequence[ImageExample]
    device: str

    def __call__(self, network: nn.Module, step: int) -> float:
        """Return the step, so that the last network is kept: its risk is calibrated on these patients, who
        therefore may not choose it.
        """
        scores = patient_scores(network, self.standard, self.examples, device=self.device)
        known = {e.patient: e.outcome for e in self.examples}
        truth = np.array([known[patient] for patient in scores])
        risk = np.clip(list(scores.values()), 1e-6, 1 - 1e-6)
        log_loss = float(-np.mean(np.where(truth > 0, np.log(risk), np.log(1 - risk))))
        both = 0 < truth.sum() < truth.size
        line = {
            "step": step,
            "auc": float(auc(truth, risk).value) if both else None,
            "log_loss": log_loss,
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")
        return float(step)


def _initial_weights(settings: ClassifierSettings) -> dict[str, Tensor] | None:
    """Return the pretrained weights that the settings name, fitted to the network; None without."""
    if not settings.vit_weights:
        return None
    file = Path(settings.vit_weights)
    if file.suffix == ".safetensors":
        state = require("safetensors.torch", extra="learning", purpose="ViT weights").load_file(str(file))
    else:
        state = read_weights(file)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.loop.seed)
        network = networks.build(settings.network.name, **settings.network.arguments)
    load_vit_weights(network, state)
    return network.state_dict()


@dataclass(frozen=True, eq=False)
class _Balance:
    """How an arm brings the classes to its ratio."""

    chances: Floats  # of each example to be drawn
    weights: tuple[float, float]  # of the loss, not expanded and expanded

    @classmethod
    def of(cls, train: Sequence[ImageExample], settings: ClassifierSettings) -> _Balance:
        outcome = np.array([e.outcome for e in train])
        events, others = float(outcome.sum()), float((1 - outcome).sum())
        made = any(not e.patient for e in train)
        if made != (settings.arm == "synthesis"):
            raise UsageError(
                f"the arm {settings.arm!r} {'may not see' if made else 'needs'} synthetic images"
            )
        even = np.full(len(train), 1 / len(train))
        if settings.others_per_expanded is None or settings.arm in ("as is", "synthesis"):
            return cls(even, (1.0, 1.0))
        factor = others / settings.others_per_expanded / events  # how much more the expanded must count
        if settings.arm == "oversample":
            raw = np.where(outcome > 0, factor, 1.0)
            return cls(raw / raw.sum(), (1.0, 1.0))
        mean = (others + factor * events) / len(train)
        return cls(even, (1 / mean, factor / mean))

    def loss(self, logits: Tensor, outcome: Tensor, *, focal: bool) -> Tensor:
        weight = torch.tensor(self.weights, device=logits.device)[outcome]
        each = F.cross_entropy(logits, outcome, reduction="none")
        if focal:
            each = each * (1 - torch.exp(-each)) ** FOCAL_GAMMA
        return (weight * each).mean()


def _logits(network: nn.Module, image: Tensor, features: Tensor) -> Tensor:
    out: Tensor = network(image, features) if features.shape[1] else network(image)
    return out.float()


def augmented(image: Tensor, rng: np.random.Generator, *, crop: bool) -> Tensor:
    """Mirror, shift, and as published crop to 8 to 100 % of the area with an aspect of 3:4 to 4:3; ours
    also moves the HU a little.
    """
    n, axes = len(image), image.dim() - 2
    turn = np.zeros((n, axes, axes + 1), np.float32)
    for k in range(n):
        scale = np.ones(axes)
        if crop:
            area, aspect = rng.uniform(0.08, 1.0), math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
            scale[:2] = np.minimum(1, [math.sqrt(area * aspect), math.sqrt(area / aspect)])
        mirrored = np.where(np.arange(axes) == (0 if axes == 2 else axes - 1), rng.choice([-1, 1]), 1)
        turn[k, :, :axes] = np.diag(scale * mirrored)
        turn[k, :, axes] = rng.uniform(-1, 1, axes) * np.where(scale < 1, 1 - scale, 0.0 if crop else 0.12)
    grid = F.affine_grid(torch.from_numpy(turn).to(image.device), list(image.shape), align_corners=False)
    moved = F.grid_sample(image, grid, padding_mode="border", align_corners=False)
    if not crop:
        offset = torch.from_numpy(rng.normal(0, 0.06, n)).to(moved)
        moved[:, :2] = (moved[:, :2] + offset.view(-1, *[1] * (axes + 1))).clamp(-1, 1)
    return moved


def examples_fingerprint(train: Sequence[ImageExample], settings: ClassifierSettings) -> str:
    """Return a hash of the settings and of all examples: another image or outcome gives another."""
    digest = hashlib.sha256(settings.model_dump_json().encode())
    for e in train:
        digest.update(f"{e.patient} {e.outcome} {float(e.image.sum(dtype=np.float64)):.4f}".encode())
    return digest.hexdigest()[:16]


@torch.inference_mode()
def patient_scores(
    network: nn.Module, standard: Standard, examples: Sequence[ImageExample], *, device: str = "cpu"
) -> dict[str, float]:
    """Return each patient's mean probability over the patient's images, in the order of first appearance."""
    network = network.eval()
    scores: dict[str, list[float]] = {}
    for first in range(0, len(examples), 32):
        part = examples[first : first + 32]
        image = torch.from_numpy(np.stack([e.image for e in part])).to(device)
        features = standard([e.features for e in part]).to(device)
        risk = torch.softmax(_logits(network, image, features).float(), 1)[:, 1].tolist()
        for example, value in zip(part, risk, strict=True):
            scores.setdefault(example.patient, []).append(value)
    return {patient: float(np.mean(values)) for patient, values in scores.items()}
