"""HU maps of phantoms: shapes stay, densities change by the seed, oedema goes with its label."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from builders.ball_phantom import ball_phantom, bits_of, seeded
from ichnos.learning.virtual.accelerated.densities import density_map, without_oedema
from ichnos.learning.virtual.accelerated.phantom import LABELS
from ichnos.simulation.patient import Tissue


def _map(seed: int, *, wild: bool) -> torch.Tensor:
    return density_map(ball_phantom(), np.random.default_rng(seed), seeded(seed), wild=wild)


@pytest.fixture(scope="module")
def usual() -> torch.Tensor:
    """Return the map of a phantom as the simulator has it."""
    return _map(8, wild=False)


@pytest.mark.parametrize("wild", [False, True])
def test_one_seed_gives_one_map(wild: bool) -> None:
    assert torch.equal(_map(3, wild=wild), _map(3, wild=wild))
    assert not torch.equal(_map(3, wild=wild), _map(4, wild=wild))


def test_a_usual_map_has_the_tissues_usual_densities(usual: torch.Tensor) -> None:
    tissue, blood = ball_phantom().maps.tissue, bits_of(ball_phantom(), "ich")
    white = (tissue == int(Tissue.WHITE)) & ~blood & ~bits_of(ball_phantom(), "phe")
    assert 20 < float(usual[white].median()) < 40
    assert float(usual[blood].median()) == pytest.approx(65, abs=1)
    assert float(usual[tissue == int(Tissue.VENTRICLE)].median()) < 15
    assert float(usual[tissue == int(Tissue.AIR)].max()) < -900


def test_oedema_is_darker_than_white_matter(usual: torch.Tensor) -> None:
    tissue, around = ball_phantom().maps.tissue, bits_of(ball_phantom(), "phe")
    white = (tissue == int(Tissue.WHITE)) & ~around & ~bits_of(ball_phantom(), "ich")
    assert float(usual[around].median()) < float(usual[white].median()) - 4


def test_wild_maps_differ_from_scan_to_scan_in_blood() -> None:
    blood = bits_of(ball_phantom(), "ich")
    medians = [float(_map(seed, wild=True)[blood].median()) for seed in range(8)]
    assert np.ptp(medians) > 5


def test_wild_maps_leave_air_alone() -> None:
    air = ball_phantom().maps.tissue == int(Tissue.AIR)
    for seed in range(4):
        assert float(_map(seed, wild=True)[air].max()) < -900


def _flapless(seed: int) -> torch.Tensor:
    """Return a usual map by other random numbers of the skull, and the same ones of the tissues."""
    return density_map(ball_phantom(), np.random.default_rng(seed), seeded(0), wild=False)


def test_some_skulls_lose_a_flap_and_it_is_bone_alone_that_changes() -> None:
    bone = ball_phantom().maps.tissue == int(Tissue.BONE)
    rare = [seed for seed in range(200) if np.random.default_rng(seed).random() < 0.05]
    whole = _flapless(next(seed for seed in range(200) if seed not in rare))
    assert rare
    for seed in rare[:3]:
        changed = _flapless(seed) != whole
        assert 0.001 < float(changed[bone].float().mean()) < 0.5
        assert not bool(changed[~bone].any())


def test_a_phantom_without_blood_keeps_its_oedema() -> None:
    healthy = replace(ball_phantom(), has_haematoma=False)
    assert all(without_oedema(healthy, np.random.default_rng(seed)) is healthy for seed in range(30))


def test_oedema_and_its_label_go_together_and_nothing_else_goes() -> None:
    phantom = ball_phantom()
    results = [without_oedema(phantom, np.random.default_rng(seed)) for seed in range(40)]
    gone = [result for result in results if not bits_of(result, "phe").any()]
    assert 0 < len(gone) < 20
    for result in gone:
        assert not bool(result.maps.oedema.any())
        assert torch.equal(result.maps.ich, phantom.maps.ich)
        assert all(
            torch.equal(bits_of(result, label), bits_of(phantom, label)) for label in LABELS if label != "phe"
        )


def test_the_phantom_itself_is_not_changed(usual: torch.Tensor) -> None:
    phantom = ball_phantom()
    before = phantom.labels.clone(), phantom.maps.oedema.clone()
    for seed in range(20):
        without_oedema(phantom, np.random.default_rng(seed))
    assert torch.equal(phantom.labels, before[0])
    assert torch.equal(phantom.maps.oedema, before[1])
    assert torch.equal(usual, _map(8, wild=False))
