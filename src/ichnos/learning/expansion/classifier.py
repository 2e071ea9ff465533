"""Will it expand? Classifiers of a haematoma's image: as published, and ours; with every way of balancing the
classes as an arm.

Arms bring training to one ratio of expanded to not: as the data are, by images that were made (`synthesis`),
by drawing the expanded more often (`oversample`), by weighting their loss (`weight`), or by the focal loss
weighted alike (`focal`). A balanced classifier overstates the risk, so every arm is recalibrated at the true
prevalence, on patients it was not trained on.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from ichnos.errors import InputRefused, UsageError
from ichnos.evidence.metrics.recalibration import Recalibrator, fit_recalibrator
from ichnos.learning.expansion.crops import Example
from ichnos.learning.loop.optimise import Course, optimise
from ichnos.models import NetworkSpec

Arm = Literal["as is", "synthesis", "oversample", "weight", "focal"]
ARMS: tuple[Arm, ...] = ("as is", "synthesis", "oversample", "weight", "focal")
Floats = npt.NDArray[np.float64]
FOCAL_GAMMA = 2.0
_LEAST_EACH = 2


class Recipe(BaseModel):
    """How a classifier is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: NetworkSpec
    steps: int = Field(gt=0)
    batch: int = Field(default=32, gt=1)
    learning_rate: float = Field(default=2e-4, gt=0)
    arm: Arm = "as is"
    others_per_expanded: float | None = Field(default=None, gt=0)  # 2 for "1:2"; None: as the data are
    crop: bool = (
        False  # RandomResizedCrop, as published; otherwise sizes are kept and the image is only shifted
    )
    seed: int = 0

    def named(self) -> str:
        """Return the arm with its ratio, as tables name it.

        >>> Recipe(network=NetworkSpec(name="vit"), steps=1, arm="weight", others_per_expanded=2).named()
        'weight 1:2'
        """
        return self.arm if self.others_per_expanded is None else f"{self.arm} 1:{self.others_per_expanded:g}"


def published_recipe(*, steps: int, size: int = 224, small: bool = False, **changes: Any) -> Recipe:
    """Return the published recipe: ViT-B/16, Adam-like at 2e-4 with a cosine, RandomResizedCrop and flips;
    `small` shrinks the network.
    """
    whole = {"num_classes": 2, "image_size": [size, size], "patch_size": 16, "input_channels": 3}
    if small:
        whole |= {"width": 96, "depth": 4, "heads": 4}
    return Recipe(network=NetworkSpec(name="vit", arguments=whole), steps=steps, crop=True, **changes)


def our_recipe(
    *, steps: int, shape: Sequence[int] = (48, 48, 24), channels: int = 4, features: int = 0, **changes: Any
) -> Recipe:
    """Return ours: a 3-D ViT over the region with its masks as channels, sizes kept, one token per
    clinical fact or measure.
    """
    arguments = {
        "num_classes": 2,
        "image_size": list(shape),
        "patch_size": [8, 8, 4],
        "input_channels": channels,
        "width": 96,
        "depth": 4,
        "heads": 4,
        "dropout": 0.1,
        "clinical_features": features,
    }
    return Recipe(network=NetworkSpec(name="vit", arguments=arguments), steps=steps, **changes)


@dataclass(frozen=True, eq=False)
class Standard:
    """Means and spreads of the features in the training set; NaN stays NaN."""

    mean: Floats
    spread: Floats

    def __call__(self, features: Sequence[Sequence[float]]) -> Tensor:
        table = (np.asarray(features, float) - self.mean) / self.spread
        return torch.from_numpy(np.clip(table, -5, 5).astype(np.float32))


def standard_of(examples: Sequence[Example]) -> Standard:
    """Measure the features of a training set."""
    table = np.array([e.features for e in examples], float).reshape(len(examples), -1)
    known = np.isfinite(table)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, table, 0).sum(0) / count
    spread = np.sqrt(np.where(known, (table - mean) ** 2, 0).sum(0) / count)
    return Standard(mean, np.where(spread > 1e-9, spread, 1.0))


