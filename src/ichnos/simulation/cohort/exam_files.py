"""Write one patient's exams, and the ground truth on the grid of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ichnos.cohort import Exam
from ichnos.formats import bids, nifti
from ichnos.simulation.cohort.design import RenderSettings, Subject
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

_BLOOD = ("ich", "ivh", "phe")
TRUTH = "truth"  # the pipeline's name under derivatives/


def random_numbers(subject: Subject, purpose: str) -> np.random.Generator:
    """Return a stream of random numbers of one patient's own for one purpose: an exam more or less changes
    no other exam.
    """
    return np.random.default_rng(np.random.SeedSequence(subject.seed, spawn_key=tuple(purpose.encode())))


def protocol_of(subject: Subject, exam: Exam) -> CtProtocol:
    """Return how a patient's CT, or follow-up CT, is taken: scanner, slices, pose, and whether the head
    lies still.
    """
    return draw_protocol(centre(subject.centre), rng=random_numbers(subject, exam))


def noise_of(subject: Subject, purpose: str, device: torch.device) -> torch.Generator:
    """Return the noise of one of a patient's exams."""
    seed = int(random_numbers(subject, f"{purpose} noise").integers(2**62))
    return torch.Generator(device=device).manual_seed(seed)


class PatientFiles:
    """Writes one patient's exams with the truth on each grid."""

    def __init__(
        self, subject: Subject, patient: VirtualPatient, folder: Path, render: RenderSettings
    ) -> None:
        self.subject = subject
        self.patient = patient
        self.folder = folder
        self.render = render
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
        image = simulate_ct(
            self.patient, protocol_of(self.subject, exam), generator=self._noise(exam), followup=later
        )
        self.patient_from_exam[exam] = image.patient_from_exam
        bids.write_exam(
            self.folder, self.subject.id, exam, image.volume, sidecar=nifti.sidecar_of(image.acquisition)
        )
        if self.render.dicom:
            export_ct(
                self._on_table(exam, image),
                self.folder,
                patient_id=self.subject.id,
                exam=exam,
                latent=self.patient.latent,
            )
        if later:
            self._write_followup_truth(image)
        else:
            self._write_baseline_truth(image)

    def _on_table(self, exam: Exam, image: CtExam) -> CtExam:
        """Return the exam as a tilted gantry stacks it: the same head, noise and millimetres, each slice a
        step along the table.
        """
        if image.protocol.tilt_deg == 0:
            return image
        return simulate_ct(
            self.patient,
            image.protocol,
            generator=self._noise(exam),
            followup=exam == "followup",
            sheared=True,
        )

    def _masks(self, names: Sequence[str], image: CtExam) -> dict[str, Volume]:
        return masks_on_grid(self.patient, names, **_grid(image))

    def _write_baseline_truth(self, image: CtExam) -> None:
        grown = FOLLOWUP_MASKS if self.patient.followup is not None else ()
        masks = self._masks([*BASELINE_MASKS, *grown], image)
        blood = labelled_map(masks["ich"], masks["ivh"], masks["phe"])
        self._save(blood, "haematoma", "dseg")
        self._save(masks["leukoaraiosis"], "leukoaraiosis", "mask")
        self._save(labelled_map(masks["tract_left"], masks["tract_right"]), "tract", "dseg")
        self._save(labelled_map(masks["infarct_acute"], masks["infarct_old"]), "infarct", "dseg")
        self._save(labelled_map(masks["ventricles"], masks["brain"]).map_array(_brain_first), "brain", "dseg")
        lasting = {n: masks[n] for n in BASELINE_MASKS if n not in _BLOOD}
        self.volumes |= {**volumes_ml(lasting), **_label_volumes_ml(blood, _BLOOD)}
        if grown:
            self._save(labelled_map(*(masks[name] for name in FOLLOWUP_MASKS)), "expansion", "dseg")
            oracle = growth_on_grid(self.patient, **_grid(image))
            if oracle is not None:
                self._save(oracle, "oracle", "probseg")

    def _write_followup_truth(self, image: CtExam) -> None:
        masks = self._masks(FOLLOWUP_MASKS, image)
        blood = labelled_map(*(masks[name] for name in FOLLOWUP_MASKS))
        self._save(blood, "haematoma", "dseg", exam="followup")
        self.volumes |= _label_volumes_ml(blood, FOLLOWUP_MASKS)

    def _write_structural(self, exam: Exam) -> None:
        contrast: Contrast = "flair" if exam == "flair" else "t1"
        image = simulate_mri(
            self.patient,
            draw_mri_protocol(contrast, rng=random_numbers(self.subject, exam)),
            generator=self._noise(exam),
        )
        self.patient_from_exam[exam] = image.patient_from_exam
        bids.write_exam(self.folder, self.subject.id, exam, image.volume, sidecar=_mri_sidecar(image))
        if exam == "flair":
            mask = self._mri_masks(
                ("leukoaraiosis",), image.volume, image.patient_from_exam, image.protocol.thickness_mm
            )["leukoaraiosis"]
            self._save(mask, "leukoaraiosis", "mask", exam="flair")
            self.volumes["leukoaraiosis_flair_ml"] = volumes_ml({"x": mask})["x_ml"]

    def _write_diffusion(self) -> None:
        protocol = draw_diffusion_protocol(rng=random_numbers(self.subject, "diffusion"))
        image = simulate_diffusion(self.patient, protocol, generator=self._noise("diffusion"))
        self.patient_from_exam["diffusion"] = image.patient_from_exam
        sidecar = {"PhaseEncodingDirection": "j", "Distorted": protocol.distortion_mm > 0}
        path = bids.write_exam(self.folder, self.subject.id, "diffusion", image.volume, sidecar=sidecar)
        bids.write_gradients(path, image.b_values, image.b_vectors)
        masks = self._mri_masks(
            ("tract_left", "tract_right"), image.volume, image.patient_from_exam, protocol.voxel_mm
        )
        self._save(labelled_map(masks["tract_left"], masks["tract_right"]), "tract", "dseg", exam="diffusion")

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
        return noise_of(self.subject, exam, self.patient.device)

    def _save(self, volume: Volume, label: str, kind: bids.MapKind, *, exam: Exam = "ct") -> None:
        bids.write_derivative(
            self.folder, self.subject.id, volume, pipeline=TRUTH, label=label, kind=kind, exam=exam
        )


