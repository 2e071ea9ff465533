"""A BIDS-like cohort on disk: participants.tsv, sub-*/ses-*/{ct,anat,dwi}/, derivatives/<pipeline>/.
`docs/cohorts.md` shows it.

CT is not in BIDS yet: `.bidsignore` tells validators so.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ichnos import __version__
from ichnos.cohort import EXAMS, Cohort, Exam, Fact, Patient
from ichnos.errors import InputRefused, UsageError, foreign
from ichnos.files import atomic_file
from ichnos.formats import nifti
from ichnos.formats.text import read_table, read_text
from ichnos.targets import label_maps
from ichnos.volume import Floats, Volume

BIDS_VERSION = "1.10.0"
IGNORED = ("**/ct/", "*_ct.nii.gz", "*_ct.json", ".ichnos/")
# Exam -> (session, folder, suffix).
EXAM_PLACES: dict[Exam, tuple[str, str, str]] = {
    "ct": ("baseline", "ct", "ct"),
    "followup": ("followup", "ct", "ct"),
    "flair": ("mri", "anat", "FLAIR"),
    "t1": ("mri", "anat", "T1w"),
    "diffusion": ("mri", "dwi", "dwi"),
}
MapKind = Literal["mask", "dseg", "probseg"]
MAP_KINDS: tuple[MapKind, ...] = ("dseg", "mask", "probseg")  # the order in which a target is looked for
TRUSTED_PIPELINES = ("manual", "transfer", "truth")  # where targets are looked for; predictions must be named
SPLITS = ("train", "validation", "test", "external", "")
_ID = re.compile(r"[A-Za-z0-9]{1,64}")  # it becomes part of file names


# ---- where things are


def subject(patient_id: str) -> str:
    """Return the folder name of a patient; BIDS allows letters and digits alone.

    >>> subject("0007")
    'sub-0007'
    """
    if not _ID.fullmatch(patient_id):
        raise UsageError(f"patient id {patient_id!r} cannot name a BIDS folder; use letters and digits alone")
    return f"sub-{patient_id}"


def exam_path(root: str | Path, patient_id: str, exam: Exam) -> Path:
    """Return where an exam of a patient lies.

    >>> exam_path("cohort", "A1", "flair").as_posix()
    'cohort/sub-A1/ses-mri/anat/sub-A1_ses-mri_FLAIR.nii.gz'
    """
    session, folder, suffix = EXAM_PLACES[exam]
    who = subject(patient_id)
    return Path(root) / who / f"ses-{session}" / folder / f"{who}_ses-{session}_{suffix}.nii.gz"


def derivative_path(
    root: str | Path,
    patient_id: str,
    *,
    pipeline: str,
    label: str,
    kind: MapKind,
    exam: Exam = "ct",
    ending: str = ".nii.gz",
) -> Path:
    """Return where a pipeline puts a map that it drew on an exam's grid.

    >>> derivative_path("cohort", "A1", pipeline="transfer", label="ICH", kind="mask").as_posix()
    'cohort/derivatives/transfer/sub-A1/ses-baseline/sub-A1_ses-baseline_label-ICH_mask.nii.gz'
    """
    who, session = subject(patient_id), f"ses-{EXAM_PLACES[exam][0]}"
    name = f"{who}_{session}_label-{label}_{kind}{ending}"
    return Path(root) / "derivatives" / pipeline / who / session / name


def find_target(
    root: str | Path, patient_id: str, target: str, pipelines: Sequence[str] = TRUSTED_PIPELINES
) -> Path | None:
    """Return the file of a target on the CT grid from the first pipeline that has one; dseg before mask
    before probseg.
    """
    for pipeline in pipelines:
        for kind in MAP_KINDS:
            path = derivative_path(root, patient_id, pipeline=pipeline, label=target, kind=kind)
            if path.is_file():
                return path
    return None


# ---- reading


def is_cohort(path: str | Path) -> bool:
    """Say whether a folder is a cohort in this layout."""
    return (Path(path) / "participants.tsv").is_file()


def read_cohort(root: str | Path, *, pipelines: Sequence[str] = TRUSTED_PIPELINES) -> Cohort:
    """Read a cohort; exams and targets are the files that are there. Targets come from the first of
    `pipelines` that has them.
    """
    root = Path(root)
    patients = []
    for row in read_participants(root):
        patient_id = row.pop("participant_id")
        centre, split = row.pop("centre", "") or "", row.pop("split", "") or ""
        if split not in SPLITS:
            raise InputRefused(
                f"{foreign(root / 'participants.tsv')}: split {foreign(repr(split))} of"
                f" sub-{foreign(patient_id)} is unknown; use train,"
                " validation, test or external"
            )
        exams = {exam: path for exam in EXAMS if (path := exam_path(root, patient_id, exam)).is_file()}
        targets = {
            t: found
            for t in label_maps()
            if (found := find_target(root, patient_id, t, pipelines)) is not None
        }
        facts = {name: _fact(text) for name, text in row.items()}
        patients.append(Patient(patient_id, centre, split, exams, targets, facts))  # type: ignore[arg-type]
    return Cohort(tuple(patients), root)


def read_participants(root: str | Path) -> list[dict[str, str]]:
    """Return the rows of participants.tsv as text, participant_id without "sub-"; "n/a" becomes ""."""
    path = Path(root) / "participants.tsv"
    if not path.is_file():
        raise InputRefused(
            f"{foreign(root)} is not a cohort: it holds no participants.tsv; docs/cohorts.md shows the layout"
        )
    columns, rows = read_table(path)
    if not columns or columns[0] != "participant_id":
        raise InputRefused(
            f"{foreign(path)} has no column participant_id in the first place; tabs must divide its columns"
        )
    for number, row in enumerate(rows, start=2):
        row["participant_id"] = row["participant_id"].removeprefix("sub-")
        if not _ID.fullmatch(row["participant_id"]):
            raise InputRefused(
                f"{foreign(path)}, line {number}: participant_id {foreign(repr(row['participant_id']))}"
                " must be letters and digits"
                " alone"
            )
    return [{name: "" if text == "n/a" else text for name, text in row.items()} for row in rows]


def _fact(text: str) -> Fact:
    if text == "":
        return None
    try:
        return float(text)
    except ValueError:
        return text


def read_gradients(dwi: str | Path) -> tuple[Floats, Floats]:
    """Return b-values (n,) in s/mm2 and directions (n, 3) from the files beside a diffusion image, as FSL
    writes them.
    """
    stem = str(dwi).removesuffix(".gz").removesuffix(".nii")
    tables = []
    for ending in (".bval", ".bvec"):
        path = Path(stem + ending)
        if not path.is_file():
            raise InputRefused(
                f"{foreign(dwi)} has no {foreign(path.name)} beside it; put its gradient table there"
            )
        try:
            tables.append(np.loadtxt(io.StringIO(read_text(path)), dtype=np.float64, ndmin=2))
        except ValueError as error:
            raise InputRefused(f"{foreign(path)} is not a table of numbers ({foreign(error)})") from None
    bvals, bvecs = tables[0].ravel(), tables[1]
    bvecs = bvecs.T if bvecs.shape == (3, len(bvals)) else bvecs  # FSL's rows are axes; a square table too
    if bvecs.shape != (len(bvals), 3):
        raise InputRefused(
            f"{foreign(stem)}: {len(bvals)} b-values and a table of directions of shape {tables[1].shape}"
            " do not"
            " belong together"
        )
    return bvals, bvecs


# ---- writing


def write_exam(
    root: str | Path, patient_id: str, exam: Exam, volume: Volume, *, sidecar: Mapping[str, Any] | None = None
) -> Path:
    """Write an exam with its JSON sidecar; return its path."""
    path = exam_path(root, patient_id, exam)
    nifti.save(volume, path)
    nifti.write_sidecar(path, {"Modality": "CT" if exam in ("ct", "followup") else "MR", **(sidecar or {})})
    return path


def write_gradients(dwi: str | Path, bvals: Floats, bvecs: Floats) -> None:
    """Write b-values (n,) and directions (n, 3) beside a diffusion image, as FSL reads them."""
    stem = str(dwi).removesuffix(".gz").removesuffix(".nii")
    for ending, table, style in (
        (".bval", np.atleast_2d(bvals), "%g"),
        (".bvec", np.asarray(bvecs).T, "%.8g"),
    ):
        with atomic_file(stem + ending) as temporary:
            np.savetxt(temporary, table, fmt=style)


def write_derivative(
    root: str | Path,
    patient_id: str,
    volume: Volume,
    *,
    pipeline: str,
    label: str,
    kind: MapKind,
    exam: Exam = "ct",
    sidecar: Mapping[str, Any] | None = None,
) -> Path:
    """Write a map that a pipeline drew on an exam's grid, with a JSON sidecar where one is given; return
    its path.
    """
    path = derivative_path(root, patient_id, pipeline=pipeline, label=label, kind=kind, exam=exam)
    nifti.save(volume, path)
    if sidecar is not None:
        nifti.write_sidecar(path, sidecar)
    return path


def write_cohort(
    cohort: Cohort | Iterable[Patient],
    root: str | Path,
    *,
    name: str,
    columns: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write the tables of a cohort: participants.tsv (with participants.json), dataset_description.json and
    .bidsignore.

    Exams and targets are written by `write_exam` and `write_derivative`; `columns` describes facts:
    {"age_years": {"Units": "year"}}.
    """
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    write_participants(cohort, root)
    described = {
        "centre": {"Description": "where the exams were made"},
        "split": {"Levels": list(SPLITS[:-1])},
        **(columns or {}),
    }
    _write_json(root / "participants.json", described)
    write_description(root, name)
    with atomic_file(root / ".bidsignore") as temporary:
        temporary.write_text("\n".join(IGNORED) + "\n", encoding="utf-8")


