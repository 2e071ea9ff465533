"""Sufficient statistics of a site's scores: what sites may exchange. No patient, no date, no image."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from ichnos.arrays import Floats
from ichnos.audit.lot import independent_scores
from ichnos.audit.score import Score, by_quantity
from ichnos.errors import InputRefused
from ichnos.evidence.metrics.calibration import calibration
from ichnos.evidence.metrics.discrimination import auc
from ichnos.files import atomic_file

STATISTICS_FILE = "statistics.json"
_FORMAT = "ichnos-site-statistics-1"
BY_ITSELF = ", judged by the model itself"  # ends the name of a number that is no evidence of the truth
FEWEST_EXCHANGED = 10  # pairs of a quantity; a mean over fewer might point at a person


@dataclass(frozen=True)
class SiteStatistic:
    """One number of one site about one quantity of one model, on a scale where it is near normal."""

    site: str
    model: str
    quantity: str
    number: str  # "mean loss", "logit coverage", "calibration slope", "logit AUC", "mean error"
    value: float
    error: float  # standard error
    pairs: int


def site_statistics(scores: Sequence[Score], *, site: str) -> list[SiteStatistic]:
    """Return the statistics of every model and quantity with enough pairs.

    Numbers of follow-ups that the model itself judged have names of their own, so that nobody pools them
    with others.
    """
    by_itself = [score for score in scores if score.judge == "model"]
    found = []
    for ending, judged in (("", independent_scores(scores)), (BY_ITSELF, by_itself)):
        for model in dict.fromkeys(score.model for score in judged):
            for quantity, own in by_quantity([s for s in judged if s.model == model]).items():
                if len(own) >= FEWEST_EXCHANGED:
                    found += _statistics(own, site, model, quantity, ending)
    return found


def _statistics(
    scores: Sequence[Score], site: str, model: str, quantity: str, ending: str
) -> list[SiteStatistic]:
    numbers = {**_losses(scores), **_coverage(scores), **_probabilities(scores)}
    return [
        SiteStatistic(site, model, quantity, name + ending, value, error, len(scores))
        for name, (value, error) in numbers.items()
        if math.isfinite(value) and math.isfinite(error) and error > 0
    ]


def _losses(scores: Sequence[Score]) -> dict[str, tuple[float, float]]:
    numbers = {"mean loss": [s.loss for s in scores], "mean error": [s.error for s in scores]}
    return {name: _mean(np.asarray(values)) for name, values in numbers.items()}


def _mean(values: Floats) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(values.size))


def _coverage(scores: Sequence[Score]) -> dict[str, tuple[float, float]]:
    held = [bool(score.held) for score in scores if score.held is not None]
    if len(held) < FEWEST_EXCHANGED:
        return {}
    inside, outside = sum(held) + 0.5, len(held) - sum(held) + 0.5
    return {"logit coverage": (math.log(inside / outside), math.sqrt(1 / inside + 1 / outside))}


def _probabilities(scores: Sequence[Score]) -> dict[str, tuple[float, float]]:
    events = sum(score.truth for score in scores)
    if scores[0].kind != "probability" or not 2 <= events <= len(scores) - 2:
        return {}
    truth, predicted = [s.truth for s in scores], [s.predicted for s in scores]
    area, slope = auc(truth, predicted), calibration(truth, predicted).slope
    found = {"calibration slope": (slope.value, (slope.high - slope.low) / (2 * 1.959964))}
    if 0 < area.value < 1:
        inside = area.value * (1 - area.value)
        found["logit AUC"] = (math.log(area.value / (1 - area.value)), area.se / inside)
    return found


def write_statistics(statistics: Sequence[SiteStatistic], out: Path) -> Path:
    """Write the statistics of a site into a folder."""
    content = {"format": _FORMAT, "statistics": [asdict(one) for one in statistics]}
    with atomic_file(out / STATISTICS_FILE) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return out / STATISTICS_FILE


def read_statistics(folder: Path) -> list[SiteStatistic]:
    """Read the statistics of a site; a site without a name takes that of its folder."""
    file = folder / STATISTICS_FILE if folder.is_dir() else folder
    names = {field.name for field in fields(SiteStatistic)}
    try:
        content = json.loads(file.read_bytes())
        rows = content["statistics"]
        if content["format"] != _FORMAT or any(set(row) != names for row in rows):
            raise ValueError("another format")
        if not all(math.isfinite(row[name]) for row in rows for name in ("value", "error", "pairs")):
            raise ValueError("a number is missing")
        found = [SiteStatistic(**row) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputRefused(
            f"{file} is not the {STATISTICS_FILE} of `ichnos audit` ({type(error).__name__}); ask the site"
            " for it"
        ) from None
    own = folder.resolve().name if folder.is_dir() else folder.resolve().parent.name
    return [SiteStatistic(**{**asdict(one), "site": one.site or own}) for one in found]
