"""Masks that agree with each other: where the atlas and the network's drawing of the tract meet."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from ichnos.reading.masks import _tract
from ichnos.volume import Volume


def test_a_tract_is_where_atlas_and_drawing_agree_and_the_atlas_alone_where_nothing_is_drawn() -> None:
    def volume(*shares: float) -> Volume:
        return Volume(np.array(shares, np.float32).reshape(-1, 1, 1), np.eye(4))

    place: Any = SimpleNamespace(look_up=lambda atlas: volume(0.9, 0.8, 0.5, 0.0))

    def prediction(*names: str) -> Any:
        model = SimpleNamespace(
            manifest=SimpleNamespace(targets=[SimpleNamespace(name=name) for name in names])
        )
        return SimpleNamespace(
            model=model, probability={"tract_left": volume(0.9, 0.0, 0.5, 0.8)}.__getitem__
        )

    both = _tract("left", place, prediction("brain", "tract_left", "tract_right"))
    assert both.array.ravel().tolist() == [True, False, True, False]
    assert _tract("left", place, prediction("brain")).array.ravel().tolist() == [True, True, True, False]
