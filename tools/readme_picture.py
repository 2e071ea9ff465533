"""Draw docs/img/virtual-patient.png: one virtual patient's CT, follow-up and FLAIR, without and with the
truth.

python tools/readme_picture.py [SEED]
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ichnos.simulation.check.page import axial, windowed_grey
from ichnos.simulation.exams.ct import CtExam, simulate_ct
from ichnos.simulation.exams.mri import MriExam, MriProtocol, simulate_mri
from ichnos.simulation.exams.scanners import CENTRES, draw_protocol
from ichnos.simulation.exams.truth import masks_on_grid
from ichnos.simulation.heads.from_mni import mni_head
from ichnos.simulation.simulate import PatientSpec, simulate_patient

OUT = Path(__file__).resolve().parents[1] / "docs" / "img" / "virtual-patient.png"
COLOURS = {
    "phe": (70, 150, 255),
    "leukoaraiosis": (250, 200, 60),
    "tract_left": (90, 220, 120),
    "tract_right": (90, 220, 120),
}
COLOURS |= {"ivh": (240, 120, 220), "ich": (235, 60, 60)}
SIDE = 360


def panel(grey: np.ndarray, masks: dict[str, np.ndarray]) -> np.ndarray:
    """Colour a slice by its masks, half transparent, and bring it to a square."""
    rgb = np.repeat(grey[..., None], 3, axis=2).astype(float)
    for name, colour in COLOURS.items():
        if name in masks:
            rgb[masks[name]] = 0.55 * rgb[masks[name]] + 0.45 * np.array(colour)
    return np.asarray(Image.fromarray(rgb.astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def main(seed: int) -> None:
    """Make the patient, scan it three times, and write the picture."""
    patient = simulate_patient(
        seed,
        mni_head(),
        PatientSpec(site="putamen", side="left", ich_ml=28.0, leukoaraiosis_ml=18.0, age_years=71.0),
    )
    rng, columns = np.random.default_rng(seed), []
    for exam in ("ct", "followup", "flair"):
        made: CtExam | MriExam
        generator = torch.Generator().manual_seed(seed)
        if exam == "flair":
            made = simulate_mri(
                patient, MriProtocol("flair", pose_deg=(-12.0, 1.0, 2.0)), generator=generator
            )
            thickness = made.protocol.thickness_mm
        else:
            protocol = replace(draw_protocol(CENTRES["A"], rng=rng, still=True), metal=False, offset_hu=0.0)
            made = simulate_ct(patient, protocol, generator=generator, followup=exam == "followup")
            thickness = protocol.thickness_mm
        names = ("ich_followup", "ivh_followup", "phe_followup") if exam == "followup" else tuple(COLOURS)
        grid: dict[str, Any] = {
            "affine": made.volume.affine,
            "shape": made.volume.shape,
            "patient_from_exam": made.patient_from_exam,
        }
        masks = masks_on_grid(patient, names, **grid, thickness_mm=thickness)
        k = int(masks[names[0] if exam == "followup" else "ich"].array.sum((0, 1)).argmax())
        grey = (
            windowed_grey(axial(made.volume, k), 520, 260)
            if exam == "flair"
            else windowed_grey(axial(made.volume, k), 80, 40)
        )
        shown = {name.removesuffix("_followup"): axial(mask, k) > 0 for name, mask in masks.items()}
        columns.append(np.vstack([panel(grey, {}), panel(grey, shown)]))
    OUT.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.hstack(columns)).save(OUT, optimize=True)
    print(OUT)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 21)
