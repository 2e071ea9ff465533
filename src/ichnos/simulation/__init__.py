"""Virtual patients: every exam and the truth, grown from anatomy, with the best possible answer known; for
research only.

The rooms inside, in the order data flows: `presets` (who is made), `law` (what is drawn), `mni_head` and
`label_heads` (source heads), `simulate.simulate_patient` (one patient), `ct`, `mri` and `diffusion` (exams),
`targets` (truth on an exam's grid), `cohort.simulate_cohort` (a folder of them), `training.batches` (crops
made on the fly), `check_page.write_sheet` (how real they look). What is used from outside can be imported
from here; it is loaded on first use.

>>> from ichnos.simulation import preset
>>> sum(group.patients for group in preset("demo", scale=1.0).groups)
3
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ichnos.simulation.check.page import write_sheet
    from ichnos.simulation.cohort.design import free_design, preset
    from ichnos.simulation.cohort.write import Making, simulate_cohort
    from ichnos.simulation.crops import Recipe, batches
    from ichnos.simulation.exams.ct import CtExam, simulate_ct
    from ichnos.simulation.exams.diffusion import DiffusionExam, simulate_diffusion
    from ichnos.simulation.exams.mri import MriExam, simulate_mri
    from ichnos.simulation.exams.truth import masks_on_grid
    from ichnos.simulation.heads.from_labels import labelled_head
    from ichnos.simulation.patient import Tissue, VirtualPatient
    from ichnos.simulation.simulate import Wishes, simulate_patient

_ROOMS = {
    "check.page": ("write_sheet",),
    "cohort.write": ("Making", "simulate_cohort"),
    "exams.ct": ("CtExam", "simulate_ct"),
    "exams.diffusion": ("DiffusionExam", "simulate_diffusion"),
    "heads.from_labels": ("labelled_head",),
    "exams.mri": ("MriExam", "simulate_mri"),
    "patient": ("Tissue", "VirtualPatient"),
    "cohort.design": ("free_design", "preset"),
    "simulate": ("Wishes", "simulate_patient"),
    "exams.truth": ("masks_on_grid",),
    "crops": ("Recipe", "batches"),
}
_LAZY = {name: room for room, names in _ROOMS.items() for name in names}
__all__ = [
    "CtExam",
    "DiffusionExam",
    "Making",
    "MriExam",
    "Recipe",
    "Tissue",
    "VirtualPatient",
    "Wishes",
    "batches",
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
    if name not in _LAZY:
        raise AttributeError(f"module 'ichnos.simulation' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ichnos.simulation.{_LAZY[name]}"), name)
