"""Write a cohort of virtual patients: exams in a BIDS-like layout, the truth under derivatives/truth and
nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ichnos import __version__
from ichnos.cohort import Exam, Patient
from ichnos.errors import IchnosError, UsageError
from ichnos.files import atomic_file
from ichnos.formats import bids, nifti
from ichnos.runs import Summary, apply
from ichnos.simulation.cohort.design import Design, Subject, subjects
from ichnos.simulation.cohort.population import make_subject
from ichnos.simulation.disease.clinical_row import COLUMNS, clinical_row, state_of
from ichnos.simulation.exams.ct import CtExam, simulate_ct
from ichnos.simulation.exams.dicom_export import export_ct
from ichnos.simulation.exams.diffusion import draw_diffusion_protocol, simulate_diffusion
from ichnos.simulation.exams.mri import Contrast, MriExam, draw_mri_protocol, simulate_mri
from ichnos.simulation.exams.scanners import CtProtocol, centre, draw_protocol
from ichnos.simulation.exams.truth import (
    BASELINE_MASKS,
    FOLLOWUP_MASKS,
    growth_on_grid,
    masks_on_grid,
    volumes_ml,
)
from ichnos.simulation.patient import VirtualPatient
from ichnos.volume import Affine, Array, Volume

TRUTH = "truth"  # the pipeline's name under derivatives/


@dataclass(frozen=True)
class Making:
    """All that decides what the patients look like, besides who they are."""

    anatomy: str | None = None  # folder of label maps; None: the MNI head
    voxel_mm: float = 1.0
    oracle_samples: int = 32  # re-drawn bleeds behind the oracle's map of growth
    dicom: bool = False

    def __post_init__(self) -> None:
        if not 0.5 <= self.voxel_mm <= 3:
            raise UsageError(f"voxels of {self.voxel_mm:g} mm were asked for; give 0.5 to 3")


def simulate_cohort(
    design: Design,
    out: str | Path,
    *,
    seed: int,
    making: Making | None = None,
    name: str = "virtual patients",
    workers: int = 1,
    scheduler: str | None = None,
    progress: bool = True,
    cache: Path | None = None,
) -> Summary:
    """Make every patient of a design and write the cohort; what is there from an earlier call with the same
    settings is kept.

    The same seed gives the same files on CPU. A patient who fails is named in the summary, and made anew by
    the next call. Source heads, which take longer to make than patients, are kept in the folder `cache` for
    the next process.
    """
    making = making or Making()
    out = Path(out)
    if out.exists() and any(out.iterdir()) and not (out / ".ichnos").is_dir():
        raise UsageError(
            f"{out} holds other files; give a new or empty folder, or one that an earlier simulation began"
        )
    chosen = subjects(design, seed=seed)
    settings = {"design": asdict(design), "seed": seed, "making": asdict(making)}
    task = partial(write_patient, making=making, cache=cache)
    summary = apply(
        task,
        chosen,
        out=out,
        settings=settings,
        name="simulate",
        workers=workers,
        scheduler=scheduler,
        progress=progress,
    )
    _write_tables(summary, chosen, out, name=name)
    _write_provenance(out, settings, design, summary)
    return summary


def write_patient(
    subject: Subject, folder: Path, *, making: Making, cache: Path | None = None
) -> dict[str, Any]:
    """Make one patient, write exams and truth into `folder` as if it were the cohort, and return the facts
    and the truth's row.
    """
    torch.set_num_threads(1)  # the same sums in the same order on every machine
    patient = make_subject(subject, making, cache=cache)
    writer = _Writer(subject, patient, folder, making)
    for exam in subject.exams:
        writer.write(exam)
    writer.write_transforms()
    facts = clinical_row(state_of(patient), trial=subject.trial, rng=_rng(subject, "clinical"))
    return {"facts": dict(facts), "truth": {**writer.volumes, **_hidden(patient)}}


def _rng(subject: Subject, purpose: str) -> np.random.Generator:
    """Return a stream of random numbers of one patient's own for one purpose: an exam more or less changes
    no other exam.
    """
    return np.random.default_rng(np.random.SeedSequence(subject.seed, spawn_key=tuple(purpose.encode())))


def protocol_of(subject: Subject, exam: Exam) -> CtProtocol:
    """Return how a patient's CT, or follow-up CT, is made: scanner, slices, pose, and whether the head
    lies still.
    """
    return draw_protocol(centre(subject.centre), rng=_rng(subject, exam))


def _generator(subject: Subject, purpose: str, device: torch.device) -> torch.Generator:
    seed = int(_rng(subject, f"{purpose} noise").integers(2**62))
    return torch.Generator(device=device).manual_seed(seed)


class _Writer:
    """Writes one patient's exams with the truth on each grid."""

    def __init__(self, subject: Subject, patient: VirtualPatient, folder: Path, making: Making) -> None:
        self.subject = subject
        self.patient = patient
        self.folder = folder
        self.making = making
        self.patient_from_exam: dict[Exam, Affine] = {}
        self.volumes: dict[str, float] = {}

    def write(self, exam: Exam) -> None:
        """Simulate and write one exam."""
        if exam in ("ct", "followup"):
            self._write_ct(exam)
        elif exam == "diffusion":
            self._write_diffusion()
        else:
            self._write_structural(exam)

    def _write_ct(self, exam: Exam) -> None:
        later = exam == "followup"
        made = simulate_ct(
            self.patient, protocol_of(self.subject, exam), generator=self._noise(exam), followup=later
        )
        self.patient_from_exam[exam] = made.patient_from_exam
        bids.write_exam(
            self.folder, self.subject.id, exam, made.volume, sidecar=nifti.sidecar_of(made.acquisition)
        )
        if self.making.dicom:
            export_ct(
                self._on_table(exam, made),
                self.folder,
                patient_id=self.subject.id,
                exam=exam,
                latent=self.patient.latent,
            )
        if later:
            self._write_followup_truth(made)
        else:
            self._write_baseline_truth(made)

    def _on_table(self, exam: Exam, made: CtExam) -> CtExam:
        """Return the exam as a tilted gantry stacks it: the same head, noise and millimetres, each slice a
        step along the table.
        """
        if made.protocol.tilt_deg == 0:
            return made
        return simulate_ct(
            self.patient,
            made.protocol,
            generator=self._noise(exam),
            followup=exam == "followup",
            sheared=True,
        )

    def _masks(self, names: Sequence[str], made: CtExam) -> dict[str, Volume]:
        return masks_on_grid(
            self.patient,
            names,
            affine=made.volume.affine,
            shape=made.volume.shape,
            patient_from_exam=made.patient_from_exam,
            thickness_mm=made.protocol.thickness_mm,
            motion=made.motion,
        )

    def _write_baseline_truth(self, made: CtExam) -> None:
        grown = FOLLOWUP_MASKS if self.patient.tissue_followup is not None else ()
        masks = self._masks([*BASELINE_MASKS, *grown], made)
        blood = _labelled(masks["ich"], masks["ivh"], masks["phe"])
        self._save(blood, "haematoma", "dseg")
        self._save(masks["leukoaraiosis"], "leukoaraiosis", "mask")
        self._save(_labelled(masks["tract_left"], masks["tract_right"]), "tract", "dseg")
        self._save(_labelled(masks["infarct_acute"], masks["infarct_old"]), "infarct", "dseg")
        self._save(_labelled(masks["ventricles"], masks["brain"]).map_array(_brain_first), "brain", "dseg")
        self.volumes.update(
            volumes_ml({n: masks[n] for n in BASELINE_MASKS if n not in ("ich", "ivh", "phe")})
        )
        self.volumes.update(
            volumes_ml(
                {n: blood.with_array(blood.array == k) for k, n in enumerate(("ich", "ivh", "phe"), 1)}
            )
        )
        if grown:
            later = _labelled(*(masks[name] for name in FOLLOWUP_MASKS))
            self._save(later, "expansion", "dseg")
            oracle = growth_on_grid(
                self.patient,
                affine=made.volume.affine,
                shape=made.volume.shape,
                patient_from_exam=made.patient_from_exam,
                thickness_mm=made.protocol.thickness_mm,
                motion=made.motion,
            )
            if oracle is not None:
                self._save(oracle, "oracle", "probseg")

    def _write_followup_truth(self, made: CtExam) -> None:
        masks = self._masks(FOLLOWUP_MASKS, made)
        blood = _labelled(*(masks[name] for name in FOLLOWUP_MASKS))
        self._save(blood, "haematoma", "dseg", exam="followup")
        self.volumes.update(
            volumes_ml({n: blood.with_array(blood.array == k) for k, n in enumerate(FOLLOWUP_MASKS, 1)})
        )

    def _write_structural(self, exam: Exam) -> None:
        contrast: Contrast = "flair" if exam == "flair" else "t1"
        made = simulate_mri(
            self.patient,
            draw_mri_protocol(contrast, rng=_rng(self.subject, exam)),
            generator=self._noise(exam),
        )
        self.patient_from_exam[exam] = made.patient_from_exam
        bids.write_exam(self.folder, self.subject.id, exam, made.volume, sidecar=_mri_sidecar(made))
        if exam == "flair":
            mask = self._mri_masks(
                ("leukoaraiosis",), made.volume, made.patient_from_exam, made.protocol.thickness_mm
            )["leukoaraiosis"]
            self._save(mask, "leukoaraiosis", "mask", exam="flair")
            self.volumes["leukoaraiosis_flair_ml"] = volumes_ml({"x": mask})["x_ml"]

    def _write_diffusion(self) -> None:
        protocol = draw_diffusion_protocol(rng=_rng(self.subject, "diffusion"))
        made = simulate_diffusion(self.patient, protocol, generator=self._noise("diffusion"))
        self.patient_from_exam["diffusion"] = made.patient_from_exam
        sidecar = {"PhaseEncodingDirection": "j", "Distorted": protocol.distortion_mm > 0}
        path = bids.write_exam(self.folder, self.subject.id, "diffusion", made.volume, sidecar=sidecar)
        bids.write_gradients(path, made.b_values, made.b_vectors)
        masks = self._mri_masks(
            ("tract_left", "tract_right"), made.volume, made.patient_from_exam, protocol.voxel_mm
        )
        self._save(_labelled(masks["tract_left"], masks["tract_right"]), "tract", "dseg", exam="diffusion")

    def _mri_masks(
        self, names: Sequence[str], volume: Volume, patient_from_exam: Affine, thickness_mm: float
    ) -> dict[str, Volume]:
        return masks_on_grid(
            self.patient,
            names,
            affine=volume.affine,
            shape=volume.shape,
            patient_from_exam=patient_from_exam,
            thickness_mm=thickness_mm,
        )

    def write_transforms(self) -> None:
        """Write where each exam's millimetres lie in the baseline CT: 4 x 4 matrices from exam mm to CT
        mm, heads alike.
        """
        ct = self.patient_from_exam["ct"]
        for exam, patient_from_exam in self.patient_from_exam.items():
            if exam == "ct":
                continue
            folder = self.folder / "derivatives" / TRUTH / bids.subject(self.subject.id)
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{bids.subject(self.subject.id)}_from-{exam}_to-ct_xfm.txt"
            np.savetxt(path, (~ct @ patient_from_exam).matrix, fmt="%.8f")

    def _noise(self, exam: Exam) -> torch.Generator:
        return _generator(self.subject, exam, self.patient.device)

    def _save(self, volume: Volume, label: str, kind: bids.MapKind, *, exam: Exam = "ct") -> None:
        bids.write_derivative(
            self.folder, self.subject.id, volume, pipeline=TRUTH, label=label, kind=kind, exam=exam
        )


