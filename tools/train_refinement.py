"""Train the refinement of the default weights: make a pool of scans that they have read, then learn from it
for some minutes.

python tools/train_refinement.py --heads FOLDER_OF_LABEL_MAPS --patients 160 --minutes 60          (goes on
where it was stopped)
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path

import torch

from ichnos.learning.loop.training import Progress
from ichnos.learning.virtual.default_model import taught_heads
from ichnos.learning.virtual.refinement import looks, train_refinement
from ichnos.models import default_model, load_model
from ichnos.runs import Numbered, apply


def main() -> None:
    """Make the pool, train, write the refinement into the model's folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--heads", type=Path, default=None, help="folder of label maps; the last four are held out"
    )
    parser.add_argument("--patients", type=int, default=160, help="of the pool, two scans each")
    parser.add_argument("--minutes", type=float, default=60.0, help="of training, after the pool is made")
    parser.add_argument("--steps", type=int, default=6000, help="length of the whole schedule")
    parser.add_argument("--workers", type=int, default=2, help="processes that make the pool")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--anew", action="store_true", help="start from nothing, not from the refinement that is there"
    )
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--cache", type=Path, default=Path("build/heads"))
    parser.add_argument("--work", type=Path, default=Path("build/refinement"))
    given = parser.parse_args()
    model = load_model(given.model) if given.model else default_model()
    heads = tuple(sorted(given.heads.glob("*.nii*"))) if given.heads else ()
    used = taught_heads(heads)
    pool = given.work / "pool"
    task = partial(looks, model=model.folder, heads=used, cache=given.cache)
    settings = {"model": model.manifest.weights_sha256, "heads": [head.name for head in used]}
    cases = [Numbered(number) for number in range(given.patients)]
    apply(
        task,
        cases,
        out=pool,
        settings=settings,
        name="pool",
        workers=given.workers,
        progress=sys.stderr.isatty(),
    )
    torch.set_num_threads(given.threads)
    told = 0.0

    def tell(progress: Progress) -> None:
        nonlocal told
        if time.monotonic() - told > 20:
            told = time.monotonic()
            print(progress, flush=True)

    made = train_refinement(
        model,
        pool,
        heads=heads,
        work=given.work,
        steps=given.steps,
        seconds=60 * given.minutes,
        device=given.device,
        command=(
            f"make refinement ({len(used)} label maps, {given.patients} patients, schedule of {given.steps}"
            " steps)"
        ),
        anew=given.anew,
        report=tell,
    )
    print(
        f"{made.folder}: {made.manifest.provenance.steps} steps, SHA-256 {made.manifest.weights_sha256[:16]}…"
    )


if __name__ == "__main__":
    main()
