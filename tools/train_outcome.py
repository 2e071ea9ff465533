"""Fit the outcome model that ships: simulate a trial's patients, measure them as reading does, fit on most, check on the rest.

python tools/train_outcome.py --patients 700          (goes on where it was stopped)
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ichnos.files import atomic_file
from ichnos.learning.cards import outcome_card
from ichnos.learning.outcome import OutcomeCase, case_of, case_row, fit_outcome_model, simulated_case, validation
from ichnos.reading.prognosis import OUTCOME_FILE
from ichnos.runs import apply
from ichnos.simulation.mni_head import mni_head

SHIPPED = Path(__file__).resolve().parents[1] / "src" / "ichnos" / "models" / "weights" / "outcome"
HELD_OUT = 0.25  # share of the patients that are only checked on


@dataclass(frozen=True)
class Seed:
    """One patient to simulate."""

    number: int

    @property
    def id(self) -> str:
        """Return the patient's name in the ledger."""
        return f"{self.number:06d}"


def measure(seed: Seed, folder: Path, *, cache: Path) -> dict[str, Any]:
    """Simulate and measure one patient."""
    del folder
    torch.set_num_threads(1)
    return case_row(simulated_case(seed.number, mni_head(cache)))


def main() -> None:
    """Simulate, fit, check and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=700)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("build/outcome"))
    parser.add_argument("--out", type=Path, default=SHIPPED)
    given = parser.parse_args()
    seeds = [Seed(40_000 + n) for n in range(given.patients)]
    task = partial(measure, cache=given.work / "heads")
    done = apply(task, seeds, out=given.work, settings={"version": 1}, name="measure", workers=given.workers, progress=sys.stderr.isatty())
    cases = [case_of(row) for row in done.rows]
    print(f"{len(cases)} patients measured; {len(done.failures)} failed")
    write(cases, given.out, command=f"python tools/train_outcome.py --patients {given.patients}")


def write(cases: list[OutcomeCase], out: Path, *, command: str) -> None:
    """Fit on the first, check on the last patients, and write outcome.json with its card."""
    cut = round(len(cases) * (1 - HELD_OUT))
    cohort = f"{cut} simulated patients of a trial of surgery (MNI head), measured on the maps of the truth"
    model = fit_outcome_model(cases[:cut], cohort=cohort, simulated=True, randomised=True, command=command)
    model = model.model_copy(update={"validation": validation(model, cases[cut:])})
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
