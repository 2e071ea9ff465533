"""The section that compares two models on the same cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ichnos.evidence.metrics.discrimination import compare_paired
from ichnos.evidence.metrics.intervals import Estimate
from ichnos.evidence.metrics.summary import compare_models, measure_column
from ichnos.evidence.pack.cases import CaseRows
from ichnos.evidence.pack.evaluation import Evaluation
from ichnos.evidence.pack.outcomes.data import outcome_truth
from ichnos.evidence.pack.section import Section
from ichnos.evidence.pack.sections.masks import MASK_MEASURES
from ichnos.evidence.tables import Cell, Table, p_value

_COMPARED = ("dice", "nsd", "hd95_mm", "volume_error_ml", "growth_dice", "cl_dice")


def models_section(
    evaluation: Evaluation, rows: CaseRows, rival: Evaluation, rival_rows: CaseRows
) -> Section:
    """Compare masks case by case (Wilcoxon, bootstrap, Holm) and probabilities by DeLong's paired test."""
    first, second = {str(r["id"]): r for r in rows}, {str(r["id"]): r for r in rival_rows}
    shared = [i for i in first if i in second]
    a, b = [first[i] for i in shared], [second[i] for i in shared]
    names = [
        n
        for n in dict.fromkeys(k for r in a for k in r if isinstance(r[k], Mapping))
        if any(n in r for r in b)
    ]
    tables = [t for t in (_masks(names, a, b, evaluation), _scores(evaluation, rival)) if t is not None]
    text = (
        f"First model {evaluation.name}, second model {rival.name}; {len(shared)} cases have masks of both."
        " Differences are first minus second."
    )
    methods = (
        (
            "Two models were compared on the same cases by Wilcoxon's signed rank test and a bootstrap"
            " interval of the mean difference, p values adjusted by Holm's method over all measures; areas"
            " under the curve by DeLong's paired test."
        ),
    )
    return Section("models", "Two models on the same cases", (text,), tuple(tables), methods=methods)


def _masks(names: Sequence[str], a: CaseRows, b: CaseRows, evaluation: Evaluation) -> Table | None:
    values = [
        {
            f"{n}: {MASK_MEASURES[m]}": measure_column(rows, n, m)
            for n in names
            for m in _COMPARED
            if any(m in (r.get(n) or {}) for r in rows)
        }
        for rows in (a, b)
    ]
    if not values[0]:
        return None
    absolute = [{k: np.abs(v) if "error" in k else v for k, v in side.items()} for side in values]
    found = compare_models(absolute[0], absolute[1], rng=np.random.default_rng(evaluation.plan.seed))
    rows = tuple(
        (_renamed(d.measure), d.difference.n, d.difference, p_value(d.p), p_value(d.p_holm)) for d in found
    )
    columns = ("Measure", "n", "First minus second", "p", "p (Holm)")
    return Table(
        "models_masks", "Two models: masks", columns, rows, "Volume errors enter by their size, without sign."
    )


def _renamed(measure: str) -> str:
    return measure.replace("Volume error", "|Volume error|")


def _scores(evaluation: Evaluation, rival: Evaluation) -> Table | None:
    rows: list[tuple[Cell, ...]] = []
    for plan in evaluation.plan.outcomes:
        name = f"predicted_{plan.probability}"
        if name not in evaluation.table.columns or name not in rival.table.columns:
            continue
        both = evaluation.table.merge(rival.table[["patient", name]], on="patient", suffixes=("", "_second"))
        truth = outcome_truth(evaluation.plan, plan, both)
        first, second = both[name].to_numpy(float), both[f"{name}_second"].to_numpy(float)
        keep = ~np.isnan(truth + first + second)
        gap, count = compare_paired(truth[keep], first[keep], second[keep]), int(keep.sum())
        rows.append((plan.name, count, Estimate(gap.value, gap.low, gap.high, count), p_value(gap.p)))
    if not rows:
        return None
    columns = ("Outcome", "n", "First minus second", "p")
    return Table("models_auc", "Two models: AUC", columns, tuple(rows), "DeLong's paired test.")
