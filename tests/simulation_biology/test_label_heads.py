"""Label maps as heads: every label known, no holes, the right way round."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ichnos.anatomy import mni
from ichnos.errors import InputRefused
from ichnos.simulation.heads import from_labels as label_heads
from ichnos.simulation.heads.source import SourceHead, lookup
from ichnos.simulation.patient import Tissue
from ichnos.simulation.simulate import PatientSpec, simulate_patient
from ichnos.volume import Volume

torch.set_num_threads(1)
_NUMBERS = {  # structure: FreeSurfer numbers left and right
    mni.CSF: (24, 24),
    mni.VENTRICLE: (4, 43),
    mni.CORTEX: (3, 42),
    mni.WHITE: (2, 41),
    mni.THALAMUS: (10, 49),
    mni.CAUDATE: (11, 50),
    mni.PUTAMEN: (12, 51),
    mni.PALLIDUM: (13, 52),
    mni.HIPPOCAMPUS: (17, 53),
    mni.BRAINSTEM: (16, 16),
    mni.CEREBELLAR_CORTEX: (8, 47),
    mni.CEREBELLAR_WHITE: (7, 46),
}


def _made_labels() -> Volume:
    """The template itself, told in FreeSurfer numbers, with a simple shell of bone and skin around it."""
    structures = mni.structures()
    right = mni.coordinates(structures)[0] > 0
    labels = np.zeros(structures.shape, np.int32)
    for code, (on_left, on_right) in _NUMBERS.items():
        labels[structures.array == code] = on_left
        labels[(structures.array == code) & right] = on_right
    import edt

    shell = edt.edt(labels == 0, parallel=1)
    labels[(labels == 0) & (shell < 3)] = 24
    labels[(labels == 0) & (shell < 9)] = 515
    labels[(labels == 0) & (shell < 14)] = 511
    return structures.with_array(labels)


@pytest.fixture(scope="module")
def labels() -> Volume:
    return _made_labels()


@pytest.fixture(scope="module")
def made(labels: Volume) -> SourceHead:
    moved = np.array(labels.affine)
    moved[:3, 3] += (7.0, -5.0, 12.0)
    return label_heads.head_from_labels("made", Volume(labels.array, moved))


def test_a_head_finds_its_place_in_mni_space(made: SourceHead) -> None:
    """A head that is the template shifted by (7, -5, 12) mm comes back to it, and upright."""
    inside = made.codes[::2, ::2, ::2] == Tissue.WHITE
    index = inside.nonzero().double()
    world = index @ torch.from_numpy(made.feature_affine[:3, :3]).T + torch.from_numpy(
        made.feature_affine[:3, 3]
    )
    error = made.mni_mm.double().permute(1, 2, 3, 0)[inside] - world
    assert float(error.norm(dim=1).median()) < 2.0
    assert np.allclose(made.affine[:3, :3], np.eye(3), atol=0.03)


def test_left_stays_left_on_a_label_head(made: SourceHead) -> None:
    patient = simulate_patient(
        3, made, PatientSpec(site="thalamus", side="left", ich_ml=8.0, spacing_mm=2.0, followup=False)
    )
    assert patient.latent.source == "made"
    assert patient.world((patient.baseline.ich > 0.5).nonzero().numpy())[:, 0].mean() < -3
    assert patient.truth.ich_ml == pytest.approx(8.0, rel=0.03)


def test_an_unknown_label_is_named(labels: Volume) -> None:
    odd = labels.array.copy()
    odd[100, 100, 100] = 777
    with pytest.raises(InputRefused, match="777"):
        label_heads.head_from_labels("odd", Volume(odd, labels.affine))


def test_wrong_voxels_missing_ventricles_and_empty_folders_are_refused(
    labels: Volume, tmp_path: Path
) -> None:
    with pytest.raises(InputRefused, match=r"2\.00"):
        label_heads.head_from_labels(
            "coarse", Volume(labels.array[::2, ::2, ::2], labels.affine @ np.diag([2, 2, 2, 1.0]))
        )
    dry = np.where(np.isin(labels.array, (4, 43)), 24, labels.array)
    with pytest.raises(InputRefused, match="no ventricles"):
        label_heads.head_from_labels("dry", Volume(dry, labels.affine))
    with pytest.raises(InputRefused, match="no label maps"):
        label_heads.head_files(tmp_path)


def test_enclosed_zeros_become_tissue_not_holes(labels: Volume) -> None:
    holed = labels.array.copy()
    white = np.argwhere(holed == 2)
    x, y, z = white[len(white) // 2]
    holed[x - 1 : x + 2, y - 1 : y + 2, z - 1 : z + 2] = 0
    head = label_heads.head_from_labels("holed", Volume(holed, labels.affine))
    table = lookup(0.3, torch.device("cpu"))
    tissue = table[head.codes.int()]
    inner = tissue[20:-20, 20:-20, 40:-20]
    assert int((inner == Tissue.AIR).sum()) < int((labels.array[20:-20, 20:-20, 40:-20] == 0).sum()) + 1
    place = np.round(np.linalg.inv(head.affine) @ [*_rigid(labels, head, (x, y, z)), 1.0])[:3].astype(int)
    near = tissue[tuple(slice(p - 2, p + 3) for p in place)]
    assert Tissue.AIR not in near
    assert Tissue.AIR_CELL not in near


def _rigid(labels: Volume, head: SourceHead, index: tuple[int, int, int]) -> np.ndarray:
    """Where a voxel of the label map lies in the upright head: the template's own place, within a few mm."""
    return labels.world(index)


@pytest.mark.slow
def test_every_shared_head_can_be_varied(shared: Path) -> None:
    folder = shared / "data" / "heads"
    for path in label_heads.head_files(folder)[:3]:
        head = label_heads.labelled_head(path)
        patient = simulate_patient(1, head, PatientSpec(site="putamen", side="right", ich_ml=25.0))
        assert patient.truth.ich_ml == pytest.approx(25.0, rel=0.02)
        inside = patient.tract[0] >= 0.5
        assert 4 < float(inside.sum()) * patient.voxel_ml < 25
        assert patient.world(inside.nonzero().numpy())[:, 0].mean() < 0
