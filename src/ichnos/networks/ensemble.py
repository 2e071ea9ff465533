"""Several classifiers of one shape, trained on different folds, with all that turns their answers into one
calibrated probability.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ichnos.networks import build


class CalibratedEnsemble(nn.Module):
    """Classify images (b, c, *space) by every member: (b, members), each the probability of class 1.

    `member` is the call of one network ({"name": …, "arguments": …}). Each member standardises the features
    (b, features) by the means and spreads of its own fold; `platt` holds intercept and slope of the line from
    mean log odds to the log odds of the event.

    >>> arguments = {"image_size": [8, 8], "patch_size": 8, "width": 8, "depth": 1, "heads": 2}
    >>> vit = {"name": "vit", "arguments": arguments}
    >>> CalibratedEnsemble(vit, members=3)(torch.zeros(5, 3, 8, 8)).shape
    torch.Size([5, 3])
    """

    mean: Tensor
    spread: Tensor
    platt: Tensor

    def __init__(
        self,
        member: Mapping[str, Any],
        members: int,
        features: int = 0,
        feature_names: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.feature_names = tuple(feature_names)
        self.members = nn.ModuleList(build(member["name"], **member["arguments"]) for _ in range(members))
        self.register_buffer("mean", torch.zeros(members, features, dtype=torch.float64))
        self.register_buffer("spread", torch.ones(members, features, dtype=torch.float64))
        self.register_buffer("platt", torch.tensor([0.0, 1.0], dtype=torch.float64))

    def forward(self, image: Tensor, features: Tensor | None = None) -> Tensor:
        each = []
        for member, mean, spread in zip(self.members, self.mean, self.spread, strict=True):
            if features is None or not len(mean):
                logits = member(image)
            else:
                logits = member(image, ((features.double() - mean) / spread).clamp(-5, 5).float())
            each.append(torch.softmax(logits.float(), 1)[:, 1])
        return torch.stack(each, 1)

    def calibrated(self, each: Tensor) -> float:
        """Return one patient's probability from what the members say of the patient's images (n, members)."""
        odds = torch.logit(each.double().mean(0).clamp(1e-6, 1 - 1e-6)).mean()
        intercept, slope = self.platt.tolist()
        return float(torch.sigmoid(intercept + slope * odds))
