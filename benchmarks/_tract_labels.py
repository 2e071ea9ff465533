"""Tract labels from diffusion against the true tract of simulated patients, by how far mass effect moved it.

Each patient bleeds; the same patient without the haematoma says how far each voxel was moved (in MNI mm).
Labels and truth are compared in slabs of 10 mm height of each side, pooled over the slabs whose tract was
moved by so much in the median. `labels.py` prints the rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ichnos.anatomy.tract import SIDES
from ichnos.registration import Transform
from ichnos.simulation.exams.diffusion import draw_diffusion_protocol, simulate_diffusion
from ichnos.simulation.exams.truth import masks_on_grid
from ichnos.simulation.heads.from_labels import head_files, labelled_head
from ichnos.simulation.heads.from_mni import mni_head
from ichnos.simulation.heads.source import SourceHead
from ichnos.simulation.simulate import PatientSpec, simulate_patient
from ichnos.transfer.tractography import TRACT_CUT_OFF, fsl_gradients, track
from ichnos.volume import Volume

BANDS_MM = ((0.0, 2.0), (2.0, 5.0), (5.0, 10.0))
CUT_OFFS = (0.4, TRACT_CUT_OFF, 0.2, 0.1)
SLAB_MM = 10
FIRST_SEED = 301
# Site, side and size of the bleeds, in turn: near the tract, and large enough to move it.
BLEEDS = (
    ("putamen", "left", 60.0),
    ("thalamus", "right", 15.0),
    ("lobar", "left", 60.0),
    ("putamen", "right", 45.0),
)
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Slab:
    """One slab of one side's tract: how far it was moved, and voxels of label, truth and both by cut-off."""

    moved_mm: float
    truth: int
    label: dict[float, int]
    both: dict[float, int]


def measured(patients: int, heads: Path | None) -> Iterator[list[dict[str, Any]]]:
    """Yield the table after each patient."""
    slabs: list[Slab] = []
    volumes: dict[str, list[float]] = defaultdict(list)
    for k in range(patients):
        for _, label, truth, moved, heights in _sides(k, heads):
            volumes["truth"].append(truth.sum() / 1000)
            for cut_off in CUT_OFFS:
                volumes[f"{cut_off:g}"].append(float((label >= cut_off).sum()) / 1000)
            slabs += _slabs(label, truth, moved, heights)
        rows = [_band(slabs, band, cut_off) for band in BANDS_MM for cut_off in CUT_OFFS]
        yield [*rows, *(_volume_row(name, values) for name, values in volumes.items())]


def _volume_row(name: str, values: list[float]) -> dict[str, Any]:
    title = "volume of the true tract" if name == "truth" else f"volume of the label at {name}"
    wanted = "25 to 35" if name == f"{TRACT_CUT_OFF:g}" else ""
    return {
        "name": f"{title}, median a side",
        "value": float(np.median(values)),
        "unit": "mL",
        "n": len(values),
        "wanted": wanted,
    }


def _sides(k: int, heads: Path | None) -> Iterator[tuple[str, Any, Mask, Any, Any]]:
    """Yield membership, truth, displacement and heights of both sides on a 1 mm grid."""
    files = head_files(heads) if heads and k % 2 else ()
    head = labelled_head(files[(3 + k) % len(files)]) if files else mni_head()
    site, side, ich_ml = BLEEDS[k % len(BLEEDS)]
    spec: dict[str, Any] = {"followup": False, "mni": True, "site": site, "side": side, "ich_ml": ich_ml}
    patient = simulate_patient(FIRST_SEED + k, head, PatientSpec(fibres=True, **spec))
    moved = _displacement(FIRST_SEED + k, head, spec)
    rng, generator = np.random.default_rng(FIRST_SEED + k), torch.Generator().manual_seed(FIRST_SEED + k)
    exam = simulate_diffusion(patient, draw_diffusion_protocol(rng=rng), generator=generator)
    fine = Volume(np.empty(exam.volume.shape, np.uint8), exam.volume.affine).grid_with_spacing(1.0)
    names = ("tract_left", "tract_right", "ich", "ivh", "phe")
    truth = masks_on_grid(
        patient,
        names,
        thickness_mm=1.0,
        affine=fine.affine,
        shape=fine.shape,
        patient_from_exam=exam.patient_from_exam,
    )
    bled: Mask = np.asarray(sum(truth[name].array > 0 for name in ("ich", "ivh", "phe"))) > 0
    blood = fine.with_array(np.asarray(bled))
    table = fsl_gradients(exam.b_values, exam.b_vectors, affine=exam.volume.affine)
    both = track(exam.volume, table, exclude=blood)
    there = Transform.of(exam.patient_from_exam).pull(moved, fine).array
    heights = fine.world(np.stack([np.zeros(fine.shape[2])] * 2 + [np.arange(fine.shape[2])], axis=-1))[:, 2]
    for side in SIDES:
        yield (
            side,
            both.tracts[side].density.on_grid(fine).array,
            truth[f"tract_{side}"].array > 0,
            there,
            heights,
        )


def _displacement(seed: int, head: SourceHead, spec: dict[str, Any]) -> Volume:
    """Return by how many MNI mm the haematoma moved each voxel: with it against without it, at 2 mm."""
    bled, calm = (
        simulate_patient(seed, head, PatientSpec(spacing_mm=2.0, haematoma_probability=chance, **spec))
        for chance in (1.0, 0.0)
    )
    assert bled.mni_mm is not None
    assert calm.mni_mm is not None
    return Volume((bled.mni_mm - calm.mni_mm).norm(dim=0).numpy(), bled.affine)


def _slabs(label: Any, truth: Mask, moved: Any, heights: Any) -> Iterator[Slab]:
    edges = np.floor(heights / SLAB_MM)
    for edge in np.unique(edges):
        part = (slice(None), slice(None), edges == edge)
        if truth[part].sum() < 50:
            continue
        masks = {cut_off: label[part] >= cut_off for cut_off in CUT_OFFS}
        yield Slab(
            float(np.median(moved[part][truth[part]])),
            int(truth[part].sum()),
            {cut_off: int(mask.sum()) for cut_off, mask in masks.items()},
            {cut_off: int((mask & truth[part]).sum()) for cut_off, mask in masks.items()},
        )


def _band(slabs: list[Slab], band: tuple[float, float], cut_off: float) -> dict[str, Any]:
    inside = [slab for slab in slabs if band[0] <= slab.moved_mm < band[1]]
    total = sum(slab.truth + slab.label[cut_off] for slab in inside)
    wanted = {0.0: "at least 0.75", 5.0: "at least 0.60"}.get(band[0], "")
    return {
        "name": f"Dice, moved {band[0]:g} to {band[1]:g} mm, cut-off {cut_off:g}",
        "value": 2 * sum(slab.both[cut_off] for slab in inside) / total if total else None,
        "n": len(inside),
        "unit": "",
        "wanted": wanted if cut_off == TRACT_CUT_OFF else "",
    }
