"""Fibre orientations that other programs left beside a cohort are found and read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ichnos.cohort import Patient
from ichnos.errors import InputRefused
from ichnos.formats import nifti
from ichnos.transfer.makers import TransferOptions, ready_orientations
from ichnos.volume import Volume


def peaks(shape: tuple[int, int, int] = (6, 5, 4)) -> Volume:
    """Return one peak per voxel, upward and 0.5 long, two empty ones as NaN; half of the voxels have none
    (NaN).
    """
    array = np.full((*shape, 9), np.nan, np.float32)
    array[:3, ..., :3] = (0, 0, 0.5)
    return Volume(array, np.diag([-2.0, 2, 2, 1]))  # x runs to the left, as scanners write it


def test_peaks_with_nan_become_orientations_on_their_own_grid(tmp_path: Path) -> None:
    folder = tmp_path / "derivatives" / "tractseg" / "sub-1" / "dwi"
    nifti.save(peaks(), folder / "sub-1_peaks.nii.gz")
    settings = TransferOptions(str(tmp_path), given=("manual", "tractseg"))
    found = ready_orientations(Patient("1"), settings)
    assert found is not None
    fod, grid = found
    assert fod.shape == (6, 5, 4, 45)
    assert grid.shape == (6, 5, 4)
    assert np.isfinite(fod).all()
    assert (np.abs(fod[:3]).sum(axis=-1) > 0).all()
    assert not fod[3:].any()
    assert ready_orientations(Patient("2"), settings) is None
    assert (
        ready_orientations(Patient("1"), TransferOptions(str(tmp_path))) is None
    )  # the pipeline must be named


def test_files_that_hold_no_orientation_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "derivatives" / "mine" / "sub-1"
    settings = TransferOptions(str(tmp_path), given=("mine",))
    nifti.save(Volume(np.full((4, 4, 4, 9), np.nan, np.float32), np.eye(4)), folder / "sub-1_peaks.nii.gz")
    with pytest.raises(InputRefused, match="no voxel holds a peak"):
        ready_orientations(Patient("1"), settings)
    nifti.save(Volume(np.ones((4, 4, 4, 8), np.float32), np.eye(4)), folder / "sub-1_peaks.nii.gz")
    with pytest.raises(InputRefused, match="3 per peak"):
        ready_orientations(Patient("1"), settings)
    (folder / "sub-1_peaks.nii.gz").unlink()
    nifti.save(Volume(np.ones((4, 4, 4, 44), np.float32), np.eye(4)), folder / "sub-1_wmfod.nii.gz")
    with pytest.raises(InputRefused, match="45"):
        ready_orientations(Patient("1"), settings)
