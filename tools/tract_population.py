"""Compute the tract's population map and store it beside the code that reads it: run after any change of the
atlas.

python tools/tract_population.py
"""

from __future__ import annotations

from ichnos.anatomy.tract import store_population

if __name__ == "__main__":
    path = store_population()
    print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")
