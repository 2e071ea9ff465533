"""From a cohort's partner exams to targets on its CTs: one pair at a time, each judged, none stopping the rest.

A target whose pair passes (or is doubtful) goes to derivatives/transfer, where training looks for targets. One whose pair fails goes to
derivatives/transferrejected, where nothing looks; a person may overrule either in override.tsv.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ichnos.cohort import Cohort, Exam, Patient
from ichnos.errors import InputRefused, UsageError
from ichnos.formats import bids, nifti
from ichnos.registration import Registration, write_transform
from ichnos.registration.contrast import contrast_of, view
from ichnos.transfer.sheet import contact_sheet
from ichnos.transfer.verdict import Limits, PairNumbers, brain_of_ct, judge_pair, judge_target, measure_pair
from ichnos.verdict import Verdict
from ichnos.volume import Volume

Target = Literal["leukoaraiosis", "tract", "expansion"]
PARTNER: dict[Target, Exam] = {"leukoaraiosis": "flair", "tract": "diffusion", "expansion": "followup"}
NNUNET_LABELS: dict[Target, dict[str, int]] = {
    "leukoaraiosis": {"leukoaraiosis": 1},
    "tract": {"tract_left": 1, "tract_right": 2},
    "expansion": {"ICH": 1, "IVH": 2, "PHE": 3},
}
ACCEPTED, REJECTED = "transfer", "transferrejected"


@dataclass(frozen=True)
class Pair:
    """A patient and the target that a partner exam is to give."""

    patient: Patient
    target: Target

    @property
    def id(self) -> str:
        """Return the name of the pair in ledger, tables and override.tsv."""
        return f"{self.patient.id}-{self.target}"


@dataclass(frozen=True)
class Settings:
    """All that decides a result besides the pair."""

    root: str  # the cohort
    given: tuple[str, ...] = ("manual",)  # pipelines whose masks are taken where they are there (haematoma; leukoaraiosis on the FLAIR)
    undo_shift: bool = False  # expansion: take back what the haematoma has pushed aside
    streamlines: int = 5000
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, eq=False)
class Transferred:
    """What a partner exam gave, on the CT grid."""

    partner: Volume  # the image to show on the contact sheet
    registration: Registration
    maps: Mapping[tuple[str, bids.Kind], Volume]  # (label, kind) -> map on the CT grid
    shown: Volume  # the one to draw on the sheet: labels or a share
    judged: Mapping[str, Volume]  # name in verdict.PLAUSIBLE -> mask to judge
    verdict: Verdict  # of the target's own making
    numbers: Mapping[str, Any] = field(default_factory=dict)  # volumes and labels for the table
    files: Mapping[str, Callable[[Path], object]] = field(default_factory=dict)  # further files: name ending -> what writes it


def pairs_of(cohort: Cohort, targets: Sequence[Target]) -> list[Pair]:
    """Return every pair of the cohort that has both exams; refuse if there is none."""
    found = [Pair(p, t) for t in targets for p in cohort.with_exams("ct", PARTNER[t])]
    if not found:
        wanted = ", ".join(f"{t} (needs ct and {PARTNER[t]})" for t in targets)
        raise InputRefused(f"the cohort of {len(cohort)} patients has no pair for {wanted}; docs/cohorts.md shows where exams lie")
    return found


def transfer_pair(pair: Pair, folder: Path, *, settings: Settings) -> dict[str, Any]:
    """Transfer one target, judge it, write it with its contact sheet into `folder`, and return its row."""
    ct = nifti.open_nifti(pair.patient.exam("ct")).volume
    made = _MAKERS[pair.target](ct, pair.patient, settings)
    numbers = measure_pair(ct, made.partner, made.registration)
    verdict = _verdict(pair, made, numbers, ct, settings)
    pipeline = REJECTED if verdict.level == "refuse" else ACCEPTED
    files = _written(pair, folder, pipeline, made, ct, verdict, numbers)
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


def _verdict(pair: Pair, made: Transferred, numbers: PairNumbers, ct: Volume, settings: Settings) -> Verdict:
    hours = pair.patient.facts.get(f"ct_to_{PARTNER[pair.target]}_h")
    verdict = judge_pair(numbers, limits=settings.limits, interval_h=hours if isinstance(hours, float) else None) + made.verdict
    brain = brain_of_ct(view(ct, spacing_mm=2.0, contrast="ct"))
    for name, mask in made.judged.items():
        verdict += judge_target(name, mask, brain)
    return verdict


def _written(pair: Pair, folder: Path, pipeline: str, made: Transferred, ct: Volume, verdict: Verdict, numbers: PairNumbers) -> list[str]:
    """Write maps, transform and sheet; return the files of the target, relative to the pipeline's folder."""
    who = bids.subject(pair.patient.id)
    told = {
        "verdict": verdict.level,
        "reasons": [{"name": r.name, "level": r.level, "text": r.text, "value": r.value, "unit": r.unit} for r in verdict.reasons],
        "numbers": numbers.as_row(),
        **{k: v for k, v in made.numbers.items() if v is not None},
        "partner": PARTNER[pair.target],
    }
    paths = []
    for (label, kind), volume in made.maps.items():
        path = bids.write_derivative(folder, pair.patient.id, volume, pipeline=pipeline, label=label, kind=kind, sidecar=told)
        paths += [path, nifti.sidecar_path(path)]
    home = folder / "derivatives" / pipeline
    transform = home / who / f"{who}_from-ct_to-{PARTNER[pair.target]}_xfm.h5"
    paths.append(write_transform(made.registration.transform, transform))
    for ending, write in made.files.items():
        extra = home / who / f"{who}_{ending}"
        write(extra)
        paths.append(extra)
    sheets = folder / "derivatives" / ACCEPTED / "sheets"
    sheets.mkdir(parents=True, exist_ok=True)
    brain = brain_of_ct(view(ct, spacing_mm=2.0, contrast="ct"))
    found = made.registration.transform
    contact_sheet(ct, made.partner, found, made.shown, brain, title=pair.id, verdict=verdict).save(sheets / f"{pair.id}.png")
    return [path.relative_to(home).as_posix() for path in paths]


