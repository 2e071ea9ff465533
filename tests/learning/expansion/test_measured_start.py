"""A classifier's start on measures: it learns what the slices show, and classifiers take its weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ichnos.learning.expansion.classifier import train_classifier
from ichnos.learning.expansion.examples import ImageExample
from ichnos.learning.expansion.measured_start import START, measured_start
from ichnos.learning.expansion.settings import ClassifierLoop, published_classifier
from ichnos.learning.loop.resources import Resources
from ichnos.learning.loop.settings import changed
from ichnos.networks.checkpoints import read_weights

HOW = published_classifier(size=16, small=True, steps=1)
LOOP = changed(ClassifierLoop(), {"steps": 60, "batch": 16, "learning_rate": 2e-3, "precision": "fp32"})


def examples() -> list[ImageExample]:
    """Return forty slices whose brightness is the first measure; the second is not known of every other."""
    rng = np.random.default_rng(0)
    made = []
    for k in range(40):
        bright = float(rng.uniform(-0.8, 0.8))
        image = np.full((3, 16, 16), bright, np.float32)
        features = (bright, float("nan") if k % 2 else 1.0)
        made.append(ImageExample(str(k), image, float(k % 3 == 0), features=features))
    return made


def test_it_learns_to_tell_what_was_measured(tmp_path: Path) -> None:
    losses: list[float] = []
    resources = Resources(report=lambda progress: losses.append(progress.loss))
    measured_start(examples(), HOW.network, LOOP, tmp_path, resources=resources)
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])


def test_a_classifier_starts_from_its_weights_and_keeps_its_own_head(tmp_path: Path) -> None:
    file = measured_start(examples(), HOW.network, changed(LOOP, {"steps": 2}), tmp_path / "start")
    assert file.name == START
    start = read_weights(file)
    assert not [name for name in start if name.startswith("head.")], "two classes are no measures"
    still = changed(HOW, {"vit_weights": str(file), "learning_rate": 1e-12, "weight_decay": 0.0})
    slices = [ImageExample(e.patient, e.image, e.outcome) for e in examples()]
    network, _ = train_classifier(slices, still, tmp_path / "classifier")
    torch.testing.assert_close(network.state_dict()["pos_embed"], start["pos_embed"])


def test_the_same_call_gives_the_same_weights_and_outcomes_play_no_part(tmp_path: Path) -> None:
    loop = changed(LOOP, {"steps": 3})
    first = read_weights(measured_start(examples(), HOW.network, loop, tmp_path / "a"))
    turned = [ImageExample(e.patient, e.image, 1 - e.outcome, features=e.features) for e in examples()]
    second = read_weights(measured_start(turned, HOW.network, loop, tmp_path / "b"))
    assert all(torch.equal(first[name], second[name]) for name in first)
