"""Abramova 2024: what will the haematoma look like tomorrow? Two CTs per patient; the follow-up lesion from
the baseline CT alone.

Methods. Patients whose haematoma expanded, with a CT at baseline and at follow-up. The follow-up lesion lies
on the baseline CT's grid (transferred, or drawn). Each learner sees the other patients and is scored on those
left out: one at a time, or in five groups where there is too little time to train once per patient. Scores:
Dice of the growth (blood at follow-up that was not there before, compared as a set), and the error of the
lesion's volume, forecast minus truth. Learners: the paper's affine warp and our probability of blood per
voxel, each with and without the paper's synthetic follow-ups. Beside them stand "no growth", a dilation by
the mean growth of the other patients, and in simulated cohorts the oracle: the law's own probability of blood
per voxel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ichnos.arrays import Floats32
from ichnos.cohort import Cohort
from ichnos.errors import InputRefused
from ichnos.evidence.figures import Figure
from ichnos.evidence.metrics.intervals import Estimate, bootstrap, mean_interval
from ichnos.evidence.tables import Cell, Table
from ichnos.learning.expansion.forecast import (
    ForecastKind,
    ForecastSettings,
    forecast_map,
    save_forecaster,
    train_forecaster,
)
from ichnos.learning.expansion.forecast_scores import (
    ForecastScore,
    best_threshold,
    score,
    uniform_dilation,
)
from ichnos.learning.expansion.pairs import SYNTHETIC_FACTORS, LesionPair, pair_of, synthetic_pair
from ichnos.learning.loop.settings import changed
from ichnos.simulation.cohort.design import Design, Group
from ichnos.studies.pace import steps_within
from ichnos.studies.page import Effort, StudyPage, cell, comparison, hardware_of, time_spent

# of training per network at a small scale on two cores: the whole is meant to take three quarters of an hour
SMALL_MINUTES = 4.0
SMOKE = Design(
    (Group(4, "A", "train", ("ct", "followup"), expansion_share=1.0),),
    "expanded lesion: four patients, to try every stage",
)
FEWEST = 12  # patients at a small scale: with fewer nothing can be left out
PAPER = "Abramova et al. 2024, Applied Sciences 14:2708"
ARMS: Mapping[str, tuple[ForecastKind, bool]] = {
    "warp": ("warp", False),
    "warp + synthetic": ("warp", True),
    "ours": ("forecast", False),
    "ours + synthetic": ("forecast", True),
}
_LEAST_FOLD_SECONDS = 60.0  # with less, patients are left out in groups
_LEAST_GROWTH_ML = 0.5


@dataclass
class _Scores:
    """What each method reached on each patient left out."""

    by_method: dict[str, list[ForecastScore]] = field(default_factory=dict)
    expected_ml: dict[str, list[float]] = field(default_factory=dict)  # error of the sum of probabilities

    def add(self, method: str, found: ForecastScore) -> None:
        self.by_method.setdefault(method, []).append(found)


def run(cohort: Cohort, out: Path, effort: Effort) -> StudyPage:
    """Forecast every patient's follow-up lesion from models that never saw the patient."""
    effort.say("loading the regions around the haematomas")
    pairs = [pair for patient in cohort if (pair := pair_of(cohort, patient)) is not None]
    grown = [
        p for p in pairs if float(((p.later > 0.5) & (p.blood < 0.5)).sum()) * p.voxel_ml >= _LEAST_GROWTH_ML
    ]
    if len(grown) < 4:
        raise InputRefused(
            f"{len(grown)} of {len(cohort)} patients have both lesions and a growth of {_LEAST_GROWTH_ML:g}"
            " mL; 4 are the least, because models are tried on patients left out"
        )
    _check_apart(grown)
    folds = _folds(len(grown), effort)
    steps, scores = _steps(grown, out, effort, len(folds)), _Scores()
    keep: dict[str, dict[str, Floats32]] = {}
    for k, held in enumerate(folds):
        effort.say(f"group {k + 1} of {len(folds)}: {len(held)} patient(s) left out")
        others = [p for i, p in enumerate(grown) if i not in held]
        maps = _fold_maps(others, [grown[i] for i in held], out / f"group-{k}", effort, steps, scores)
        keep |= {grown[i].patient: maps[j] for j, i in enumerate(held)}
    return _page(cohort, grown, len(folds), steps, scores, keep, effort)


