"""Curves of the trainings of a study: what was validated as each training went on, stored and drawn."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ichnos.evidence.figures import Figure
from ichnos.evidence.figures.canvas import COLUMN_IN, canvas

CURVE_PICTURE = "curve-"  # what the names of their pictures begin with
_ONE_OF_AN_ARM = re.compile(r"(, (seed|fold|group)[ -]\d+)+$")  # what tells the trainings of an arm apart
_FLAT_SHARE = 0.02  # of a curve's whole rise, that the last quarter may still gain


@dataclass(frozen=True)
class TrainingCurve:
    """One measure over the steps of one training."""

    name: str  # of the training, "ours, seed 1, fold 2"
    measure: str  # "AUC of the patients left out"
    steps: tuple[int, ...]
    values: tuple[float, ...]
    rises: bool = True  # better is higher

    @property
    def gain_at_end(self) -> float:
        """Return the gain over the last quarter of the training as a share of the whole gain.

        >>> TrainingCurve("a", "AUC", (1, 2, 3, 4), (0.5, 0.7, 0.8, 0.8)).gain_at_end
        0.0
        """
        if len(self.values) < 2:
            return float("nan")
        values = self._better
        whole = float(values.max() - values[0])
        return self.late_gain / whole if whole > 0 else 0.0

    @property
    def late_gain(self) -> float:
        """Return what the best of the last quarter gained over the best before it, in the measure's unit.

        >>> TrainingCurve("a", "AUC", (1, 2, 3, 4), (0.5, 0.7, 0.5, 0.75)).late_gain
        0.05
        """
        if len(self.values) < 2:
            return float("nan")
        values = self._better
        last = max(1, len(values) // 4)
        return round(max(0.0, float(values[-last:].max() - values[:-last].max())), 12)

    @property
    def _better(self) -> np.ndarray:
        """Return the values turned so that higher is better."""
        return np.array(self.values) * (1 if self.rises else -1)

    @property
    def flat(self) -> bool:
        """Say whether the curve had stopped rising.

        >>> TrainingCurve("a", "Dice", (1, 2, 3, 4), (0.1, 0.2, 0.3, 0.4)).flat
        False
        """
        return self.gain_at_end <= _FLAT_SHARE


def unsettled(curves: Sequence[TrainingCurve], *, smoke: bool) -> tuple[str, ...]:
    """Return what limits the numbers of a run that was too short: a smoke run, or curves that still rose.

    >>> (said,) = unsettled((TrainingCurve("a", "AUC", (1, 2), (0.1, 0.2)),), smoke=False)
    >>> said.startswith("1 of 1 curves still rose over their last quarter, by 0.1000 at most (AUC)")
    True
    """
    if smoke:
        return ("This is a smoke run: a few steps on a few patients. Its numbers mean nothing.",)
    rising = [curve for curve in curves if not curve.flat]
    if not rising:
        return ()
    lasting = f"{len(rising)} of {len(curves)} curves still rose over their last quarter"
    if known := [curve for curve in rising if len(curve.values) > 1]:
        most = max(known, key=lambda curve: curve.late_gain)
        lasting += f", by {most.late_gain:.4f} at most ({most.measure})"
    return (f"{lasting}: those networks had not converged.",)


def curve_of_lines(
    file: Path, name: str, column: str, measure: str, *, rises: bool = True
) -> TrainingCurve | None:
    """Read one measure of a JSON-lines file with a "step" in each line; None where there is none.

    Of a step that is there twice, as after a resumed training, the last line counts.
    """
    if not file.is_file():
        return None
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    known = {int(row["step"]): float(row[column]) for row in rows if row.get(column) is not None}
    if not known:
        return None
    steps = tuple(sorted(known))
    return TrainingCurve(name, measure, steps, tuple(known[s] for s in steps), rises)


def curves_csv(curves: Sequence[TrainingCurve]) -> str:
    """Return curves as lines of training, measure, step, value.

    >>> print(curves_csv([TrainingCurve("a", "AUC", (10,), (0.5,))]), end="")
    training,measure,step,value
    a,AUC,10,0.5
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("training", "measure", "step", "value"))
    for curve in curves:
        writer.writerows(
            (curve.name, curve.measure, s, f"{v:.6g}") for s, v in zip(curve.steps, curve.values, strict=True)
        )
    return out.getvalue()


def curve_figures(curves: Sequence[TrainingCurve]) -> list[Figure]:
    """Draw one picture per measure, each training a line over its share of steps."""
    by_measure: dict[str, list[TrainingCurve]] = {}
    for curve in curves:
        by_measure.setdefault(curve.measure, []).append(curve)
    return [_figure(measure, those) for measure, those in by_measure.items()]


def _figure(measure: str, curves: Sequence[TrainingCurve]) -> Figure:
    stem = "".join(c if c.isalnum() else "-" for c in measure.lower())
    flat = sum(curve.flat for curve in curves)
    caption = f"{measure} during training. {flat} of {len(curves)} curves had stopped rising."
    with canvas(2 * COLUMN_IN, COLUMN_IN) as (fig, ax):
        for number, (arm, trainings) in enumerate(_arms(curves).items()):
            how = {"color": f"C{number % 10}", "ls": "-" if number < 10 else "--", "lw": 0.8}
            count = f"{len(trainings)} trainings of " if len(trainings) > 1 else ""
            label = f"{arm} ({count}{max(curve.steps[-1] for curve in trainings)} steps)"
            for curve in trainings:
                share = np.array(curve.steps) / max(curve.steps[-1], 1)
                ax.plot(share, curve.values, marker=".", ms=3, label=label, **how)
                label = "_"  # an arm stands once in the legend
        ax.set(xlabel="share of the training", ylabel=measure)
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return Figure(f"{CURVE_PICTURE}{stem}"[:60], caption, fig)


def _arms(curves: Sequence[TrainingCurve]) -> dict[str, list[TrainingCurve]]:
    """Return the trainings of each arm, over seeds, folds and groups."""
    arms: dict[str, list[TrainingCurve]] = {}
    for curve in curves:
        arms.setdefault(_ONE_OF_AN_ARM.sub("", curve.name), []).append(curve)
    return arms


def curve_rows(curves: Sequence[TrainingCurve]) -> list[Mapping[str, object]]:
    """Return curves as plain rows, for the stored run."""
    return [
        {"name": c.name, "measure": c.measure, "steps": c.steps, "values": c.values, "rises": c.rises}
        for c in curves
    ]


def curves_of(rows: Sequence[Mapping[str, object]]) -> list[TrainingCurve]:
    """Return the curves of stored rows.

    >>> curves_of(curve_rows([TrainingCurve("a", "AUC", (1,), (0.5,))]))[0].values
    (0.5,)
    """
    return [
        TrainingCurve(
            str(row["name"]),
            str(row["measure"]),
            tuple(int(s) for s in row["steps"]),  # type: ignore[attr-defined]
            tuple(float(v) for v in row["values"]),  # type: ignore[attr-defined]
            bool(row["rises"]),
        )
        for row in rows
    ]
