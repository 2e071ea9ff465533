"""Where will there be blood tomorrow? Two learners of the follow-up lesion from the baseline CT and its
lesion, and how to score them.

*Warp*, after Abramova 2024: one affine map per patient moves CT and lesion; loss = smoothness + L1(CT) +
Dice(lesion). Mended here: the smoothness term reaches the gradient, the training is not stopped by copies of
its own patients, and growth is compared as a set, unsigned. What cannot be mended: an affine image of a
lesion has no new part, so that no fresh ventricular blood can be forecast.

*Ours*: a network gives each voxel a probability of blood at follow-up. The mask (voxels above an operating
point), the expected volume (the sum of probabilities) and, through the growth law, P(expansion) come from the
same map.
"""

from __future__ import annotations

import datetime
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from ichnos import __version__
from ichnos.cohort import Cohort, Patient
from ichnos.errors import InputRefused
from ichnos.formats import bids, nifti
from ichnos.inference import windows
from ichnos.learning.expansion.crops import REGION_SHAPE, REGION_SPACING_MM, REGION_WINDOWS_HU, roi_grid
from ichnos.learning.loop.optimise import Course, optimise
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
from ichnos.networks.warp import AffineWarp
from ichnos.reading.expansion import signed_distance_mm
from ichnos.volume import Volume

Field = npt.NDArray[np.float32]
Kind = Literal["warp", "forecast"]
ROI_SPACING_MM, ROI_SHAPE, WINDOWS_HU = REGION_SPACING_MM, REGION_SHAPE, REGION_WINDOWS_HU
SYNTHETIC_FACTORS = (1.33, 1.68, 2.0)  # follow-up over baseline volume, as published
_NEAR_MM = 24.0  # voxels this near to the lesion count fully in our loss, the others a tenth
_WAY_MM = 12.0
_SMOOTHNESS = 0.1


@dataclass(frozen=True, eq=False)
class Pair:
    """A patient's lesion at both times on a region around it; shares of a voxel, 0..1."""

    patient: str
    hu: Field  # (x, y, z)
    ich: Field
    ivh: Field
    brain: npt.NDArray[np.bool_]  # where blood may go: inside the brain
    later: Field  # ICH and IVH at follow-up
    later_hu: Field | None = None  # for the warp's L1; None: not known, the term is left out
    oracle: Field | None = None  # the simulation's probability of blood at follow-up
    synthetic: bool = False

    @property
    def blood(self) -> Field:
        """Return ICH and IVH at baseline."""
        total: Field = np.clip(self.ich + self.ivh, 0, 1)
        return total

    @property
    def voxel_ml(self) -> float:
        """Return the volume of a voxel of the region."""
        return float(np.prod(ROI_SPACING_MM)) / 1000


def pair_of(cohort: Cohort, patient: Patient) -> Pair | None:
    """Load a patient's pair from a cohort with the targets haematoma and expansion; None where one is missing
    or empty.

    Blood anywhere in the skull may grow where a target "brain" is not known.
    """
    if cohort.root is None:
        raise InputRefused(
            "the cohort has no folder, so its targets cannot be found; read it with formats.bids.read_cohort"
        )
    before, after = (bids.find_target(cohort.root, patient.id, name) for name in ("haematoma", "expansion"))
    if before is None or after is None or "ct" not in patient.exams:
        return None
    ct, labels, later = (nifti.load(f).reoriented("RAS") for f in (patient.exam("ct"), before, after))
    ich = labels.with_array((labels.array == 1).astype(np.float32))
    if not ich.array.any():
        return None
    grid = roi_grid(ich, spacing_mm=ROI_SPACING_MM, shape=ROI_SHAPE)

    def pulled(volume: Volume, *values: int) -> Field:
        chosen = (
            volume.with_array(np.isin(volume.array, values).astype(np.float32))
            if values
            else volume.astype(np.float32)
        )
        found: Field = chosen.on_grid(grid, fill=0.0 if values else -1000.0).array
        return found

    brain, oracle = (bids.find_target(cohort.root, patient.id, name) for name in ("brain", "oracle"))
    hu = pulled(ct)
    inside = pulled(nifti.load(brain).reoriented("RAS"), 1, 2) > 0.5 if brain else hu > -20
    map_ = nifti.load(oracle).reoriented("RAS").on_grid(grid).array.astype(np.float32) if oracle else None
    return Pair(patient.id, hu, pulled(ich, 1), pulled(labels, 2), inside, pulled(later, 1, 2), oracle=map_)


