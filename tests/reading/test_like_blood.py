"""What is drawn as blood but is no denser than brain, or as dense as calcium, is dropped clot by clot."""

from __future__ import annotations

import numpy as np

from ichnos.reading.masks import _like_blood
from ichnos.volume import Volume


def test_only_what_has_the_density_of_blood_stays() -> None:
    hu = np.full((40, 40, 40), 33, np.int16)
    mask = np.zeros(hu.shape, bool)
    for first, value in ((4, 62), (14, 34), (24, 140), (33, 45)):
        part = (slice(first, first + 5), slice(10, 16), slice(10, 16))
        hu[part], mask[part] = value, True
    brain = Volume(np.ones(hu.shape, bool), np.eye(4))
    kept = _like_blood(Volume(mask, np.eye(4)), Volume(hu, np.eye(4)), brain, least_hu=6.0)
    assert sorted(set(np.asarray(hu)[np.asarray(kept.array)].tolist())) == [45, 62]
    nothing = _like_blood(Volume(np.zeros(hu.shape, bool), np.eye(4)), Volume(hu, np.eye(4)), brain, least_hu=6.0)
    assert not nothing.array.any()
