"""Fit the outcome model that ships: a trial drawn from the law, with tract injuries measured on patients
simulated in voxels.

python tools/train_outcome.py --anatomies 300 --patients 3000          (goes on where it was stopped)
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ichnos.files import atomic_file
from ichnos.learning.fit.cards import outcome_card
from ichnos.learning.fit.outcome import (
    Anatomy,
    fit_outcome_model,
    simulated_anatomy,
    simulated_trial,
    validation,
)
from ichnos.prognosis.outcome import OUTCOME_FILE
from ichnos.runs import Numbered, apply
from ichnos.simulation.heads.from_mni import mni_head

SHIPPED = Path(__file__).resolve().parents[1] / "src" / "ichnos" / "models" / "weights" / "outcome"
HELD_OUT = 0.25  # share of the patients that are only checked on


def measure(seed: Numbered, folder: Path, *, cache: Path) -> dict[str, Any]:
    """Simulate and measure one patient."""
    del folder
    torch.set_num_threads(1)
    return asdict(simulated_anatomy(seed.number, mni_head(cache)))


def main() -> None:
    """Simulate, fit, check and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--anatomies", type=int, default=300, help="patients simulated in voxels")
    parser.add_argument("--patients", type=int, default=3000, help="patients of the trial")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("build/outcome"))
    parser.add_argument("--out", type=Path, default=SHIPPED)
    given = parser.parse_args()
    seeds = [Numbered(40_000 + n) for n in range(given.anatomies)]
    task = partial(measure, cache=given.work / "heads")
    done = apply(
        task,
        seeds,
        out=given.work,
        settings={"version": 2},
        name="measure",
        workers=given.workers,
        progress=sys.stderr.isatty(),
    )
    anatomies = [Anatomy(**{name: row[name] for name in Anatomy.__dataclass_fields__}) for row in done.rows]
    print(f"{len(anatomies)} anatomies measured; {len(done.failures)} failed")
    write(anatomies, given.patients, given.out)


def write(anatomies: list[Anatomy], patients: int, out: Path) -> None:
    """Fit on one trial, check on another, and write outcome.json with its card."""
    cases, others = (simulated_trial(patients, anatomies, seed=seed) for seed in (1, 2))
    cohort = (
        f"{len(cases)} patients of a trial of surgery, drawn from the simulation's law; tract injury, load"
        f" and midline shift measured on {len(anatomies)} patients simulated in voxels (MNI head) and given"
        " to the most similar ones"
    )
    command = f"python tools/train_outcome.py --anatomies {len(anatomies)} --patients {patients}"
    model = fit_outcome_model(cases, cohort=cohort, simulated=True, randomised=True, command=command)
    model = model.model_copy(update={"validation": validation(model, others)})
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(model.model_dump(mode="json"), indent=1) + "\n"
    for name, content in ((OUTCOME_FILE, text), ("CARD.md", outcome_card(model))):
        with atomic_file(out / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    for term, value in zip(model.motor.terms, model.motor.values, strict=False):
        print(f"motor  {term:40s} {value:+.2f}")
    for term, value in zip(model.mrs.terms, model.mrs.values, strict=False):
        print(f"mRS    {term:40s} {value:+.2f}")
    for name, value in model.validation.items():
        print(f"{name:40s} {value:.4g}")
    print(f"written: {out}")


if __name__ == "__main__":
    main()
