"""Train the default weights for some minutes: go on from the last checkpoint, or else from the weights that
ship; write model and card.

python tools/train_weights.py --heads FOLDER_OF_LABEL_MAPS --minutes 10
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

import torch

from ichnos.learning.loop.training import Progress
from ichnos.learning.virtual.default_model import train_default

SHIPPED = Path(__file__).resolve().parents[1] / "src" / "ichnos" / "models" / "weights" / "multi"


def main() -> None:
    """Train for the minutes asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--heads",
        type=Path,
        default=None,
        help="folder of label maps; the last four are held out; without it, the MNI head alone",
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--steps", type=int, default=20_000, help="length of the whole schedule")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--work", type=Path, default=Path("build/weights"), help="folder of the checkpoint")
    parser.add_argument(
        "--cache", type=Path, default=Path("build/heads"), help="folder where heads made ready are kept"
    )
    parser.add_argument(
        "--anew", action="store_true", help="start from random weights, not from those in --out"
    )
    parser.add_argument("--out", type=Path, default=SHIPPED)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # so that the process that makes patients ends with this one
    told = 0.0

    def tell(progress: Progress) -> None:
        nonlocal told
        if time.monotonic() - told > 20:
            told = time.monotonic()
            print(progress, flush=True)

    heads = tuple(sorted(given.heads.glob("*.nii*"))) if given.heads else ()
    model = train_default(
        given.out,
        heads=heads,
        work=given.work,
        steps=given.steps,
        seconds=given.minutes * 60,
        device=given.device,
        command=f"make weights ({len(heads)} label maps, schedule of {given.steps} steps)",
        cache=given.cache,
        go_on_from=None if given.anew or not (given.out / "model.json").is_file() else given.out,
        report=tell,
    )
    print(
        f"{model.folder}: {model.manifest.provenance.steps} steps, SHA-256"
        f" {model.manifest.weights_sha256[:16]}…"
    )


if __name__ == "__main__":
    sys.exit(main())
