"""The same cohort through the real nnU-Net, and back as a Model that our own inference runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.trainable_cohort import head, write_trainable_cohort
from ichnos.errors import InputRefused, UsageError
from ichnos.formats import nifti
from ichnos.formats.bids import TRUSTED_PIPELINES
from ichnos.inference import Predictor
from ichnos.learning.loop.resources import Resources
from ichnos.learning.nnunet.child import _fit
from ichnos.learning.nnunet.engine import (
    job_of,
    network_spec,
    preprocessing_of,
    train_nnunet,
)
from ichnos.learning.nnunet.raw_dataset import export
from ichnos.learning.nnunet.settings import NnunetSettings
from ichnos.learning.segmentation.folds import train_folds
from ichnos.learning.segmentation.target_files import target_specs
from ichnos.models import load_model
from ichnos.scan import Scan

pytest.importorskip("nnunetv2")

PLANS: dict[str, Any] = {
    "transpose_forward": [0, 1, 2],
    "original_median_spacing_after_transp": [5.0, 0.45, 0.5],
    "foreground_intensity_properties_per_channel": {
        "0": {"mean": 60.0, "std": 12.0, "percentile_00_5": 20.0, "percentile_99_5": 95.0}
    },
    "configurations": {
        "2d": {"spacing": [0.45, 0.5], "patch_size": [320, 256], "architecture": {"arch_kwargs": {"dim": 2}}},
        "3d_fullres": {
            "spacing": [5.0, 0.45, 0.5],
            "patch_size": [16, 320, 256],
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                "arch_kwargs": {"n_stages": 2},
                "_kw_requires_import": ["conv_op"],
            },
        },
    },
}


def test_what_nnunet_decided_is_written_in_our_terms() -> None:
    whole = preprocessing_of(PLANS, "3d_fullres")
    assert whole.spacing_mm == (0.5, 0.45, 5.0)
    assert whole.patch == (256, 320, 16)
    assert (whole.windows_hu, whole.z_score, whole.axes) == (((20.0, 95.0),), ((60.0, 12.0),), "zyx")
    assert preprocessing_of(PLANS, "2d").patch == (256, 320, 1)
    assert preprocessing_of(PLANS, "2d").spacing_mm == (0.5, 0.45, 5.0)
    turned = PLANS | {"transpose_forward": [2, 0, 1]}
    assert preprocessing_of(turned, "3d_fullres").axes == "xzy"
    with pytest.raises(InputRefused, match="slices across x, not across z"):
        preprocessing_of(turned, "2d")


def test_its_networks_and_ours_are_rebuilt_by_name() -> None:
    spec, prefix = network_spec(PLANS, NnunetSettings(targets=()), classes=3)
    assert (spec.name, prefix, spec.arguments["dim"], spec.arguments["num_classes"]) == (
        "planned",
        "network.",
        3,
        3,
    )
    spec, prefix = network_spec(
        PLANS, NnunetSettings(targets=(), network="umamba_bot", configuration="2d"), classes=2
    )
    assert (spec.name, prefix, spec.arguments["dim"]) == ("umamba_bot", "", 2)
    with pytest.raises(UsageError, match="network = 'vit': Input should be 'plain'"):
        NnunetSettings(targets=()).changed(network="vit")


def test_another_patch_gets_the_topology_that_nnunet_derives_from_it() -> None:
    planned = {
        "features_per_stage": [32, 64],
        "n_stages": 2,
        "n_conv_per_stage": [2, 2],
        "n_conv_per_stage_decoder": [2],
    }
    chosen = {
        "spacing": [5.0, 0.45, 0.5],
        "patch_size": [16, 320, 256],
        "architecture": {"arch_kwargs": planned | {"strides": [], "kernel_sizes": []}},
    }
    plans = {"transpose_forward": [0, 1, 2], "configurations": {"3d_fullres": chosen}}
    _fit(plans, "3d_fullres", [16, 90, 96], [5.0, 1.5, 1.5])
    assert chosen["spacing"] == [5.0, 1.5, 1.5]
    assert chosen["patch_size"] == [16, 96, 96], "90 cannot be halved often enough, so nnU-Net rounds it up"
    fitted = chosen["architecture"]["arch_kwargs"]  # type: ignore[index]
    assert (
        fitted["n_stages"]
        == len(fitted["strides"])
        == len(fitted["kernel_sizes"])
        == len(fitted["features_per_stage"])
        == 5
    )
    assert np.prod(fitted["strides"], axis=0).tolist() == [4, 16, 16]
    assert fitted["kernel_sizes"][0] == [1, 3, 3], "across thick slices it does not reach"
    assert fitted["n_conv_per_stage_decoder"] == [2] * 4
    with pytest.raises(UsageError, match="three positive numbers"):
        job_of(NnunetSettings(targets=(), patch="64,64"), Path(), {"labels": {}}, Resources())


def test_targets_apart_become_labels_and_targets_that_overlap_become_regions(tmp_path: Path) -> None:
    cohort = write_trainable_cohort(
        tmp_path / "cohort", ("train", "train", "validation", "test"), without_tract=(1,)
    )
    apart = export(
        cohort, NnunetSettings(targets=target_specs("ICH,tract")), tmp_path / "apart", TRUSTED_PIPELINES
    )
    assert apart["labels"] == {"ICH": [1], "tract_left": [2], "tract_right": [3]}
    assert apart["patients"] == [
        "00",
        "02",
    ], "whom a target is not known of is left out, and so is the test split"
    raw = tmp_path / "apart" / "nnUNet_raw" / "Dataset001_Cohort"
    assert json.loads((raw / "splits_final.json").read_text()) == [{"train": ["00"], "val": ["02"]}]
    drawn = nifti.load(raw / "labelsTr" / "00.nii.gz")
    assert drawn.orientation == "RAS"
    assert set(np.unique(drawn.array)) == {0, 1, 2, 3}
    whole = cohort.root
    assert whole is not None
    _, blood, tract = head(0)
    both = tract.with_array(np.where(blood.array > 0, 1, tract.array))
    for number in ("00", "02"):
        nifti.save(both, cohort.patients[int(number)].targets["tract"])
    crossing = export(
        cohort,
        NnunetSettings(targets=target_specs("ICH,tract_left,tract_right")),
        tmp_path / "crossing",
        TRUSTED_PIPELINES,
    )
    described = json.loads(
        (tmp_path / "crossing" / "nnUNet_raw" / "Dataset001_Cohort" / "dataset.json").read_text()
    )
    shared = set(crossing["labels"]["ICH"]) & set(crossing["labels"]["tract_left"])
    assert len(shared) == 1
    assert described["regions_class_order"] == [1, 2, 3]
    with pytest.raises(InputRefused, match="no patient of the split 'train' has all of leukoaraiosis"):
        export(
            cohort,
            NnunetSettings(targets=target_specs("leukoaraiosis")),
            tmp_path / "none",
            TRUSTED_PIPELINES,
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "configuration"), [("plain", "3d_fullres"), ("umamba_bot", "3d_fullres"), ("resenc_m", "2d")]
)
def test_nnunet_trains_and_our_inference_reads_as_its_predictor_does(
    network: str, configuration: str, tmp_path: Path
) -> None:
    cohort = write_trainable_cohort(tmp_path / "cohort", ("train", "train", "validation"))
    patch = "16,16,16" if configuration == "3d_fullres" else "32,32,1"
    plan = NnunetSettings(
        targets=target_specs("ICH,tract"),
        network=network,
        configuration=configuration,
        epochs=1,
        iterations=3,
        width=4,
        batch=2,
        patch=patch,
        mirrored=False,
    )
    model = train_nnunet(cohort, tmp_path / "model", plan, work=tmp_path / "work")
    assert model.manifest.activation == "softmax"
    assert set(model.manifest.provenance.validation) <= {"dice_ICH", "dice_tract_left", "dice_tract_right"}
    ct, _, _ = head(5)
    ours = Predictor(model, backend="torch")(Scan(ct))
    theirs = _their_probabilities(tmp_path / "work", ct.array, ct.spacing_mm)
    grid = ours.grid.box.slices
    for channel, name in enumerate(("ICH", "tract_left", "tract_right"), start=1):
        difference = np.abs(ours.probability(name).array[grid] - theirs[channel].transpose(2, 1, 0)[grid])
        assert difference.mean() < 0.02, f"{name}: mean difference {difference.mean():.4f}"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_folds_of_nnunet_become_one_model_that_averages_them(tmp_path: Path) -> None:
    cohort = write_trainable_cohort(tmp_path / "cohort", ("train",) * 3)
    plan = NnunetSettings(targets=target_specs("ICH,tract")).changed(
        epochs=1, iterations=3, width=4, batch=2, patch="16,16,16", mirrored=False
    )
    work = tmp_path / "work"
    model = train_folds(cohort, tmp_path / "model", plan, 2, work=work, engine=train_nnunet)
    assert (model.manifest.activation, model.manifest.network.arguments["softmax"]) == ("softmax", True)
    scan = Scan(head(5)[0])
    members = [load_model(work / f"fold-{k}" / "model") for k in range(2)]
    each = [Predictor(m, backend="torch")(scan).probability("ICH").array for m in members]
    whole = Predictor(model, backend="torch")(scan).probability("ICH").array
    apart = np.abs(each[0] - each[1]).mean()  # three iterations change little
    assert np.abs(whole - np.mean(each, axis=0)).mean() < 0.05 * apart  # tiles are blended as logits


def _their_probabilities(work: Path, array: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Ask nnU-Net's own predictor, in its own process."""
    import os
    import subprocess
    import sys

    script = work / "ask.py"
    np.save(work / "scan.npy", array.transpose(2, 1, 0)[None].astype(np.float32))
    script.write_text(
        "import json, sys, warnings; warnings.simplefilter('ignore')\nimport numpy as np, torch;"
        " torch.set_num_threads(1)\nfrom ichnos.networks.nnunet import prepare; prepare()\nfrom"
        " nnunetv2.inference.predict_from_raw_data import nnUNetPredictor\nwork = sys.argv[1]\np ="
        " nnUNetPredictor(use_mirroring=False, device=torch.device('cpu'),"
        " allow_tqdm=False)\np.initialize_from_trained_model_folder(json.load(open(work +"
        " '/trained.json'))['output'], (0,), 'checkpoint_final.pth')\n_, q ="
        " p.predict_single_npy_array(np.load(work + '/scan.npy'), {'spacing': json.loads(sys.argv[2])}, None,"
        " None, True)\nnp.save(work + '/theirs.npy', q)\n"
    )
    folders = {name: str(work / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    environment = {**os.environ, **folders, "nnUNet_def_n_proc": "1", "nnUNet_compile": "f"}
    spacing = json.dumps(list(spacing_mm[::-1]))
    done = subprocess.run(
        [sys.executable, str(script), str(work), spacing], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return np.asarray(np.load(work / "theirs.npy"), np.float32)
