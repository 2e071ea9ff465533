"""Classifiers of expansion: they learn what can be learnt, go on to the same numbers, balance as their arm
says, and refuse leakage.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ichnos import networks
from ichnos.errors import InputRefused, UsageError
from ichnos.evidence.metrics.discrimination import auc
from ichnos.inference.crops import haematoma_region, published_slices
from ichnos.learning.expansion.classifier import check_examples, train_classifier
from ichnos.learning.expansion.ensemble import load_classifier, save_classifier, train_ensemble
from ichnos.learning.expansion.examples import ImageExample
from ichnos.learning.expansion.settings import (
    CURVE,
    ClassifierSettings,
    published_classifier,
    region_classifier,
)
from ichnos.learning.loop.resources import Resources
from ichnos.learning.loop.settings import LoopSettings, changed
from ichnos.learning.loop.steps import Loss, Progress, Step
from ichnos.learning.loop.training import train
from ichnos.models import NetworkSpec
from ichnos.volume import Volume

TINY = NetworkSpec(
    name="vit",
    arguments={
        "image_size": [16, 16],
        "patch_size": 8,
        "input_channels": 2,
        "width": 16,
        "depth": 1,
        "heads": 2,
    },
)


def examples(n: int, *, seed: int = 0, share: float = 0.3, prefix: str = "p") -> list[ImageExample]:
    """Patients of whom the expanded have a brighter middle."""
    rng = np.random.default_rng(seed)
    made = []
    for k in range(n):
        outcome = float(k < share * n)
        image = rng.normal(0, 0.4, (2, 16, 16)).astype(np.float32)
        image[:, 4:12, 4:12] += 0.5 * outcome
        made.append(ImageExample(f"{prefix}{k}", image, outcome, "train"))
    return made


def recipe(**changes) -> ClassifierSettings:  # type: ignore[no-untyped-def]
    how = {"steps": 40, "batch": 16, "learning_rate": 3e-3, **changes}
    return changed(ClassifierSettings(network=TINY), how)


def test_an_ensemble_tells_new_patients_apart_and_is_calibrated_to_the_true_prevalence(tmp_path) -> None:  # type: ignore[no-untyped-def]
    balanced = recipe(arm="oversample", others_per_expanded=1)
    classifier = train_ensemble(examples(60), balanced, tmp_path, folds=2)
    new = examples(60, seed=1, prefix="n")
    risk = classifier(new)
    truth = {e.patient: e.outcome for e in new}
    assert auc([truth[p] for p in risk], list(risk.values())).value > 0.85
    assert np.mean(list(risk.values())) == pytest.approx(
        0.3, abs=0.12
    )  # balanced in training, yet not overstated
    assert len(classifier.out_of_fold) == 60
    assert (tmp_path / "classifier.json").is_file()


def test_the_curve_of_the_patients_left_out_is_written_and_chooses_nothing(tmp_path) -> None:  # type: ignore[no-untyped-def]
    given = examples(40)
    watched = recipe(validations=4)
    found = train_ensemble(given, watched, tmp_path / "watched", folds=2)
    plain = train_ensemble(given, recipe(), tmp_path / "plain", folds=2)
    lines = (tmp_path / "watched" / "fold-0" / CURVE).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["step"] for row in rows] == [10, 20, 30, 40]
    assert rows[-1]["auc"] > rows[0]["auc"] - 0.1
    assert rows[-1]["log_loss"] < rows[0]["log_loss"]
    assert found.out_of_fold == pytest.approx(plain.out_of_fold), "the last network is kept, as without it"
    assert not (tmp_path / "plain" / "fold-0" / CURVE).exists()


def test_an_ensemble_becomes_a_model_that_says_the_same(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    from ichnos.cli.main import run
    from ichnos.inference import Predictor

    with_tokens = NetworkSpec(name="vit", arguments={**TINY.arguments, "clinical_features": 2})
    how = recipe(steps=4).model_copy(update={"network": with_tokens})
    some = [replace(e, features=(float(k), math.nan if k % 3 else 1.0)) for k, e in enumerate(examples(24))]
    trained = train_ensemble(some, how, tmp_path / "work", folds=2)
    folder = tmp_path / "model"
    model = save_classifier(trained, how, folder, data={"cohort": "0" * 64}, validation={"auc": 0.7})
    again = load_classifier(folder)
    assert again(some) == pytest.approx(trained(some), abs=1e-6)
    assert {file.name for file in folder.iterdir()} == {"model.safetensors", "model.json", "CARD.md"}
    assert "one probability per patient" in (folder / "CARD.md").read_text(encoding="utf-8")
    assert "p3" not in (folder / "model.json").read_text(encoding="utf-8"), "patients are not named"
    assert run(["models", "verify", str(folder)]) == 0
    assert "files verified" in capsys.readouterr().out
    with pytest.raises(InputRefused, match="one number per patient"):
        Predictor(model)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(InputRefused, match="damaged or was exchanged"):
        load_classifier(folder)


def test_a_training_that_was_stopped_goes_on_to_the_same_numbers(tmp_path) -> None:  # type: ignore[no-untyped-def]
    whole, _ = train_classifier(examples(20), recipe(steps=6), tmp_path / "whole")
    stopped = False

    def stop(progress: Progress) -> None:
        nonlocal stopped
        if progress.step == 3 and not stopped:
            stopped = True
            raise KeyboardInterrupt

    how = LoopSettings(steps=6, warm_up_steps=2, validations=0)
    x = torch.ones(2, 2, 16, 16)

    def loss_of(network: torch.nn.Module, step: Step) -> Loss:
        return Loss(((network(x * step.number) - 1) ** 2).mean())

    with pytest.raises(KeyboardInterrupt):
        train(TINY, how, loss_of, tmp_path / "b", resources=Resources(report=stop, checkpoint_every_s=-1))
    resumed = train(TINY, how, loss_of, tmp_path / "b")
    straight = train(TINY, how, loss_of, tmp_path / "a")
    for a, b in zip(resumed.parameters(), straight.parameters(), strict=True):
        assert torch.equal(a, b)
    again, _ = train_classifier(examples(20), recipe(steps=6), tmp_path / "whole")  # nothing left to do
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    with pytest.raises(UsageError, match="other settings"):
        train_classifier(examples(20, seed=3), recipe(steps=6), tmp_path / "whole")


@pytest.mark.parametrize("arm", ["weight", "focal"])
def test_weighted_arms_raise_the_risk_of_the_rarer_class(arm: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    noise = [replace(e, image=np.zeros_like(e.image)) for e in examples(40, share=0.2)]

    def mean_risk(how: ClassifierSettings, name: str) -> float:
        network, _ = train_classifier(noise, how, tmp_path / name)
        with torch.no_grad():
            return float(torch.softmax(network(torch.zeros(1, 2, 16, 16)), 1)[0, 1])

    assert mean_risk(recipe(), "as is") < 0.35
    assert mean_risk(recipe(arm=arm, others_per_expanded=1), arm) == pytest.approx(0.5, abs=0.12)


def test_what_nothing_honest_can_be_learnt_from_is_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    some = examples(20)
    with pytest.raises(InputRefused, match="0 expanded of 14 patients"):
        check_examples([e for e in some if not e.outcome])
    with pytest.raises(InputRefused, match="held out: p3"):
        check_examples(some, [some[3]])
    copy = ImageExample("", some[0].image, 1.0, sources=("x1",))
    with pytest.raises(InputRefused, match="held out: x1"):
        check_examples([*some, copy], [replace(some[0], patient="x1")])
    broken = replace(some[2], image=np.full((2, 16, 16), np.nan, np.float32))
    with pytest.raises(InputRefused, match="hold NaN"):
        check_examples([*some[:2], broken, *some[3:]])
    with pytest.raises(UsageError, match="needs synthetic images"):
        train_classifier(some, recipe(arm="synthesis"), tmp_path)
    with pytest.raises(UsageError, match="may not see"):
        train_classifier([*some, copy], recipe(), tmp_path)
    with pytest.raises(InputRefused, match="folds need at least"):
        train_ensemble(some[:8], recipe(), tmp_path, folds=5)


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(tmp_path) -> None:  # type: ignore[no-untyped-def]
    how = LoopSettings(steps=4, validations=0)
    x = torch.zeros(1, 2, 16, 16)

    def loss_of(network: torch.nn.Module, step: Step) -> Loss:
        return Loss(network(x).sum() * (float("nan") if step.number == 2 else 1.0))

    with pytest.raises(InputRefused, match="not finite at step 2"):
        train(TINY, how, loss_of, tmp_path, resources=Resources(checkpoint_every_s=-1))
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 2


def bleed(radius_mm: float) -> tuple[Volume, Volume, Volume]:
    affine = np.diag([1.0, 1.0, 5.0, 1.0])
    at = np.stack(
        np.meshgrid(np.arange(80) - 40.0, np.arange(80) - 40.0, 5.0 * (np.arange(16) - 8), indexing="ij")
    )
    mask = Volume((at**2).sum(0) <= radius_mm**2, affine)
    return mask.with_array(np.where(mask.array, 65.0, 30.0)), mask, mask.map_array(np.zeros_like)


def test_the_published_crop_loses_the_size_and_ours_keeps_it() -> None:
    shares = []
    for radius in (8.0, 20.0):
        hu, ich, ivh = bleed(radius)
        slices = published_slices(hu, ich, size=32)
        assert len(slices) == 3
        assert slices[1].shape == (3, 32, 32)
        ours = haematoma_region(hu, ich, ivh)
        assert ours.shape == (4, 48, 48, 24)
        shares.append((float((slices[1] > 0).mean()), float((ours[2] > 0).mean())))
    (small_crop, small), (large_crop, large) = shares
    assert large_crop == pytest.approx(small_crop, abs=0.08)
    assert large > 8 * small
    assert published_classifier(steps=1).network.arguments["image_size"] == [224, 224]
    assert region_classifier(steps=1, features=3).network.arguments["clinical_features"] == 3


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_a_classifier_starts_from_standard_vit_weights(ending: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    from safetensors.torch import save_file

    torch.manual_seed(5)
    state = networks.build("vit", **TINY.arguments).state_dict()
    file = tmp_path / f"vit{ending}"
    save_file(state, str(file)) if ending == ".safetensors" else torch.save(state, file)
    how = recipe(steps=1, learning_rate=1e-12, ema_decay=0.0, vit_weights=str(file))
    network, _ = train_classifier(examples(20), how, tmp_path / "work")
    for name, value in network.state_dict().items():
        assert torch.allclose(value, state[name], atol=1e-6), name
