"""Images that were made: learnt, drawn, measured against held-out patients, kept in a ledger; copies are
noticed.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ichnos.cli.synthesize import SynthesizeSettings, _seconds
from ichnos.errors import InputRefused, UsageError
from ichnos.evidence.leakage import Evaluated, leakage_proof
from ichnos.evidence.metrics.synthetic.distances import frechet_distance, kernel_distance
from ichnos.learning.expansion.generator_store import ledger_of, load_generator
from ichnos.learning.expansion.realism import RandomFeatures, image_set, slice_sheet
from ichnos.learning.expansion.settings import small_generator
from ichnos.learning.expansion.slice_generator import Picture, sample_pictures, train_generator
from ichnos.models import load_model

TINY = {"size": 16, "ch_mult": (1,), "embed_dims": (32, 32, 32), "noise_steps": 50, "batch": 8}


def pictures(n: int, *, seed: int = 0, prefix: str = "p", bright: float = 0.6) -> list[Picture]:
    rng = np.random.default_rng(seed)
    made = []
    for k in range(n):
        mask = np.zeros((16, 16), np.float32)
        y, x = rng.integers(3, 9, 2)
        mask[y : y + 5, x : x + 5] = 1
        image = np.clip(-0.4 + (bright + 0.4) * mask + rng.normal(0, 0.05, mask.shape), -1, 1).astype(
            np.float32
        )
        made.append(Picture(f"{prefix}{k}", image, mask, float(k % 2), f"{prefix}{k}"))
    return made


def test_a_conditional_generator_draws_blood_where_its_outline_is(tmp_path) -> None:  # type: ignore[no-untyped-def]
    learnt = pictures(24)
    plan = small_generator("conditional", steps=60, **TINY, learning_rate=5e-3, sampling_steps=10)
    network = train_generator(learnt, plan, tmp_path)
    made = list(sample_pictures(network, plan, 4, trained_on=learnt, seed=1))
    inside = np.mean([p.image[p.mask > 0.5].mean() for p in made])
    outside = np.mean([p.image[p.mask < 0.5].mean() for p in made])
    assert inside > outside + 0.2
    again = list(sample_pictures(network, plan, 4, trained_on=learnt, seed=1))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(made, again, strict=True))


def test_the_published_generator_sees_expanded_haematomas_alone(tmp_path) -> None:  # type: ignore[no-untyped-def]
    plan = small_generator("published", steps=2, **TINY, sampling_steps=None)
    network = train_generator(pictures(8), plan, tmp_path)
    made = list(sample_pictures(network, plan, 3, trained_on=pictures(8), seed=0))
    assert made[0].sources == ("p1", "p3", "p5", "p7")
    assert made[0].image.shape == (16, 16)
    assert np.abs(made[0].image).max() <= 1
    with pytest.raises(UsageError, match="expanded haematomas only"):
        next(sample_pictures(network, plan, 1, trained_on=pictures(8), outcome=0.0, seed=0))
    with pytest.raises(InputRefused, match="of expanded haematomas were given"):
        train_generator(pictures(2), plan, tmp_path / "b")
    with pytest.raises(InputRefused, match="images of patients only"):
        train_generator([*pictures(8), made[0]], plan, tmp_path / "c")


def test_distances_tell_one_distribution_from_another() -> None:
    features = RandomFeatures()
    a, b, c = (
        features([p.image for p in pictures(120, seed=k, bright=v)])
        for k, v in ((0, 0.6), (1, 0.6), (2, 0.1))
    )
    assert frechet_distance(a, b) < 0.3 * frechet_distance(a, c)
    assert abs(kernel_distance(a, b)) < 0.1 * kernel_distance(a, c)
    assert torch.equal(RandomFeatures().kernels[0], features.kernels[0])


def test_pictures_become_the_arrays_that_are_judged() -> None:
    images = image_set(pictures(6))
    assert images.images.shape[0] == len(images.outcomes) == len(images.patients) == 6
    assert images.patients[1] == pictures(6)[1].patient


def test_every_image_has_a_line_in_the_ledger_and_its_sources_may_not_be_tested(tmp_path) -> None:  # type: ignore[no-untyped-def]
    made = [
        Picture(f"made-{k}", p.image, p.mask, 1.0, sources=("p1", "p3")) for k, p in enumerate(pictures(3))
    ]
    lines = ledger_of(made)
    assert [line.image for line in lines] == ["made-0", "made-1", "made-2"]
    assert len({line.sha256 for line in lines}) == 3
    with pytest.raises(InputRefused, match="synthetic training images were made"):
        leakage_proof([Evaluated("p3", split="test")], lines)
    slice_sheet((("made", made), ("patients", pictures(12))), tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes()[:4] == b"\x89PNG"


def test_the_command_writes_images_ledger_sheet_and_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ichnos.cli.main import run
    from ichnos.evidence.leakage import read_training

    two = np.ones((2, 2), np.float32)
    wide = [
        Picture(p.name, np.kron(p.image, two), np.kron(p.mask, two), p.outcome, p.patient)
        for p in pictures(8)
    ]
    command = importlib.import_module("ichnos.cli.synthesize")
    monkeypatch.setattr(command, "_pictures", lambda cohort, size: (wide[:6], wide[6:]))
    bids = importlib.import_module("ichnos.formats.bids")
    monkeypatch.setattr(bids, "read_cohort", lambda root: None)
    out = tmp_path / "made"
    assert run(["synthesize", str(tmp_path), "-o", str(out), "--images", "3", "--steps", "2", "--quiet"]) == 0
    report = json.loads((out / "synthesis.json").read_text(encoding="utf-8"))
    assert report["images"] == 3
    assert (report["steps_trained"], report["steps_planned"]) == (2, 2)
    assert "not comparable with published FID" in report["features"]
    assert len(read_training(out / "ledger.csv")) == 3
    assert len(list((out / "images").glob("*.npy"))) == 3
    assert (out / "contact_sheet.png").is_file()
    network, plan = load_generator(out / "model")
    assert run(["models", "verify", str(out / "model")]) == 0
    drawn = list(sample_pictures(network, plan, 3, trained_on=wide[:6], seed=plan.loop.seed))
    assert np.array_equal(drawn[0].image, np.load(out / "images" / f"{drawn[0].name}.npy")), (
        "the Model draws what the command drew"
    )
    assert load_model(out / "model").manifest.provenance.steps == 2
    saved = (out / "settings.yaml").read_text(encoding="utf-8")
    assert "steps: 2" in saved
    again = ["synthesize", str(tmp_path), "-o", str(out), "--config", str(out / "settings.yaml"), "--quiet"]
    assert run(again) == 0, "the saved settings reproduce the call"
    assert (out / "settings.yaml").read_text(encoding="utf-8") == saved
    assert run(["synthesize", str(tmp_path), "-o", str(out), "--images", "1"]) == 3
    short = [
        *again[:-1],
        "--steps",
        "400",
        "--minutes",
        "0.001",
        "--images",
        "2",
        "-o",
        str(tmp_path / "short"),
        "--json",
    ]
    capsys.readouterr()
    assert run(short) == 0
    shown = capsys.readouterr()
    numbers = json.loads(shown.out)
    assert 0 < numbers["steps_trained"] < numbers["steps_planned"] == 400
    assert f"trained for {numbers['steps_trained']} of 400 steps" in shown.err
    assert run(["synthesize", str(tmp_path), "-o", str(out), "--kind", "other"]) == 3


def test_a_generator_whose_length_was_asked_for_is_not_cut_short() -> None:
    asked = SynthesizeSettings.model_validate
    assert _seconds(asked({})) == 600
    assert _seconds(asked({"minutes": 2, "recipe": "published"})) == 120
    assert _seconds(asked({"recipe": "published"})) == _seconds(asked({"steps": 9})) == float("inf")
