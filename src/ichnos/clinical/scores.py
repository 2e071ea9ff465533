"""Clinical scores of haematoma expansion that a model must beat: volume alone, BAT, BRAIN and HEP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ichnos.errors import InputRefused
from ichnos.volume import Floats

ScoreName = Literal["volume", "bat", "brain", "hep"]
SCORES: tuple[ScoreName, ...] = ("volume", "bat", "brain", "hep")


@dataclass(frozen=True)
class ScoreColumns:
    """Names of the cohort's columns that the scores need; yes/no columns hold 1/0, yes/no or true/false."""

    baseline_ml: str = "ich_ml"
    onset_to_ct_h: str = "onset_to_ct_h"
    blend_sign: str = "blend_sign"
    hypodensity: str = "hypodensity"
    ivh: str = "ivh"
    recurrent_ich: str = "recurrent_ich"
    anticoagulation: str = "anticoagulation"
    dementia: str = "dementia"
    current_smoking: str = "current_smoking"
    antiplatelet: str = "antiplatelet"
    gcs: str = "gcs"
    subarachnoid: str = "subarachnoid"


@dataclass(frozen=True)
class HepPoints:
    """Points of the HEP score (Yao et al. 2015, Neurocrit Care 23:179): six predictors, 0 to 18 in all.

    The published points are not built in, because their table was not at hand to be checked: fill them in
    from the paper.
    """

    time: Mapping[float, float] = field(default_factory=dict)  # hours up to which the points hold -> points
    gcs: Mapping[float, float] = field(default_factory=dict)  # GCS up to which the points hold -> points
    dementia: float = 0
    current_smoking: float = 0
    antiplatelet: float = 0
    subarachnoid: float = 0


@dataclass(frozen=True, eq=False)
class Comparator:
    """A score per case (NaN where a value is missing), or the reason why it cannot be had."""

    name: ScoreName
    values: Floats  # (cases,), empty if `missing` says why
    missing: str = ""


def comparators(
    table: Any, *, columns: ScoreColumns | None = None, hep_points: HepPoints | None = None
) -> tuple[Comparator, ...]:
    """Compute every score from a pandas table of clinical facts; a score whose column is absent says so
    instead of guessing.
    """
    names = columns or ScoreColumns()
    found = []
    for score in SCORES:
        try:
            found.append(Comparator(score, _SCORE[score](table, names, hep_points)))
        except InputRefused as refusal:
            found.append(Comparator(score, np.zeros(0), str(refusal)))
    return tuple(found)


def bat(table: Any, columns: ScoreColumns | None = None, _: HepPoints | None = None) -> Floats:
    """Return BAT, 0 to 5 (Morotti et al. 2018, Stroke 49:1163): blend sign 1, any hypodensity 2, CT within
    2.5 h of onset 2.

    An unknown time of onset counts as late, as its authors define.

    >>> import pandas as pd
    >>> signs = {"blend_sign": [1, 0], "hypodensity": ["yes", "no"]}
    >>> bat(pd.DataFrame({"onset_to_ct_h": [2.0, None], **signs})).tolist()
    [5.0, 0.0]
    """
    names = columns or ScoreColumns()
    blend, hypodensity = _yes(table, names.blend_sign, "BAT"), _yes(table, names.hypodensity, "BAT")
    hours = _number(table, names.onset_to_ct_h, "BAT")
    return blend + 2 * hypodensity + 2 * (hours < 2.5)


def brain(table: Any, columns: ScoreColumns | None = None, _: HepPoints | None = None) -> Floats:
    """Return BRAIN, 0 to 24 (Wang et al. 2015, JNNP 86:1370).

    Baseline volume <= 10 mL 0, to 20 mL 5, more 7; Recurrent ICH 4; Anticoagulation 6; Intraventricular blood
    2; Number of hours from onset to CT <= 1: 5, <= 2: 4, <= 3: 3, <= 4: 2, <= 5: 1, later 0.

    >>> import pandas as pd
    >>> signs = {"recurrent_ich": ["no"], "anticoagulation": ["yes"], "ivh": ["yes"]}
    >>> brain(pd.DataFrame({"ich_ml": [15.0], "onset_to_ct_h": [1.5], **signs})).tolist()
    [17.0]
    """
    names = columns or ScoreColumns()
    volume, hours = _number(table, names.baseline_ml, "BRAIN"), _number(table, names.onset_to_ct_h, "BRAIN")
    yes = [_yes(table, column, "BRAIN") for column in (names.recurrent_ich, names.anticoagulation, names.ivh)]
    size = np.select([np.isnan(volume), volume <= 10, volume <= 20], [np.nan, 0, 5], 7)
    time = np.where(np.isnan(hours), np.nan, np.clip(6 - np.ceil(np.maximum(hours, 0.5)), 0, 5))
    points: Floats = size + time + 4 * yes[0] + 6 * yes[1] + 2 * yes[2]
    return points


def hep(table: Any, columns: ScoreColumns | None = None, points: HepPoints | None = None) -> Floats:
    """Return HEP from the points that are given: time to CT, dementia, smoking, antiplatelet use, GCS,
    subarachnoid blood.

    >>> import pandas as pd
    >>> hep(pd.DataFrame({"gcs": [15]}))
    Traceback (most recent call last):
    ichnos.errors.InputRefused: HEP needs its table of points (Yao et al. 2015), which is not ...
    """
    names = columns or ScoreColumns()
    if points is None or not points.time or not points.gcs:
        raise InputRefused(
            "HEP needs its table of points (Yao et al. 2015), which is not built in; give it as hep_points"
        )
    total = _banded(_number(table, names.onset_to_ct_h, "HEP"), points.time) + _banded(
        _number(table, names.gcs, "HEP"), points.gcs
    )
    for name in ("dementia", "current_smoking", "antiplatelet", "subarachnoid"):
        total = total + getattr(points, name) * _yes(table, getattr(names, name), "HEP")
    return total


def volume_only(table: Any, columns: ScoreColumns | None = None, _: HepPoints | None = None) -> Floats:
    """Return the baseline volume as a score: what any model must beat.

    >>> import pandas as pd
    >>> volume_only(pd.DataFrame({"ich_ml": ["12.5", ""]})).tolist()
    [12.5, nan]
    """
    return _number(table, (columns or ScoreColumns()).baseline_ml, "the volume-only comparator")


_SCORE = {"volume": volume_only, "bat": bat, "brain": brain, "hep": hep}


def _banded(values: Floats, bands: Mapping[float, float]) -> Floats:
    edges = sorted(bands)
    points = np.array([*(bands[edge] for edge in edges), 0.0])
    found: Floats = np.where(np.isnan(values), np.nan, points[np.searchsorted(edges, values)])
    return found


def _column(table: Any, column: str, score: str) -> Any:
    if column not in table.columns:
        raise InputRefused(
            f"{score} needs the column {column!r}, which the cohort does not have; add it or name the one"
            " that holds it"
        )
    return table[column]


def _number(table: Any, column: str, score: str) -> Floats:
    import pandas as pd

    values: Floats = pd.to_numeric(_column(table, column, score), errors="coerce").to_numpy(float)
    return values


def _yes(table: Any, column: str, score: str) -> Floats:
    words = {"yes": 1.0, "true": 1.0, "1": 1.0, "1.0": 1.0, "no": 0.0, "false": 0.0, "0": 0.0, "0.0": 0.0}
    given = [str(value).strip().lower() for value in _column(table, column, score)]
    return np.array([words.get(text, np.nan) for text in given])