def _brain_first(labels: Array) -> Array:
    """Swap labels 1 and 2: the ventricles lie inside the brain's mask and would vanish under it, and brain
    is label 1.
    """
    swapped: Array = np.array([0, 2, 1], np.uint8)[labels]
    return swapped


def _labelled(*masks: Volume) -> Volume:
    """Join masks into one label map: 1 for the first, 2 for the second …; where they overlap the earlier
    one wins.
    """
    out = np.zeros(masks[0].shape, np.uint8)
    for label, mask in reversed(list(enumerate(masks, 1))):
        out[mask.array > 0] = label
    return masks[0].with_array(out)


def _mri_sidecar(made: MriExam) -> dict[str, Any]:
    p = made.protocol
    return {
        "SliceThickness": p.thickness_mm,
        "SpacingBetweenSlices": p.thickness_mm + p.gap_mm,
        "MagneticFieldStrength": p.field_strength_t,
        "MRAcquisitionType": "3D" if p.thickness_mm <= 1.5 else "2D",
    }


def _hidden(patient: VirtualPatient) -> dict[str, Any]:
    """Return what only the simulation knows about a patient, for the truth's table."""
    latent, truth = patient.latent, patient.truth
    bleeds = latent.has_haematoma
    return {
        "has_haematoma": int(bleeds),
        "site": latent.site or None,
        "side": latent.side or None,
        "signs": " ".join(latent.signs) or None,
        "expanded": int(patient.expanded) if bleeds and patient.tissue_followup is not None else None,
        "expansion_probability": round(patient.expansion_probability, 6) if bleeds else None,
        "injury": state_of(patient).injury,
        "fazekas_periventricular": truth.fazekas_periventricular,
        "fazekas_deep": truth.fazekas_deep,
        "midline_shift_mm": round(truth.midline_shift_mm, 2),
        "source": latent.source,
    }


