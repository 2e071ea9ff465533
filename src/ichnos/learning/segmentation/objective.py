"""What a segmentation network is trained to do: the loss of several targets in one pass, over batches of
patches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field

from ichnos.learning.loop.resources import ON_CPU, Resources
from ichnos.learning.loop.settings import LoopSettings
from ichnos.learning.loop.steps import Loss, Step, Validate
from ichnos.learning.loop.training import train
from ichnos.learning.segmentation.losses import cl_dice_loss, multi_target_loss, rim_loss
from ichnos.learning.segmentation.settings import Objective
from ichnos.models import COORDINATE_MM, NetworkSpec, Preprocessing, TargetSpec


class SegmentationSettings(BaseModel):
    """A segmentation training as it runs: network and input are fixed, the data has a fingerprint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: NetworkSpec
    preprocessing: Preprocessing
    targets: tuple[TargetSpec, ...]
    loop: LoopSettings
    objective: Objective = Objective()
    validate_on: int = Field(default=0, ge=0, description="validation patients; 0: all that are set aside")
    data: str = Field(default="", description="fingerprint of the cases and of how patches are sampled")

    def fingerprint(self) -> str:
        """Return a hash of what decides the numbers beside network and loop."""
        rest = self.model_dump_json(exclude={"network", "loop"})
        return hashlib.sha256(rest.encode()).hexdigest()


@dataclass(frozen=True)
class Batch:
    """Input and truth of one step, on the device of the network; networks that see slices have no z."""

    image: torch.Tensor  # (batch, window, x, y, z), -1..1
    # (batch, target, x, y, z), degree 0..1; a coordinate's in its unit, NaN where it is undefined
    truth: torch.Tensor
    known: torch.Tensor  # (batch, target), 1 where the target's truth is known


BatchAt = Callable[[int], Batch]  # number -> batch, a pure function


def train_segmentation(
    settings: SegmentationSettings,
    batch_at: BatchAt,
    out: Path,
    *,
    initial: dict[str, torch.Tensor] | None = None,
    validate: Validate | None = None,
    resources: Resources = ON_CPU,
) -> torch.nn.Module:
    """Train a segmentation network over batches of any source; see `loop.training.train`."""
    return train(
        settings.network,
        settings.loop,
        SegmentationLoss(settings, batch_at),
        out,
        data=settings.fingerprint(),
        initial=initial,
        validate=validate,
        resources=resources,
    )


@dataclass(frozen=True, eq=False)
class SegmentationLoss:
    """Call it with a network and a step: the loss of the step's batch, with the Dice of each target."""

    settings: SegmentationSettings
    batch_at: BatchAt

    def __call__(self, network: torch.nn.Module, step: Step) -> Loss:
        """Return the loss of all resolutions (deep supervision), each half as important as the one above."""
        batch = self.batch_at(step.number)
        with step.autocast():
            out = network(batch.image)
        scales: list[torch.Tensor] = list(out) if isinstance(out, (list, tuple)) else [out]
        total = torch.zeros((), device=batch.image.device)
        truth = _deep(batch.truth)
        weight_sum = sum(0.5**k for k in range(len(scales)))
        for k, logits in enumerate(_deep(scale).float() for scale in scales):
            size = (logits.shape[2], logits.shape[3], logits.shape[4])
            wanted = truth if k == 0 else F.adaptive_avg_pool3d(truth, size)
            loss = self._of_scale(logits, wanted, batch.known, done=step.share_done, finest=k == 0)
            total = total + 0.5**k / weight_sum * loss
        return Loss(total, self._measures(scales[0].detach(), batch))

    def _of_scale(
        self,
        logits: torch.Tensor,
        truth: torch.Tensor,
        known: torch.Tensor,
        *,
        done: float,
        finest: bool,
    ) -> torch.Tensor:
        weights = self.settings.objective
        coordinates = [k for k, target in enumerate(self.settings.targets) if target.kind == "coordinate"]
        sparse = weights.sparse_weight * max(0.0, 1 - done / weights.sparse_until)
        loss = multi_target_loss(logits, truth, known, coordinates=coordinates, sparse_weight=sparse)
        if finest and (weights.cl_dice_weight or weights.rim_weight):
            masks = [channel for channel in range(logits.shape[1]) if channel not in coordinates]
            probability, wanted = torch.sigmoid(logits[:, masks]), truth[:, masks].float()
            if weights.cl_dice_weight:
                loss = loss + weights.cl_dice_weight * cl_dice_loss(probability, wanted, known[:, masks])
            if weights.rim_weight:
                loss = loss + weights.rim_weight * rim_loss(probability, wanted, known[:, masks])
        return loss

    def _measures(self, logits: torch.Tensor, batch: Batch) -> dict[str, float]:
        """Return the Dice of each target that occurs in the batch; of coordinates the error in mm."""
        measures = {}
        for channel, target in enumerate(self.settings.targets):
            seen = batch.known[:, channel] > 0
            if target.kind == "coordinate":
                error = (logits[seen, channel] - batch.truth[seen, channel]).abs().nanmean()
                measures[target.name] = COORDINATE_MM * float(error)
            else:
                p, t = logits[seen, channel] > 0, batch.truth[seen, channel] > 0.5
                if t.any():
                    measures[target.name] = float(2 * (p & t).sum() / (p.sum() + t.sum()))
        return measures


def _deep(field: torch.Tensor) -> torch.Tensor:
    """Give slices (batch, channel, x, y) a depth of one."""
    return field[..., None] if field.dim() == 4 else field
