"""Name the template's structures, compute the tract's population map, and store both beside the code that
reads them: run after any change of the atlas.

python tools/stored_anatomy.py
"""

from __future__ import annotations

from ichnos.anatomy.mni import store_structures
from ichnos.anatomy.tract import store_population

if __name__ == "__main__":
    for path in (store_structures(), store_population()):
        print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")
