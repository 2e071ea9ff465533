"""Prepared heads on disk, patients' specifications, and phantoms in their buffers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.small_patient import SHAPE, SIDE_MM, small_patient
from ichnos.errors import InputRefused
from ichnos.learning.virtual.accelerated.phantom import (
    DEGREES,
    LABELS,
    MNI_STEP,
    Phantom,
    PhantomLayout,
    read_phantom,
    write_phantom,
)
from ichnos.learning.virtual.accelerated.prepared_heads import (
    read_all_prepared,
    read_prepared,
    split_heads,
    write_prepared,
)
from ichnos.learning.virtual.accelerated.production import DISEASED_ML, SMALL_ML, spec_of
from ichnos.simulation.heads.source import SourceHead
from ichnos.simulation.patient import SITES, Tissue, VirtualPatient


def _head(name: str, *, shape: tuple[int, int, int] = (9, 8, 7), seed: int = 0) -> SourceHead:
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*[np.linspace(-40.0, 40.0, n) for n in shape], indexing="ij")
    return SourceHead(
        name=name,
        codes=torch.from_numpy(rng.integers(0, 100, tuple(2 * n for n in shape)).astype(np.uint8)),
        affine=np.diag([1.0, 1.0, 1.0, 1.0]),
        features=torch.from_numpy(np.stack([x * 3, y]).astype(np.float32)),
        feature_affine=np.diag([2.0, 2.0, 2.0, 1.0]),
        mni_mm=torch.from_numpy(np.stack([x, y + 2, z]).astype(np.float32)),
    )


@given(st.tuples(*[st.integers(5, 12)] * 3))
@settings(max_examples=10, deadline=None)
def test_heads_of_every_size_come_back(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, int, int]
) -> None:
    head = _head("a", shape=shape)
    again = read_prepared(write_prepared(head, tmp_path_factory.mktemp("heads")))
    assert torch.equal(again.codes, head.codes)
    assert again.mni_mm.shape == head.mni_mm.shape
    assert float((again.mni_mm - head.mni_mm).abs().max()) < 0.2


def test_distances_that_no_rule_uses_are_cut_and_others_kept(tmp_path: Path) -> None:
    head = _head("a")
    again = read_prepared(write_prepared(head, tmp_path))
    near = (head.features > -50) & (head.features < 90)
    assert float((again.features - head.features).abs()[near].max()) <= 0.051
    assert float(again.features.min()) == -50.0
    assert float(again.features.max()) == 90.0


def test_a_prepared_head_is_smaller_than_its_arrays(tmp_path: Path) -> None:
    head = replace(_head("a", shape=(20, 20, 20)), codes=torch.zeros(40, 40, 40, dtype=torch.uint8))
    size = write_prepared(head, tmp_path).stat().st_size
    assert size < 0.5 * (head.codes.numel() + 4 * head.features.numel() + 4 * head.mni_mm.numel())


def test_every_head_of_a_folder_is_read_by_name(tmp_path: Path) -> None:
    for name in ("c", "a", "b"):
        write_prepared(_head(name), tmp_path / "new")
    assert [head.name for head in read_all_prepared(tmp_path / "new")] == ["a", "b", "c"]


def test_an_empty_folder_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="holds no prepared heads"):
        read_all_prepared(tmp_path)


@pytest.mark.parametrize(("held_out", "expected"), [(1, ["t3"]), (2, ["t2", "t3"])])
def test_the_last_label_maps_are_held_out(held_out: int, expected: list[str]) -> None:
    heads = [_head(name) for name in ("mni152", "t1", "t2", "t3")]
    trained, unseen = split_heads(heads, held_out)
    assert [head.name for head in unseen] == expected
    assert {head.name for head in trained} | set(expected) == {"mni152", "t1", "t2", "t3"}
    assert not {head.name for head in trained} & set(expected)


def test_few_label_maps_are_both_trained_on_and_validated_on() -> None:
    heads = [_head(name) for name in ("mni152", "t1")]
    trained, unseen = split_heads(heads, 4)
    assert [head.name for head in trained] == ["mni152", "t1"]
    assert [head.name for head in unseen] == ["t1"]


@given(st.integers(0, 100), st.integers(0, 1_000_000))
@settings(max_examples=50, deadline=None)
def test_specifications_stay_within_their_limits(seed: int, number: int) -> None:
    own, spec = spec_of(seed, number, spacing_mm=1.5, followup=True)
    assert 0 <= own < 2**31
    assert spec.ich_ml is None or SMALL_ML[0] <= spec.ich_ml <= SMALL_ML[1]
    assert spec.leukoaraiosis_ml is None or DISEASED_ML[0] <= spec.leukoaraiosis_ml <= DISEASED_ML[1]
    assert spec.site is None or spec.site in SITES
    assert spec.mni
    assert spec.spacing_mm == 1.5


def test_who_a_patient_is_does_not_depend_on_the_grid_or_the_follow_up() -> None:
    fine = spec_of(3, 17, spacing_mm=1.0, followup=False)
    coarse = spec_of(3, 17, spacing_mm=2.0, followup=True)
    assert fine[0] == coarse[0]
    assert replace(fine[1], spacing_mm=2.0, followup=coarse[1].followup) == coarse[1]


@pytest.fixture(scope="module")
def patient() -> VirtualPatient:
    """Return a patient of ellipsoids with positions."""
    x, y, z = torch.meshgrid(*[torch.arange(n, dtype=torch.float32) * SIDE_MM for n in SHAPE], indexing="ij")
    return replace(small_patient(fibres=False), mni_mm=torch.stack([x, y, z]))


@pytest.fixture(scope="module")
def phantom(patient: VirtualPatient) -> Phantom:
    """Return the patient as a phantom, written and read again."""
    layout = PhantomLayout(SIDE_MM)
    buffer = memoryview(bytearray(layout.size))
    write_phantom(patient, 41, layout, buffer)
    return read_phantom(buffer, layout, "cpu")


@pytest.mark.parametrize("spacing_mm", [1.0, 1.5, 2.0, 3.0])
def test_a_layout_fills_its_buffer_with_aligned_arrays(spacing_mm: float) -> None:
    layout = PhantomLayout(spacing_mm)
    assert all((n - 1) % MNI_STEP == 0 for n in layout.shape)
    at = 0
    for kind, shape in layout.parts.values():
        assert at % np.dtype(kind).itemsize == 0
        at += int(np.prod(shape)) * np.dtype(kind).itemsize
    assert at == layout.size


def test_views_of_a_buffer_do_not_overlap() -> None:
    layout = PhantomLayout(4.0)
    views = layout.views(memoryview(bytearray(layout.size)))
    for value, view in enumerate(views.values(), 1):
        view[...] = value
    assert all((view == value).all() for value, view in enumerate(views.values(), 1))


@pytest.mark.parametrize("name", [n for n in DEGREES if n != "calcification"])
def test_every_degree_keeps_its_volume(patient: VirtualPatient, phantom: Phantom, name: str) -> None:
    expected = float(getattr(patient.baseline, name).sum())
    assert float(getattr(phantom.maps, name).sum()) == pytest.approx(expected, rel=0.01, abs=0.5)


def test_tissues_keep_their_voxels(patient: VirtualPatient, phantom: Phantom) -> None:
    for tissue in (Tissue.VENTRICLE, Tissue.WHITE, Tissue.CORTEX):
        assert int((phantom.maps.tissue == int(tissue)).sum()) == int(
            (patient.baseline.tissue == int(tissue)).sum()
        )


def test_positions_follow_the_voxels_to_the_canvas(phantom: Phantom) -> None:
    steps = phantom.mni_mm[:, 20:30, 20:30, 20:30]
    assert torch.allclose(torch.diff(steps[0], dim=0), torch.tensor(MNI_STEP * SIDE_MM))
    assert float(torch.diff(steps[0], dim=1).abs().max()) == 0.0


def test_a_patient_without_follow_up_has_no_follow_up_label(patient: VirtualPatient) -> None:
    layout = PhantomLayout(SIDE_MM)
    buffer = memoryview(bytearray(layout.size))
    write_phantom(replace(patient, followup=None), 1, layout, buffer)
    bits = read_phantom(buffer, layout, "cpu").labels.to(torch.int32)
    assert not bool((bits >> LABELS.index("followup") & 1).any())
    assert bool((bits >> LABELS.index("ich") & 1).any())


def test_leukoaraiosis_is_neither_a_scar_nor_a_ventricle(phantom: Phantom) -> None:
    bits = phantom.labels.to(torch.int32)
    pale, ventricle, scar = (
        bits >> LABELS.index(name) & 1 for name in ("leukoaraiosis", "ventricles", "infarct")
    )
    assert bool(pale.any())
    assert not bool((pale & (ventricle | scar)).any())


def test_a_buffer_holds_the_last_phantom_written_alone(patient: VirtualPatient) -> None:
    layout = PhantomLayout(SIDE_MM)
    used = memoryview(bytearray(b"\x07" * layout.size))
    fresh = memoryview(bytearray(layout.size))
    for buffer in (used, fresh):
        write_phantom(patient, 5, layout, buffer)
    assert bytes(used) == bytes(fresh)
