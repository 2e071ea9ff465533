"""Validate on whole patients: Dice per target and patient, one score, and a picture of the worst case."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ichnos.evidence.figures import FailedSlice, gallery_figure
from ichnos.files import atomic_file
from ichnos.inference import input_channels
from ichnos.inference.sliding import slide
from ichnos.learning.segmentation.cases import DEGREES, Case
from ichnos.learning.segmentation.operating_points import Overlaps
from ichnos.models import Preprocessing, TargetSpec

_WINDOW_HU = (0.0, 80.0)


@dataclass(frozen=True)
class Validation:
    """What one validation found."""

    step: int
    # mean over targets of the mean Dice over patients who have the target; -1 where no patient has any
    score: float
    dice: dict[str, float]  # per target; targets that no validation patient has are missing
    false_ml: dict[str, float]  # per target: mean mL marked in patients who are known to have none
    patients: int


@dataclass(frozen=True, eq=False)
class Validator:
    """Call it with a network and a step; it writes `validation.jsonl` and `worst/step-*.png` into `out`,
    and returns the score.
    """

    cases: Sequence[Case]
    targets: tuple[str, ...]
    how: Preprocessing
    out: Path
    device: str = "cpu"
    flat: bool = False
    overlap: float = 0.25
    pictures: int = 3

    def __call__(self, network: torch.nn.Module, step: int) -> float:
        """Validate the network and return its score."""
        dice: dict[str, list[float]] = {}
        false_ml: dict[str, list[float]] = {}
        worst: list[tuple[float, FailedSlice]] = []
        voxel_ml = float(np.prod(self.how.spacing_mm)) / 1000
        for case in self.cases:
            found = self.logits(network, case) > 0
            for channel, name in enumerate(self.targets):
                if not case.known[channel]:
                    continue
                truth = np.asarray(case.degrees[channel]) >= DEGREES / 2
                if not truth.any():
                    false_ml.setdefault(name, []).append(float(found[channel].sum()) * voxel_ml)
                    continue
                value = float(2 * (truth & found[channel]).sum() / (truth.sum() + found[channel].sum()))
                dice.setdefault(name, []).append(value)
                worst = self._worst(worst, value, case, name, truth, found[channel])
        return self._told(step, dice, false_ml, [failure for _, failure in worst])

    def points(self, network: torch.nn.Module, targets: tuple[TargetSpec, ...]) -> tuple[TargetSpec, ...]:
        """Return the targets with the operating points that fit the validation patients best."""
        seen = Overlaps(targets)
        for case in self.cases:
            logits = self.logits(network, case)
            for channel in np.flatnonzero(case.known):
                truth = np.asarray(case.degrees[channel]) >= DEGREES / 2
                seen.add(int(channel), torch.from_numpy(logits[channel]), torch.from_numpy(truth))
        return seen.points()

    def logits(self, network: torch.nn.Module, case: Case) -> npt.NDArray[np.float32]:
        """Return what the network says of a case on its own grid (target, x, y, z)."""
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

    def _worst(
        self,
        worst: list[tuple[float, FailedSlice]],
        value: float,
        case: Case,
        name: str,
        truth: npt.NDArray[np.bool_],
        found: npt.NDArray[np.bool_],
    ) -> list[tuple[float, FailedSlice]]:
        """Keep the worst few, each as the slice in which most is wrong."""
        if len(worst) == self.pictures and value >= worst[-1][0]:
            return worst
        z = int((truth ^ found).sum(axis=(0, 1)).argmax())
        low, high = _WINDOW_HU
        hu, there, here = (
            np.asarray(part[::-1, :, z], np.float64) for part in (case.hu, truth, found)
        )  # the patient's right on the left
        dx, dy, _ = self.how.spacing_mm
        image = np.clip((hu - low) / (high - low), 0, 1)
        failure = FailedSlice(f"sub-{case.id} {name}: Dice {value:.2f}", image, there, here, dy / dx)
        return sorted([*worst, (value, failure)], key=lambda pair: pair[0])[: self.pictures]

    def _told(
        self,
        step: int,
        dice: dict[str, list[float]],
        false_ml: dict[str, list[float]],
        worst: list[FailedSlice],
    ) -> float:
        means = {name: float(np.mean(values)) for name, values in dice.items()}
        score = float(np.mean(list(means.values()))) if means else -1.0
        wrong = {name: float(np.mean(values)) for name, values in false_ml.items()}
        self.out.mkdir(parents=True, exist_ok=True)
        rows = [row for row in history(self.out) if row.step < step]  # a resumed training repeats some
        with atomic_file(self.out / "validation.jsonl") as temporary:
            lines = [
                json.dumps(asdict(row))
                for row in [*rows, Validation(step, score, means, wrong, len(self.cases))]
            ]
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        if worst:
            figure = gallery_figure(
                "worst",
                worst,
                caption="worst validation cases: truth orange, prediction blue; radiological convention",
            )
            (self.out / "worst").mkdir(exist_ok=True)
            with atomic_file(self.out / "worst" / f"step-{step:06d}.png") as temporary:
                temporary.write_bytes(figure.png)
        return score


def history(out: Path) -> list[Validation]:
    """Return what the validations of a training have found so far."""
    file = out / "validation.jsonl"
    if not file.is_file():
        return []
    return [Validation(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines() if line]
