"""The refinement sees the scan finer than the network before it, and begins by changing nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit

from ichnos import networks
from ichnos.errors import InputRefused
from ichnos.inference import Predictor
from ichnos.inference.refine import calibrated, refiner_input, region_of, slices_of
from ichnos.models import (
    LOGIT_UNIT,
    Manifest,
    Model,
    NetworkSpec,
    Preprocessing,
    Provenance,
    TargetSpec,
    load_model,
    save_model,
)
from ichnos.models.store import REFINEMENT, WEIGHTS
from ichnos.scan import Scan
from ichnos.volume import Box, Volume

NAMES = ("brain", "ventricles", "ICH")
WINDOWS = ((-20.0, 100.0), (-1000.0, 1000.0))
SHAPE = {"features_per_stage": [4, 8], "strides": [1, 2], "kernel_sizes": 3}


def provenance() -> Provenance:
    return Provenance(
        code_version="0", command="none", seeds=(0,), steps=0, data={}, hardware="none", trained="2026-01-01"
    )


def scan(thickness_mm: float = 5.0) -> Scan:
    hu = np.full((90, 100, round(150 / thickness_mm)), -1000, np.int16)
    hu[10:80, 10:90, 2:-2] = 35
    hu[30:45, 40:60, 8:16] = 70
    hu[:, :, 4:8] += np.random.default_rng(0).integers(0, 5, (90, 100, 4), dtype=np.int16)
    return Scan(Volume(hu, np.diag([2.0, 2.0, thickness_mm, 1.0])))


def saved(folder: Path, *, with_refinement: bool = True, bias: float = 0.0) -> Model:
    """Save a network of random weights, and a refinement that adds `bias` to each logit."""
    torch.manual_seed(0)
    first = NetworkSpec(
        name="unet",
        arguments={
            "input_channels": 2,
            "num_classes": 3,
            "dim": 3,
            "n_conv_per_stage": 1,
            "n_conv_per_stage_decoder": 1,
            **SHAPE,
        },
    )
    told = Manifest(
        name="first",
        version="1",
        limits=("Random weights.",),
        network=first,
        preprocessing=Preprocessing(spacing_mm=(6, 6, 6), windows_hu=WINDOWS, patch=(16, 16, 16)),
        targets=tuple(TargetSpec(name=name) for name in NAMES),
        provenance=provenance(),
    )
    model = save_model(folder, networks.build(first.name, **first.arguments), told)
    if with_refinement:
        spec = NetworkSpec(
            name="refiner",
            arguments={
                "input_channels": 7,
                "num_classes": 3,
                "first_logits": 2,
                "logit_unit": LOGIT_UNIT,
                **SHAPE,
            },
        )
        network = networks.build(spec.name, **spec.arguments)
        torch.nn.init.constant_(network.body.decoder.seg_layers[-1].bias, bias)  # type: ignore[union-attr,index,arg-type]
        finer = told.model_copy(
            update={
                "name": "second",
                "network": spec,
                "refines": model.manifest.weights_sha256,
                "preprocessing": Preprocessing(spacing_mm=(3, 3, 3), windows_hu=WINDOWS, patch=(16, 16, 8)),
                "targets": tuple(TargetSpec(name=name, threshold=0.4) for name in NAMES),
            }
        )
        save_model(folder / REFINEMENT, network, finer)
    return load_model(folder)


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_a_refinement_that_has_learnt_nothing_changes_nothing_but_the_operating_point(
    tmp_path: Path, backend: str
) -> None:
    model = saved(tmp_path / "m")
    plain = Predictor(model, backend=backend, threads=1, refine=False)(scan())  # type: ignore[arg-type]
    both = Predictor(model, backend=backend, threads=1)(scan())  # type: ignore[arg-type]
    assert not plain.refines("ICH")
    assert both.refines("ICH")
    assert (plain.threshold("ICH"), both.threshold("ICH")) == (0.5, 0.4)
    assert (plain.probabilities == both.probabilities).all()
    assert both.refined is not None
    # logits, not probabilities, are brought to the finer grid
    look = refiner_input(plain, NAMES, (3.0, 3.0, 3.0))
    inside = (slice(None), *region_of(look.logits, NAMES).slices)
    found, said = both.refined.probabilities[inside], expit(look.logits[inside])
    assert min(channel.std() for channel in said) > 0.01
    assert np.abs(found - said).max() < (1e-5 if backend == "torch" else 0.02), "OpenVINO may compute in bf16"
    assert both.mask("ICH").array.sum() >= plain.mask("ICH").array.sum()


def test_what_the_refinement_says_is_what_is_read(tmp_path: Path) -> None:
    model = saved(tmp_path / "m", bias=20.0)
    prediction = Predictor(model, backend="torch")(scan())
    look = refiner_input(Predictor(model, backend="torch", refine=False)(scan()), NAMES, (3, 3, 3))
    assert look.grid.shape[2] == scan().volume.shape[2]  # slices of 5 mm stay whole
    assert prediction.refined is not None
    assert prediction.probability("ICH").array[45, 50, 15] > 0.99
    again = Predictor(model, backend="torch")(scan())
    assert again.refined is not None
    assert (prediction.refined.probabilities == again.refined.probabilities).all()


def test_only_where_brain_is_possible_there_is_anything_to_refine() -> None:
    logits = np.full((3, 40, 40, 20), -7.0, np.float32)
    logits[2] = 7.0
    assert region_of(logits, NAMES).stop == (40, 40, 20)  # no brain at all: everywhere
    logits[0, 12:20, 3:30, 8:12], logits[1, 15:25, 10, 10] = 3.0, 3.0
    assert region_of(logits, NAMES) == Box((7, 0, 3), (30, 35, 17))


def test_the_scanners_zero_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    hu, logits = (
        rng.normal(31, 4, (20, 20, 10)).astype(np.float32),
        np.full((3, 20, 20, 10), -5.0, np.float32),
    )
    logits[0], hu[:6] = 5.0, 65.0
    logits[2, :6] = 5.0  # a clot is no tissue to calibrate with
    found = calibrated(hu, logits, NAMES)
    assert np.median(found[6:]) == pytest.approx(34.0, abs=0.01)
    assert calibrated(hu - 8, logits, NAMES) == pytest.approx(found, abs=1e-4)
    assert (calibrated(hu, -np.abs(logits), NAMES) == hu).all()


@pytest.mark.parametrize(
    ("step_mm", "wanted_mm"), [(0.625, 3.125), (1.0, 3.0), (2.5, 2.5), (5.0, 5.0), (8.0, 8.0)]
)
def test_slices_are_averaged_whole_and_never_divided(step_mm: float, wanted_mm: float) -> None:
    volume = Volume(np.zeros((4, 4, 4), np.int16), np.diag([0.5, 0.5, step_mm, 1.0]))
    assert slices_of(volume, (1.5, 1.5, 3.0)) == pytest.approx((1.5, 1.5, wanted_mm))


def test_a_refinement_of_other_weights_is_refused_and_so_is_one_alone(tmp_path: Path) -> None:
    model = saved(tmp_path / "m")
    torch.manual_seed(1)
    other = networks.build(model.manifest.network.name, **model.manifest.network.arguments)
    kept = (tmp_path / "m" / REFINEMENT).rename(tmp_path / "kept")
    save_model(tmp_path / "m", other, model.manifest)
    kept.rename(tmp_path / "m" / REFINEMENT)
    with pytest.raises(InputRefused, match="corrects the weights"):
        Predictor(load_model(tmp_path / "m"))
    with pytest.raises(InputRefused, match="corrects what another one says"):
        Predictor(load_model(tmp_path / "m" / REFINEMENT))


def test_a_damaged_refinement_is_refused(tmp_path: Path) -> None:
    model = saved(tmp_path / "m")
    file = model.folder / REFINEMENT / WEIGHTS
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(InputRefused, match="damaged or was exchanged"):
        Predictor(model)
    assert Predictor(model, refine=False).refinement is None
