"""Source heads kept on disk: growing one takes many seconds, reading one a tenth of a second."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy
import torch

from ichnos.anatomy import mni
from ichnos.files import atomic_file
from ichnos.simulation.heads.source import SourceHead

_ARRAYS = ("codes", "affine", "features", "feature_affine", "mni_mm")


def kept(cache: Path | None, name: str, source: bytes, make: Callable[[], SourceHead]) -> SourceHead:
    """Return a head from the folder `cache`, or make it and put it there; without a folder just make it.

    A head is found again only under the same name, source and code: the code that makes heads is part of its
    file's name. A folder that cannot be written to is no error, nor is a damaged file: the head is made anew.
    """
    if cache is None:
        return make()
    path = cache / f"head-{_key(name, source)}.npz"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return _head(name, {key: stored[key] for key in _ARRAYS})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        head = make()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary:
            arrays = {key: np.asarray(getattr(head, key)) for key in _ARRAYS}
            np.savez(temporary, allow_pickle=False, **arrays)
    except OSError:
        pass
    return head


def _head(name: str, arrays: dict[str, np.ndarray]) -> SourceHead:
    return SourceHead(
        name=name,
        codes=torch.from_numpy(arrays["codes"]),
        affine=arrays["affine"],
        features=torch.from_numpy(arrays["features"]),
        feature_affine=arrays["feature_affine"],
        mni_mm=torch.from_numpy(arrays["mni_mm"]),
    )


def _key(name: str, source: bytes) -> str:
    """Return a short hash of all that decides what a head looks like."""
    code = [
        (Path(__file__).parent / f"{module}.py").read_bytes()
        for module in ("source", "from_labels", "from_mni", "../patient")
    ]
    parts = [
        name.encode(),
        source,
        Path(mni.__file__).read_bytes(),
        *code,
        f"{np.__version__} {scipy.__version__}".encode(),
    ]
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:16]
