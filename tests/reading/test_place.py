"""Positions in MNI152 space: the network's unrest goes, a real displacement stays."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from ichnos.inference.coordinates import smoothed_coordinates
from ichnos.reading.masks import _tract
from ichnos.volume import Volume


def _ball(shape: tuple[int, int, int]) -> np.ndarray:
    at = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    return ((at**2).sum(0) < 0.9).astype(np.float32)


def test_unrest_goes_and_a_push_stays() -> None:
    shape = (40, 48, 40)
    index = np.stack(np.meshgrid(*[np.arange(n, dtype=np.float32) for n in shape], indexing="ij"))
    truth = 3 * (index - np.array([20, 24, 20], np.float32)[:, None, None, None])
    push = 6 * np.exp(-(((index - np.array([28, 24, 20])[:, None, None, None]) * 3 / 20) ** 2).sum(0))
    truth[0] += push
    noisy = truth + np.random.default_rng(0).normal(0, 5, truth.shape)
    weight = _ball(shape)
    found = smoothed_coordinates(noisy.astype(np.float32), weight, (3.0, 3.0, 3.0))
    error = np.linalg.norm(found - truth, axis=0)[weight > 0.5]
    assert np.median(error) < 1.0, "the raw error is 8 mm"
    assert abs(found[0, 28, 24, 20] - truth[0, 28, 24, 20]) < 2.5


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
