"""What `ichnos adapt --pairs` gains at a site with a scanner of its own, and what it costs elsewhere.

    python benchmarks/local_learning.py OUT [--pairs 60] [--test 20] [--first 60] [--steps 100] [--share 0.5]

Simulated patients, scanned by a noisier scanner with a zero that is off. The pairs (three quarters to train,
the others to choose operating points) have an outline of leukoaraiosis, as a FLAIR gives it but without a
transfer's errors; test patients have every outline. Dice of the first network before and after, without its
refinement, at each model's own operating points; the difference is paired, with a 95 % interval (Student).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from ichnos.audit.tuning import TuningSettings, tuned_on_pairs
from ichnos.cohort import Patient, Split
from ichnos.formats import bids
from ichnos.learning.loop.resources import Resources
from ichnos.learning.segmentation.cases import DEGREE_STEPS, CaseGrid, TrainingCase, prepare_case
from ichnos.learning.segmentation.validation import Validator
from ichnos.learning.virtual.batches import Population, masks_among, scanned
from ichnos.models import Model, default_model, load_model
from ichnos.simulation.exams.scanners import CENTRES, CtProtocol, draw_protocol
from ichnos.targets import truth_masks
from run import table

Rows = list[dict[str, Any]]
TAUGHT = "leukoaraiosis"
NOISE_HU, OFFSET_HU = 9.0, -6.0  # of the site's scanner: twice the usual noise, a zero that is off
_FIRST = 90_000  # of the patients' numbers: far from those that the default weights were trained on
_MATRIX = 128  # pixels of 1.8 mm, which the network's 3 mm hardly miss
_ASKED = TuningSettings(targets=TAUGHT)
_MULTIPLE = 16  # of voxels: the network halves each axis four times
_FEWEST_PATIENTS = 5  # of a row: an interval of fewer says nothing
_FEWEST_ML = 0.5  # a target smaller than this in truth has no Dice worth a mean


def protocol(number: int, *, site: bool) -> CtProtocol:
    """Return how a patient is scanned: as elsewhere, or by the site's scanner."""
    drawn = draw_protocol(CENTRES["A"], rng=np.random.default_rng([7, number]), still=True)
    usual = replace(drawn, matrix=_MATRIX, metal=False, offset_hu=0.0)
    return replace(usual, noise_hu=NOISE_HU, offset_hu=OFFSET_HU) if site else usual


def write_patient(root: Path, number: int, targets: tuple[str, ...], cache: Path, *, site: bool) -> None:
    """Simulate and scan one patient; write the CT and the outlines of some targets."""
    population = Population(spacing_mm=2.0, seed=11, cache=cache)
    masks = truth_masks(*targets)
    scan, truth = scanned(
        population.patient(_FIRST + number), protocol(number, site=site), _FIRST + number, masks
    )
    name = patient_name(number)
    bids.write_exam(root, name, "ct", scan.volume)
    for target in targets:
        parts = [truth[mask].array != 0 for mask in truth_masks(target)]
        mask = scan.volume.with_array(np.logical_or.reduce(parts).astype(np.uint8))
        label = target.replace("_", "")
        bids.write_derivative(root, name, mask, pipeline="transfer", label=label, kind="mask")


def patient_name(number: int) -> str:
    """Return the id of a patient."""
    return f"p{number:04d}"


def site_cohort(root: Path, pairs: int, tests: range, targets: tuple[str, ...], *, site: bool = True) -> None:
    """Write the pairs and the test patients of a site; those that are there are kept."""
    splits: dict[int, Split] = {k: "validation" if k % 4 == 3 else "train" for k in range(pairs)}
    splits |= dict.fromkeys(tests, "test")
    for number, split in splits.items():
        if not bids.exam_path(root, patient_name(number), "ct").is_file():
            shown = targets if split == "test" else (TAUGHT,)
            write_patient(root, number, shown, root.parent / "cache", site=site)
    people = [Patient(patient_name(k), "site", split) for k, split in splits.items()]
    bids.write_cohort(people, root, name="site")


