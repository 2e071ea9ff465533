"""Does the score separate: rates at the operating point, simpler scores, and every centre."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ichnos.clinical.scores import Comparator
from ichnos.evidence.figures import Figure, forest_figure
from ichnos.evidence.metrics.discrimination import (
    Auc,
    AucDifference,
    Booleans,
    RocCurve,
    auc,
    compare_paired,
    holm,
    roc_curve,
)
from ichnos.evidence.metrics.intervals import Estimate
from ichnos.evidence.metrics.pooling import random_effects
from ichnos.evidence.metrics.thresholds import Rates, predictive_values
from ichnos.evidence.pack.outcomes.data import OutcomeData
from ichnos.evidence.tables import Cell, Table, number, p_value

_TITLES = {"volume": "Baseline volume", "bat": "BAT", "brain": "BRAIN", "hep": "HEP"}


def rates_table(data: OutcomeData, decided: Rates, prevalence: Estimate) -> Table:
    """Lay out what the operating point decides, with predictive values at other prevalences."""
    hits, misses = decided.true_positive, decided.false_negative
    passed, false = decided.true_negative, decided.false_positive
    rows: list[tuple[Cell, ...]] = [
        ("Sensitivity", decided.sensitivity, f"{hits} / {hits + misses}"),
        ("Specificity", decided.specificity, f"{passed} / {passed + false}"),
        ("PPV", decided.ppv, f"{hits} / {hits + false}"),
        ("NPV", decided.npv, f"{passed} / {passed + misses}"),
        ("Accuracy", decided.accuracy, f"{hits + passed} / {decided.accuracy.n}"),
        ("Prevalence", prevalence, f"{hits + misses} / {prevalence.n}"),
    ]
    for share in (0.1, 0.2, 0.3):
        ppv, npv = predictive_values(
            sensitivity=decided.sensitivity.value, specificity=decided.specificity.value, prevalence=share
        )
        rows.append((f"PPV, NPV at a prevalence of {share:.0%}", f"{number(ppv)}, {number(npv)}", ""))
    point = decided.point
    where = "beforehand" if point.rule == "given" else f"on the {point.chosen_on} cases"
    note = f"Threshold {number(point.threshold)}, {point.rule}, chosen {where}."
    title = f"{data.plan.name}: decisions at the operating point"
    return Table(f"rates_{data.stem}", title, ("", "Value (95 % interval)", "Cases"), tuple(rows), note)


@dataclass(frozen=True, eq=False)
class _Rival:
    """A simpler score beside the model, on the cases that have both."""

    title: str
    area: Auc
    gap: AucDifference  # model minus score
    curve: RocCurve


def rivals_table(
    data: OutcomeData, rivals: Sequence[Comparator]
) -> tuple[Table, dict[str, Any], tuple[str, ...]]:
    """Compare the model with each simpler score on the cases that have both."""
    compared: dict[str, _Rival] = {}
    notes = []
    for rival in rivals:
        keep = ~np.isnan(rival.values) if not rival.missing else np.zeros(0, bool)
        if rival.missing or keep.sum() < 5 or len(set(data.events[keep])) < 2:
            reason = rival.missing or "too few cases have every fact it needs"
            notes.append(f"{_TITLES[rival.name]} was not compared: {reason}.")
        else:
            compared[rival.name] = _compared(data, rival, keep)
    area = auc(data.events, data.score)
    rows: list[tuple[Cell, ...]] = [("Model", area.n, area.events, area_estimate(area), None, None, None)]
    adjusted = holm([r.gap.p for r in compared.values()])
    rows += [_rival_row(r, float(p)) for r, p in zip(compared.values(), adjusted, strict=True)]
    columns = ("Score", "n", "Events", "AUC", "Model minus score", "p", "p (Holm)")
    note = "DeLong's interval and paired test on the cases that have both scores."
    table = Table(f"auc_{data.stem}", f"{data.plan.name}: discrimination", columns, tuple(rows), note)
    curves = {name: (r.curve, f"{r.title} {r.area}") for name, r in compared.items()}
    return table, curves, tuple(notes)


def _compared(data: OutcomeData, rival: Comparator, keep: Booleans) -> _Rival:
    events, score = data.events[keep], rival.values[keep]
    gap = compare_paired(events, data.score[keep], score)
    return _Rival(_TITLES[rival.name], auc(events, score), gap, roc_curve(events, score))


def _rival_row(rival: _Rival, adjusted_p: float) -> tuple[Cell, ...]:
    gap, area = rival.gap, rival.area
    difference = Estimate(gap.value, gap.low, gap.high, area.n)
    ps = (p_value(gap.p), p_value(adjusted_p))
    return (rival.title, area.n, area.events, area_estimate(area), difference, *ps)


def area_estimate(area: Auc) -> Estimate:
    """Return an area under the curve as an estimate for tables and forests."""
    return Estimate(area.value, area.low, area.high, area.n)


def centres_table(data: OutcomeData) -> tuple[list[Table], list[Figure]]:
    """Return the AUC per centre with its random-effects mean, as a table and a forest; nothing for one
    centre.
    """
    where = data.rows["centre"].to_numpy()
    names = sorted(set(where))
    if len(names) < 2:
        return [], []
    areas, skipped = [], []
    for centre in names:
        events, score = data.events[where == centre], data.score[where == centre]
        if 0 < events.sum() < events.size:
            areas.append((str(centre) or "(no centre)", auc(events, score)))
        else:
            skipped.append(str(centre) or "(no centre)")
    rows: list[tuple[Cell, ...]] = [(n, a.n, a.events, area_estimate(a)) for n, a in areas]
    usable = [(n, a) for n, a in areas if np.isfinite(a.low) and a.se > 0]
    figures = []
    if len(usable) >= 3:
        mean, reach = _pooled(usable)
        rows += _pooled_rows(usable, mean, reach)
        figures.append(_centres_forest(data, usable, mean, reach))
    note = f"Centres with one outcome only are left out: {', '.join(skipped)}." if skipped else ""
    title, columns = f"{data.plan.name}: discrimination per centre", ("Centre", "n", "Events", "AUC")
    return [Table(f"auc_centres_{data.stem}", title, columns, tuple(rows), note)], figures


def _pooled(areas: Sequence[tuple[str, Auc]]) -> tuple[Estimate, tuple[float, float]]:
    """Return the mean area over centres and where the next centre's is expected, pooled as logits."""
    logits = [float(np.log(a.value / (1 - a.value))) for _, a in areas]
    pooled = random_effects(logits, [a.se / (a.value * (1 - a.value)) for _, a in areas])
    value, low, high = (_expit(v) for v in (pooled.pooled.value, pooled.pooled.low, pooled.pooled.high))
    return Estimate(value, low, high, len(areas)), (
        _expit(pooled.prediction_low),
        _expit(pooled.prediction_high),
    )


def _pooled_rows(
    areas: Sequence[tuple[str, Auc]], mean: Estimate, reach: tuple[float, float]
) -> list[tuple[Cell, ...]]:
    patients, events = sum(a.n for _, a in areas), sum(a.events for _, a in areas)
    rows: list[tuple[Cell, ...]] = [("Mean of centres (random effects)", patients, events, mean)]
    if np.isfinite(reach).all():
        rows.append(
            ("Next centre (95 % prediction)", None, None, f"{number(reach[0])} to {number(reach[1])}")
        )
    return rows


def _centres_forest(
    data: OutcomeData, areas: Sequence[tuple[str, Auc]], mean: Estimate, reach: tuple[float, float]
) -> Figure:
    return forest_figure(
        f"forest_auc_{data.stem}",
        [(f"{n} ({a.events}/{a.n})", area_estimate(a)) for n, a in areas],
        pooled=("Random effects", mean),
        prediction=reach,
        axis="AUC",
        reference=0.5,
        caption=(
            f"{data.plan.name}: AUC per centre, their mean and the 95 % prediction interval for the next"
            " centre."
        ),
    )


def _expit(value: float) -> float:
    return float(1 / (1 + np.exp(-value)))
