"""Draw docs/img/report.png: the top of a report, as headless Chromium shows it.

python tools/report_picture.py REPORT.html [HEIGHT]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from ichnos.report.pdf import printer

OUT = Path(__file__).resolve().parents[1] / "docs" / "img" / "report.png"
FLAGS = """
    --headless --no-sandbox --disable-gpu --use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader
    --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync
    --hide-scrollbars --virtual-time-budget=20000
"""


def main(page: str, height: str = "1500") -> None:
    """Take the picture."""
    OUT.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        command = [
            printer(),
            *FLAGS.split(),
            f"--user-data-dir={profile}",
            f"--window-size=1120,{height}",
            f"--screenshot={OUT}",
        ]
        subprocess.run([*command, Path(page).resolve().as_uri()], check=True, capture_output=True)
    print(OUT)


if __name__ == "__main__":
    main(*sys.argv[1:])
