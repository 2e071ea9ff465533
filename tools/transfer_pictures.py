"""Draw docs/img/transfer-*.jpg: the contact sheets of one virtual patient's three pairs, as `ichnos transfer` makes them.

python tools/transfer_pictures.py [FOLDER]

The cohort is made in FOLDER (build/transfer-pictures), and kept: a second call makes only what is missing.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from ichnos.cli.main import run

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ("leukoaraiosis", "tract", "expansion")
WIDTH = 1064  # pixels


def main(folder: Path) -> int:
    """Simulate, transfer, shrink the sheets."""
    made = run(["simulate", str(folder), "--patients", "1", "--seed", "5", "--exams", "ct,followup,flair,diffusion"])
    moved = run(["transfer", str(folder), "--targets", ",".join(TARGETS), "--given", "truth"])
    for target in TARGETS:
        sheet = Image.open(folder / "derivatives" / "transfer" / "sheets" / f"001-{target}.png")
        small = sheet.resize((WIDTH, round(sheet.height * WIDTH / sheet.width)), Image.Resampling.LANCZOS)
        small.save(ROOT / "docs" / "img" / f"transfer-{target}.jpg", quality=85)
    return made or moved


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "transfer-pictures"))
