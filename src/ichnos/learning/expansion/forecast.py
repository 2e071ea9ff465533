"""Forecast the follow-up lesion from the baseline CT and its lesion: two networks and how they are trained.

*Warp*, after Abramova 2024: one affine map per patient moves CT and lesion; loss = smoothness + L1(CT) +
Dice(lesion). Corrected here: the smoothness term reaches the gradient, the training is not stopped by copies
of its own patients, and growth is compared as a set, unsigned. A limit of the method: an affine image of a
lesion has no new part, so that new ventricular blood cannot be forecast.

*Ours*: a network gives each voxel a probability of blood at follow-up. The mask (voxels above an operating
point), the expected volume (the sum of probabilities) and, through the growth model, P(expansion) come from
the same map.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ichnos.arrays import Floats32
from ichnos.errors import InputRefused
from ichnos.inference import windows
from ichnos.inference.crops import REGION_WINDOWS_HU
from ichnos.inference.sliding import slide
from ichnos.learning.expansion.forecast_scores import best_threshold, score
from ichnos.learning.expansion.pairs import LesionPair, pairs_fingerprint, patch_of
from ichnos.learning.expansion.settings import CURVE, ForecastKind, ForecastSettings
from ichnos.learning.loop.resources import ON_CPU, Resources
from ichnos.learning.loop.steps import Loss, Step
from ichnos.learning.loop.training import train
from ichnos.models import (
    Manifest,
    Model,
    Preprocessing,
    Provenance,
    TargetSpec,
    load_model,
    save_model,
)
from ichnos.networks.warp import AffineWarp
from ichnos.reading.expansion import signed_distance_mm

_WINDOWS_HU = REGION_WINDOWS_HU
_NEAR_MM = 24.0  # voxels this near to the lesion count fully in our loss, the others a tenth
_WAY_MM = 12.0
_SMOOTHNESS = 0.1
_PUBLISHED_OVERLAP = 0.6


def forecast_input(pair: LesionPair, kind: ForecastKind) -> Floats32:
    """Return the channels that a network sees: CT and lesion for the warp; two windows, ICH, IVH and the way
    to the lesion for ours.

    The way is the signed distance to the lesion's edge, -1 at 12 mm inside and +1 at 12 mm outside: growth is
    mostly near, and the network need not learn to measure.
    """
    if kind == "warp":
        return np.stack([windows(pair.hu, _WINDOWS_HU[:1])[0], 2 * pair.blood - 1]).astype(np.float32)
    way = np.clip(signed_distance_mm(pair.blood > 0.5, pair.spacing_mm) / _WAY_MM, -1, 1)
    return np.concatenate(
        [windows(pair.hu, _WINDOWS_HU), np.stack([2 * pair.ich - 1, 2 * pair.ivh - 1, way])]
    ).astype(np.float32)


def train_forecaster(
    pairs: Sequence[LesionPair],
    settings: ForecastSettings,
    out: Path,
    *,
    validation: Sequence[LesionPair] = (),
    resources: Resources = ON_CPU,
) -> nn.Module:
    """Train a forecaster on pairs, synthetic ones among them; the same call resumes where it was stopped.

    With `loop.validations`, the network of the greatest growth Dice on the validation pairs is returned.
    """
    _check_pairs(pairs, validation)
    loop, device = settings.loop.for_examples(len(pairs) * settings.patches_per_pair), resources.device
    if settings.kind == "warp":
        loop = loop.model_copy(update={"learning_rate": loop.learning_rate / 10})
    return train(
        settings.network(),
        loop,
        _ForecastLoss(pairs, settings, device),
        out,
        data=pairs_fingerprint(pairs)[:16],
        validate=_growth_validation(settings, validation, out, device) if validation else None,
        resources=resources,
    )


@dataclass(frozen=True, eq=False)
class _ForecastLoss:
    """Call it with a network and a step: the loss of a batch of pairs, half of them mirrored."""

    pairs: Sequence[LesionPair]
    settings: ForecastSettings
    device: str

    def __call__(self, network: nn.Module, step: Step) -> Loss:
        loss = warp_loss if self.settings.kind == "warp" else forecast_loss
        chosen = self._batch(step.number)
        with step.autocast():
            return Loss(loss(network, chosen, self.device))

    def _batch(self, number: int) -> list[LesionPair]:
        how, pairs = self.settings, self.pairs
        rng = np.random.default_rng([how.loop.seed, number])
        at = rng.choice(len(pairs), min(how.loop.batch, len(pairs)), replace=False)
        mirrored = [bool(rng.random() < 0.5) for _ in at]
        chosen = [_mirrored(pairs[int(k)]) if m else pairs[int(k)] for k, m in zip(at, mirrored, strict=True)]
        if how.patch is None:
            return chosen
        return [patch_of(pair, how.patch, rng, border_share=how.border_share) for pair in chosen]


def _check_pairs(pairs: Sequence[LesionPair], validation: Sequence[LesionPair]) -> None:
    """Refuse a set without a real follow-up, values that are not finite, and a patient on both sides."""
    if not any(not p.synthetic for p in pairs):
        raise InputRefused(
            f"{len(pairs)} pairs were given, none of a real follow-up; at least one patient scanned twice is"
            " needed"
        )
    bad = [p.patient for p in pairs if not (np.isfinite(p.hu).all() and np.isfinite(p.later).all())]
    if bad:
        raise InputRefused(
            f"the CTs of {', '.join(bad[:5])} hold NaN or infinite values; look at those scans"
        )
    both = sorted({p.patient for p in pairs} & {p.patient for p in validation})
    if both:
        raise InputRefused(f"sub-{both[0]} is trained on and validates; split patients, not pairs")


def _growth_validation(
    settings: ForecastSettings, pairs: Sequence[LesionPair], out: Path, device: str
) -> Callable[[nn.Module, int], float]:
    """Return the validation of a forecaster: mean growth Dice, ours at its best operating point."""

    def growth_dice(network: nn.Module, step: int) -> float:
        kind, patch = settings.kind, settings.patch
        maps = [forecast_map(network, pair, kind, patch=patch, device=device) for pair in pairs]
        cut = best_threshold(pairs, maps) if kind == "forecast" else 0.5
        scores = [score(p, m, threshold=cut).growth_dice for p, m in zip(pairs, maps, strict=True)]
        found = float(np.nanmean(scores)) if np.isfinite(scores).any() else 0.0
        with (out / CURVE).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"step": step, "growth_dice": found, "threshold": cut}) + "\n")
        return found

    return growth_dice


def _mirrored(pair: LesionPair) -> LesionPair:
    names = ("hu", "ich", "ivh", "brain", "later", "later_hu")
    maps = {name: getattr(pair, name)[::-1].copy() for name in names if getattr(pair, name) is not None}
    return replace(pair, **maps)


def _stacked(maps: Sequence[npt.NDArray[np.generic]], device: str) -> Tensor:
    return torch.from_numpy(np.stack([np.ascontiguousarray(m, np.float32) for m in maps])).to(device)


def forecast_loss(network: nn.Module, pairs: Sequence[LesionPair], device: str) -> Tensor:
    """Return cross-entropy of blood at follow-up, full weight near the lesion, plus soft Dice of the
    growth.
    """
    image = _stacked([forecast_input(p, "forecast") for p in pairs], device)
    truth, before = _stacked([p.later for p in pairs], device), _stacked([p.blood for p in pairs], device)
    near = _stacked([signed_distance_mm(p.blood > 0.5, p.spacing_mm) < _NEAR_MM for p in pairs], device)
    logits = network(image)[:, 0].float()
    weight = 0.1 + 0.9 * near
    entropy = (
        F.binary_cross_entropy_with_logits(logits, truth, reduction="none") * weight
    ).sum() / weight.sum()
    growth, grown = torch.sigmoid(logits) * (1 - before), truth * (1 - before)
    overlap = 1 - (2 * (growth * grown).sum() + 20) / (growth.sum() + grown.sum() + 20)
    return 10 * entropy + 0.2 * overlap


def warp_loss(network: nn.Module, pairs: Sequence[LesionPair], device: str) -> Tensor:
    """Return Abramova's loss: smoothness of the move, L1 of the moved CT where the follow-up CT is known,
    Dice of the moved lesion.
    """
    if not isinstance(network, AffineWarp):
        raise InputRefused(
            f"the warp's loss needs an affine_warp network; {type(network).__name__} was given"
        )
    image = _stacked([forecast_input(p, "warp") for p in pairs], device)
    truth = _stacked([p.later for p in pairs], device)
    change = network.change(image)
    moved = network.warped(image, change).float()
    lesion = (moved[:, 1] + 1) / 2
    overlap = 1 - (2 * (lesion * truth).sum() + 1) / (lesion.sum() + truth.sum() + 1)
    known = [k for k, p in enumerate(pairs) if p.later_hu is not None]
    later_hu = [windows(p.later_hu, _WINDOWS_HU[:1])[0] for p in pairs if p.later_hu is not None]
    l1 = (moved[known, 0] - _stacked(later_hu, device)).abs().mean() if known else overlap.new_zeros(())
    return overlap + l1 + _SMOOTHNESS * (change[:, :, :3] ** 2).sum((1, 2)).mean()


def save_forecaster(
    network: nn.Module, settings: ForecastSettings, folder: Path, *, pairs: Sequence[LesionPair], command: str
) -> Model:
    """Write a forecaster as a Model folder; its input is a region around a given outline."""
    manifest = Manifest(
        name=folder.name,
        version="1",
        limits=_limits(settings.kind, pairs),
        network=settings.network(),
        preprocessing=Preprocessing(
            spacing_mm=settings.spacing_mm,
            windows_hu=_WINDOWS_HU[:1] if settings.kind == "warp" else _WINDOWS_HU,
            patch=settings.patch or settings.shape,
        ),
        targets=(TargetSpec(name="followup", kind="region", group="expansion"),),
        provenance=Provenance.of_today(
            command=command,
            seeds=(settings.loop.seed,),
            steps=settings.loop.steps,
            data={"pairs": pairs_fingerprint(pairs)},
            hardware="see the study's page",
        ),
    )
    return save_model(folder, network, manifest)


def _limits(kind: ForecastKind, pairs: Sequence[LesionPair]) -> tuple[str, str]:
    real = sum(not p.synthetic for p in pairs)
    sees = (
        "CT and lesion"
        if kind == "warp"
        else "two HU windows, ICH, IVH and the distance to the lesion's edge"
    )
    return (
        (
            f"Trained on {real} patients whose haematoma expanded and {len(pairs) - real}"
            " synthetic follow-ups of the same patients; it never saw a haematoma that did not expand."
        ),
        f"Sees a region around the haematoma ({sees}); the outline must be given.",
    )


def load_forecaster(folder: str | Path, *, device: str = "cpu") -> tuple[nn.Module, ForecastKind]:
    """Load a Model folder as a forecaster for `forecast_map`."""
    model = load_model(folder)
    if [t.kind for t in model.manifest.targets] != ["region"]:
        raise InputRefused(
            f"{folder} forecasts nothing around an outline (network {model.manifest.network.name}); give a"
            " forecaster"
        )
    return model.network(device=device), (
        "warp" if model.manifest.network.name == "affine_warp" else "forecast"
    )


@torch.inference_mode()
def forecast_map(
    network: nn.Module,
    pair: LesionPair,
    kind: ForecastKind,
    *,
    patch: tuple[int, int, int] | None = None,
    device: str = "cpu",
) -> Floats32:
    """Return each voxel's probability (ours) or share (warp) of blood at follow-up, 0..1.

    With a patch the region is read in windows that overlap by 0.6, as published.
    """
    network = network.eval()

    def run(image: Floats32) -> Floats32:
        out = network(torch.from_numpy(image).to(device)).float()
        share = (out[:, 1:2] + 1) / 2 if kind == "warp" else torch.sigmoid(out[:, :1])
        return np.asarray(share.clamp(0, 1).cpu().numpy(), np.float32)

    image = forecast_input(pair, kind)
    if patch is None:
        return np.asarray(run(image[None])[0, 0], np.float32)
    return np.asarray(
        slide(image, run, patch=patch, channels=1, overlap=_PUBLISHED_OVERLAP, padding=-1.0)[0], np.float32
    )