def _write_tables(summary: Summary, chosen: Sequence[Subject], out: Path, *, name: str) -> None:
    rows = {str(row["id"]): row for row in summary.rows}
    made = [s for s in chosen if s.id in rows]
    if not made:
        return
    people = [Patient(s.id, s.centre, s.split, facts=rows[s.id]["facts"]) for s in made]
    bids.write_cohort(people, out, name=name, columns=COLUMNS)
    folder = bids.write_pipeline(out, TRUTH)
    truths = [Patient(s.id, s.centre, s.split, facts=rows[s.id]["truth"]) for s in made]
    bids.write_participants(truths, folder)


def _write_provenance(out: Path, settings: Mapping[str, Any], design: Design, summary: Summary) -> None:
    """Write the one file that says how the cohort came about; nothing in it depends on when or where."""
    content = {
        "ichnos": __version__,
        "torch": torch.__version__,
        "settings": settings,
        "about": design.about,
        "assumed": list(design.assumed),
        "patients": len(summary),
        "failed": [failure.id for failure in summary.failures],
    }
    path = out / "derivatives" / TRUTH / "provenance.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def check_made(summary: Summary) -> None:
    """Refuse a cohort of which patients failed, with the first reason."""
    if summary.failures:
        first = summary.failures[0]
        raise IchnosError(
            f"{len(summary.failures)} patient(s) could not be made; the first, {first.id}: {first.why}"
        )