def check_examples(train: Sequence[Example], *held_out: Sequence[Example]) -> None:
    """Refuse what nothing honest can be learnt from: one class only, values that are not finite, a patient
    on both sides.
    """
    outcomes = {e.patient or f"made {k}": e.outcome for k, e in enumerate(train)}
    events = sum(outcomes.values())
    if min(events, len(outcomes) - events) < _LEAST_EACH:
        raise InputRefused(
            f"the training set has {events:.0f} expanded of {len(outcomes)} patients; at least {_LEAST_EACH}"
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
    train: Sequence[Example],
    recipe: Recipe,
    out: Path,
    *,
    validation: Sequence[Example] = (),
    device: str = "cpu",
    seconds: float = math.inf,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> tuple[nn.Module, Standard]:
    """Train one classifier; the same call goes on where it was stopped."""
    check_examples(train, validation)
    standard = standard_of([e for e in train if e.patient] or train)
    balance = _Balance.of(train, recipe)
    images = torch.from_numpy(np.stack([e.image for e in train]))
    features = standard([e.features for e in train])
    outcomes = torch.tensor([int(e.outcome) for e in train])

    def loss_of(network: nn.Module, step: int) -> Tensor:
        rng = np.random.default_rng([recipe.seed, step])
        at = torch.from_numpy(rng.choice(len(train), recipe.batch, p=balance.chances))
        image = _augmented(images[at].to(device), rng, crop=recipe.crop)
        logits = _logits(network, image, features[at].to(device))
        return balance.loss(logits, outcomes[at].to(device), focal=recipe.arm == "focal")

    course = Course(
        network=recipe.network,
        steps=recipe.steps,
        learning_rate=recipe.learning_rate,
        seed=recipe.seed,
        data=fingerprint(train, recipe),
    )
    return optimise(course, loss_of, out, device=device, seconds=seconds, report=report), standard


@dataclass(frozen=True, eq=False)
class _Balance:
    """How an arm brings the classes to its ratio."""

    chances: Floats  # of each example to be drawn
    weights: tuple[float, float]  # of the loss, not expanded and expanded

    @classmethod
    def of(cls, train: Sequence[Example], recipe: Recipe) -> _Balance:
        outcome = np.array([e.outcome for e in train])
        events, others = float(outcome.sum()), float((1 - outcome).sum())
        made = any(not e.patient for e in train)
        if made != (recipe.arm == "synthesis"):
            raise UsageError(
                f"the arm {recipe.arm!r} {'may not see' if made else 'needs'} images that were made"
            )
        even = np.full(len(train), 1 / len(train))
        if recipe.others_per_expanded is None or recipe.arm in ("as is", "synthesis"):
            return cls(even, (1.0, 1.0))
        factor = others / recipe.others_per_expanded / events  # how much more the expanded must count
        if recipe.arm == "oversample":
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
    return out


def _augmented(image: Tensor, rng: np.random.Generator, *, crop: bool) -> Tensor:
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


def fingerprint(train: Sequence[Example], recipe: Recipe) -> str:
    """Return a hash of a recipe and of all it is given: another image or outcome gives another."""
    digest = hashlib.sha256(recipe.model_dump_json().encode())
    for e in train:
        digest.update(f"{e.patient} {e.outcome} {float(e.image.sum(dtype=np.float64)):.4f}".encode())
    return digest.hexdigest()[:16]


@torch.inference_mode()
def patient_scores(
    network: nn.Module, standard: Standard, examples: Sequence[Example], *, device: str = "cpu"
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


@dataclass(frozen=True, eq=False)
class Classifier:
    """Networks of several folds and the map from their mean log odds to a probability at the true
    prevalence.
    """

    networks: tuple[nn.Module, ...]
    standards: tuple[Standard, ...]
    recalibrator: Recalibrator
    out_of_fold: dict[
        str, float
    ]  # log odds of each training patient, from the networks that never saw the patient

    def __call__(self, examples: Sequence[Example], *, device: str = "cpu") -> dict[str, float]:
        """Return each patient's calibrated probability of expansion."""
        raw = self.log_odds(examples, device=device)
        return dict(zip(raw, self.recalibrator(list(raw.values())).tolist(), strict=True))

    def log_odds(self, examples: Sequence[Example], *, device: str = "cpu") -> dict[str, float]:
        """Return the mean log odds of the networks, before recalibration."""
        each = [
            patient_scores(n, s, examples, device=device)
            for n, s in zip(self.networks, self.standards, strict=True)
        ]
        return {
            patient: float(np.mean([_log_odds(scores[patient]) for scores in each])) for patient in each[0]
        }


def train_ensemble(
    train: Sequence[Example],
    recipe: Recipe,
    out: Path,
    *,
    folds: int = 3,
    made: Callable[[int, Sequence[Example]], Sequence[Example]] | None = None,
    device: str = "cpu",
    seconds: float = math.inf,
    say: Callable[[str], None] = lambda sentence: None,
) -> Classifier:
    """Train one network per fold, recalibrate on the out-of-fold scores, and write `classifier.json` beside
    the folds' checkpoints.

    `made(fold, training examples)` gives the images that were made for the arm "synthesis", from that fold's
    training patients alone.
    """
    parts = fold_patients(train, folds, seed=recipe.seed)
    networks: list[nn.Module] = []
    standards: list[Standard] = []
    held: dict[str, float] = {}
    for k, part in enumerate(parts):
        inside, outside = [e for e in train if e.patient not in part], [e for e in train if e.patient in part]
        extra = list(made(k, inside)) if made is not None else []
        say(
            f"{recipe.named()}: fold {k + 1} of {folds}, {len(inside)} images and {len(extra)} that were made"
        )
        network, standard = train_classifier(
            [*inside, *extra],
            recipe,
            out / f"fold-{k}",
            validation=outside,
            device=device,
            seconds=seconds / folds,
        )
        networks.append(network)
        standards.append(standard)
        held |= {
            patient: _log_odds(risk)
            for patient, risk in patient_scores(network, standard, outside, device=device).items()
        }
    truth = {e.patient: e.outcome for e in train}
    recalibrator = fit_recalibrator(
        [truth[p] for p in held],
        list(held.values()),
        method="platt",
        fitted_on="out-of-fold training patients",
    )
    (out / "classifier.json").write_text(
        json.dumps(
            {
                "recipe": recipe.model_dump(mode="json"),
                "platt": recalibrator.knots.tolist(),
                "out_of_fold": held,
            },
            indent=1,
        )
        + "\n"
    )
    return Classifier(tuple(networks), tuple(standards), recalibrator, held)


def fold_patients(examples: Sequence[Example], folds: int, *, seed: int) -> tuple[frozenset[str], ...]:
    """Divide patients into folds with about the same share of expanded ones; refuses where a fold's rest
    would hold one class only.

    >>> made = [Example(str(k), np.zeros((1, 2, 2), np.float32), k % 2) for k in range(8)]
    >>> [len(part) for part in fold_patients(made, 2, seed=0)]
    [4, 4]
    """
    outcome = {e.patient: e.outcome for e in examples}
    least = next(
        n for n in itertools.count(1) if n - math.ceil(n / folds) >= _LEAST_EACH
    )  # so many are left when a fold is away
    rng = np.random.default_rng([seed, folds])
    parts: list[set[str]] = [set() for _ in range(folds)]
    for value in (1.0, 0.0):
        group = sorted(p for p, o in outcome.items() if o == value)
        if len(group) < least:
            raise InputRefused(
                f"{len(group)} patients {'expanded' if value else 'did not expand'}; {folds} folds need at"
                f" least {least} of each class"
            )
        for k, at in enumerate(rng.permutation(len(group))):
            parts[k % folds].add(group[at])
    return tuple(frozenset(part) for part in parts)


def _log_odds(p: float) -> float:
    kept = min(max(p, 1e-6), 1 - 1e-6)
    return math.log(kept / (1 - kept))
