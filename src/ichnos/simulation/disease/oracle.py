"""The best possible answer: what could be known from everything the baseline shows, computed from the law
itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ichnos.simulation.disease import law
from ichnos.simulation.patient import SIGNS

_ACTIVITY = torch.linspace(-6, 6, 241)


def activity_posterior(draws: law.Draws) -> Tensor:
    """Return P(activity | all that is visible) on `activity_grid()`, (n, grid); rows sum to one.

    Visible are the signs, irregularity, heterogeneity, volume, onset-to-CT time, drugs and earlier bleeds.
    Given the activity they are independent, so the posterior is their product; no sampling is needed.
    """
    a = _ACTIVITY[None]
    anticoagulated = draws.anticoagulated[:, None]
    mean = law.activity_mean(draws)[:, None]
    log = -0.5 * (a - mean) ** 2
    for column, name in enumerate(SIGNS):
        logit = law.sign_logit(name, a, anticoagulated)
        log = log + torch.where(
            draws.signs[:, column, None],
            torch.nn.functional.logsigmoid(logit),
            torch.nn.functional.logsigmoid(-logit),
        )
    for score in (draws.irregularity, draws.heterogeneity):
        log = log + law.score_density(score[:, None], a)
    return torch.softmax(log, -1)


def activity_grid() -> Tensor:
    """Return the activities at which the posterior is tabulated."""
    return _ACTIVITY


def expansion_probability(draws: law.Draws) -> Tensor:
    """Return P(haematoma expansion | everything the image shows), (n,)."""
    given = law.expansion_given_activity(
        _ACTIVITY[None], draws.ich_ml[:, None], draws.followup_interval_h[:, None]
    )
    return (activity_posterior(draws) * given).sum(-1)


def resampled_followup_ml(draws: law.Draws, samples: int, generator: torch.Generator) -> Tensor:
    """Return volumes at follow-up of the first patient, (samples,), drawn from the law given all that is
    visible.
    """
    chosen = torch.multinomial(activity_posterior(draws)[0], samples, replacement=True, generator=generator)
    ich = draws.ich_ml[:1].expand(samples)
    interval = draws.followup_interval_h[:1].expand(samples)
    return law.grow(ich, _ACTIVITY[chosen], interval, generator)


def ranking_auc(score: Tensor, outcome: Tensor) -> float:
    """Return the area under the ROC curve, ties counted half; NaN if only one outcome is present.

    >>> ranking_auc(torch.tensor([0.1, 0.4, 0.8]), torch.tensor([False, False, True]))
    1.0
    """
    positive, negative = score[outcome], score[~outcome].sort().values
    if len(positive) == 0 or len(negative) == 0:
        return float("nan")
    below, upto = (torch.searchsorted(negative, positive, right=right) for right in (False, True))
    return float((below + upto).double().mean() / (2 * len(negative)))