def _grid(image: CtExam) -> dict[str, Any]:
    """Return where a CT's slices lie, and how the head moved, as the truth's functions take it."""
    return {
        "affine": image.volume.affine,
        "shape": image.volume.shape,
        "patient_from_exam": image.patient_from_exam,
        "thickness_mm": image.protocol.thickness_mm,
        "motion": image.motion,
    }


def _label_volumes_ml(labels: Volume, names: Sequence[str]) -> dict[str, float]:
    """Return the volume of each label of a map, the first of them 1."""
    return volumes_ml({name: labels.with_array(labels.array == k) for k, name in enumerate(names, 1)})


def _brain_first(labels: Array) -> Array:
    """Swap labels 1 and 2: the ventricles lie inside the brain's mask and would vanish under it, and brain
    is label 1.
    """
    swapped: Array = np.array([0, 2, 1], np.uint8)[labels]
    return swapped


def labelled_map(*masks: Volume) -> Volume:
    """Join masks into one label map: 1 for the first, 2 for the second …; where they overlap the earlier
    one wins.
    """
    out = np.zeros(masks[0].shape, np.uint8)
    for label, mask in reversed(list(enumerate(masks, 1))):
        out[mask.array > 0] = label
    return masks[0].with_array(out)


def _mri_sidecar(image: MriExam) -> dict[str, Any]:
    p = image.protocol
    return {
        "SliceThickness": p.thickness_mm,
        "SpacingBetweenSlices": p.thickness_mm + p.gap_mm,
        "MagneticFieldStrength": p.field_strength_t,
        "MRAcquisitionType": "3D" if p.thickness_mm <= 1.5 else "2D",
    }