def synthetic_pair(pair: Pair, factor: float, rng: np.random.Generator) -> Pair:
    """Make a follow-up as published: dilate the lesion to `factor` times its volume, avoiding fluid, and move
    the CT along.

    The dilation runs by a distance that is roughened at random; the CT is pulled from the old lesion's edge
    to the new one's.
    """
    blood = pair.blood > 0.5
    distance = signed_distance_mm(blood, ROI_SPACING_MM)
    rough = ndimage.gaussian_filter(rng.normal(size=blood.shape), [8.0 / s for s in ROI_SPACING_MM])
    score = distance + 2.0 * rough / max(float(rough.std()), 1e-6)
    allowed = blood | (pair.brain & (pair.hu > 15))
    wanted = min(round(factor * float(blood.sum())), int(allowed.sum()))
    at = np.flatnonzero(allowed)
    grown = np.zeros(blood.shape, bool)
    grown.flat[at[np.argsort(np.where(blood, -100.0, score).flat[at], kind="stable")[:wanted]]] = True
    reach = max(float(distance[grown].max()), 1.0)
    return replace(
        pair,
        later=grown.astype(np.float32),
        later_hu=_moved(pair.hu, distance, reach),
        oracle=None,
        synthetic=True,
    )


def _moved(hu: Field, distance: Field, reach_mm: float) -> Field:
    """Pull HU outward: what lay at the lesion's edge comes to lie `reach_mm` outside it; inside the pull
    shrinks to 0, outside it fades.
    """
    depth = max(float(-distance.min()), 1.0)
    pull = (
        np.where(
            distance < reach_mm, (distance + depth) / (reach_mm + depth), np.exp((reach_mm - distance) / 10.0)
        )
        * reach_mm
    )
    direction = np.array(np.gradient(distance, *ROI_SPACING_MM))
    direction /= np.maximum(np.linalg.norm(direction, axis=0), 1e-6)
    steps = np.array(ROI_SPACING_MM).reshape(3, 1, 1, 1)
    at = np.indices(hu.shape) - direction * pull / steps
    return np.asarray(ndimage.map_coordinates(hu, at, order=1, mode="nearest"), np.float32)


# ---- learning
# ------------------------------------------------------------------------------------------


def network_input(pair: Pair, kind: Kind) -> Field:
    """Return the channels that a network sees: CT and lesion for the warp; two windows, ICH, IVH and the way
    to the lesion for ours.

    The way is the signed distance to the lesion's edge, -1 at 12 mm inside and +1 at 12 mm outside: growth is
    mostly near, and the network need not learn to measure.
    """
    if kind == "warp":
        return np.stack([windows(pair.hu, WINDOWS_HU[:1])[0], 2 * pair.blood - 1]).astype(np.float32)
    way = np.clip(signed_distance_mm(pair.blood > 0.5, ROI_SPACING_MM) / _WAY_MM, -1, 1)
    return np.concatenate(
        [windows(pair.hu, WINDOWS_HU), np.stack([2 * pair.ich - 1, 2 * pair.ivh - 1, way])]
    ).astype(np.float32)


def spec_of(kind: Kind, *, width: int = 16) -> NetworkSpec:
    """Return the network of a kind; the published warp has width 64."""
    features = [width, 2 * width, 4 * width]
    if kind == "warp":
        return NetworkSpec(
            name="affine_warp", arguments={"input_channels": 2, "features_per_stage": [*features, 8 * width]}
        )
    shape = {
        "features_per_stage": features,
        "strides": [1, 2, 2],
        "n_conv_per_stage": [1, 1, 2],
        "n_conv_per_stage_decoder": [1, 1],
    }
    return NetworkSpec(name="unet", arguments={"input_channels": 5, "num_classes": 1, "dim": 3, **shape})


