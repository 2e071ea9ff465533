"""Write a made head CT as a hospital would send it, and let ichnos say what it is: `make demo`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # the builders of DICOM series live with the tests

from builders.head import head_hu  # noqa: E402
from builders.series import Quirks, build_series  # noqa: E402
from ichnos.cli.main import run  # noqa: E402


def write_study(folder: Path) -> None:
    """Write four series of one study: localizer, tilted head with a bleed, its bone kernel, contrast angiography."""
    head = head_hu(bleed_mm=14)

    def series(
        number: int, description: str, *, tags: dict[str, object] | None = None, steps_mm: tuple[float, ...], **header: object
    ) -> None:
        told = {"series_number": number, "description": description, "seed": f"demo {number}", "study_seed": "demo", **header}
        quirks = Quirks(shape=(256, 256), pixel_mm=0.95, tilt_deg=14.0, steps_mm=steps_mm, header=told, tags=tags or {})
        build_series(head, folder / f"series{number}", quirks)

    series(1, "Topogram", steps_mm=(5.0,), image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))
    series(2, "HEAD 5.0 H31s", steps_mm=(5.0,) * 31)
    series(3, "HEAD 5.0 H60s BONE", steps_mm=(5.0,) * 31, kernel="H60s")
    series(4, "CTA HEAD", steps_mm=(2.5,) * 60, tags={"ContrastBolusAgent": "made agent"})


def main() -> int:
    """Make the study anew, then inspect it."""
    out = ROOT / "demo-out"
    shutil.rmtree(out, ignore_errors=True)
    print("writing a made study of four series …", flush=True)
    write_study(out / "study")
    code = run(["inspect", str(out / "study"), "--montage", str(out / "slices.png")])
    print(f"\nits slices: {out / 'slices.png'}")
    return code


if __name__ == "__main__":
    sys.exit(main())
