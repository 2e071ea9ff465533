"""Loss terms that look at form: thin tubes must stay connected, rims must lie where they are."""

from __future__ import annotations

import torch
import torch.nn.functional as F

_Map = torch.Tensor  # (batch, target, x, y, z), degree 0..1
_EPSILON = 1e-6


def cl_dice_loss(probability: _Map, truth: _Map, known: torch.Tensor, *, steps: int = 4) -> torch.Tensor:
    """Return 1 - centre-line Dice with soft skeletons (Shit et al. 2021, arXiv 2003.07311), over the targets
    that are known and there.

    `steps` is half the thickness, in voxels, of the thickest tube to be thinned to its middle.

    >>> tube = torch.zeros(1, 1, 8, 8, 8)
    >>> tube[..., 3:6, 3:6, :] = 1
    >>> whole, cut = tube.clone(), tube.clone()
    >>> cut[..., 3:5] = 0
    >>> bool(cl_dice_loss(whole, tube, torch.ones(1, 1)) < 1e-4 < cl_dice_loss(cut, tube, torch.ones(1, 1)))
    True
    """
    weight = _weight(truth, known)
    probability, truth = probability * weight, truth * weight
    line, true_line = _soft_skeleton(probability, steps), _soft_skeleton(truth, steps)
    axes = (0, 2, 3, 4)
    precision = ((line * truth).sum(axes) + _EPSILON) / (line.sum(axes) + _EPSILON)
    recall = ((true_line * probability).sum(axes) + _EPSILON) / (true_line.sum(axes) + _EPSILON)
    return _mean_over_present(1 - 2 * precision * recall / (precision + recall), weight)


def rim_loss(probability: _Map, truth: _Map, known: torch.Tensor) -> torch.Tensor:
    """Return 1 - Dice of the soft rims, a rim being a mask less its erosion by a voxel (after Bokhovkin &
    Burnaev 2019, arXiv 1905.07852).

    >>> ball = torch.zeros(1, 1, 8, 8, 8)
    >>> ball[..., 2:6, 2:6, 2:6] = 1
    >>> known = torch.ones(1, 1)
    >>> bool(rim_loss(ball, ball, known) < 1e-4 < rim_loss(ball.roll(1, 2), ball, known))
    True
    """
    weight = _weight(truth, known)
    rim, true_rim = ((field - _eroded(field)) * weight for field in (probability, truth))
    axes = (0, 2, 3, 4)
    dice = (2 * (rim * true_rim).sum(axes) + _EPSILON) / (
        (rim**2).sum(axes) + (true_rim**2).sum(axes) + _EPSILON
    )
    return _mean_over_present(1 - dice, weight)


def _weight(truth: _Map, known: torch.Tensor) -> torch.Tensor:
    """Return 1 for the (batch, target) pairs that are known and in which the target occurs: without it
    there is no form to judge.
    """
    present = (truth > 0.5).flatten(2).any(2)
    return (known.bool() & present).float()[:, :, None, None, None]


def _mean_over_present(per_target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    present = (weight.flatten(1).reshape(weight.shape[0], -1).sum(0) > 0).float()
    return (per_target * present).sum() / present.sum().clamp(min=1)


def _eroded(field: _Map) -> _Map:
    """Take the minimum over the six neighbours and the voxel itself; an axis of one voxel has no
    neighbours.
    """
    out = field
    for axis in range(3):
        if field.shape[2 + axis] > 1:
            size = [3 if a == axis else 1 for a in range(3)]
            out = torch.minimum(out, -F.max_pool3d(-field, size, 1, [n // 2 for n in size]))
    return out


def _opened(field: _Map) -> _Map:
    size = [3 if n > 1 else 1 for n in field.shape[2:]]
    return F.max_pool3d(_eroded(field), size, 1, [n // 2 for n in size])


def _soft_skeleton(field: _Map, steps: int) -> _Map:
    skeleton = F.relu(field - _opened(field))
    for _ in range(steps):
        field = _eroded(field)
        delta = F.relu(field - _opened(field))
        skeleton = skeleton + F.relu(delta - skeleton * delta)
    return skeleton