def train_forecaster(
    pairs: Sequence[Pair],
    kind: Kind,
    out: Path,
    *,
    steps: int,
    width: int = 16,
    batch: int = 2,
    learning_rate: float = 2e-3,
    seed: int = 0,
    device: str = "cpu",
    seconds: float = math.inf,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> nn.Module:
    """Train a network of a kind on pairs, synthetic ones among them; the same call goes on where it was
    stopped.
    """
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

    def loss_of(network: nn.Module, step: int) -> Tensor:
        rng = np.random.default_rng([seed, step])
        chosen = [pairs[int(k)] for k in rng.choice(len(pairs), min(batch, len(pairs)), replace=False)]
        flips = [bool(rng.random() < 0.5) for _ in chosen]
        losses = warp_loss if kind == "warp" else forecast_loss
        return losses(
            network, [_mirrored(p) if flip else p for p, flip in zip(chosen, flips, strict=True)], device
        )

    course = Course(
        network=spec_of(kind, width=width),
        steps=steps,
        learning_rate=learning_rate if kind == "forecast" else learning_rate / 10,
        seed=seed,
        data=fingerprint(pairs)[:16],
    )
    return optimise(course, loss_of, out, device=device, seconds=seconds, report=report)


def _mirrored(pair: Pair) -> Pair:
    names = ("hu", "ich", "ivh", "brain", "later", "later_hu")
    maps = {name: getattr(pair, name)[::-1].copy() for name in names if getattr(pair, name) is not None}
    return replace(pair, **maps)


def _stacked(maps: Sequence[npt.NDArray[np.generic]], device: str) -> Tensor:
    return torch.from_numpy(np.stack([np.ascontiguousarray(m, np.float32) for m in maps])).to(device)


def forecast_loss(network: nn.Module, pairs: Sequence[Pair], device: str) -> Tensor:
    """Return cross-entropy of blood at follow-up, full weight near the lesion, plus soft Dice of the
    growth.
    """
    image = _stacked([network_input(p, "forecast") for p in pairs], device)
    truth, before = _stacked([p.later for p in pairs], device), _stacked([p.blood for p in pairs], device)
    near = _stacked([signed_distance_mm(p.blood > 0.5, ROI_SPACING_MM) < _NEAR_MM for p in pairs], device)
    logits = network(image)[:, 0]
    weight = 0.1 + 0.9 * near
    entropy = (
        F.binary_cross_entropy_with_logits(logits, truth, reduction="none") * weight
    ).sum() / weight.sum()
    growth, grown = torch.sigmoid(logits) * (1 - before), truth * (1 - before)
    overlap = 1 - (2 * (growth * grown).sum() + 20) / (growth.sum() + grown.sum() + 20)
    return 10 * entropy + 0.2 * overlap


def warp_loss(network: nn.Module, pairs: Sequence[Pair], device: str) -> Tensor:
    """Return Abramova's loss: smoothness of the move, L1 of the moved CT where the follow-up CT is known,
    Dice of the moved lesion.
    """
    if not isinstance(network, AffineWarp):
        raise InputRefused(
            f"the warp's loss needs an affine_warp network; {type(network).__name__} was given"
        )
    image = _stacked([network_input(p, "warp") for p in pairs], device)
    truth = _stacked([p.later for p in pairs], device)
    change = network.change(image)
    moved = network.warped(image, change)
    lesion = (moved[:, 1] + 1) / 2
    overlap = 1 - (2 * (lesion * truth).sum() + 1) / (lesion.sum() + truth.sum() + 1)
    known = [k for k, p in enumerate(pairs) if p.later_hu is not None]
    later_hu = [windows(p.later_hu, WINDOWS_HU[:1])[0] for p in pairs if p.later_hu is not None]
    l1 = (moved[known, 0] - _stacked(later_hu, device)).abs().mean() if known else overlap.new_zeros(())
    return overlap + l1 + _SMOOTHNESS * (change[:, :, :3] ** 2).sum((1, 2)).mean()


def save_forecaster(
    network: nn.Module, kind: Kind, folder: Path, *, pairs: Sequence[Pair], steps: int, seed: int, width: int
) -> Model:
    """Write a forecaster as a Model folder; it sees a region around an outline that is given
    (`network_input`).
    """
    real = [p for p in pairs if not p.synthetic]
    sees = (
        "CT and lesion"
        if kind == "warp"
        else "two HU windows, ICH, IVH and the distance to the lesion's edge"
    )
    manifest = Manifest(
        name=folder.name,
        version="1",
        limits=(
            (
                f"Learnt from {len(real)} patients whose haematoma expanded and {len(pairs) - len(real)}"
                " synthetic follow-ups of the same ones: of haematomas that stay as they are it knows"
                " nothing."
            ),
            f"Sees a region of 96 x 96 x 96 mm around the haematoma ({sees}); the outline must be given.",
        ),
        network=spec_of(kind, width=width),
        preprocessing=Preprocessing(
            spacing_mm=ROI_SPACING_MM,
            windows_hu=WINDOWS_HU[:1] if kind == "warp" else WINDOWS_HU,
            patch=ROI_SHAPE,
        ),
        targets=(TargetSpec(name="followup", kind="region", group="expansion"),),
        provenance=Provenance(
            code_version=__version__,
            command="ichnos study abramova2024",
            seeds=(seed,),
            steps=steps,
            data={"pairs": fingerprint(pairs)},
            hardware="see the study's page",
            trained=datetime.datetime.now(datetime.UTC).date().isoformat(),
        ),
    )
    return save_model(folder, network, manifest)


def load_forecaster(folder: str | Path, *, device: str = "cpu") -> tuple[nn.Module, Kind]:
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


def fingerprint(pairs: Sequence[Pair]) -> str:
    """Return a hash of what a forecaster learns from."""
    words = " ".join(f"{p.patient}{p.later.sum():.1f}" for p in pairs)
    return hashlib.sha256(words.encode()).hexdigest()


@torch.inference_mode()
def forecast_map(network: nn.Module, pair: Pair, kind: Kind, *, device: str = "cpu") -> Field:
    """Return each voxel's probability (ours) or share (warp) of blood at follow-up, 0..1."""
    out = network.eval()(_stacked([network_input(pair, kind)], device))
    found = (out[0, 1] + 1) / 2 if kind == "warp" else torch.sigmoid(out[0, 0])
    return np.asarray(found.clamp(0, 1).float().cpu().numpy(), np.float32)


def uniform_dilation(pair: Pair, factor: float) -> Field:
    """Return the lesion dilated evenly to `factor` times its volume inside the brain: what knows only the
    mean growth.
    """
    blood = pair.blood > 0.5
    allowed = blood | pair.brain
    score = np.where(allowed, signed_distance_mm(blood, ROI_SPACING_MM), np.inf).ravel()
    out = np.zeros(blood.size, np.float32)
    out[np.argsort(score, kind="stable")[: round(factor * float(blood.sum()))]] = 1
    return out.reshape(blood.shape)


# ---- scoring
# ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ForecastScore:
    """How well one patient's follow-up lesion was forecast."""

    patient: str
    growth_dice: (
        float  # of the voxels that are blood at follow-up and were not before; NaN where nothing grew
    )
    lesion_dice: float
    volume_error_ml: float  # forecast minus truth


def score(
    pair: Pair, forecast: Field, *, threshold: float = 0.5, volume_ml: float | None = None
) -> ForecastScore:
    """Score a map at an operating point; `volume_ml` is the forecast volume where it is not the mask's."""
    mask, truth, before = forecast > threshold, pair.later > 0.5, pair.blood > 0.5
    grown = truth & ~before
    growth = _dice(mask & ~before, grown)
    predicted_ml = float(mask.sum()) * pair.voxel_ml if volume_ml is None else volume_ml
    return ForecastScore(
        pair.patient, growth, _dice(mask, truth), predicted_ml - float(truth.sum()) * pair.voxel_ml
    )


def _dice(found: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    """Return Dice; NaN where there is nothing to find."""
    return 2 * float((found & truth).sum()) / float(found.sum() + truth.sum()) if truth.any() else math.nan


def best_threshold(pairs: Sequence[Pair], maps: Sequence[Field]) -> float:
    """Return the operating point with the greatest mean growth Dice, among 0.05 to 0.95; patients who were
    trained on choose it.
    """
    cuts = np.linspace(0.05, 0.95, 19)
    means = [
        float(np.nanmean([score(p, m, threshold=c).growth_dice for p, m in zip(pairs, maps, strict=True)]))
        for c in cuts
    ]
    return float(cuts[int(np.nanargmax(means))])
