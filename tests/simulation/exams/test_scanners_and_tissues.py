"""Protocols of centres, tissues in HU, blur and noise of kernels, and streams of random numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.ball_phantom import seeded
from ichnos.errors import InputRefused
from ichnos.simulation.exams.ct_physics import (
    RAYS,
    back_projection,
    bright_rim,
    noise_spectrum,
    ray_sums,
    reconstruct,
    textured_noise,
    transfer,
)
from ichnos.simulation.exams.scanners import CENTRES, SCANNERS, Kernel, centre, draw_protocol
from ichnos.simulation.exams.tissue_hu import DENSITY, hounsfield, texture
from ichnos.simulation.patient import Moment, Tissue
from ichnos.simulation.streams import random_stream

SEEDS = st.integers(0, 100_000)
SOFT, SHARP = Kernel("soft", 0.3), Kernel("sharp", 0.55, 0.6)


@given(st.sampled_from(sorted(CENTRES)), SEEDS)
@settings(max_examples=60, deadline=None)
def test_a_protocol_is_one_of_its_centre(name: str, seed: int) -> None:
    place = centre(name)
    protocol = draw_protocol(place, rng=np.random.default_rng(seed))
    assert protocol.scanner in [SCANNERS[key] for key in place.scanners]
    assert protocol.thickness_mm in place.thickness_mm
    assert protocol.step_mm == protocol.thickness_mm
    assert protocol.kernel in (protocol.scanner.brain, protocol.scanner.sharp)
    assert protocol.scanner.tilts or protocol.tilt_deg == 0
    assert place.field_of_view_mm[0] <= protocol.field_of_view_mm <= place.field_of_view_mm[1]
    assert protocol.pixel_mm * protocol.matrix == pytest.approx(protocol.field_of_view_mm)
    assert protocol.noise_hu > 0


@given(st.sampled_from(sorted(CENTRES)), SEEDS)
@settings(max_examples=30, deadline=None)
def test_a_still_patient_does_not_move_and_a_seed_repeats_itself(name: str, seed: int) -> None:
    first, again = (
        draw_protocol(centre(name), rng=np.random.default_rng(seed), still=True) for _ in range(2)
    )
    assert first == again
    assert first.motion_mm == 0.0


def test_thin_slices_and_low_doses_are_noisier() -> None:
    def noise(**changed: object) -> float:
        place = replace(CENTRES["B"], sharp_share=0.0, **changed)  # type: ignore[arg-type]
        return draw_protocol(place, rng=np.random.default_rng(4)).noise_hu

    assert noise(thickness_mm=(1.25,)) == pytest.approx(2 * noise(thickness_mm=(5.0,)))
    assert noise(dose=0.25) == pytest.approx(2 * noise(dose=1.0))


def test_some_patients_move_and_few_wear_metal() -> None:
    protocols = [draw_protocol(CENTRES["A"], rng=np.random.default_rng(seed)) for seed in range(400)]
    assert 0.05 < np.mean([protocol.motion_mm > 0 for protocol in protocols]) < 0.16
    assert 0.005 < np.mean([protocol.metal for protocol in protocols]) < 0.08


def test_an_unknown_centre_is_refused_with_those_that_exist() -> None:
    with pytest.raises(InputRefused, match="no simulated centre 'Z'; there are A, B, C, D, E"):
        centre("Z")


def test_every_tissue_has_a_density() -> None:
    assert set(DENSITY) == set(Tissue)
    assert all(density.between_hu >= 0 and density.within_hu >= 0 for density in DENSITY.values())


def _moment(tissue: Tissue, **degrees: float) -> Moment:
    shape = (12, 12, 12)
    zero = torch.zeros(shape)
    maps = {name: torch.full(shape, value) for name, value in degrees.items()}
    names = (
        "ich",
        "ivh",
        "blood_hu",
        "oedema",
        "leukoaraiosis",
        "infarct_acute",
        "infarct_old",
        "calcification",
    )
    return Moment(torch.full(shape, int(tissue), dtype=torch.uint8), *[maps.get(n, zero) for n in names])


def _hu(tissue: Tissue, *, haematocrit: float = 0.42, **degrees: float) -> torch.Tensor:
    return hounsfield(
        _moment(tissue, **degrees), haematocrit=haematocrit, spacing_mm=1.0, generator=seeded(1)
    )


@pytest.mark.parametrize("degree", ["oedema", "leukoaraiosis", "infarct_acute"])
def test_disease_darkens_white_matter_by_its_degree(degree: str) -> None:
    whole, half, none = (_hu(Tissue.WHITE, **{degree: d}) for d in (1.0, 0.5, 0.0))
    assert torch.allclose(none - half, half - whole, atol=1e-3)
    assert 4 < float((none - whole).mean()) < 18


def test_disease_is_not_seen_outside_the_brain() -> None:
    assert torch.equal(_hu(Tissue.BONE, leukoaraiosis=1.0), _hu(Tissue.BONE))


def test_pure_blood_has_its_own_density_and_half_of_it_half() -> None:
    white, blood = _hu(Tissue.WHITE), _hu(Tissue.WHITE, ich=1.0, blood_hu=70.0)
    mixed = _hu(Tissue.WHITE, ich=0.5, blood_hu=70.0)
    assert torch.allclose(blood, torch.tensor(70.0))
    assert torch.allclose(mixed, (white + blood) / 2, atol=1e-3)


def test_thick_blood_brightens_veins_and_nothing_else() -> None:
    thin, thick = (_hu(Tissue.VENOUS_SINUS, haematocrit=h) for h in (0.40, 0.50))
    assert float((thick - thin).mean()) == pytest.approx(9.0, abs=0.01)
    assert torch.equal(_hu(Tissue.WHITE, haematocrit=0.40), _hu(Tissue.WHITE, haematocrit=0.50))


def test_calcium_is_bright() -> None:
    rise = _hu(Tissue.CHOROID, calcification=0.4) - _hu(Tissue.CHOROID)
    assert torch.allclose(rise, torch.tensor(100.0), atol=1e-3)


def test_texture_has_no_mean_and_about_unit_variance() -> None:
    fields = torch.stack(
        [texture((24, 24, 24), scale_mm=4.0, spacing_mm=1.0, generator=seeded(k)) for k in range(12)]
    )
    assert float(fields.mean()) == pytest.approx(0.0, abs=0.15)
    assert float(fields.std()) == pytest.approx(1.0, abs=0.3)


@given(st.floats(0, 1.5))
def test_a_kernel_without_enhancement_never_amplifies(frequency: float) -> None:
    assert 0 <= float(transfer(SOFT, torch.tensor(frequency))) <= 1.0


def test_kernels_keep_the_mean_and_sharp_ones_keep_more_detail() -> None:
    frequency = torch.linspace(0, 0.8, 20)
    soft, sharp = (transfer(kernel, frequency) for kernel in (SOFT, SHARP))
    assert float(soft[0]) == float(sharp[0]) == 1.0
    assert bool((sharp[1:] > soft[1:]).all())
    assert bool((noise_spectrum(SHARP, frequency)[5:] > noise_spectrum(SOFT, frequency)[5:]).all())


@pytest.mark.parametrize("kernel", [SOFT, SHARP])
def test_noise_has_unit_spread_and_no_mean(kernel: Kernel) -> None:
    noise = textured_noise(6, kernel=kernel, matrix=64, pixel_mm=0.5, generator=seeded(0))
    assert noise.shape == (6, 64, 64)
    assert float(noise.std()) == pytest.approx(1.0, abs=0.08)
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.1)


def test_smooth_kernels_make_coarser_grain() -> None:
    step = [
        float(textured_noise(4, kernel=k, matrix=64, pixel_mm=0.5, generator=seeded(0)).diff(dim=1).std())
        for k in (SOFT, SHARP)
    ]
    assert step[0] < step[1]


@given(st.floats(-1000, 1500))
@settings(max_examples=10, deadline=None)
def test_reconstruction_keeps_a_flat_slice(hu: float) -> None:
    image = reconstruct(torch.full((1, 32, 32), hu), kernel=SHARP, matrix=64, pixel_mm=0.5)
    assert torch.allclose(image, torch.tensor(hu), atol=0.05 + 1e-4 * abs(hu))


def test_reconstruction_puts_things_where_they_were() -> None:
    coarse = torch.zeros(1, 32, 32)
    coarse[0, 10:14, 18:22] = 100.0
    image = reconstruct(coarse, kernel=SOFT, matrix=64, pixel_mm=0.5)[0].clamp(min=0)
    at = torch.arange(64) + 0.5
    total = image.sum()
    assert float((image.sum(1) * at).sum() / total) == pytest.approx(24.0, abs=0.3)
    assert float((image.sum(0) * at).sum() / total) == pytest.approx(40.0, abs=0.3)


def test_every_view_sees_the_whole_slice() -> None:
    at = torch.arange(RAYS) - (RAYS - 1) / 2
    disc = (torch.hypot(at[:, None], at[None]) < 25).float()[None]
    sums = ray_sums(disc)
    totals = sums.sum(2)[0]
    assert float(totals.max() - totals.min()) < 0.01 * float(totals.mean())
    assert float(sums[0, 0, RAYS // 2]) == pytest.approx(50.0, abs=1.5)  # the disc's diameter


def test_back_projection_is_linear_and_symmetrical() -> None:
    at = torch.arange(RAYS) - (RAYS - 1) / 2
    disc = (torch.hypot(at[:, None], at[None]) < 25).float()[None]
    smeared = back_projection(ray_sums(disc))
    assert torch.allclose(back_projection(3 * ray_sums(disc)), 3 * smeared, rtol=1e-4)
    assert int(smeared[0].argmax()) // RAYS == pytest.approx(RAYS / 2, abs=2)


def test_the_rim_is_bright_beside_bone_alone() -> None:
    at = torch.arange(RAYS) - (RAYS - 1) / 2
    away = torch.hypot(at[:, None], at[None])
    head = torch.where(away < 28, 30.0, torch.where(away < 31, 1000.0, -1000.0))[None]
    rim = bright_rim(head, 3.0)[0]
    assert float(rim[away < 10].max()) == 0.0
    assert float(rim[(away > 27) & (away < 28)].mean()) > 0.5
    assert 0 <= float(rim.min()) <= float(rim.max()) <= 1


@given(st.integers(0, 2**31 - 1))
@settings(max_examples=20, deadline=None)
def test_parts_of_a_patient_have_streams_of_their_own(seed: int) -> None:
    parts = ("law", "haematoma", "variation", "chronic", "tract", "ivh", "lesion")
    first = [float(torch.rand(1, generator=random_stream(seed, part))) for part in parts]
    again = [float(torch.rand(1, generator=random_stream(seed, part))) for part in reversed(parts)]
    assert first == again[::-1]
    assert len(set(first)) == len(parts)
