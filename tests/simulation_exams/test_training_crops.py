"""Crops for training: right shapes, targets that lie on what the image shows, sides that follow a mirror,
no trip to the host.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from builders.small_patient import BLOOD_HU, small_patient
from ichnos.errors import UsageError
from ichnos.simulation.crops import Crop, CropDrawer, Recipe
from ichnos.simulation.patient import VirtualPatient

RECIPE = Recipe(
    spacing_mm=2.0,
    side=64,
    noise_hu=(0.5, 0.6),
    offset_hu=0.0,
    thickness_mm=(2.0,),
    mirrored_share=0.0,
    foreground_share=1.0,
)


@pytest.fixture(scope="module")
def patient() -> VirtualPatient:
    return small_patient()


def drawn(patient: VirtualPatient, recipe: Recipe, *, seed: int = 0) -> Crop:
    return CropDrawer(patient, recipe, generator=torch.Generator().manual_seed(seed)).draw(
        rng=np.random.default_rng(seed)
    )


def target(crop: Crop, name: str) -> torch.Tensor:
    return crop.targets[crop.names.index(name)] > 0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_targets_lie_on_what_the_crop_shows(patient: VirtualPatient, seed: int) -> None:
    crop = drawn(patient, RECIPE, seed=seed)
    ich, ventricles = target(crop, "ich"), target(crop, "ventricles")
    assert float(ich.sum()) * 0.008 == pytest.approx(patient.truth.ich_ml, rel=0.06)
    assert float(crop.hu[ich].median()) == pytest.approx(BLOOD_HU, abs=3)
    assert float(crop.hu[ventricles].median()) < 14
    assert bool((target(crop, "ich_followup") | ~ich).all())


def test_thick_slices_blur_along_one_axis_and_keep_the_place(patient: VirtualPatient) -> None:
    thin, thick = (drawn(patient, replace(RECIPE, thickness_mm=(t,)), seed=5) for t in (2.0, 7.0))
    along = [crop.hu.diff(dim=2).abs().mean() for crop in (thin, thick)]
    assert along[1] < 0.9 * along[0]
    ich = target(thick, "ich")
    place = ich.nonzero().float().mean(0)
    shown = ((thick.hu > 45) & (thick.hu < 80) & target(thick, "brain")).nonzero().float()
    near = shown[(shown - place).norm(dim=1) < 13]  # not the rim of the skull
    assert len(near) > 0.7 * int(ich.sum())
    assert float((near.mean(0) - place).norm()) < 1.0


def test_a_mirrored_crop_exchanges_the_sides(patient: VirtualPatient) -> None:
    for share, left_first in ((0.0, True), (1.0, True)):
        crop = drawn(patient, replace(RECIPE, side=96, foreground_share=0.0, mirrored_share=share), seed=2)
        left, right = (
            target(crop, f"tract_{side}").nonzero().float().mean(0)[0] for side in ("left", "right")
        )
        assert bool(left < right) is left_first
        bleed = target(crop, "ich").nonzero().float().mean(0)[0]
        assert bool(bleed < 48) is (share == 0.0)


def test_a_crop_repeats_with_its_seed_and_differs_from_the_next(patient: VirtualPatient) -> None:
    recipe = Recipe(spacing_mm=2.0, side=32)
    first, again, other = (drawn(patient, recipe, seed=s) for s in (7, 7, 8))
    assert first.hu.shape == (32, 32, 32)
    assert first.targets.shape == (13, 32, 32, 32)
    assert len(first.names) == 13
    assert first.expansion == 1.0
    assert torch.equal(first.hu, again.hu)
    assert torch.equal(first.targets, again.targets)
    assert not torch.equal(first.hu, other.hu)


def test_offset_and_range_stay_within_the_recipe(patient: VirtualPatient) -> None:
    shifted = [
        drawn(patient, replace(RECIPE, offset_hu=8.0), seed=s).hu.median()
        - drawn(patient, RECIPE, seed=s).hu.median()
        for s in range(4)
    ]
    assert max(abs(float(v)) for v in shifted) <= 8.5
    assert len({round(float(v), 1) for v in shifted}) > 1
    with pytest.raises(UsageError, match=r"crops of 0\.5 mm"):
        Recipe(spacing_mm=0.5)


class _NoHost(TorchDispatchMode):
    """Fails on every operation that would bring a value from a GPU to the host, or wait for one."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__
        assert not name.startswith(
            ("_local_scalar_dense", "nonzero", "masked_select", "unique", "lift_fresh")
        ), name
        return function(*args, **(kwargs or {}))


def test_drawing_a_crop_moves_nothing_between_host_and_device(patient: VirtualPatient) -> None:
    drawer = CropDrawer(patient, Recipe(side=32), generator=torch.Generator().manual_seed(0))
    with _NoHost():
        crop = drawer.draw(rng=np.random.default_rng(0))
    assert crop.hu.shape == (32, 32, 32)
    with pytest.raises(AssertionError, match="_local_scalar_dense"), _NoHost():
        crop.hu.sum().item()
