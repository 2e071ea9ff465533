"""From a cohort's partner exams to targets on its CTs: one pair at a time, each judged, none stopping the
rest.

A target whose pair passes (or is doubtful) goes to derivatives/transfer, where training looks for targets.
One whose pair fails goes to derivatives/transferrejected, where nothing looks; a person may overrule either
in override.tsv.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ichnos.cohort import Cohort, Patient
from ichnos.errors import InputRefused, UsageError
from ichnos.formats import bids, nifti
from ichnos.registration import write_transform
from ichnos.registration.contrast import view
from ichnos.transfer.landmarks import find_landmarks, landmark_residual_mm
from ichnos.transfer.makers import MAKERS, PARTNER, TransferOptions, Transferred, TransferTarget
from ichnos.transfer.pair_numbers import PairNumbers, brain_of_ct, measure_pair
from ichnos.transfer.pair_verdict import judge_pair, judge_target
from ichnos.transfer.sheet import pair_sheet
from ichnos.verdict import Verdict
from ichnos.volume import Volume

ACCEPTED, REJECTED = "transfer", "transferrejected"


@dataclass(frozen=True)
class TransferPair:
    """A patient and the target that a partner exam is to give."""

    patient: Patient
    target: TransferTarget

    @property
    def id(self) -> str:
        """Return the name of the pair in ledger, tables and override.tsv."""
        return f"{self.patient.id}-{self.target}"


def pairs_of(cohort: Cohort, targets: Sequence[TransferTarget]) -> list[TransferPair]:
    """Return every pair of the cohort that has both exams; refuse if there is none."""
    found = [TransferPair(p, t) for t in targets for p in cohort.with_exams("ct", PARTNER[t])]
    if not found:
        wanted = ", ".join(f"{t} (needs ct and {PARTNER[t]})" for t in targets)
        raise InputRefused(
            f"the cohort of {len(cohort)} patients has no pair for {wanted}; docs/cohorts.md shows where"
            " exams lie"
        )
    return found


def transfer_pair(pair: TransferPair, folder: Path, *, settings: TransferOptions) -> dict[str, Any]:
    """Transfer one target, judge it, write it with its contact sheet into `folder`, and return its row."""
    ct = nifti.open_nifti(pair.patient.exam("ct")).volume
    made = MAKERS[pair.target](ct, pair.patient, settings)
    numbers = measure_pair(ct, made.partner, made.registration)
    brain = brain_of_ct(view(ct, spacing_mm=2.0, contrast="ct"))
    verdict = _verdict(pair, made, numbers, brain, settings)
    home = folder / "derivatives" / (REJECTED if verdict.level == "refuse" else ACCEPTED)
    files = _written(pair, home, made, _record(pair, made, verdict, numbers))
    _write_sheet(pair, folder, made, ct, brain, verdict)
    causes = "; ".join(reason.text for reason in (*verdict.at("refuse"), *verdict.at("warn")))
    return {
        "target": pair.target,
        "centre": pair.patient.centre,
        "split": pair.patient.split,
        "verdict": verdict.level,
        "causes": causes,
        **numbers.as_row(),
        **made.numbers,
        "files": files,
    }


def _verdict(
    pair: TransferPair, made: Transferred, numbers: PairNumbers, brain: Volume, settings: TransferOptions
) -> Verdict:
    hours = pair.patient.facts.get(f"ct_to_{PARTNER[pair.target]}_h")
    marks = find_landmarks(Path(settings.root), pair.patient.id, settings.given)
    verdict = judge_pair(
        numbers,
        limits=settings.limits,
        interval_h=hours if isinstance(hours, float) else None,
        landmark_mm=landmark_residual_mm(marks, PARTNER[pair.target], made.registration.transform),
    )
    verdict += made.verdict
    for name, mask in made.judged.items():
        verdict += judge_target(name, mask, brain)
    return verdict


def _record(pair: TransferPair, made: Transferred, verdict: Verdict, numbers: PairNumbers) -> dict[str, Any]:
    """Return what is written beside each map: the verdict with its reasons, and all numbers."""
    return {
        "verdict": verdict.level,
        "reasons": [asdict(reason) for reason in verdict.reasons],
        "numbers": numbers.as_row(),
        **{k: v for k, v in made.numbers.items() if v is not None},
        "partner": PARTNER[pair.target],
    }


def _written(pair: TransferPair, home: Path, made: Transferred, record: Mapping[str, Any]) -> list[str]:
    """Write maps and transform into a pipeline's folder; return the files, relative to it."""
    root, pipeline, who = home.parents[1], home.name, bids.subject(pair.patient.id)
    paths = []
    own_grid = nifti.load(pair.patient.exam("ct"))
    for (label, kind), volume in made.maps.items():
        drawn = on_file_grid(volume, own_grid, kind)
        path = bids.write_derivative(
            root, pair.patient.id, drawn, pipeline=pipeline, label=label, kind=kind, sidecar=record
        )
        paths += [path, nifti.sidecar_path(path)]
    transform = home / who / f"{who}_from-ct_to-{PARTNER[pair.target]}_xfm.h5"
    paths.append(write_transform(made.registration.transform, transform))
    for ending, write in made.files.items():
        extra = home / who / f"{who}_{ending}"
        write(extra)
        paths.append(extra)
    return [path.relative_to(home).as_posix() for path in paths]


def _write_sheet(
    pair: TransferPair, folder: Path, made: Transferred, ct: Volume, brain: Volume, verdict: Verdict
) -> None:
    sheets = folder / "derivatives" / ACCEPTED / "sheets"
    sheets.mkdir(parents=True, exist_ok=True)
    found = made.registration.transform
    sheet = pair_sheet(ct, made.partner, found, made.shown, brain, title=pair.id, verdict=verdict)
    sheet.save(sheets / f"{pair.id}.png")


def on_file_grid(volume: Volume, own_grid: Volume, kind: bids.MapKind) -> Volume:
    """Bring a map back onto the grid of the CT's file, where that is sheared (a tilted gantry) and was
    opened upright.
    """
    if volume.same_grid(own_grid):
        return volume
    return volume.on_grid(own_grid, interpolation="linear" if kind == "probseg" else "nearest")


# ---- after the run
# --------------------------------------------------------------------------------------------------


def settle(
    root: Path, rows: Sequence[Mapping[str, Any]], overrides: Mapping[str, tuple[str, str]]
) -> list[dict[str, Any]]:
    """Put every target where its verdict, or a person's, wants it; return the rows with the verdict that
    holds.
    """
    unknown = sorted(set(overrides) - {str(row["id"]) for row in rows})
    if unknown:
        raise UsageError(
            f"override.tsv names {', '.join(unknown[:5])}, and there is no such pair; its id is"
            " patient-target"
        )
    settled = []
    for row in rows:
        new = dict(row)
        if row["id"] in overrides:
            said, by = overrides[row["id"]]
            new["verdict"] = "refuse" if said == "fail" else "pass"
            new["causes"] = (
                f"overruled by a person ({by or 'no name given'}); it was {row['verdict']}:"
                f" {row['causes'] or 'no cause'}"
            )
        _move(root, row["files"], REJECTED if new["verdict"] == "refuse" else ACCEPTED)
        settled.append(new)
    return settled


def _move(root: Path, files: Sequence[str], home: str) -> None:
    other = REJECTED if home == ACCEPTED else ACCEPTED
    for file in files:
        source, place = root / "derivatives" / other / file, root / "derivatives" / home / file
        if source.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, place)
