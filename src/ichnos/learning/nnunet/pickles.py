"""Pickles of nnU-Net's preprocessing, checked to hold plain data before nnU-Net unpickles them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from ichnos.errors import InputRefused

_PLAIN = {
    ("collections", "OrderedDict"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.core.numeric", "_frombuffer"),
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PLAIN:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return super().find_class(module, name)


def check_pickle(file: Path) -> None:
    """Refuse a pickle that holds more than numbers, words and arrays, since unpickling it can run code.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "bad.pkl")
    ...     _ = file.write_bytes(pickle.dumps(print))
    ...     check_pickle(file)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ichnos.errors.InputRefused: ...bad.pkl holds builtins.print, which is not plain data; ...
    """
    try:
        with file.open("rb") as opened:
            _PlainUnpickler(opened).load()
    except Exception as error:  # a damaged pickle can raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise InputRefused(
            f"{file} holds {reason}, which is not plain data; remove the training's folder and train again"
        ) from None
