"""Dice per target of looks that were not learnt from, and the thresholds at which it is greatest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LEVELS = tuple(k / 20 for k in range(1, 20))
LEAST_ML = 0.5  # of a target, for its Dice to count; less is "absent"


@dataclass(frozen=True)
class TargetScore:
    """One target's row of a validation table."""

    name: str
    threshold: float
    scans: int  # that hold it
    median_dice: float
    mean_dice: float
    bias_ml: float  # mean of measured minus true
    error_ml: float  # median of the absolute error
    absent: int  # scans that do not hold it
    false_ml: float  # 95th percentile of what is drawn there


class Counts:
    """Overlaps of every scan and target at every level.

    >>> counts = Counts(["ICH"], voxel_ml=1.0)
    >>> counts.add(torch.tensor([[0.9, 0.9, 0.1]]), torch.tensor([[True, True, False]]))
    >>> counts.scores({"ICH": 0.5})[0].mean_dice
    1.0
    """

    def __init__(self, names: Sequence[str], voxel_ml: float) -> None:
        self.names, self.voxel_ml = tuple(names), voxel_ml
        self._rows: list[Tensor] = []

    def add(self, share: Tensor, truth: Tensor, voxel_ml: float | None = None) -> None:
        """Count one scan: probabilities (target, ...) and true masks (target, ...), both on one device."""
        share, truth = share.flatten(1), truth.flatten(1)
        rows = []
        for level in LEVELS:
            mask = share > level
            rows.append(torch.stack([(mask & truth).sum(1), mask.sum(1), truth.sum(1)], 1))
        ml = self.voxel_ml if voxel_ml is None else voxel_ml
        self._rows.append(torch.stack(rows).float().cpu() * ml)

    def _table(self) -> np.ndarray:
        return np.asarray(torch.stack(self._rows).numpy(), np.float64)  # (scan, level, target, 3) mL

    def thresholds(self) -> dict[str, float]:
        """Return the level of greatest mean Dice for each target; blood drawn where there is none counts."""
        if not self._rows:
            return dict.fromkeys(self.names, 0.5)
        table = self._table()
        shared, drawn, true = (table[..., k] for k in range(3))
        dice = (2 * shared + LEAST_ML) / (drawn + true + LEAST_ML)
        best = dice.mean(0).argmax(0)
        return {name: LEVELS[int(best[k])] for k, name in enumerate(self.names)}

    def scores(self, thresholds: dict[str, float]) -> list[TargetScore]:
        """Return one row per target at given thresholds."""
        if not self._rows:
            return []
        table = self._table()
        return [self._score(table[:, :, k], name, thresholds[name]) for k, name in enumerate(self.names)]

    def _score(self, table: np.ndarray, name: str, threshold: float) -> TargetScore:
        level = int(np.argmin(np.abs(np.array(LEVELS) - threshold)))
        shared, drawn, true = table[:, level, 0], table[:, level, 1], table[:, level, 2]
        there = true >= LEAST_ML
        dice = 2 * shared[there] / np.maximum(drawn[there] + true[there], 1e-9)
        error = drawn[there] - true[there]
        nothing = float("nan")
        return TargetScore(
            name=name,
            threshold=threshold,
            scans=int(there.sum()),
            median_dice=float(np.median(dice)) if there.any() else nothing,
            mean_dice=float(dice.mean()) if there.any() else nothing,
            bias_ml=float(error.mean()) if there.any() else nothing,
            error_ml=float(np.median(np.abs(error))) if there.any() else nothing,
            absent=int((~there).sum()),
            false_ml=float(np.percentile(drawn[~there], 95)) if (~there).any() else nothing,
        )


def score_table(scores: Sequence[TargetScore]) -> str:
    """Return the rows as a Markdown table."""
    head = "| target | threshold | scans | median Dice | mean Dice | bias mL | error mL | absent | false mL |"
    rows = [
        f"| {s.name} | {s.threshold:.2f} | {s.scans} | {s.median_dice:.3f} | {s.mean_dice:.3f} |"
        f" {s.bias_ml:+.2f} | {s.error_ml:.2f} | {s.absent} | {s.false_ml:.2f} |"
        for s in scores
    ]
    return "\n".join([head, "|" + " --- |" * 9, *rows])
