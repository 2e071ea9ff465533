"""Masks → region → classifier → P(expansion): trained from a cohort, read from a scan."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from builders.growing_cohort import small_classifier, write_growing_cohort
from builders.readable_head import head, model, rule
from builders.simulated import as_simulated
from builders.tiny_model import tiny_model
from ichnos.cohort import SIMULATED_ONLY, Cohort
from ichnos.errors import InputRefused, UsageError
from ichnos.inference import Predictor
from ichnos.inference.expansion import classifier_beside, expansion_classifier
from ichnos.learning.expansion import chain
from ichnos.learning.expansion.chain import FEATURES, chosen_classifier, extract, train_expansion
from ichnos.learning.expansion.settings import ExpansionSettings
from ichnos.learning.loop.resources import Resources
from ichnos.models import load_model
from ichnos.reading import read_scan


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    splits = ("train",) * 8 + ("validation",)
    return write_growing_cohort(tmp_path_factory.mktemp("growing"), splits)


def test_a_trained_chain_reads_a_scan_with_its_own_probability(cohort: Cohort, tmp_path: Path) -> None:
    reader = tiny_model(tmp_path / "reader")
    settings = ExpansionSettings(
        reader=str(reader.folder), masks="outlines", folds=2, classifier=small_classifier()
    )
    trained = train_expansion(cohort, tmp_path / "model", settings, work=tmp_path / "work")
    assert trained.manifest.weights_sha256 == reader.manifest.weights_sha256, "it reads as the reader does"
    found = classifier_beside(load_model(tmp_path / "model"))
    assert found is not None
    assert found.feature_names == FEATURES
    identity = trained.all_weights()
    assert identity == f"{reader.all_weights()}+{found.model.manifest.weights_sha256}", (
        "readings are made anew"
    )
    assert "AUC out of fold" in found.model.manifest.provenance.validation
    record = read_scan(head(), Predictor(replace(model(), folder=tmp_path / "model"), backend=rule)).record
    measure = record.finding("expansion").measure("expansion_probability")
    assert measure.value is not None
    assert 0 <= measure.value <= 100
    assert "image classifier" in measure.label
    none = read_scan(head(clot=False), Predictor(replace(model(), folder=tmp_path / "model"), backend=rule))
    assert none.record.finding("expansion").status == "none found"
    images = sorted((tmp_path / "work" / "images").glob("*.npz"))
    listed = (tmp_path / "work" / "training.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert len(images) == len(listed) == 8, "the split validation is kept for an evaluation's threshold"
    stamps = [file.stat().st_mtime_ns for file in images]
    with as_simulated(cohort):
        train_expansion(cohort, tmp_path / "again", settings, work=tmp_path / "work")
    assert [file.stat().st_mtime_ns for file in images] == stamps, "no patient is read twice"
    first, again = (expansion_classifier(tmp_path / name / "expansion").model for name in ("model", "again"))
    assert first.manifest.weights_sha256 == again.manifest.weights_sha256
    _says_where_it_comes_from(tmp_path / "again")
    assert SIMULATED_ONLY not in first.manifest.limits
    assert not any("lassifier" in limit for limit in record.limits if SIMULATED_ONLY in limit)
    assert "trained on simulated" not in record.finding("expansion").sentence


def _says_where_it_comes_from(folder: Path) -> None:
    """A classifier that was trained on simulated patients says so in its card and in every reading."""
    assert f"- {SIMULATED_ONLY}" in (folder / "expansion" / "CARD.md").read_text(encoding="utf-8")
    predictor = Predictor(replace(model(), folder=folder), backend=rule)
    record = read_scan(head(), predictor).record
    assert f"Classifier of expansion: {SIMULATED_ONLY}" in record.limits
    assert "The classifier was trained on simulated patients." in record.finding("expansion").sentence
    blood_only = read_scan(head(), predictor, only=["haematoma"]).record
    assert not any("Classifier of expansion" in limit for limit in blood_only.limits)


def test_the_published_design_under_small_takes_a_start(cohort: Cohort, tmp_path: Path) -> None:
    reader = tiny_model(tmp_path / "reader")
    settings = ExpansionSettings(reader=str(reader.folder), masks="outlines", folds=2, design="published")
    train_expansion(cohort, tmp_path / "model", settings, work=tmp_path / "work")
    assert (tmp_path / "work" / "start" / "start.pt").is_file()
    model = expansion_classifier(tmp_path / "model" / "expansion").model
    assert any("Started from weights that tell" in limit for limit in model.manifest.limits)
    assert not chain.takes_a_start(settings.model_copy(update={"classifier": small_classifier()}))
    assert not chain.takes_a_start(settings.model_copy(update={"recipe": "published"}))
    own = settings.model_copy(update={"vit_weights": "vit.safetensors"})
    assert not chain.takes_a_start(own)
    assert chosen_classifier(own).vit_weights == "vit.safetensors"
    assert not chosen_classifier(own.model_copy(update={"design": "ours"})).vit_weights


def test_the_classifier_sees_the_masks_that_reading_gives(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "_predictor", lambda folder, device: Predictor(model(), backend=rule))
    how = chain.Extraction(
        str(cohort.root), "reader", "any", "", "33%-or-6ml", size=32, shape=(), device="cpu"
    )
    row = extract(cohort.patients[1], tmp_path, how=how)
    assert row["expanded"] == 1.0
    assert extract(cohort.patients[0], tmp_path, how=how)["expanded"] == 0.0
    with np.load(tmp_path / "1.npz") as kept:
        assert kept["images"].shape == (3, 3, 32, 32)
    outlined = extract(cohort.patients[1], tmp_path, how=replace(how, masks="outlines"))
    known = dict(zip(FEATURES, outlined["features"], strict=True))
    assert known["ln_onset"] == pytest.approx(math.log(3))
    assert known["ln_ich"] == pytest.approx(
        dict(zip(FEATURES, row["features"], strict=True))["ln_ich"], abs=0.1
    )
    assert asdict(how)["size"] == 32


def test_what_cannot_be_trained_is_refused(cohort: Cohort, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no definition 'larger'"):
        train_expansion(cohort, tmp_path / "m", ExpansionSettings(definition="larger"), work=tmp_path / "w")
    reader = tiny_model(tmp_path / "reader")
    settings = ExpansionSettings(
        reader=str(reader.folder), masks="outlines", folds=2, classifier=small_classifier()
    )
    with pytest.raises(InputRefused, match="folds need at least"):
        train_expansion(
            replace(cohort, patients=cohort.patients[:3]), tmp_path / "m", settings, work=tmp_path / "w"
        )
    with pytest.raises(InputRefused, match="has no folder"):
        chain.examples_of(
            Cohort(cohort.patients), settings, small_classifier(), reader, tmp_path / "x", Resources()
        )
    with pytest.raises(InputRefused, match="a classifier of patients"):
        expansion_classifier(reader.folder)
    assert classifier_beside(reader) is None


def test_the_recipe_decides_the_classifier() -> None:
    ours = chosen_classifier(ExpansionSettings())
    assert ours.network.arguments["clinical_features"] == len(FEATURES)
    published = chosen_classifier(ExpansionSettings(design="published", recipe="published"))
    assert published.network.arguments["image_size"] == [224, 224]
    assert published.loop.epochs == 100
