"""nnU-Net's plans, datasets and pickles: read in our terms, and refused where they cannot be."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ichnos.errors import InputRefused
from ichnos.learning.nnunet.pickles import check_pickle
from ichnos.learning.nnunet.plans import dataset_of, plans_of, read_object


def _plans(**changed: Any) -> dict[str, Any]:
    return {
        "transpose_forward": [0, 1, 2],
        "original_median_spacing_after_transp": [5.0, 0.5, 0.5],
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 40.0, "std": 9.0, "percentile_00_5": 5.0, "percentile_99_5": 80.0}
        },
        "configurations": {
            "base": {"patch_size": [16, 128, 96]},
            "3d_fullres": {"inherits_from": "base", "spacing": [5.0, 0.5, 0.4]},
            "2d": {"spacing": [0.5, 0.4], "patch_size": [128, 96]},
        },
    } | changed


def test_axes_of_plans_become_ours() -> None:
    how = plans_of(_plans(), "3d_fullres", source="plans.json").preprocessing("3d_fullres")
    assert how.spacing_mm == (0.4, 0.5, 5.0)
    assert how.patch == (96, 128, 16)
    assert how.windows_hu == ((5.0, 80.0),)
    assert how.z_score == ((40.0, 9.0),)


def test_plans_of_slices_get_a_slice_and_its_distance() -> None:
    how = plans_of(_plans(), "2d", source="plans.json").preprocessing("2d")
    assert (how.patch, how.spacing_mm) == ((96, 128, 1), (0.4, 0.5, 5.0))


def test_slices_across_another_axis_are_refused() -> None:
    plans = plans_of(_plans(transpose_forward=[1, 0, 2]), "2d", source="plans.json")
    with pytest.raises(InputRefused, match="nnU-Net planned slices across y, not across z"):
        plans.preprocessing("2d")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"transpose_forward": [0, 0, 2]}, "is no order of three axes"),
        ({"foreground_intensity_properties_per_channel": {}}, "no intensities of channel 0"),
        ({"configurations": {}}, "it has no configuration '3d_fullres'"),
        ({"configurations": {"3d_fullres": {"spacing": [0.0, 1, 1], "patch_size": [8, 8, 8]}}}, "spacing"),
        ({"configurations": {"3d_fullres": {"spacing": [1, 1, 1], "patch_size": [8, 8, 0]}}}, "patch_size"),
    ],
)
def test_plans_that_cannot_be_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputRefused, match=f"plans.json cannot be used: .*{message}"):
        plans_of(_plans(**changed), "3d_fullres", source="plans.json")


def test_datasets_of_the_first_version_name_their_channels_too() -> None:
    old = dataset_of({"labels": {"ICH": 1}, "modality": {"0": "CT"}}, source="dataset.json")
    new = dataset_of({"labels": {"ICH": 1}, "channel_names": {"0": "CT"}}, source="dataset.json")
    assert old == new


def test_a_folder_without_its_file_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match=r"is no result folder of nnU-Net: it has no plans\.json"):
        read_object(tmp_path / "plans.json")
    (tmp_path / "plans.json").write_text("[1, 2]")
    with pytest.raises(InputRefused, match="holds no JSON object"):
        read_object(tmp_path / "plans.json")


@pytest.mark.parametrize("content", [{"spacing": [1.0, 2.0]}, [1, "two", None], np.arange(3)])
def test_plain_pickles_pass(content: Any, tmp_path: Path) -> None:
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(content))
    check_pickle(tmp_path / "plain.pkl")


@pytest.mark.parametrize("content", [Path("x"), eval, replace])
def test_pickles_of_programs_are_refused(content: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(InputRefused, match="which is not plain data; remove the training's folder"):
        check_pickle(tmp_path / "bad.pkl")
