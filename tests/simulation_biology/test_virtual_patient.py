"""One patient in voxels: sides, walls, volumes, truth."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from scipy import ndimage

from ichnos.simulation.disease import law, oracle
from ichnos.simulation.heads.source import SourceHead
from ichnos.simulation.patient import BRAIN_TISSUES, SITES, Moment, Tissue, VirtualPatient
from ichnos.simulation.simulate import PatientSpec, simulate_patient

torch.set_num_threads(1)
_MAPS = tuple(field.name for field in fields(Moment))


def _among(patient: VirtualPatient, tissues: tuple[Tissue, ...]) -> torch.Tensor:
    return torch.isin(patient.baseline.tissue, torch.tensor(tissues, dtype=torch.uint8))


def _world_x(patient: VirtualPatient, mask: torch.Tensor) -> np.ndarray:
    return patient.world(mask.nonzero().numpy())[:, 0]


def test_the_same_seed_gives_the_same_bytes_and_more_maps_change_nothing(head: SourceHead) -> None:
    wish = PatientSpec(spacing_mm=2.0)
    a, b = simulate_patient(21, head, wish), simulate_patient(21, head, wish)
    assert torch.equal(a.tract, b.tract)
    assert all(torch.equal(getattr(a.baseline, name), getattr(b.baseline, name)) for name in _MAPS)
    assert a.latent == b.latent
    lean = simulate_patient(21, head, PatientSpec(spacing_mm=2.0, followup=False))
    assert torch.equal(lean.baseline.ich, a.baseline.ich)
    assert torch.equal(lean.tract, a.tract)
    assert lean.followup is None
    assert math.isnan(lean.truth.followup_ich_ml)
    other = simulate_patient(22, head, wish)
    assert other.baseline.tissue.shape != a.baseline.tissue.shape or not torch.equal(
        other.baseline.tissue, a.baseline.tissue
    )


def test_volumes_of_the_maps_are_those_of_the_law_and_of_the_truth(bled: VirtualPatient) -> None:
    truth, latent = bled.truth, bled.latent
    assert truth.ich_ml == pytest.approx(latent.drawn_ich_ml, rel=0.01)
    assert truth.ich_ml == pytest.approx(float(bled.baseline.ich.sum()) * bled.voxel_ml, rel=1e-4)
    assert truth.followup_ich_ml == pytest.approx(latent.drawn_followup_ich_ml, rel=0.01)
    assert truth.ivh_ml == pytest.approx(latent.drawn_ivh_ml, rel=0.10)
    assert truth.phe_ml == pytest.approx(latent.drawn_phe_ml, rel=0.15)
    assert 11.0 < truth.leukoaraiosis_ml <= 15.1  # less what the haematoma has taken
    assert truth.infarct_old_ml > 0.1


def test_left_is_left(bled: VirtualPatient) -> None:
    assert _world_x(bled, bled.baseline.ich > 0.5).mean() < -8
    assert (_world_x(bled, bled.tract[0] >= 0.5) < 4).all()
    assert (_world_x(bled, bled.tract[1] >= 0.5) > -4).all()
    assert bled.mni_mm is not None
    assert float(bled.mni_mm[0][bled.baseline.ich > 0.5].mean()) < -10


def test_blood_keeps_out_of_ventricles_bone_and_fluid_and_ivh_keeps_in(bled: VirtualPatient) -> None:
    assert bool(_among(bled, BRAIN_TISSUES)[bled.baseline.ich > 0].all())
    assert bool(_among(bled, (Tissue.VENTRICLE, Tissue.CHOROID))[bled.baseline.ivh > 0].all())
    assert float((bled.baseline.ich + bled.baseline.ivh).max()) <= 1 + 1e-6
    blood = bled.baseline.ich + bled.baseline.ivh > 0.5
    assert 26 <= float(bled.baseline.blood_hu[blood].min())
    assert float(bled.baseline.blood_hu[blood].max()) <= 100
    assert 45 < float(bled.baseline.blood_hu[bled.baseline.ich > 0.5].median()) < 82


@pytest.mark.parametrize("seed", [1, 3, 7])
def test_a_clot_without_density_signs_has_the_density_of_fresh_blood(head: SourceHead, seed: int) -> None:
    plain = simulate_patient(seed, head, PatientSpec(spacing_mm=2.0, followup=False, ich_ml=25.0))
    assert plain.latent.signs == ()
    assert 50 < float(plain.baseline.blood_hu[plain.baseline.ich > 0.5].median()) < 80


def test_oedema_surrounds_blood_and_avoids_ventricles(bled: VirtualPatient) -> None:
    target = (bled.baseline.oedema >= 0.5) & (bled.baseline.ich < 0.5)
    distance = ndimage.distance_transform_edt((bled.baseline.ich <= 0.5).numpy())
    assert np.quantile(distance[target.numpy()], 0.95) < 16
    rim = (
        ndimage.binary_dilation((bled.baseline.ich > 0.5).numpy(), iterations=2)
        & (bled.baseline.ich < 0.01).numpy()
        & (bled.baseline.tissue == Tissue.WHITE).numpy()
    )
    assert bled.baseline.oedema.numpy()[rim].mean() > 0.5
    assert float(bled.baseline.oedema[_among(bled, (Tissue.VENTRICLE, Tissue.CSF, Tissue.BONE))].max()) == 0


def test_the_follow_up_holds_the_baseline_in_the_same_tissue(head: SourceHead) -> None:
    patient = simulate_patient(40, head, PatientSpec(site="lobar", side="right", ich_ml=20.0, variation=0.5))
    assert patient.followup is not None
    before, after = patient.baseline.ich > 0.5, patient.followup.ich > 0.5
    if patient.truth.followup_ich_ml > 0.98 * patient.truth.ich_ml:
        # the greater mass effect shifts it a little
        grown = ndimage.binary_dilation(after.numpy(), iterations=2)
        assert grown[before.numpy()].mean() > 0.97
    assert patient.truth.followup_ich_ml > 0.8 * patient.truth.ich_ml


def test_mass_effect_displaces_tissue_and_midline(head: SourceHead) -> None:
    spec = PatientSpec(
        site="putamen",
        side="left",
        ich_ml=60.0,
        variation=0.0,
        age_years=55.0,
        followup=False,
        spacing_mm=2.0,
        mni=True,
    )
    with_blood = simulate_patient(5, head, spec)
    without = simulate_patient(5, head, PatientSpec(**{**spec.__dict__, "haematoma_probability": 0.0}))
    assert with_blood.mni_mm is not None
    assert without.mni_mm is not None
    assert with_blood.truth.midline_shift_mm > 1.5
    assert without.truth.midline_shift_mm == 0.0
    # where tissue at a place comes from: pushed right means from further left
    shift = (without.mni_mm - with_blood.mni_mm)[0]
    midline = (
        (without.mni_mm[0].abs() < 4) & (without.mni_mm[1].abs() < 20) & ((without.mni_mm[2] - 12).abs() < 12)
    )
    assert float(shift[midline].mean()) > 0.5
    room = [float((p.baseline.tissue == Tissue.VENTRICLE).sum()) * p.voxel_ml for p in (with_blood, without)]
    assert room[0] < 0.95 * room[1]


def test_a_patient_without_haematoma_is_empty_of_blood_and_says_so(head: SourceHead) -> None:
    patient = simulate_patient(8, head, PatientSpec(haematoma_probability=0.0, spacing_mm=2.0))
    assert not patient.latent.has_haematoma
    assert (
        float(patient.baseline.ich.max())
        == float(patient.baseline.ivh.max())
        == float(patient.baseline.oedema.max())
        == 0
    )
    assert math.isnan(patient.expansion_probability)
    assert not patient.expanded
    assert patient.truth.ich_ml == 0


def test_the_tract_passes_capsule_and_peduncle_in_the_patient(bled: VirtualPatient) -> None:
    assert bled.mni_mm is not None
    x, y, z = bled.mni_mm
    for index, sign in ((0, -1), (1, 1)):
        inside = bled.tract[index] >= 0.5
        capsule = inside & ((sign * x - 23).abs() < 9) & ((y + 17).abs() < 10) & ((z - 7).abs() < 5)
        peduncle = inside & ((sign * x - 14).abs() < 7) & ((y + 17).abs() < 8) & ((z + 12).abs() < 4)
        assert capsule.sum() > 50
        assert peduncle.sum() > 50
        at_level = inside & ((z - 7).abs() < 4)
        assert (capsule & at_level).sum() > 0.8 * at_level.sum()
        assert float(_among(bled, (Tissue.VENTRICLE, Tissue.CSF, Tissue.BONE))[inside].float().mean()) == 0
        volume_ml = float(inside.sum()) * bled.voxel_ml
        assert 5 < volume_ml < 22


def test_leukoaraiosis_lies_in_white_matter_around_the_ventricles_and_grades_follow_its_volume(
    head: SourceHead,
) -> None:
    grades = []
    for volume_ml in (0.0, 4.0, 50.0):
        patient = simulate_patient(
            30,
            head,
            PatientSpec(haematoma_probability=0.0, leukoaraiosis_ml=volume_ml, spacing_mm=2.0, age_years=70),
        )
        mask = patient.baseline.leukoaraiosis >= 0.5
        assert float(mask.sum()) * patient.voxel_ml == pytest.approx(volume_ml, rel=0.05, abs=0.01)
        assert bool((patient.baseline.tissue[mask] == Tissue.WHITE).all())
        grades.append((patient.truth.fazekas_periventricular, patient.truth.fazekas_deep))
    assert grades[0] == (0, 0)
    assert grades[1][0] >= 1
    assert grades[2][0] == 3
    assert grades[2][1] >= 2
    assert sorted(g[0] for g in grades) == [g[0] for g in grades]


def test_age_widens_ventricles_and_sulci(head: SourceHead) -> None:
    rooms = []
    for age in (30.0, 85.0):
        patient = simulate_patient(
            31, head, PatientSpec(haematoma_probability=0.0, age_years=age, spacing_mm=2.0)
        )
        rooms.append(
            [
                float((patient.baseline.tissue == t).sum()) * patient.voxel_ml
                for t in (Tissue.VENTRICLE, Tissue.CSF)
            ]
        )
    assert rooms[1][0] > 1.5 * rooms[0][0]
    assert rooms[1][1] > 1.1 * rooms[0][1]


@pytest.mark.parametrize("site", SITES)
def test_every_site_bleeds_where_its_name_says(head: SourceHead, site: str) -> None:
    patient = simulate_patient(
        50, head, PatientSpec(site=site, side="right", ich_ml=6.0, spacing_mm=2.0, followup=False, mni=True)
    )
    assert patient.mni_mm is not None
    x, y, z = (float(patient.mni_mm[i][patient.baseline.ich > 0.5].mean()) for i in range(3))
    assert patient.truth.ich_ml == pytest.approx(6.0, rel=0.03)
    expected = {
        "putamen": 18 < x < 42 and -22 < y < 25,
        "thalamus": 4 < x < 24 and -36 < y < -4,
        "caudate": 4 < x < 26 and -6 < y < 34,
        "pons": -8 < x < 14 and -45 < z < -14,
        "cerebellum": 4 < x < 45 and y < -40 and z < -12,
        "lobar": x > 10 and z > -30,
    }
    assert expected[site], (x, y, z)


def test_fibres_are_unit_vectors_in_white_matter(bled: VirtualPatient) -> None:
    fibres = bled.fibres
    assert fibres is not None
    lengths = fibres.orientation.norm(dim=1)
    assert torch.allclose(lengths[fibres.weight > 0.05], torch.tensor(1.0), atol=1e-3)
    assert float(fibres.weight.sum(0).max()) <= 1
    inside = bled.tract[1][::2, ::2, ::2] >= 0.9
    along = fibres.orientation[0, 2][inside].abs()
    assert float(along.mean()) > 0.6


def test_growth_probability_is_certain_in_the_clot_and_zero_far_away(head: SourceHead) -> None:
    patient = simulate_patient(
        60, head, PatientSpec(site="lobar", side="left", ich_ml=15.0, spacing_mm=2.0, oracle_samples=6)
    )
    chance = patient.growth_probability
    assert chance is not None
    distance = ndimage.distance_transform_edt((patient.baseline.ich <= 0.5).numpy())
    far = torch.from_numpy(distance > 25) & (patient.baseline.ivh == 0)
    assert float(chance[far].max()) == 0
    assert float(chance[patient.baseline.ich > 0.9].mean()) > 0.8
    expected_ml = float(chance.sum()) * patient.voxel_ml
    assert patient.truth.ich_ml * 0.85 < expected_ml < 3 * patient.truth.ich_ml


def test_the_voxel_generator_obeys_the_fast_law(head: SourceHead) -> None:
    """The same patients, grown in voxels at 3 mm, have the drawn volumes and so the same outcome."""
    for seed in range(100, 108):
        patient = simulate_patient(seed, head, PatientSpec(spacing_mm=3.0))
        drawn = patient.latent
        assert patient.truth.ich_ml == pytest.approx(drawn.drawn_ich_ml, rel=0.02)
        assert patient.truth.followup_ich_ml == pytest.approx(drawn.drawn_followup_ich_ml, rel=0.02)
        limit = float(law.expansion_limit_ml(torch.tensor(drawn.drawn_ich_ml)))
        growth = drawn.drawn_followup_ich_ml - drawn.drawn_ich_ml
        if abs(growth - limit) > 0.5:
            assert patient.expanded == (growth > limit)
        assert 0 <= patient.expansion_probability <= 1
    assert oracle.activity_grid().numel() > 100
