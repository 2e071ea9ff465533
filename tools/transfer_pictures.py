"""Draw docs/img/transfer-*.jpg: one virtual patient's contact sheets, as `ichnos transfer` makes them, and
what is found on its FLAIR.

python tools/transfer_pictures.py [FOLDER]

The cohort is made in FOLDER (build/transfer-pictures), and kept: a second call makes only what is missing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from ichnos.cli.main import run
from ichnos.formats import bids, nifti
from ichnos.transfer.flair import hyperintensities_of
from ichnos.volume import Volume

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ("leukoaraiosis", "expansion", "tract")
WIDTH = 1064  # pixels
COLUMNS = 6


def main(folder: Path) -> int:
    """Simulate, draw the FLAIR, transfer, shrink the sheets."""
    made = run(
        ["simulate", str(folder), "--patients", "1", "--seed", "5", "--exams", "ct,followup,flair,diffusion"]
    )
    drawn = folder / "flair.png"
    if not drawn.is_file():
        _flair(folder).save(drawn)
    _save(Image.open(drawn), "flair")
    moved = 0
    for target in TARGETS:
        moved = moved or run(["transfer", str(folder), "--targets", target, "--given", "truth"])
        _save(Image.open(folder / "derivatives" / "transfer" / "sheets" / f"001-{target}.png"), target)
    return made or moved


def _save(picture: Image.Image, name: str) -> None:
    small = picture.convert("RGB").resize(
        (WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS
    )
    small.save(ROOT / "docs" / "img" / f"transfer-{name}.jpg", quality=80)


def _flair(folder: Path) -> Image.Image:
    """Draw up to six slices of the FLAIR, and below them what our segmenter finds (red), the truth (green)
    and both (yellow).
    """
    flair = nifti.load(bids.exam_path(folder, "001", "flair")).reoriented("RAS")
    file = bids.derivative_path(
        folder, "001", pipeline="truth", label="leukoaraiosis", kind="mask", exam="flair"
    )
    truth = nifti.load(file).on_grid(flair, interpolation="nearest").array > 0
    found = hyperintensities_of(flair).mask.array
    area = (truth | found).sum(axis=(0, 1))
    fullest = [int(k) for k in np.argsort(area)[-COLUMNS:] if area[k] > 0]
    return Image.fromarray(np.concatenate([_column(flair, truth, found, k) for k in sorted(fullest)], axis=1))


def _column(flair: Volume, truth: np.ndarray, found: np.ndarray, k: int) -> np.ndarray:
    grey = np.clip(flair.array[:, :, k] / np.percentile(flair.array, 99.5), 0, 1)
    plain = np.repeat(grey[..., None], 3, axis=2)
    painted = plain.copy()
    painted[found[:, :, k]] = (1, 0.2, 0.2)
    painted[truth[:, :, k]] = (0.2, 0.8, 0.2)
    painted[found[:, :, k] & truth[:, :, k]] = (1, 0.85, 0.2)
    # the patient's left is on the right, as on the contact sheets
    upright = [np.rot90(tile[::-1]) for tile in (plain, painted)]
    return (np.concatenate(upright, axis=0) * 255).astype(np.uint8)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "transfer-pictures"))
