"""What is drawn as blood, oedema or brain is held against the scan's own density, clot by clot and at its
border.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ichnos.reading.density import darker_than_brain, grown_by_density, like_blood, smoothed, without_sulci
from ichnos.reading.masks import _blood
from ichnos.volume import Volume


def test_only_what_has_the_density_of_blood_stays() -> None:
    hu = np.full((40, 40, 40), 33, np.int16)
    mask = np.zeros(hu.shape, bool)
    for first, value in ((4, 62), (14, 34), (24, 140), (33, 45)):
        part = (slice(first, first + 5), slice(10, 16), slice(10, 16))
        hu[part], mask[part] = value, True
    brain = Volume(np.ones(hu.shape, bool), np.eye(4))
    kept = like_blood(Volume(mask, np.eye(4)), Volume(hu, np.eye(4)), brain, least_hu=6.0)
    assert sorted(set(np.asarray(hu)[np.asarray(kept.array)].tolist())) == [45, 62]
    nothing = like_blood(
        Volume(np.zeros(hu.shape, bool), np.eye(4)), Volume(hu, np.eye(4)), brain, least_hu=6.0
    )
    assert not nothing.array.any()


def test_oedema_is_darker_than_brain_and_the_clots_edge_does_not_brighten_it() -> None:
    hu = np.full((60, 60, 12), 34.0)
    clot = np.zeros(hu.shape, bool)
    clot[24:36, 24:36, 3:9] = True
    swollen = ndimage.binary_dilation(clot, iterations=4) & ~clot
    loose = ndimage.binary_dilation(clot, iterations=9) & ~clot
    hu[swollen], hu[clot] = 27.0, 65.0
    scan = Volume(hu + np.random.default_rng(0).normal(0, 2, hu.shape), np.diag([1.0, 1.0, 3.0, 1.0]))
    brain = scan.with_array(np.ones(hu.shape, bool))
    found = darker_than_brain(scan.with_array(loose), scan, brain, clot).array
    assert not (found & ~loose).any()
    assert 2 * (found & swollen).sum() / (found.sum() + swollen.sum()) > 0.85
    beside = swollen & ndimage.binary_dilation(clot, iterations=2)
    assert found[beside].mean() > 0.9
    even = scan.with_array(np.where(clot, 65.0, 34.0))
    assert not darker_than_brain(scan.with_array(loose), even, brain, clot).array.any()


def test_a_clot_ends_where_its_density_does_and_keeps_the_dark_place_inside() -> None:
    hu = np.full((50, 50, 20), 34.0, np.float32)
    clot, sure, allowed = np.zeros(hu.shape, bool), np.zeros(hu.shape, bool), np.zeros(hu.shape, np.float32)
    clot[10:30, 10:30, 4:16] = True
    hu[clot] = 64.0
    hu[17:22, 17:22, 8:12] = 36.0  # clotting has not come to its end there
    sure[7:26, 7:33, 2:18] = True  # too wide on three sides, too short on the fourth
    allowed[sure] = 0.9
    allowed[26:34, 7:33, 2:18] = 0.2
    volume = Volume(hu, np.eye(4))
    found = grown_by_density(volume.with_array(sure), allowed, volume, 34.0)
    assert 2 * (found & clot).sum() / (found.sum() + clot.sum()) > 0.96
    assert found[17:22, 17:22, 8:12].all()
    assert not grown_by_density(volume.with_array(sure), np.where(sure, allowed, 0), volume, 34.0)[27:].any()
    swollen = np.where(ndimage.binary_dilation(clot, iterations=8) & ~clot, 24.0, hu).astype(np.float32)
    beside = grown_by_density(volume.with_array(sure), allowed, volume.with_array(swollen), 34.0)
    assert 2 * (beside & clot).sum() / (beside.sum() + clot.sum()) > 0.96
    pale = volume.with_array(np.full(hu.shape, 36.0, np.float32))
    assert (grown_by_density(volume.with_array(sure), allowed, pale, 34.0) == sure).all()


def test_sulci_are_no_brain_but_ventricles_oedema_and_deep_lacunes_are() -> None:
    at = np.stack(np.meshgrid(*[np.arange(n) - n / 2 for n in (90, 90, 30)], indexing="ij"))
    radius = np.sqrt((at**2 * np.array([1, 1, 0])[:, None, None, None]).sum(0))
    brain, ventricle = radius < 40, radius < 8
    hu = np.where(ventricle, 8.0, 34.0)
    sulcus = brain & (np.abs(at[0]) < 1.5) & (at[1] > 30)
    lacune = np.linalg.norm(at - np.array([18.0, 0, 0])[:, None, None, None], axis=0) < 3
    oedema = brain & (at[0] < -30)
    hu[sulcus | lacune], hu[oedema] = 8.0, 26.0
    scan = Volume(hu + np.random.default_rng(0).normal(0, 3, hu.shape), np.eye(4))
    nothing = np.zeros(hu.shape, bool)
    found = without_sulci(scan.with_array(brain), scan.with_array(ventricle), smoothed(scan), nothing).array
    assert found[sulcus].mean() < 0.1
    assert found[lacune | ventricle].all()
    assert found[oedema].mean() > 0.9
    assert found[brain & ~sulcus].mean() > 0.98


def test_a_speck_does_not_grow_into_a_clot() -> None:
    hu = np.full((40, 40, 12), 34.0, np.float32)
    hu[5:15, 5:15, 2:10] = 64.0  # falx, sinus: dense, and the network is sure of a corner of it only
    hu[25:35, 25:35, 2:10] = 64.0
    volume = Volume(hu, np.eye(4))
    sure, possible = np.zeros(hu.shape, bool), np.where(hu > 60, np.float32(0.3), np.float32(0.0))
    sure[5:8, 5:8, 2:8], sure[26:33, 26:33, 3:9] = True, True  # 0.05 and 0.29 mL
    drawn = {"ICH": volume.with_array(sure), "IVH": volume.with_array(np.zeros_like(sure))}
    probability = {"ICH": volume.with_array(possible), "IVH": volume.with_array(np.zeros_like(possible))}
    ich, ivh = _blood(drawn, probability, volume, volume.with_array(np.ones(hu.shape, bool)), fine=True)
    assert ich.array[25:35, 25:35, 2:10].mean() > 0.95
    assert not ich.array[:20].any()
    assert not ivh.array.any()