def _check_apart(pairs: Sequence[LesionPair]) -> None:
    """Refuse a patient who is there twice: who is left out would be learnt from under the other name."""
    seen: dict[bytes, str] = {}
    for pair in pairs:
        other = seen.setdefault(pair.hu.tobytes(), pair.patient)
        if other != pair.patient:
            raise InputRefused(
                f"leakage: sub-{other} and sub-{pair.patient} have the same CT; take one of them out of the"
                " cohort"
            )


def _folds(patients: int, effort: Effort) -> list[list[int]]:
    seconds = 60 * effort.minutes / patients
    count = (
        patients
        if seconds >= _LEAST_FOLD_SECONDS and not effort.smoke
        else min(5 if not effort.smoke else 2, patients)
    )
    order = np.random.default_rng(effort.seed).permutation(patients)
    return [sorted(int(i) for i in part) for part in np.array_split(order, count)]


def _steps(pairs: Sequence[LesionPair], out: Path, effort: Effort, folds: int) -> dict[ForecastKind, int]:
    """Return how long each kind is trained: the minutes of a network are for all groups together."""

    def within(kind: ForecastKind) -> int:
        def trial(steps: int, folder: Path) -> None:
            train_forecaster(pairs, _settings(kind, steps, effort), folder, device=effort.device)

        return steps_within(out / "steps.json", kind, 60 * effort.minutes / folds, trial, least=20, most=2000)

    kinds = dict.fromkeys(kind for kind, _ in ARMS.values())
    return dict.fromkeys(kinds, 6) if effort.smoke else {kind: within(kind) for kind in kinds}


def _settings(kind: ForecastKind, steps: int, effort: Effort) -> ForecastSettings:
    own = ForecastSettings(kind=kind, width=_width(effort))
    return changed(own, {"steps": steps, "seed": effort.seed})


def _width(effort: Effort) -> int:
    return 4 if effort.smoke else 8 if effort.device == "cpu" else 16


def _fold_maps(
    others: Sequence[LesionPair],
    held: Sequence[LesionPair],
    out: Path,
    effort: Effort,
    steps: Mapping[ForecastKind, int],
    scores: _Scores,
) -> list[dict[str, Floats32]]:
    """Train every arm on the others, score it on those left out, and return their maps at the operating
    point's scale.
    """
    rng = np.random.default_rng([effort.seed, len(others)])
    made = [synthetic_pair(p, factor, rng) for p in others for factor in SYNTHETIC_FACTORS]
    maps: list[dict[str, Floats32]] = [{} for _ in held]
    for arm, (kind, synthetic) in ARMS.items():
        effort.say(f"  training {arm}")
        folder = out / arm.replace(" ", "")
        known = [*others, *made] if synthetic else list(others)
        how = _settings(kind, steps[kind], effort)
        network = train_forecaster(known, how, folder, device=effort.device)
        stem = f"{arm.replace(' + ', '-')}-{out.name}"
        save_forecaster(
            network, how, out.parent / "models" / stem, pairs=known, command="ichnos study abramova2024"
        )
        seen = [forecast_map(network, p, kind, device=effort.device) for p in others]
        cut = best_threshold(others, seen) if kind == "forecast" else 0.5
        for j, pair in enumerate(held):
            found = forecast_map(network, pair, kind, device=effort.device)
            scores.add(arm, score(pair, found, threshold=cut))
            if kind == "forecast":
                expected = float(found.sum() - pair.later.sum()) * pair.voxel_ml
                scores.expected_ml.setdefault(arm, []).append(expected)
            maps[j][arm] = (found > cut).astype(np.float32)
    _reference_scores(others, held, scores)
    return maps