# ---- one maker per target -------------------------------------------------------------------------------------------


def _expansion(ct: Volume, patient: Patient, settings: Settings) -> Transferred:
    from ichnos.transfer.followup import transfer_followup

    followup = nifti.open_nifti(patient.exam("followup")).volume
    blood = [_given(patient, "haematoma", exam, settings) for exam in ("ct", "followup")]
    for exam, mask in zip(("ct", "followup"), blood, strict=True):
        if mask is None:
            where = ", ".join(settings.given)
            raise InputRefused(
                f"patient {patient.id} has no haematoma mask of the {exam} exam in {where}; "
                "put one there, or name the pipeline that has it with --given"
            )
    grown = transfer_followup(ct, followup, blood=blood[0], followup_blood=blood[1], undo_shift=settings.undo_shift)  # type: ignore[arg-type]
    volumes = {f"{name}_ml": round(value, 3) for name, value in grown.volumes_ml.items()}
    labels = {f"expanded {name}": None if value is None else int(value) for name, value in grown.expanded.items()}
    maps: dict[tuple[str, bids.Kind], Volume] = {
        ("expansion", "dseg"): grown.followup_blood,
        ("growth", "mask"): grown.growth.astype(np.uint8),
    }
    shown = grown.followup_blood
    judged = {"expansion": shown.with_array(np.isin(shown.array, (1, 2)))}
    return Transferred(followup, grown.registration, maps, shown, judged, grown.verdict, {**volumes, **labels})


def _given(patient: Patient, label: str, exam: str, settings: Settings) -> Volume | None:
    """Return a mask that somebody has drawn on an exam, from the first of the trusted pipelines that has it."""
    for pipeline in settings.given:
        for kind in bids.KINDS:
            path = bids.derivative_path(settings.root, patient.id, pipeline=pipeline, label=label, kind=kind, exam=exam)  # type: ignore[arg-type]
            if path.is_file():
                return nifti.load(path)
    return None


def _mri(patient: Patient, exam: Exam) -> Volume:
    """Load an MRI, or refuse what is in truth a CT (exams swapped)."""
    image = nifti.load(patient.exam(exam))
    first = image.with_array(image.array[..., 0]) if image.array.ndim == 4 else image
    if contrast_of(first) == "ct":
        raise InputRefused(f"the {exam} exam of patient {patient.id} is a CT by its values: are the exams swapped?")
    return image


_MAKERS: dict[Target, Callable[[Volume, Patient, Settings], Transferred]] = {"expansion": _expansion}


# ---- after the run --------------------------------------------------------------------------------------------------


def settle(root: Path, rows: Sequence[Mapping[str, Any]], overrides: Mapping[str, tuple[str, str]]) -> list[dict[str, Any]]:
    """Put every target where its verdict, or a person's, wants it; return the rows with the verdict that holds."""
    unknown = sorted(set(overrides) - {str(row["id"]) for row in rows})
    if unknown:
        raise UsageError(f"override.tsv names {', '.join(unknown[:5])}, and there is no such pair; its id is patient-target")
    settled = []
    for row in rows:
        new = dict(row)
        if row["id"] in overrides:
            said, by = overrides[row["id"]]
            new["verdict"] = "refuse" if said == "fail" else "pass"
            new["causes"] = f"overruled by a person ({by or 'no name given'}); it was {row['verdict']}: {row['causes'] or 'no cause'}"
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
