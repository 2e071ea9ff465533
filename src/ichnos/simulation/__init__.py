"""Virtual patients: every exam and the ground truth, grown from anatomy, with the best possible answer known.

For research only. In the order data flows: `cohort.design` (who is simulated), `heads` (source heads),
`disease` (what they suffer from and how it goes on), `simulate.simulate_patient` (one patient), `exams` (CT,
MRI, diffusion, and the ground truth on their grids), `cohort.write.simulate_cohort` (a folder of patients),
`crops.CropDrawer` (crops for training), `check.page.write_sheet` (how real they look). The names below are
loaded on first use.

>>> from ichnos.simulation import preset
>>> sum(group.patients for group in preset("demo", scale=1.0).groups)
3
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ichnos.simulation.check.page import write_sheet
    from ichnos.simulation.cohort.design import RenderSettings, free_design, preset
    from ichnos.simulation.cohort.write import simulate_cohort
    from ichnos.simulation.crops import Recipe
    from ichnos.simulation.exams.ct import CtExam, simulate_ct
    from ichnos.simulation.exams.diffusion import DiffusionExam, simulate_diffusion
    from ichnos.simulation.exams.mri import MriExam, simulate_mri
    from ichnos.simulation.exams.truth import masks_on_grid
    from ichnos.simulation.heads.from_labels import labelled_head
    from ichnos.simulation.patient import Tissue, VirtualPatient
    from ichnos.simulation.simulate import PatientSpec, simulate_patient

_ROOM_OF = {
    "CtExam": "exams.ct",
    "DiffusionExam": "exams.diffusion",
    "MriExam": "exams.mri",
    "PatientSpec": "simulate",
    "Recipe": "crops",
    "RenderSettings": "cohort.design",
    "Tissue": "patient",
    "VirtualPatient": "patient",
    "free_design": "cohort.design",
    "labelled_head": "heads.from_labels",
    "masks_on_grid": "exams.truth",
    "preset": "cohort.design",
    "simulate_cohort": "cohort.write",
    "simulate_ct": "exams.ct",
    "simulate_diffusion": "exams.diffusion",
    "simulate_mri": "exams.mri",
    "simulate_patient": "simulate",
    "write_sheet": "check.page",
}
__all__ = [
    "CtExam",
    "DiffusionExam",
    "MriExam",
    "PatientSpec",
    "Recipe",
    "RenderSettings",
    "Tissue",
    "VirtualPatient",
    "free_design",
    "labelled_head",
    "masks_on_grid",
    "preset",
    "simulate_cohort",
    "simulate_ct",
    "simulate_diffusion",
    "simulate_mri",
    "simulate_patient",
    "write_sheet",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'ichnos.simulation' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ichnos.simulation.{_ROOM_OF[name]}"), name)
