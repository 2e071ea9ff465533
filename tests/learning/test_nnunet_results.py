"""Result folders of nnU-Net become Models; a broken or hostile one is refused with a sentence."""

from __future__ import annotations

import copy
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ichnos import networks
from ichnos.errors import IchnosError, InputRefused
from ichnos.learning.nnunet.pickles import check_pickle
from ichnos.learning.nnunet.plans import plans_of
from ichnos.learning.nnunet.results import import_result_folder
from ichnos.networks.checkpoints import read_plain

ARGUMENTS = {"features_per_stage": [4, 8], "strides": [[1, 1, 1], [2, 2, 2]], "kernel_sizes": [[3, 3, 3]] * 2}
PLANS: dict[str, Any] = {
    "transpose_forward": [0, 1, 2],
    "original_median_spacing_after_transp": [5.0, 0.5, 0.5],
    "foreground_intensity_properties_per_channel": {
        "0": {"mean": 60.0, "std": 12.0, "percentile_00_5": 20.0, "percentile_99_5": 95.0}
    },
    "configurations": {
        "base": {
            "spacing": [5.0, 0.5, 0.5],
            "patch_size": [8, 16, 16],
            "normalization_schemes": ["CTNormalization"],
        },
        "3d_fullres": {
            "inherits_from": "base",
            "architecture": {
                "network_class_name": "ichnos.networks.nnunet.Anything",
                "arch_kwargs": ARGUMENTS,
                "_kw_requires_import": [],
            },
        },
    },
}
DATASET = {"labels": {"background": 0, "ich": 1}, "channel_names": {"0": "CT"}}


def result_folder(root: Path, change: Callable[[dict[str, Any]], None] = lambda plans: None) -> Path:
    """A folder as nnU-Net leaves it, with plans changed."""
    plans = copy.deepcopy(PLANS)
    change(plans)
    folder = root / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    network = networks.build(
        "unet",
        input_channels=1,
        num_classes=2,
        dim=3,
        n_conv_per_stage=[1, 1],
        n_conv_per_stage_decoder=[1],
        **ARGUMENTS,
    )
    init = {"plans": PLANS, "configuration": "3d_fullres"}
    content = {"network_weights": network.state_dict(), "init_args": init}
    torch.save(content, folder / "fold_0" / "checkpoint_final.pth")
    return folder


def test_a_result_folder_becomes_a_model(tmp_path: Path) -> None:
    model = import_result_folder(result_folder(tmp_path), tmp_path / "model")
    assert [t.name for t in model.manifest.targets] == ["ICH"]
    assert model.manifest.preprocessing.spacing_mm == (0.5, 0.5, 5.0)
    assert "see the original authors" in model.manifest.limits[0]


def _put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(plans: dict[str, Any]) -> None:
        *parents, leaf = path.split("/")
        branch = plans
        for parent in parents:
            branch = branch[parent]
        if value is ...:
            del branch[leaf]
        else:
            branch[leaf] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        _put("configurations/base/inherits_from", "3d_fullres"),
        _put("configurations/3d_fullres/inherits_from", "nowhere"),
        _put("configurations/base", []),
        _put("configurations/base/spacing", ...),
        _put("configurations/base/spacing", [5.0, float("nan"), 0.5]),
        _put("configurations/base/spacing", [5.0]),
        _put("configurations/base/patch_size", [10**9, 16, 16]),
        _put("configurations/base/patch_size", "large"),
        _put("configurations/base/normalization_schemes", ["ZScoreNormalization"]),
        _put("configurations/3d_fullres/architecture", 7),
        _put("transpose_forward", [0, 0, 1]),
        _put("transpose_forward", ...),
        _put("foreground_intensity_properties_per_channel", {}),
        _put("foreground_intensity_properties_per_channel/0/mean", "warm"),
        _put("original_median_spacing_after_transp", [0.0, 1.0, 1.0]),
    ],
)
def test_broken_plans_are_refused_with_a_sentence(
    change: Callable[[dict[str, Any]], None], tmp_path: Path
) -> None:
    with pytest.raises(IchnosError) as refused:
        import_result_folder(result_folder(tmp_path, change), tmp_path / "model")
    assert not (tmp_path / "model").exists()
    assert len(str(refused.value).split()) > 5


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "7", "[" * 100_000])
def test_files_that_are_no_plans_are_refused(text: str, tmp_path: Path) -> None:
    folder = result_folder(tmp_path)
    for name in ("plans.json", "dataset.json"):
        kept = (folder / name).read_text()
        (folder / name).write_text(text)
        with pytest.raises(InputRefused, match=name.replace(".", r"\.")):
            import_result_folder(folder, tmp_path / "model")
        (folder / name).write_text(kept)


def test_a_network_that_is_too_large_to_exist_takes_no_memory(tmp_path: Path) -> None:
    pytest.importorskip("dynamic_network_architectures")

    def plain(plans: dict[str, Any]) -> None:
        plans["configurations"]["3d_fullres"]["architecture"] = {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": 2,
                "features_per_stage": [10**6, 10**6],
                "conv_op": "torch.nn.Conv3d",
                "kernel_sizes": [[3, 3, 3]] * 2,
                "strides": [[1, 1, 1], [2, 2, 2]],
                "n_conv_per_stage": [1, 1],
                "n_conv_per_stage_decoder": [1],
            },
            "_kw_requires_import": ["conv_op"],
        }

    with pytest.raises(InputRefused, match="does not fit the network that its plans describe"):
        import_result_folder(result_folder(tmp_path, plain), tmp_path / "model")


class _Hostile:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


def test_code_in_a_checkpoint_or_in_preprocessed_data_is_never_run(tmp_path: Path) -> None:
    torch.save({"network_weights": _Hostile()}, tmp_path / "checkpoint_latest.pth")
    with pytest.raises(InputRefused, match="a pickle can run code"):
        read_plain(tmp_path / "checkpoint_latest.pth")
    (tmp_path / "case.pkl").write_bytes(pickle.dumps({"spacing": _Hostile()}))
    with pytest.raises(InputRefused, match="not plain data"):
        check_pickle(tmp_path / "case.pkl")
    import numpy as np

    plain = {"spacing": [np.float64(5.0), 0.5], "shape": (1, 2), "where": np.arange(3)}
    (tmp_path / "good.pkl").write_bytes(pickle.dumps(plain))
    check_pickle(tmp_path / "good.pkl")


def test_an_array_that_claims_to_be_huge_is_refused(tmp_path: Path) -> None:
    import numpy as np

    class _Huge:
        def __reduce__(self) -> Any:
            return np.ndarray, ((10**12,), np.dtype("float64"))

    torch.save({"network_weights": {}, "logging": _Huge()}, tmp_path / "huge.pth")
    with pytest.raises(InputRefused, match=r"cannot be read as a checkpoint|not plain data|plain data"):
        read_plain(tmp_path / "huge.pth")


def test_configurations_inherit_the_nearer_value() -> None:
    plans = copy.deepcopy(PLANS)
    plans["configurations"]["3d_fullres"]["spacing"] = [4.0, 1.0, 1.0]
    assert plans_of(plans, "3d_fullres", source="plans.json").configuration.spacing == [4.0, 1.0, 1.0]
    assert plans_of(plans, "base", source="plans.json").configuration.spacing == [5.0, 0.5, 0.5]
