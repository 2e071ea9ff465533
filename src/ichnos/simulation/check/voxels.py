"""What only voxels show, against real masks and readings: shapes, midline shift, grades, agreement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ichnos.simulation.check.realism import RealismRow, Span, around, median_row, share_row
from ichnos.simulation.check.shapes import Shape, shape_of
from ichnos.simulation.heads.source import SourceHead
from ichnos.simulation.simulate import PatientSpec, draws_of, simulate_patient
from ichnos.volume import Floats, Volume

PATIENTS = 120  # simulated for the check where no cohort is given
_FOLLOWED = 4  # of so many patients one has a follow-up
_SPACING_MM = 2.25  # of their voxels; slices are twice as thick, as those of the real masks
_AIM = "our aim; no source looked up"
_MASKS = "525 drawn masks of real bleeds on slices of about 5 mm"
_KINDS = {"haematoma": "ich", "ventricular blood": "ivh"}


@dataclass(frozen=True)
class _Form:
    """One measure of real masks: its median, and the band that ours shall lie in."""

    name: str
    median: float
    band: Span


# Kind, least and greatest mL; medians of haematomas within 10 % of real masks, those of ventricular blood,
# of which fewer real masks exist, within their quartiles.
_FORMS: tuple[tuple[str, float, float, tuple[_Form, ...]], ...] = (
    (
        "haematoma",
        5,
        15,
        (
            _Form("elongation", 1.47, around(1.47, 0.1)),
            _Form("flatness", 1.40, around(1.40, 0.1)),
            _Form("fill", 0.86, around(0.86, 0.1)),
        ),
    ),
    (
        "haematoma",
        15,
        40,
        (
            _Form("elongation", 1.64, around(1.64, 0.1)),
            _Form("flatness", 1.31, around(1.31, 0.1)),
            _Form("fill", 0.84, around(0.84, 0.1)),
        ),
    ),
    (
        "ventricular blood",
        5,
        15,
        (
            _Form("elongation", 2.4, (2.1, 2.8)),
            _Form("flatness", 1.4, (1.2, 1.7)),
            _Form("fill", 0.58, (0.56, 0.65)),
            _Form("pieces", 4.0, (2.0, 4.0)),
            _Form("roundness", 0.60, (0.43, 0.85)),
        ),
    ),
)


def shape_rows(shapes: Mapping[str, Sequence[Shape]]) -> list[RealismRow]:
    """Compare masks of `haematoma` and `ventricular blood` with real ones, small clots apart from large."""
    rows = []
    for kind, low, high, forms in _FORMS:
        some = [shape for shape in shapes.get(kind, ()) if low <= shape.volume_ml < high]
        for form in forms:
            values = [float(getattr(shape, form.name)) for shape in some]
            title = f"{kind} of {low} to {high} mL, {form.name}"
            rows.append(median_row(title, values, f"{form.median:g}", form.band, _MASKS))
    return rows


@dataclass(frozen=True)
class MeasuredPatient:
    """What one simulated patient adds to the table."""

    shapes: Mapping[str, Shape | None]  # by kind of blood
    midline_shift_mm: float
    ich_ml: float
    periventricular: int  # Fazekas grade
    agrees: bool | None  # voxels with the model on expansion; None without a follow-up


def simulated_rows(
    head: SourceHead, seeds: Sequence[int], *, each: Callable[[int], None] | None = None
) -> list[RealismRow]:
    """Simulate patients in voxels and compare them with real ones; `each` hears how many are done.

    About 1.2 processor seconds a patient; every fourth has a follow-up.
    """
    measured = []
    for done, seed in enumerate(seeds, 1):
        measured.append(measured_patient(head, seed, followup=done % _FOLLOWED == 0))
        if each is not None:
            each(done)
    return rows_of(measured)


def measured_patient(head: SourceHead, seed: int, *, followup: bool) -> MeasuredPatient:
    """Simulate one patient and measure masks on slices of two voxels."""
    patient = simulate_patient(seed, head, PatientSpec(spacing_mm=_SPACING_MM, followup=followup))
    shapes = {
        kind: shape_of(_on_thick_slices(getattr(patient.baseline, name), patient.affine))
        for kind, name in _KINDS.items()
    }
    agrees = patient.expanded == bool(draws_of(seed).expanded[0]) if followup else None
    truth = patient.truth
    return MeasuredPatient(
        shapes, truth.midline_shift_mm, truth.ich_ml, truth.fazekas_periventricular, agrees
    )


def rows_of(patients: Sequence[MeasuredPatient]) -> list[RealismRow]:
    """Compare measured patients with real ones."""
    shapes = {kind: [s for p in patients if (s := p.shapes[kind]) is not None] for kind in _KINDS}
    shift_mm, ich_ml, grades = (
        np.array([getattr(p, name) for p in patients], np.float64)
        for name in ("midline_shift_mm", "ich_ml", "periventricular")
    )
    agreed = np.array([p.agrees for p in patients if p.agrees is not None], bool)
    return [*shape_rows(shapes), *voxel_rows(shift_mm, ich_ml, grades, agreed)]


def _on_thick_slices(fraction: Tensor, affine: Floats) -> Volume:
    """Return a mask on slices of two voxels; a voxel belongs to it if at least half of it is blood."""
    pairs = fraction[:, :, : fraction.shape[2] // 2 * 2].reshape(*fraction.shape[:2], -1, 2).mean(3)
    return Volume((pairs >= 0.5).numpy().astype(np.uint8), affine @ np.diag([1.0, 1.0, 2.0, 1.0]))


def voxel_rows(
    shift_mm: Floats, ich_ml: Floats, periventricular: Floats, agreed: np.ndarray
) -> list[RealismRow]:
    """Compare what only voxels show: midline shift (mm), periventricular grades, agreement with the model."""
    middle = shift_mm[(ich_ml >= 30) & (ich_ml < 60)]
    return [
        median_row("midline shift of 30 to 60 mL, median mm", middle, "3 to 6", (3.0, 6.0), _AIM),
        share_row("periventricular Fazekas 3", periventricular >= 3, "under 15 %", (0.0, 0.15), "our aim"),
        share_row("model and voxels agree on expansion", agreed, "all", (0.995, 1.0), "our aim"),
    ]
