"""Fit the growth law that ships: simulate patients, measure them as reading does, check by cross-validation,
write law and card.

python tools/train_expansion.py --patients 500          (goes on where it was stopped; a core makes about
thirty patients a minute)
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ichnos.files import atomic_file
from ichnos.learning.fit.cards import growth_card
from ichnos.learning.fit.growth import (
    GrowthCase,
    case_of,
    case_row,
    cross_validation,
    fit_growth_model,
    redrawn,
    simulated_case,
)
from ichnos.prognosis.growth import GROWTH_FILE, growth_text
from ichnos.runs import Numbered, apply
from ichnos.simulation.heads.from_mni import mni_head

SHIPPED = Path(__file__).resolve().parents[1] / "src" / "ichnos" / "models" / "weights" / "expansion"
FOLDS = 5  # of the cross-validation
FUTURES = 8  # redrawn for each patient


def measure(seed: Numbered, folder: Path, *, cache: Path) -> dict[str, Any]:
    """Simulate and measure one patient."""
    del folder
    torch.set_num_threads(1)
    case = simulated_case(seed.number, mni_head(cache))
    return {"seen": False} if case is None else {"seen": True, **case_row(case)}


def main() -> None:
    """Simulate, fit, check and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=500)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("build/expansion"))
    parser.add_argument("--out", type=Path, default=SHIPPED)
    given = parser.parse_args()
    seeds = [Numbered(20_000 + n) for n in range(given.patients)]
    task = partial(measure, cache=given.work / "heads")
    done = apply(
        task,
        seeds,
        out=given.work,
        settings={"version": 1},
        name="measure",
        workers=given.workers,
        progress=sys.stderr.isatty(),
    )
    cases = [case_of(row) for row in done.rows if row["seen"]]
    print(
        f"{len(cases)} patients measured, {sum(c.expanded for c in cases):.0f} expanded; {len(done.failures)}"
        " failed"
    )
    write(cases, given.out, command=f"python tools/train_expansion.py --patients {given.patients}")


def write(cases: list[GrowthCase], out: Path, *, command: str) -> None:
    """Check by cross-validation, fit on all, and write expansion.json with its card."""
    futures = [future for case in cases for future in redrawn(case, int(case.id), FUTURES)]
    origin = (
        "simulated patients (MNI head, five simulated centres, 1 to 7 mm slices), measured on the true masks"
        f" of their baseline CT, each with {FUTURES} futures drawn from the simulation's law"
    )
    law = fit_growth_model(
        futures,
        cohort=f"{len(cases)} {origin}",
        simulated=True,
        command=command,
        rng=np.random.default_rng(0),
    )
    found = {
        **cross_validation(futures, folds=FOLDS, rng=np.random.default_rng(0)),
        **named(
            "image_only", cross_validation(futures, folds=FOLDS, clinical=False, rng=np.random.default_rng(0))
        ),
        **named(
            "one_future_each",
            cross_validation(futures, judged=cases, folds=FOLDS, rng=np.random.default_rng(0)),
        ),
    }
    law = law.model_copy(update={"validation": found})
    out.mkdir(parents=True, exist_ok=True)
    for name, text in ((GROWTH_FILE, growth_text(law)), ("CARD.md", growth_card(law))):
        with atomic_file(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    for name, value in law.validation.items():
        print(f"{name:40s} {value:.4g}")
    print(f"written: {out}")


def named(prefix: str, found: dict[str, float]) -> dict[str, float]:
    """Return measures under a prefix."""
    return {f"{prefix}_{name}": value for name, value in found.items()}


if __name__ == "__main__":
    main()
