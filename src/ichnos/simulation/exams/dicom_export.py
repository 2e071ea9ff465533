"""Write a simulated CT as a DICOM series, as the scanner that is simulated would name it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ichnos.cohort import Exam
from ichnos.formats.dicom.write import Plane, SeriesHeader, write_series
from ichnos.simulation.exams.ct import CtExam
from ichnos.simulation.patient import Latent


def export_ct(made: CtExam, root: Path, *, patient_id: str, exam: Exam, latent: Latent) -> list[Path]:
    """Write a CT into `root`/dicom/sub-<id>/<exam>/, slices from feet to head; return the files.

    Each slice lies where the exam's grid has it; an exam made with `sheared=True` gives what a tilted gantry
    writes.
    """
    return write_series(
        planes(made),
        root / "dicom" / f"sub-{patient_id}" / exam,
        header=header(made, patient_id, exam, latent),
    )


def planes(made: CtExam) -> list[Plane]:
    """Return the slices as a scanner lays them out: columns run to the left, rows to the back."""
    volume = made.volume.reoriented("LPS")
    normal = np.cross(volume.affine[:3, 0], volume.affine[:3, 1])
    normal = normal / np.linalg.norm(normal)
    found = []
    for k in range(volume.shape[2]):
        affine = np.array(volume.affine)
        affine[:3, 2] = normal
        affine[:3, 3] = volume.world((0, 0, k))
        found.append(Plane(volume.array[:, :, k].T.astype(np.float32), affine))
    return found


def header(made: CtExam, patient_id: str, exam: Exam, latent: Latent) -> SeriesHeader:
    """Return what the files say beside their pixels."""
    p = made.protocol
    return SeriesHeader(
        seed=f"{latent.seed} {patient_id} {exam}",
        patient_id=patient_id,
        patient_name=f"Virtual^{patient_id}",
        sex=latent.sex.upper(),
        age_years=int(latent.age_years),
        description=made.acquisition.series_description or "HEAD",
        date="20250101" if exam == "ct" else "20250102",
        manufacturer=p.scanner.vendor,
        model_name=p.scanner.model,
        kernel=p.kernel.name,
        tube_kv=p.scanner.tube_kv,
        thickness_mm=p.thickness_mm,
        tilt_deg=p.tilt_deg,
        intercept=-1024.0,
        bits_stored=16,
        signed=True,
    )
