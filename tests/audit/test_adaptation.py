"""A site's model is a new folder: who taught it is known, test patients never do, the card says how."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from builders.audited import chance_score, measure, volume_score
from builders.tiny_model import tiny_model
from ichnos.audit.adaptation import (
    averaged_model,
    identity_of,
    note_taught,
    recalibrated_model,
    taught_by,
)
from ichnos.audit.monitoring.duel import duel, duel_table
from ichnos.audit.pairing import split_of
from ichnos.audit.score import Score, scores_text
from ichnos.cli.main import run
from ichnos.errors import InputRefused, UsageError
from ichnos.models import Model, load_model, save_model
from ichnos.prognosis.site import ChanceShift, IntervalScaling, SiteRecalibration, load_site_recalibration
from ichnos.reading.measures.recalibrated import recalibrated


def scores_of(model: Model, n: int = 60) -> list[Score]:
    rng = np.random.default_rng(1)
    volumes = [volume_score(k, 20, 20 * float(np.exp(rng.normal(0.3, 0.2)))) for k in range(n)]
    chances = [chance_score(k, 0.3, k % 9 == 0) for k in range(n)]
    return [Score(**{**one.__dict__, "model": identity_of(model)}) for one in (*volumes, *chances)]


def test_a_recalibrated_model_is_a_copy_with_another_identity(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "shipped")
    made = recalibrated_model(model, scores_of(model), tmp_path / "site", site="north")
    new = load_model(made.folder)
    assert new.manifest.weights_sha256 == model.manifest.weights_sha256
    assert made.identity == identity_of(new) != identity_of(model)
    site = load_site_recalibration(made.folder)
    assert site is not None
    assert site.intervals["followup_volume"].middle > 0  # it had read too little
    assert site.chances["expansion_probability"].intercept < 0  # and said too much
    assert "Recalibrated by north" in (made.folder / "CARD.md").read_text()
    assert not (model.folder / "site.json").exists()


def test_test_patients_teach_nothing_and_those_who_taught_are_known(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "shipped")
    scores = scores_of(model)
    made = recalibrated_model(model, scores, tmp_path / "site")
    patients = {score.patient for score in scores}
    assert taught_by(made.folder) == {p for p in patients if split_of(p) != "test"} == set(made.taught)
    site = load_site_recalibration(made.folder)
    assert site is not None
    assert site.intervals["followup_volume"].pairs == len(made.taught) < len(patients)


def test_what_the_model_judged_itself_teaches_nothing_and_the_user_is_told(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "shipped")
    own = [replace(score, judge="model") for score in scores_of(model)]
    flair = [
        replace(score, partner="flair", pair=f"{score.patient}-flair", quantity="leukoaraiosis_volume")
        for score in scores_of(model, 50)
        if score.kind == "volume"
    ]
    made = recalibrated_model(model, [*own, *flair], tmp_path / "site")
    site = load_site_recalibration(made.folder)
    assert site is not None
    assert set(site.intervals) == {"leukoaraiosis_volume"}
    assert not site.chances
    assert set(made.taught) == {score.patient for score in flair if split_of(score.patient) != "test"}
    assert "Left out: followup_volume, expansion_probability" in made.said
    with pytest.raises(InputRefused, match="Left out: followup_volume"):
        recalibrated_model(model, own, tmp_path / "other")


def test_scores_of_another_model_teach_nothing(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "shipped")
    with pytest.raises(InputRefused, match="no score is of the model shipped"):
        recalibrated_model(model, [volume_score(k, 20, 20) for k in range(40)], tmp_path / "site")


def test_nothing_is_replaced_and_no_recalibration_stands_on_another(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "shipped")
    made = recalibrated_model(model, scores_of(model), tmp_path / "site")
    with pytest.raises(UsageError, match="give a new folder"):
        recalibrated_model(model, scores_of(model), tmp_path / "site")
    new = load_model(made.folder)
    with pytest.raises(InputRefused, match="recalibrated already"):
        recalibrated_model(new, scores_of(new), tmp_path / "again")
    assert not list(tmp_path.glob("*.partial"))


def test_the_verb_recalibrates_and_says_what_so_many_pairs_allow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model(tmp_path / "shipped")
    audit = tmp_path / "audit"
    audit.mkdir()
    (audit / "scores.csv").write_text(scores_text(scores_of(model)))
    call = ["adapt", str(model.folder), "--audit", str(audit), "-o", str(tmp_path / "site"), "--json"]
    assert run(call) == 0
    told = json.loads(capsys.readouterr().out)
    assert "give or take" in told["said"]
    known = [*call[:5], str(tmp_path / "known"), "--exam-sd", "followup_volume=0.1"]
    assert run(known) == 0
    plain, without = (load_site_recalibration(tmp_path / name) for name in ("site", "known"))
    assert plain is not None
    assert without is not None
    high, narrower = (site.intervals["followup_volume"].high for site in (plain, without))
    assert narrower < high
    assert "own error of 0.1 taken out" in (tmp_path / "known" / "CARD.md").read_text()
    for wrong in ("followup_volume", "followup_volume=much", "followup_volume=-0.1", "followup_volume=2"):
        assert run([*call[:5], str(tmp_path / "x"), "--exam-sd", wrong]) == 3
    capsys.readouterr()
    assert run(["adapt", str(model.folder), "-o", str(tmp_path / "x")]) == 3  # neither --audit nor --tuned
    assert run(["adapt", str(model.folder), "--audit", str(tmp_path), "-o", str(tmp_path / "x")]) == 3


# ---- averaging


def tuned_from(model: Model, folder: Path) -> Model:
    network = model.network()
    with torch.no_grad():
        for value in network.parameters():
            value.add_(1.0)
    tuned = save_model(folder, network, model.manifest.model_copy(update={"name": folder.name}))
    note_taught(folder, ["p1"])
    return tuned


def test_an_average_lies_between_its_parents_and_names_them(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "shipped")
    tuned = tuned_from(model, tmp_path / "tuned")
    made = averaged_model(model, tuned, tmp_path / "mean", share=0.25)
    new = load_model(made.folder)
    for name, value in new.network().named_parameters():
        assert torch.allclose(value, model.network().state_dict()[name] + 0.25, atol=1e-6)
    assert new.manifest.provenance.parents == (model.manifest.weights_sha256, tuned.manifest.weights_sha256)
    assert taught_by(made.folder) == {"p1"}
    assert "not to the average" in (made.folder / "CARD.md").read_text()


def test_models_of_other_targets_are_not_averaged(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "shipped")
    tuned = tuned_from(model, tmp_path / "tuned")
    first = tuned.manifest.targets[0].model_copy(update={"name": "other"})
    other = Model(
        tuned.folder, tuned.manifest.model_copy(update={"targets": (first, *tuned.manifest.targets[1:])})
    )
    with pytest.raises(InputRefused, match="differ in network, input or targets"):
        averaged_model(model, other, tmp_path / "mean")
    with pytest.raises(UsageError, match="between 0 and 1"):
        averaged_model(model, tuned, tmp_path / "mean", share=1.0)


# ---- champion and challenger


def two_models(better: float, n: int = 150) -> list[Score]:
    rng = np.random.default_rng(3)
    found = []
    for k in range(n):
        truth = 20 + float(rng.normal(0, 3))
        own = volume_score(k, truth + float(rng.normal(0, 6)), truth, half=4)
        other = volume_score(k, truth + float(rng.normal(0, better)), truth, half=4)
        found += [own, Score(**{**other.__dict__, "model": "new"})]
    return found


def test_the_better_model_wins_on_the_same_pairs_alone() -> None:
    scores = two_models(2.0)
    champion = scores[0].model
    (result,) = duel([*scores, volume_score(999, 20, 90)], champion, "new")
    assert (result.verdict, result.pairs) == ("challenger better", 150)
    assert result.held is not None
    assert result.held[1] > result.held[0]
    (other_way,) = duel(scores, "new", champion)
    assert other_way.verdict == "champion better"
    assert "challenger better" in duel_table([result]).markdown()


def test_equals_are_not_told_apart_and_a_model_does_not_fight_itself() -> None:
    scores = two_models(6.0)
    (result,) = duel(scores, scores[0].model, "new")
    assert result.verdict == "not decided"
    with pytest.raises(InputRefused, match="same model"):
        duel(scores, "new", "new")


# ---- what a reading says then

SITE = SiteRecalibration(
    site="north",
    pairs=40,
    intervals={"followup_volume": IntervalScaling(low=-2, middle=0.5, high=2, pairs=40, level=0.8)},
    chances={"expansion_probability": ChanceShift(intercept=-1, slope=1, pairs=40)},
)


def test_a_measure_is_said_as_the_site_recalibrated_it() -> None:
    new = recalibrated(measure("followup_volume", 20.0, 15.0, 26.0), SITE)
    assert new.low is not None
    assert new.high is not None
    assert new.low < 15 < 20 < float(new.value or 0) < 26 < new.high
    assert new.interval == "80 % interval, recalibrated on 40 pairs of north"
    chance = recalibrated(measure("expansion_probability", 40.0), SITE)
    assert float(chance.value or 0) < 25
    assert "recalibrated on 40 pairs of north" in chance.label


def test_a_drawn_volume_keeps_its_value_inside_the_new_interval() -> None:
    shifted = SITE.model_copy(
        update={"intervals": {"ich_volume": IntervalScaling(low=0.5, middle=1, high=2, pairs=30, level=0.8)}}
    )
    new = recalibrated(measure("ich_volume", 20.0, 15.0, 26.0), shifted, keep_value=True)
    assert (new.value, new.low) == (20.0, 20.0)


def test_what_was_not_recalibrated_stays() -> None:
    for old in (measure("ich_volume", 20.0, 15.0, 26.0), measure("injury_left", "no risk")):
        assert recalibrated(old, SITE) == old
        assert recalibrated(old, None) == old
