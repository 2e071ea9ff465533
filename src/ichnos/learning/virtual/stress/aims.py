"""What the default weights aim at, and what a stress test reached of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ichnos.evidence.metrics.agreement import concordance

_Row = Mapping[str, Any]
_OVERLAP = {  # least median Dice
    "ich": 0.93,
    "ivh": 0.80,
    "phe": 0.68,
    "leukoaraiosis": 0.65,
    "ventricles": 0.92,
    "brain": 0.97,
    "tract_left": 0.70,
    "tract_right": 0.70,
}
_LARGE_ML = 10.0  # the bias of a haematoma's volume is judged from here
_NONE_ML = 0.5  # less than this is none
_HELD = (76.0, 84.0)  # per cent of intervals of 80 % that hold the truth
_FEWEST = 5  # scans: no agreement or correlation from fewer


@dataclass(frozen=True)
class _Aim:
    """A number that is asked for, from `least` to `most`, and how many scans its value comes from."""

    what: str
    value: float
    scans: int
    least: float = -np.inf
    most: float = np.inf

    def row(self) -> dict[str, Any]:
        """Return the line of the table; a number that could not be measured is neither reached nor missed."""
        value = round(float(self.value), 3)
        reached = "yes" if self.least <= value <= self.most else "no"
        return {
            "aim": self.what,
            "asked": self._asked(),
            "value": value,
            "reached": reached if np.isfinite(value) else "not measured",
            "scans": self.scans,
        }

    def _asked(self) -> str:
        if np.isfinite(self.least) and np.isfinite(self.most):
            return f"{self.least:g} to {self.most:g}"
        return f">= {self.least:g}" if np.isfinite(self.least) else f"<= {self.most:g}"


def aims_table(tables: Mapping[str, Sequence[_Row]], rows: Sequence[_Row]) -> list[dict[str, Any]]:
    """Return one line per aim, from the tables of a stress test and the rows of its patients."""
    found = (
        *_overlaps(tables["accuracy"]),
        *_volumes(rows),
        *_nothing_invented(rows),
        *_places(tables["sites"], rows),
        *_steady(tables["robustness"]),
        *_intervals(rows),
    )
    return [aim.row() for aim in found if aim.scans]


def _overlaps(accuracy: Sequence[_Row]) -> Iterator[_Aim]:
    for row in accuracy:
        if row["scans"]:
            name = row["target"]
            yield _Aim(f"{name}, median Dice", row["median Dice"], row["scans"], _OVERLAP[name])


def _volumes(rows: Sequence[_Row]) -> Iterator[_Aim]:
    ich = [t for row in rows if (t := row["targets"]["ich"])["true_ml"] >= _NONE_ML]
    errors = np.array([t["ml"] - t["true_ml"] for t in ich])
    if len(errors):
        yield _Aim("ich, median absolute volume error, mL", np.median(np.abs(errors)), len(errors), most=1.0)
    large = [100 * (t["ml"] / t["true_ml"] - 1) for t in ich if t["true_ml"] >= _LARGE_ML]
    if large:
        yield _Aim(f"ich from {_LARGE_ML:g} mL, mean volume error, %", np.mean(large), len(large), -3.0, 3.0)
    pale = np.array([[row["targets"]["leukoaraiosis"][key] for key in ("ml", "true_ml")] for row in rows])
    if len(pale) >= _FEWEST:
        agreement = concordance(pale[:, 0], pale[:, 1]).value
        yield _Aim("leukoaraiosis, CCC of the volume", agreement, len(pale), 0.90)


def _nothing_invented(rows: Sequence[_Row]) -> Iterator[_Aim]:
    dry = [row["targets"]["phe"]["ml"] for row in rows if row["targets"]["phe"]["true_ml"] < _NONE_ML]
    none = [100.0 * (ml <= _NONE_ML) for ml in dry]
    if none:
        yield _Aim(f"no oedema, {_NONE_ML:g} mL or less read, %", np.mean(none), len(none), 95.0)
    clean = [100.0 * (row["blood_ml"] == 0) for row in rows if not row["bled"]]
    if clean:
        yield _Aim("no blood, none read, %", np.mean(clean), len(clean), 99.0)


def _places(sites: Sequence[_Row], rows: Sequence[_Row]) -> Iterator[_Aim]:
    read, right = (sum(row[key] for row in sites) for key in ("read", "right"))
    if read:
        yield _Aim("sites right, %", 100 * right / read, read, 95.0)
    swapped = [row["tracts_swapped"] for row in rows if "tracts_swapped" in row]
    yield _Aim("tracts on the wrong side", float(sum(swapped)), len(swapped), most=0.0)
    shifts = np.array([row["shift_mm"] for row in rows if None not in row.get("shift_mm", [None])])
    if len(shifts) >= _FEWEST and np.ptp(shifts, axis=0).min() > 0:
        correlation = np.corrcoef(shifts.T)[0, 1]
        yield _Aim("midline shift, correlation with the truth", correlation, len(shifts), 0.9)
        error = np.mean(np.abs(shifts[:, 0] - shifts[:, 1]))
        yield _Aim("midline shift, mean absolute error, mm", error, len(shifts), most=1.5)


def _steady(robustness: Sequence[_Row]) -> Iterator[_Aim]:
    for row in robustness:
        if row["test"].startswith("ventricles, HU"):
            yield _Aim(row["test"], row["value"], row["scans"], most=5.0)


def _intervals(rows: Sequence[_Row]) -> Iterator[_Aim]:
    for name in _OVERLAP:
        inside = [t["inside"] for row in rows if (t := row["targets"][name])["inside"] is not None]
        if inside:
            share = 100 * float(np.mean(inside))
            yield _Aim(f"{name}, true volume within the interval of 80 %, %", share, len(inside), *_HELD)
