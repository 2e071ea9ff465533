"""Validate on whole patients: Dice per target and patient, one score, and a picture of the worst case."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ichnos.arrays import Mask
from ichnos.cohort import Cohort
from ichnos.evidence.figures import FailedSlice, gallery_figure
from ichnos.evidence.metrics.overlap import dice
from ichnos.files import atomic_file
from ichnos.formats import nifti
from ichnos.inference import input_channels
from ichnos.inference.grid import SpacingMm, through_grid
from ichnos.inference.sliding import slide
from ichnos.learning.loop.team import ALONE, Team
from ichnos.learning.segmentation.cases import DEGREE_STEPS, TrainingCase
from ichnos.learning.segmentation.operating_points import Overlaps
from ichnos.learning.segmentation.target_files import target_degree, target_file
from ichnos.models import Preprocessing, TargetSpec
from ichnos.volume import box_around

_WINDOW_HU = (0.0, 80.0)
_MOST_FOR_LIMITS = 20  # patients, on whom it is seen what the network's voxels allow


@dataclass(frozen=True)
class Validation:
    """The result of one validation."""

    step: int
    # mean over targets of the mean Dice over patients who have the target; -1 where no patient has any
    score: float
    dice: dict[str, float]  # per target; targets that no validation patient has are missing
    false_ml: dict[str, float]  # per target: mean mL marked in patients who are known to have none
    patients: int


@dataclass(frozen=True, eq=False)
class Validator:
    """Call it with a network and a step: it returns the score.

    It writes `validation.jsonl` and `worst/step-*.png` into `out`. In a team each member validates on a part
    of the patients, and the leader writes.
    """

    cases: Sequence[TrainingCase]
    targets: tuple[str, ...]
    how: Preprocessing
    out: Path
    device: str = "cpu"
    flat: bool = False
    overlap: float = 0.25
    pictures: int = 3
    team: Team = ALONE

    def __call__(self, network: torch.nn.Module, step: int) -> float:
        """Validate the network and return its score."""
        own = [row for case in self.team.share(self.cases) for row in self._rows(network, case)]
        rows = self.team.gathered(own)
        dice: dict[str, list[float]] = {}
        false_ml: dict[str, list[float]] = {}
        for row in sorted(rows, key=lambda row: row.case):
            (false_ml if row.worst is None else dice).setdefault(row.target, []).append(row.value)
        means = {name: float(np.mean(values)) for name, values in dice.items()}
        score = float(np.mean(list(means.values()))) if means else -1.0
        if self.team.leads:
            wrong = {name: float(np.mean(values)) for name, values in false_ml.items()}
            self._write(Validation(step, score, means, wrong, len(self.cases)))
            worst = sorted((r for r in rows if r.worst is not None), key=lambda row: (row.value, row.case))
            self._draw(step, [row.worst for row in worst[: self.pictures] if row.worst is not None])
        return score

    def _rows(self, network: torch.nn.Module, case: TrainingCase) -> list[_Row]:
        """Return one row per known target: its Dice, or where it is absent the false positives in mL."""
        voxel_ml, at = float(np.prod(self.how.spacing_mm)) / 1000, self.cases.index(case)
        masks, rows = self.logits(network, case) > 0, []
        for channel in np.flatnonzero(case.known):
            name, mask = self.targets[channel], masks[channel]
            truth = np.asarray(case.degrees[channel]) >= DEGREE_STEPS / 2
            if truth.any():
                value = float(2 * (truth & mask).sum() / (truth.sum() + mask.sum()))
                rows.append(_Row(at, name, value, self._failure(value, case, name, truth, mask)))
            else:
                rows.append(_Row(at, name, float(mask.sum()) * voxel_ml))
        return rows

    def points(self, network: torch.nn.Module, targets: tuple[TargetSpec, ...]) -> tuple[TargetSpec, ...]:
        """Return the targets with the operating points of greatest Dice on the validation patients."""
        seen = Overlaps(targets)
        for case in self.team.share(self.cases):
            logits = self.logits(network, case)
            for channel in np.flatnonzero(case.known):
                truth = np.asarray(case.degrees[channel]) >= DEGREE_STEPS / 2
                seen.add(int(channel), torch.from_numpy(logits[channel]), torch.from_numpy(truth))
        seen.merge(self.team)
        return seen.points()

    def logits(self, network: torch.nn.Module, case: TrainingCase) -> npt.NDArray[np.float32]:
        """Return the network's logits of a case on its own grid (target, x, y, z)."""
        image = input_channels(np.asarray(case.hu, np.float32), self.how)

        def run(tile: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
            given = torch.from_numpy(tile[..., 0] if self.flat else tile).to(self.device)
            with torch.inference_mode():
                out = network(given)
            full = (out[0] if isinstance(out, (list, tuple)) else out).float().cpu().numpy()
            return np.asarray(full[..., None] if self.flat else full, np.float32)

        return slide(
            image,
            run,
            patch=self.how.patch,
            channels=len(self.targets),
            overlap=self.overlap,
            padding=self.how.padding,
        )

    def _failure(self, value: float, case: TrainingCase, name: str, truth: Mask, mask: Mask) -> FailedSlice:
        """Return the slice in which most is wrong, the patient's right on the left."""
        z = int((truth ^ mask).sum(axis=(0, 1)).argmax())
        low, high = _WINDOW_HU
        hu, there, here = (np.asarray(part[::-1, :, z], np.float64) for part in (case.hu, truth, mask))
        dx, dy, _ = self.how.spacing_mm
        image = np.clip((hu - low) / (high - low), 0, 1)
        return FailedSlice(f"sub-{case.id} {name}: Dice {value:.2f}", image, there, here, dy / dx)

    def _write(self, validation: Validation) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        # a resumed training repeats some validations
        rows = [row for row in history(self.out) if row.step < validation.step]
        with atomic_file(self.out / "validation.jsonl") as temporary:
            lines = [json.dumps(asdict(row)) for row in [*rows, validation]]
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _draw(self, step: int, worst: list[FailedSlice]) -> None:
        if worst:
            caption = "worst validation cases: truth orange, prediction blue; radiological convention"
            figure = gallery_figure("worst", worst, caption=caption)
            (self.out / "worst").mkdir(exist_ok=True)
            with atomic_file(self.out / "worst" / f"step-{step:06d}.png") as temporary:
                temporary.write_bytes(figure.png)


@dataclass(frozen=True)
class _Row:
    """One target of one validation patient."""

    case: int
    target: str
    value: float  # Dice; false positives in mL where the target is absent
    worst: FailedSlice | None = None  # None where the target is absent


def history(out: Path) -> list[Validation]:
    """Return the validations of a training so far."""
    file = out / "validation.jsonl"
    if not file.is_file():
        return []
    return [Validation(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines() if line]


# ---- what the voxels allow


def perfect_on_scans(
    cohort: Cohort, targets: Sequence[TargetSpec], spacing_mm: SpacingMm, pipelines: Sequence[str]
) -> dict[str, float]:
    """Return the mean Dice, on the scans' own voxels, of a network that answers each of its voxels with the
    true share of a mask, cut at a half; over the validation patients who have the mask.
    """
    names = [target.name for target in targets if target.kind == "mask"]
    found: dict[str, list[float]] = {name: [] for name in names}
    for patient in list(cohort.of_split("validation").with_exams("ct"))[:_MOST_FOR_LIMITS]:
        ct = nifti.open_nifti(patient.exam("ct")).volume
        for name in names:
            file = target_file(cohort, patient, name, pipelines)
            if file is not None and (drawn := target_degree(*file, ct) >= 0.5).any():
                mask = ct.with_array(drawn).reoriented("RAS")
                near = mask.cropped(box_around(mask, margin_mm=3 * max(spacing_mm)))
                found[name].append(dice(near, through_grid(near, spacing_mm)))
    return {name: float(np.mean(values)) for name, values in found.items() if values}
