"""Source heads: graded sulci, refusals, heads kept on disk, and persons varied from one made head."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from builders.ball_phantom import seeded
from ichnos.errors import InputRefused
from ichnos.simulation.heads.source import (
    FOLIUM,
    LEVELS,
    SULCUS,
    SourceHead,
    check_codes,
    feature_affine_of,
    finished,
    graded,
    lookup,
)
from ichnos.simulation.heads.store import kept
from ichnos.simulation.heads.variation import ADULT_INTRACRANIAL_ML, Variation, scale_at, varied
from ichnos.simulation.patient import Tissue

CPU = torch.device("cpu")
SIDE = 160


def _codes() -> np.ndarray:
    """Return nested balls: skin, bone, fluid, cortex, white matter and a ventricle."""
    at = np.arange(SIDE) - (SIDE - 1) / 2
    away = np.sqrt(at[:, None, None] ** 2 + at[None, :, None] ** 2 + at[None, None] ** 2)
    codes = np.zeros(away.shape, np.uint8)
    rings = (
        (76, Tissue.SCALP),
        (72, Tissue.BONE),
        (66, Tissue.CSF),
        (63, Tissue.CORTEX),
        (56, Tissue.WHITE),
        (14, Tissue.VENTRICLE),
    )
    for radius, tissue in rings:
        codes[away < radius] = int(tissue)
    return codes


@pytest.fixture(scope="module")
def head() -> SourceHead:
    """Return a head of balls whose middle is its origin."""
    affine = np.eye(4)
    affine[:3, 3] = -(SIDE - 1) / 2
    x, y, z = np.meshgrid(*[np.arange(SIDE // 2) * 2 - (SIDE - 1) / 2.0] * 3, indexing="ij")
    return finished("balls", _codes(), affine, np.stack([x, y, z]).astype(np.float32))


def _person(head: SourceHead, *, seed: int = 0, atrophy: float = 0.25, strength: float = 1.0) -> Variation:
    return varied(head, atrophy=atrophy, strength=strength, spacing_mm=2.0, generator=seeded(seed))


def _at(head: SourceHead, variation: Variation) -> torch.Tensor:
    points = variation.grid.coarse_points(CPU)
    return variation.at(points) - points


# ---- codes -----------------------------------------------------------------------------------------


@given(st.floats(0, 1), st.floats(0, 1))
def test_atrophy_turns_ever_more_cortex_to_fluid(first: float, second: float) -> None:
    less, more = (lookup(atrophy, CPU) for atrophy in sorted((first, second)))
    fluid = int(Tissue.CSF)
    assert bool(((more == fluid) | (less != fluid))[SULCUS : FOLIUM + LEVELS].all())


def test_plain_codes_stand_for_themselves() -> None:
    table = lookup(0.5, CPU)
    assert table[: len(Tissue)].tolist() == list(range(len(Tissue)))
    cerebellum = table[FOLIUM : FOLIUM + LEVELS]
    assert set(cerebellum.tolist()) == {int(Tissue.CEREBELLAR_CORTEX), int(Tissue.CSF)}


def test_grading_changes_cortex_and_the_fluid_beside_it_alone() -> None:
    codes = _codes()[60:100, 60:100, :40]
    out = graded(codes)
    changed = out != codes
    assert set(np.unique(codes[changed]).tolist()) == {int(Tissue.CORTEX), int(Tissue.CSF)}
    assert (out[changed] >= SULCUS).all()
    assert not (out == int(Tissue.CORTEX)).any()


def test_a_known_share_of_fluid_widens_a_sulcus_sooner() -> None:
    codes = _codes()[60:100, 60:100, :40]
    wide = graded(codes, np.full(codes.shape, 0.9, np.float32))
    cortex = codes == int(Tissue.CORTEX)
    assert wide[cortex].astype(int).sum() > graded(codes)[cortex].astype(int).sum()


def test_heads_without_ventricles_or_brain_are_refused_by_name() -> None:
    codes = _codes()
    check_codes("good", codes)
    with pytest.raises(InputRefused, match="the head dry has no ventricles"):
        check_codes(
            "dry", np.where(codes == int(Tissue.VENTRICLE), int(Tissue.WHITE), codes).astype(np.uint8)
        )
    with pytest.raises(InputRefused, match="the head small has under 100 mL of cerebral white matter"):
        check_codes("small", np.where(codes == int(Tissue.WHITE), int(Tissue.CORTEX), codes).astype(np.uint8))


def test_the_feature_grid_holds_every_second_voxel(head: SourceHead) -> None:
    assert np.allclose(feature_affine_of(head.affine) @ [1, 2, 3, 1], head.affine @ [2, 4, 6, 1])
    assert head.features.shape == (2, SIDE // 2, SIDE // 2, SIDE // 2)


def test_the_cavity_has_its_volume_and_distances_their_signs(head: SourceHead) -> None:
    assert head.intracranial_ml == pytest.approx(4 / 3 * np.pi * 6.6**3, rel=0.06)
    middle = SIDE // 4
    ventricle, depth = head.features[:, middle, middle, middle].tolist()
    assert ventricle < 0 < depth
    assert head.features[1, 0, 0, 0] < 0
    assert depth == pytest.approx(66.0, abs=4)


def test_a_head_on_its_own_device_is_itself(head: SourceHead) -> None:
    assert head.to(CPU) is head


# ---- heads kept on disk ----------------------------------------------------------------------------


def _small(head: SourceHead) -> SourceHead:
    return replace(
        head,
        codes=head.codes[:4, :4, :4].clone(),
        features=head.features[:, :2, :2, :2].clone(),
        mni_mm=head.mni_mm[:, :2, :2, :2].clone(),
    )


def test_a_kept_head_is_made_once(head: SourceHead, tmp_path: Path) -> None:
    calls: list[int] = []

    def make() -> SourceHead:
        calls.append(1)
        return _small(head)

    first, again = (kept(tmp_path / "cache", "balls", b"source", make) for _ in range(2))
    assert len(calls) == 1
    assert torch.equal(first.codes, again.codes)
    assert torch.equal(first.features, again.features)
    assert np.array_equal(first.affine, again.affine)
    kept(tmp_path / "cache", "balls", b"another source", make)
    kept(tmp_path / "cache", "other", b"source", make)
    kept(None, "balls", b"source", make)
    assert len(calls) == 4


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04broken"])
def test_a_damaged_file_is_made_anew(head: SourceHead, tmp_path: Path, content: bytes) -> None:
    kept(tmp_path, "balls", b"source", lambda: _small(head))
    (file,) = tmp_path.glob("head-*.npz")
    file.write_bytes(content)
    again = kept(tmp_path, "balls", b"source", lambda: _small(head))
    assert torch.equal(again.codes, _small(head).codes)
    assert file.stat().st_size > len(content)


# ---- persons ---------------------------------------------------------------------------------------


def test_without_strength_a_person_is_the_head_itself(head: SourceHead) -> None:
    assert float(_at(head, _person(head, strength=0.0)).abs().max()) < 1e-3


def test_a_person_follows_the_seed(head: SourceHead) -> None:
    first, again, other = (_person(head, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.source_mm, again.source_mm)
    assert first.source_mm.shape != other.source_mm.shape or not torch.equal(first.source_mm, other.source_mm)


def test_a_map_never_folds(head: SourceHead) -> None:
    for seed in range(3):
        variation = _person(head, seed=seed, atrophy=0.6)
        step_mm = variation.grid.step * variation.grid.spacing_mm
        rows = torch.stack([torch.stack(torch.gradient(c)) for c in variation.source_mm]) / step_mm
        determinant = torch.linalg.det(rows.permute(2, 3, 4, 0, 1))
        inside = variation.source_mm.square().sum(0).sqrt() < 70
        assert float(determinant[inside].min()) > 0.1


def test_left_stays_left_in_every_person(head: SourceHead) -> None:
    for seed in range(3):
        variation = _person(head, seed=seed)
        x = variation.grid.coarse_points(CPU)[0]
        far = x.abs() > 20
        assert bool((torch.sign(variation.source_mm[0][far]) == torch.sign(x[far])).all())


def test_heads_of_every_size_become_adults(head: SourceHead) -> None:
    variation = _person(head, seed=3)
    grown = scale_at(variation, np.zeros(3))
    assert grown == pytest.approx(ADULT_INTRACRANIAL_ML / head.intracranial_ml, rel=0.4)


def test_atrophy_widens_the_ventricles(head: SourceHead) -> None:
    def ventricle_ml(atrophy: float) -> float:
        variation = _person(head, seed=4, atrophy=atrophy)
        fine = variation.grid.enlarged(variation.source_mm)
        return float((fine.square().sum(0).sqrt() < 14).sum()) * 2.0**3 / 1000

    young, old = ventricle_ml(0.1), ventricle_ml(0.7)
    assert old > 1.1 * young