def _reference_scores(others: Sequence[LesionPair], held: Sequence[LesionPair], scores: _Scores) -> None:
    factor = float(np.mean([p.later.sum() / p.blood.sum() for p in others]))
    oracles = [p.oracle for p in others if p.oracle is not None]
    cut = best_threshold([p for p in others if p.oracle is not None], oracles) if oracles else 0.5
    for pair in held:
        scores.add("no growth", score(pair, pair.blood))
        scores.add("uniform dilation", score(pair, uniform_dilation(pair, factor)))
        if pair.oracle is not None:
            scores.add("oracle", score(pair, pair.oracle, threshold=cut))
            scores.expected_ml.setdefault("oracle", []).append(
                float(pair.oracle.sum() - pair.later.sum()) * pair.voxel_ml
            )


# ---- the page
# ------------------------------------------------------------------------------------------


def _page(
    cohort: Cohort,
    pairs: Sequence[LesionPair],
    groups: int,
    steps: Mapping[ForecastKind, int],
    scores: _Scores,
    maps: dict[str, dict[str, Floats32]],
    effort: Effort,
) -> StudyPage:
    left = "one patient at a time" if groups == len(pairs) else f"in {groups} groups"
    growth = [float(p.later.sum() - p.blood.sum()) * p.voxel_ml for p in pairs]
    design = (
        (
            f"{len(pairs)} of {len(cohort)} patients with both lesions and a growth of at least"
            f" {_LEAST_GROWTH_ML:g} mL (median net growth {np.median(growth):.1f} mL). Patients were left out"
            f" {left}; every number is of patients that the model had not seen."
        ),
        (
            "Regions of 96 x 96 x 96 mm around the haematoma at 2 x 2 x 4 mm. Per group the warp took"
            f" {steps['warp']} and ours {steps['forecast']} steps (Adam with decoupled decay, warm-up and"
            " cosine). Synthetic follow-ups: lesions dilated to 1.33, 1.68 and 2.0 times their volume,"
            " avoiding fluid, the CT moved along."
        ),
        (
            "Against the paper: the smoothness term of the warp reaches the gradient, no training is stopped"
            " by synthetic copies of its own patients, and growth is compared as a set. Ours has one"
            " operating point, chosen on the patients learnt from."
        ),
    )
    return StudyPage(
        name="abramova2024",
        title="What will the haematoma look like tomorrow?",
        paper=PAPER,
        design=design,
        tables=(_main_table(scores), _ratio_table(scores, effort)),
        pictures=(_picture(pairs, maps),),
        limits=_limits(effort),
        provenance={
            "patients": len(pairs),
            "groups": groups,
            "seed": effort.seed,
            "minutes of training per network": "a few steps" if effort.smoke else effort.minutes,
            "smoke": int(effort.smoke),
            "scale": "own cohort" if effort.scale is None else effort.scale,
            "hardware": hardware_of(effort),
            **time_spent(effort),
        },
    )


def _limits(effort: Effort) -> tuple[str, ...]:
    smoke = (
        ("This is a smoke run: a few steps on a few patients. Its numbers mean nothing.",)
        if effort.smoke
        else ()
    )
    law = "Simulated patients: blood grows by the simulation's law, and the oracle knows that law."
    simulated = law if effort.scale or effort.smoke else ""
    return (
        *smoke,
        *((simulated,) if simulated else ()),
        (
            "The outline at baseline is given (true or drawn by hand), as in the paper; with a network's"
            " outline errors add up."
        ),
        "Every patient here expanded; how the same models do where nothing grows is asked in yu2025.",
        "The paper's patients are not at hand: its column comes from the publication, on other patients.",
    )


