"""Sites exchange numbers alone; pooled they say what one site cannot, and models are averaged by evidence."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from builders.audited import chance_score, volume_score
from builders.tiny_model import tiny_model
from ichnos.audit.adaptation import identity_of
from ichnos.audit.pool import pooled, pooled_model, pooled_table, shares_by_evidence
from ichnos.audit.score import Score
from ichnos.audit.statistics import (
    SiteStatistic,
    read_statistics,
    site_statistics,
    write_statistics,
)
from ichnos.cli.main import run
from ichnos.errors import InputRefused, UsageError
from ichnos.models import Model, load_model, save_model


def site_scores(seed: int, *, sd: float = 4.0, n: int = 80) -> list[Score]:
    rng = np.random.default_rng(seed)
    volumes = [volume_score(k, 20, 20 + float(rng.normal(0, sd))) for k in range(n)]
    p = rng.uniform(0.1, 0.6, n)
    return volumes + [chance_score(k, float(p[k]), bool(rng.uniform() < p[k])) for k in range(n)]


def five_sites() -> list[SiteStatistic]:
    return [
        one for k in range(5) for one in site_statistics(site_scores(k, sd=3.0 + k / 2), site=f"site {k}")
    ]


def test_no_patient_leaves_a_site(tmp_path: Path) -> None:
    file = write_statistics(site_statistics(site_scores(1), site="north"), tmp_path)
    text = file.read_text()
    assert not any(f'"p{k}' in text for k in range(80))
    assert read_statistics(tmp_path) == site_statistics(site_scores(1), site="north")


def test_too_few_pairs_are_not_exchanged() -> None:
    assert site_statistics(site_scores(1, n=9), site="north") == []


def test_a_site_without_a_name_takes_that_of_its_folder(tmp_path: Path) -> None:
    (home := tmp_path / "south").mkdir()
    write_statistics(site_statistics(site_scores(1), site=""), home)
    assert {one.site for one in read_statistics(home)} == {"south"}


def test_a_number_that_is_none_is_refused(tmp_path: Path) -> None:
    file = write_statistics(site_statistics(site_scores(1), site=""), tmp_path)
    content = json.loads(file.read_text())
    content["statistics"][0]["value"] = "x"
    file.write_text(json.dumps(content))
    with pytest.raises(InputRefused, match="ask the site"):
        read_statistics(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"format": "other", "statistics": []}', '{"format": 1}'])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "statistics.json").write_text(text)
    with pytest.raises(InputRefused, match=r"statistics\.json.*ask the site"):
        read_statistics(tmp_path)


def test_five_sites_of_different_scanners_are_pooled_with_the_next_one_foretold() -> None:
    found = {(quantity, number): effects for (_, quantity, number), effects in pooled(five_sites()).items()}
    coverage = found["followup_volume", "logit coverage"]
    assert coverage.centres == 5
    assert coverage.i2 > 0.1  # scanners differ
    assert coverage.prediction_low < coverage.pooled.low < coverage.pooled.high < coverage.prediction_high
    row = next(r for r in pooled_table(five_sites()).rows if r[1:3] == ("followup_volume", "coverage"))
    assert "to" in str(row[5])


def test_pooling_from_tables_gives_what_the_sites_together_have() -> None:
    alike = [one for k in range(5) for one in site_statistics(site_scores(k), site=str(k))]
    everyone = [score.loss for k in range(5) for score in site_scores(k) if score.kind == "volume"]
    effects = next(e for q, e in pooled(alike).items() if q[1:] == ("followup_volume", "mean loss"))
    assert effects.pooled.low < np.mean(everyone) < effects.pooled.high
    assert effects.pooled.value == pytest.approx(np.mean(everyone), rel=0.1)


def test_a_site_counts_once() -> None:
    with pytest.raises(InputRefused, match="counts twice"):
        pooled([*site_statistics(site_scores(1), site="a"), *site_statistics(site_scores(2), site="a")])


def test_one_site_is_not_pooled() -> None:
    assert pooled(site_statistics(site_scores(1), site="a")) == {}
    assert pooled_table(site_statistics(site_scores(1), site="a")).rows == ()


# ---- models


def of_model(statistics: list[SiteStatistic], model: str, gain: float) -> list[SiteStatistic]:
    return [
        SiteStatistic(
            **{**one.__dict__, "model": model, "value": one.value - gain * (one.number == "mean loss")}
        )
        for one in statistics
    ]


def test_the_model_with_less_loss_gets_the_greater_share() -> None:
    one = five_sites()
    shares = shares_by_evidence(
        [*one, *of_model(one, "new", 0.02)], "expansion_probability", np.random.default_rng(0)
    )
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["new"] > 0.6
    even = shares_by_evidence(
        [*one, *of_model(one, "new", 0)], "expansion_probability", np.random.default_rng(0)
    )
    assert even["new"] == pytest.approx(0.5, abs=0.05)
    with pytest.raises(InputRefused, match="two are needed"):
        shares_by_evidence(one, "expansion_probability", np.random.default_rng(0))


def test_of_two_sites_nothing_is_known_as_surely_as_of_many() -> None:
    def share(sites: int) -> float:
        losses = [
            SiteStatistic(f"s{k}", model, "q", "mean loss", loss, 0.1, 50)
            for k in range(sites)
            for model, loss in (("old", 1.3), ("new", 1.0))
        ]
        return shares_by_evidence(losses, "q", np.random.default_rng(0))["new"]

    assert share(2) == pytest.approx(0.5 + math.atan(3 / 2**0.5) / math.pi, abs=0.01)  # two Cauchys
    assert share(10) > 0.999


def sister(model: Model, folder: Path) -> Model:
    network = model.network()
    with torch.no_grad():
        for value in network.parameters():
            value.add_(1.0)
    return save_model(folder, network, model.manifest.model_copy(update={"name": folder.name}))


def test_models_are_averaged_by_their_shares(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "a")
    other = sister(model, tmp_path / "b")
    shares = {identity_of(model): 0.75, identity_of(other): 0.25}
    made = pooled_model([model, other], shares, tmp_path / "mean")
    mean = load_model(made.folder).network().state_dict()
    for name, value in model.network().state_dict().items():
        if value.is_floating_point() and "running" not in name:
            assert torch.allclose(mean[name], value + 0.25, atol=1e-5) or "num_batches" in name
    assert made.said == "75% a, 25% b"
    with pytest.raises(UsageError, match="give a new folder"):
        pooled_model([model, other], shares, tmp_path / "mean")
    with pytest.raises(InputRefused, match="none of the models"):
        pooled_model([model, other], {}, tmp_path / "x")


def test_the_verb_writes_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for k in range(3):
        (home := tmp_path / f"site{k}").mkdir()
        write_statistics(site_statistics(site_scores(k), site=""), home)
    call = ["pool", *[str(tmp_path / f"site{k}") for k in range(3)], "-o", str(tmp_path / "out"), "--json"]
    assert run(call) == 0
    assert json.loads(capsys.readouterr().out)["sites"] == 3
    assert "followup_volume" in (tmp_path / "out" / "pooled.csv").read_text()
    assert run(["pool", str(tmp_path / "site0"), "-o", str(tmp_path / "one")]) == 2
    assert "no number is known of two sites" in capsys.readouterr().err
    assert not (tmp_path / "one").exists()
