"""Judge one pair: each quantity that the reading gave and the partner exam shows becomes a Score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ichnos.audit.readings import HAEMATOMA_CODES, ReadPatient, interval_of, short_name
from ichnos.audit.score import Judge, Score
from ichnos.clinical.expansion import DEFAULT_DEFINITION
from ichnos.clinical.injury import INJURY_GRADES, tract_injury
from ichnos.evidence.metrics.overlap import dice, growth_dice
from ichnos.formats import bids, nifti
from ichnos.volume import Volume, volume_ml

_SIDES = {"left": 1, "right": 2}  # codes of the tract's label map


@dataclass(frozen=True)
class JudgedPair:
    """A patient who had been read, and what transfer made of one partner exam."""

    read: ReadPatient
    partner: str  # followup, flair, diffusion, reader
    verdict: str  # of the transfer: pass or warn
    numbers: Mapping[str, Any]  # of the transfer's row
    root: Path  # of derivatives/transfer (or manual)
    pipeline: str = "transfer"
    judge: Judge = "exam"
    mapped: bool = True  # the maps below root are this judge's; else only the numbers are

    @property
    def id(self) -> str:
        """Return the ledger's name of the pair under this model; a person's judgement has one of its own."""
        by = "-person" if self.judge == "person" else ""
        return f"{self.read.patient.id}-{self.partner}{by}@{short_name(self.read.reading.model)}"


def judge_read_pair(pair: JudgedPair, folder: Path) -> dict[str, Any]:
    """Score every quantity of a pair; return a row for the ledger, writing nothing."""
    del folder
    scores = {"followup": _followup, "flair": _flair, "diffusion": _diffusion, "reader": _reader}[
        pair.partner
    ]
    rows = [score for score in scores(pair) if np.isfinite(score.predicted) and np.isfinite(score.truth)]
    return {"scores": [score.__dict__ for score in rows]}


def _score(pair: JudgedPair, quantity: str, kind: Any, predicted: float, truth: float, **more: Any) -> Score:
    facts, patient = pair.read.patient.facts, pair.read.patient
    thickness = facts.get("thickness_mm")
    return Score(
        pair=f"{patient.id}-{pair.partner}",
        patient=patient.id,
        partner=pair.partner,
        quantity=quantity,
        kind=kind,
        model=pair.read.reading.model,
        predicted=float(predicted),
        truth=float(truth),
        centre=patient.centre,
        scanner=str(facts.get("scanner") or ""),
        thickness_mm=thickness if isinstance(thickness, float) else None,
        month=str(facts.get("month") or ""),
        verdict=pair.verdict,
        judge=pair.judge,
        **more,
    )


def _volume_score(pair: JudgedPair, name: str, truth_ml: Any) -> list[Score]:
    """Score a volume that was read; nothing where it was withheld or the truth is not known."""
    measure = pair.read.reading.measure(name)
    if measure is None or measure.value is None or truth_ml is None:
        return []
    low, high, level = interval_of(measure)
    interval = {"low": low, "high": high, "level": level}
    return [_score(pair, name, "volume", float(measure.value), float(truth_ml), **interval)]


def _map(pair: JudgedPair, label: str, kind: bids.MapKind) -> Volume | None:
    who = pair.read.patient.id
    path = bids.derivative_path(pair.root, who, pipeline=pair.pipeline, label=label, kind=kind)
    return nifti.load(path) if path.is_file() else None


def _dice_score(pair: JudgedPair, quantity: str, mask: str, truth: Volume | None) -> list[Score]:
    if truth is None:
        return []
    read = pair.read.reading.mask(mask, truth)
    return [] if read is None else [_score(pair, quantity, "overlap", dice(truth, read), 1.0)]


# ---- one function per partner exam


def _followup(pair: JudgedPair) -> list[Score]:
    """Score the forecast: volume at follow-up, probability of expansion, where it grew."""
    scores = _volume_score(pair, "followup_volume", pair.numbers.get("followup_ich_ml"))
    probability = pair.read.reading.measure("expansion_probability")
    expanded = pair.numbers.get(f"expanded {DEFAULT_DEFINITION}")
    if probability is not None and probability.value is not None and expanded is not None:
        p = float(probability.value) / 100
        scores.append(_score(pair, "expansion_probability", "probability", p, float(expanded)))
    later = _map(pair, "expansion", "dseg") if pair.mapped else None
    if later is not None:
        expected, before = (pair.read.reading.mask(name, later) for name in ("expansion", "ICH"))
        if expected is not None and before is not None:
            true = later.map_array(partial(_equal, code=HAEMATOMA_CODES["ICH"]))
            value = growth_dice(baseline=before, truth_followup=true, predicted_followup=expected)
            scores.append(_score(pair, "growth_dice", "overlap", value, 1.0))
    return scores


def _flair(pair: JudgedPair) -> list[Score]:
    """Score leukoaraiosis: millilitres with their interval, and Dice."""
    volume = _volume_score(pair, "leukoaraiosis_volume", pair.numbers.get("leukoaraiosis_ml"))
    truth = _map(pair, "leukoaraiosis", "mask")
    return volume + _dice_score(pair, "leukoaraiosis_dice", "leukoaraiosis", truth)


def _diffusion(pair: JudgedPair) -> list[Score]:
    """Score the tract of each side, and the grade of its injury by the blood that was read."""
    labels = _map(pair, "tract", "dseg")
    if labels is None:
        return []
    scores = []
    for side, code in _SIDES.items():
        true = labels.map_array(partial(_equal, code=code))
        if not true.array.any():
            continue
        scores += _dice_score(pair, f"tract_{side}_dice", f"tract_{side}", true)
        scores += _injury_score(pair, side, true)
    return scores


def _injury_score(pair: JudgedPair, side: str, tract: Volume) -> list[Score]:
    measure = pair.read.reading.measure(f"injury_{side}")
    ich, phe = (pair.read.reading.mask(name, tract) for name in ("ICH", "PHE"))
    if measure is None or measure.value not in INJURY_GRADES or ich is None or phe is None:
        return []
    near, blood, oedema = (np.asarray(v.reoriented("RAS").array != 0, np.float32) for v in (tract, ich, phe))
    heights = np.arange(near.shape[2], dtype=np.float64)
    injury = tract_injury(near, blood, oedema, z_mm=heights, voxel_ml=tract.voxel_ml)
    grades = [INJURY_GRADES.index(grade) for grade in (measure.value, injury.grade)]
    return [_score(pair, f"injury_{side}", "grade", *grades)]


def _reader(pair: JudgedPair) -> list[Score]:
    """Score the haematoma against a person's outline on the plain CT."""
    labels = _map(pair, "haematoma", "dseg")
    if labels is None:
        return []
    scores = []
    for name, code in HAEMATOMA_CODES.items():
        true = labels.map_array(partial(_equal, code=code))
        if true.array.any() or name == "ICH":
            scores += _volume_score(pair, f"{name.lower()}_volume", volume_ml(true))
            scores += _dice_score(pair, f"{name.lower()}_dice", name, true)
    return scores


def _equal(array: Any, *, code: int) -> Any:
    return array == code