def _main_table(scores: _Scores) -> Table:
    def row(name: str, paper_dice: Cell, paper_error: Cell) -> dict[str, Cell]:
        found = scores.by_method.get(name, [])
        none = "the cohort has no oracle: it is known in simulations alone"
        expected = scores.expected_ml.get(name)
        return {
            "method": name,
            "growth Dice (paper)": paper_dice,
            "growth Dice": cell(lambda: mean_interval([s.growth_dice for s in found])) if found else none,
            "lesion Dice": cell(lambda: mean_interval([s.lesion_dice for s in found])) if found else none,
            "volume error, mL (paper)": paper_error,
            "volume error, mL": (
                cell(lambda: mean_interval([s.volume_error_ml for s in found])) if found else none
            ),
            "mean |error|, mL": (
                cell(lambda: mean_interval([abs(s.volume_error_ml) for s in found])) if found else none
            ),
            "error of expected volume, mL": (
                cell(lambda: mean_interval(expected)) if expected else "gives no probabilities"
            ),
        }

    asked = "not in the paper"
    rows = [
        row("warp", "without synthetic: not known to us", "not known to us"),
        row("warp + synthetic", 0.506, -3.44),
    ]
    rows += [
        row(name, asked, asked)
        for name in ("ours", "ours + synthetic", "no growth", "uniform dilation", "oracle")
    ]
    note = (
        "Mean over patients left out with Student's interval. Volume error: forecast minus truth, of ICH and"
        " IVH together."
    )
    return comparison("forecast", "Follow-up lesion on patients left out", rows, note=note)


def _ratio_table(scores: _Scores, effort: Effort) -> Table:
    def ratio(top: str, bottom: str) -> Estimate:
        a, b = (np.array([s.growth_dice for s in scores.by_method.get(name, [])]) for name in (top, bottom))
        if a.size == 0 or a.size != b.size:
            raise InputRefused(f"{bottom} is not known in this cohort")
        if b.mean() <= 0:
            raise InputRefused(f"the growth Dice of {bottom} is 0, so there is no ratio to it")
        rng = np.random.default_rng(effort.seed)
        return bootstrap(
            lambda at: float(a[at].mean() / b[at].mean()) if b[at].mean() > 0 else math.nan,
            np.zeros(a.size),
            rng=rng,
        )

    asked = (
        ("ours + synthetic over the oracle", "0.90 or more", "ours + synthetic", "oracle"),
        ("ours over the oracle", "0.90 or more", "ours", "oracle"),
        ("ours over the warp", "1.2 or more", "ours", "warp + synthetic"),
        ("warp: synthetic over none", "asked, not aimed at", "warp + synthetic", "warp"),
        ("ours: synthetic over none", "asked, not aimed at", "ours + synthetic", "ours"),
    )

    def row(question: str, aim: str, top: str, bottom: str) -> dict[str, Cell]:
        return {"question": question, "aim": aim, "growth Dice, ratio": cell(lambda: ratio(top, bottom))}

    rows = [row(*question) for question in asked]
    note = "Ratios of means over the same patients, 95 % by resampling patients."
    return comparison("ratios", "What is reachable, and what is gained", rows, note=note)


def _picture(pairs: Sequence[LesionPair], maps: dict[str, dict[str, Floats32]]) -> Figure:
    """Draw the patient of median growth: baseline, truth, and each forecast, on the slice with most new
    blood.
    """
    from matplotlib.figure import Figure as Drawing

    order = sorted(pairs, key=lambda p: float(p.later.sum() - p.blood.sum()))
    pair = order[len(order) // 2]
    z = int(np.argmax(((pair.later > 0.5) & (pair.blood < 0.5)).sum((0, 1))))
    shown = {
        "baseline": pair.blood,
        "follow-up": pair.later,
        **{name: maps[pair.patient][name] for name in ARMS},
    }
    if pair.oracle is not None:
        shown["oracle (0.5)"] = pair.oracle
    drawing = Drawing(figsize=(2.1 * len(shown), 2.5), layout="constrained")
    for axis, (name, lesion) in zip(drawing.subplots(1, len(shown)), shown.items(), strict=True):
        axis.imshow(pair.hu[::-1, ::-1, z].T, cmap="gray", vmin=0, vmax=80)
        if (lesion[:, :, z] > 0.5).any():
            axis.contour(lesion[::-1, ::-1, z].T, levels=[0.5], colors=["#ffb000"], linewidths=1.4)
        axis.contour(pair.later[::-1, ::-1, z].T, levels=[0.5], colors=["#40c0ff"], linewidths=0.7)
        axis.set_title(name, fontsize=8)
        axis.set_axis_off()
    caption = (
        "The patient of median growth. Yellow: what the method says; blue: the lesion at follow-up. "
        "The patient's left is on the right of the image."
    )
    return Figure("median_patient", caption, drawing)