def is_simulated(cohort: Cohort) -> bool:
    """Say whether `ichnos simulate` made a cohort.

    >>> is_simulated(Cohort((Patient("01"),), root=Path("no-such-folder")))
    False
    """
    return cohort.root is not None and (cohort.root / "derivatives" / "truth" / "provenance.json").is_file()


def write_participants(patients: Cohort | Iterable[Patient], root: str | Path) -> None:
    """Write participants.tsv: id, centre, split, then every fact that any patient has; unknown is "n/a"."""
    rows = list(patients)
    facts = list(dict.fromkeys(name for patient in rows for name in patient.facts))
    with (
        atomic_file(Path(root) / "participants.tsv") as temporary,
        temporary.open("w", newline="", encoding="utf-8") as stream,
    ):
        table = csv.writer(stream, delimiter="\t", lineterminator="\n")
        table.writerow(["participant_id", "centre", "split", *facts])
        for p in rows:
            told = [_text(p.facts.get(name)) for name in facts]
            table.writerow([subject(p.id), p.centre or "n/a", p.split or "n/a", *told])


def write_description(
    folder: str | Path, name: str, *, pipeline: str | None = None, sources: Sequence[str] = ()
) -> None:
    """Write dataset_description.json: of a cohort, or of what a pipeline derived from it."""
    content: dict[str, Any] = {
        "Name": name,
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative" if pipeline else "raw",
    }
    content["GeneratedBy"] = [
        {"Name": f"ichnos {pipeline}" if pipeline else "ichnos", "Version": __version__}
    ]
    if sources:
        content["SourceDatasets"] = [{"URL": source} for source in sources]
    Path(folder).mkdir(parents=True, exist_ok=True)
    _write_json(Path(folder) / "dataset_description.json", content)


def write_pipeline(root: str | Path, pipeline: str) -> Path:
    """Make derivatives/<pipeline>/ with its dataset_description.json; return the folder."""
    folder = Path(root) / "derivatives" / pipeline
    # not the folder's name: the same data, the same bytes
    write_description(folder, pipeline, pipeline=pipeline, sources=["../.."])
    return folder


def _text(fact: Fact) -> str:
    if fact is None or (isinstance(fact, float) and not np.isfinite(fact)):
        return "n/a"
    if isinstance(fact, str):
        return re.sub(r"[\t\r\n]+", " ", fact) or "n/a"
    return f"{float(fact):.10g}"


def _write_json(path: Path, content: Any) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