def dice_of(model: Model, cases: list[TrainingCase], work: Path) -> dict[str, npt.NDArray[np.float64]]:
    """Return the Dice of each mask in each case, NaN where there is too little of the target."""
    how, targets = model.manifest.preprocessing, model.manifest.targets
    names, network = tuple(t.name for t in targets), model.network()
    ml = float(np.prod(how.spacing_mm)) / 1000
    wanted = masks_among(names)
    rows = np.full((len(cases), len(wanted)), np.nan)
    for n, case in enumerate(cases):
        whole = tuple(-(-n // _MULTIPLE) * _MULTIPLE for n in case.hu.shape)  # the head in one tile
        seen = Validator([case], names, how.model_copy(update={"patch": whole}), work)
        logits = seen.logits(network, case)
        for column, name in enumerate(wanted):
            channel = names.index(name)
            truth = np.asarray(case.degrees[column]) >= DEGREE_STEPS / 2
            mask = logits[channel] > float(torch.logit(torch.tensor(targets[channel].threshold)))
            if truth.sum() * ml >= _FEWEST_ML:
                rows[n, column] = 2 * (truth & mask).sum() / (truth.sum() + mask.sum())
    return dict(zip(wanted, rows.T, strict=True))


def test_cases(root: Path, model: Model, work: Path) -> list[TrainingCase]:
    """Prepare the test patients on the model's grid, with the outlines of all its masks."""
    names = tuple(masks_among(t.name for t in model.manifest.targets))
    grid, cohort = CaseGrid(names, model.manifest.preprocessing.spacing_mm), bids.read_cohort(root)
    made = (prepare_case(cohort, p, grid, work / "cases", ("transfer",)) for p in cohort.of_split("test"))
    return [case for case in made if case is not None]


def differences(
    before: dict[str, npt.NDArray[np.float64]], after: dict[str, npt.NDArray[np.float64]]
) -> Iterator[dict[str, Any]]:
    """Yield a row per target: mean Dice before and after, and their paired difference with its interval."""
    for name, first in before.items():
        apart = (after[name] - first)[np.isfinite(first)]
        if apart.size < _FEWEST_PATIENTS:
            continue
        low, high = stats.t.interval(0.95, apart.size - 1, apart.mean(), stats.sem(apart))
        yield {
            "target": name,
            "patients": apart.size,
            "before": f"{np.nanmean(first):.3f}",
            "after": f"{np.nanmean(after[name]):.3f}",
            "difference (95 %)": f"{apart.mean():+.3f} ({low:+.3f} to {high:+.3f})",
        }


def main(out: Path, pairs: int = 60, tests: range = range(60, 80), settings: TuningSettings = _ASKED) -> Rows:
    """Simulate the site, fine-tune on its pairs, and return the rows of the table; `tests` are numbers."""
    model, work = default_model(), out / "work"
    targets = tuple(masks_among(t.name for t in model.manifest.targets))
    site_cohort(out / "site", pairs, tests, targets)
    cases = test_cases(out / "site", model, work)
    before = dice_of(model, cases, work)
    if not (out / "adapted").exists():
        resources = Resources(command="python benchmarks/local_learning.py", pipelines=("transfer",))
        cohort = bids.read_cohort(out / "site")
        tuned_on_pairs(model, cohort, out / "adapted", settings, work=work, resources=resources)
    after = dice_of(load_model(out / "adapted"), cases, work)
    return list(differences(before, after))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path, help="folder for the site and the model; re-run to resume")
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--test", type=int, default=20)
    parser.add_argument("--first", type=int, default=60, help="number of the first test patient (default 60)")
    parser.add_argument("--steps", type=int, default=_ASKED.steps)
    parser.add_argument("--share", type=float, default=_ASKED.share)
    given = parser.parse_args()
    torch.set_num_threads(1)
    asked = replace(_ASKED, steps=given.steps, share=given.share)
    if given.first < given.pairs:
        parser.error(f"--first {given.first} is one of the {given.pairs} pairs; give {given.pairs} or more")
    tests = range(given.first, given.first + given.test)
    print(table(main(given.out, given.pairs, tests, asked)), flush=True)
