"""Compute the tract atlas's population map and store it beside the code that reads it: run after any change
of the atlas.

python tools/tract_population.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ichnos.anatomy import tract

OUT = Path(tract.__file__).with_name("tract_population.npz")


def main() -> None:
    """Write both sides, in counts of people, cut to the box that holds them."""
    shares = {side: tract.atlas(side).probability for side in tract.SIDES}
    both = np.stack([np.asarray(share.array) for share in shares.values()])
    filled = np.argwhere(both.max(axis=0) > 0)
    start, stop = filled.min(axis=0), filled.max(axis=0) + 1
    box = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
    counts = {
        side: np.round(np.asarray(share.array)[box] * tract.PEOPLE).astype(np.uint8)
        for side, share in shares.items()
    }
    np.savez_compressed(
        OUT, start=start, stop=stop, shape=both.shape[1:], affine=shares["left"].affine, **counts
    )
    print(f"{OUT.name}: {OUT.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
