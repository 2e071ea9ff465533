"""`ichnos train`: its options, its messages, and a training that is killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from builders.trainable_cohort import write_trainable_cohort
from ichnos.cli.main import run
from ichnos.cli.train import TrainCommandSettings, _chosen, _chosen_nnunet
from ichnos.models import load_model


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_process_that_is_killed_leaves_a_training_that_goes_on(tmp_path: Path) -> None:
    write_trainable_cohort(tmp_path / "cohort", ("train", "train", "validation"))
    script = "import sys; from ichnos.cli.main import run; sys.exit(run(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "train", "ICH", str(tmp_path / "cohort"), "--spacing", "4,4,4"]
    command += [
        "--patch",
        "16,16,16",
        "--steps",
        "60",
        "--set",
        "architecture.width=4",
        "--set",
        "loop.validations=20",
        "--quiet",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "-o", str(tmp_path / "whole")], env=environment, check=False)
    assert done.returncode == 0
    told = tmp_path / "cut.training" / "validation.jsonl"
    child = subprocess.Popen([*command, "-o", str(tmp_path / "cut")], env=environment)
    while child.poll() is None and not (told.is_file() and told.read_text(encoding="utf-8").count("\n") >= 4):
        time.sleep(0.01)
    child.kill()
    assert child.wait() == -signal.SIGKILL, "it was killed before its end"
    assert not (tmp_path / "cut").exists()
    assert (
        subprocess.run([*command, "-o", str(tmp_path / "cut")], env=environment, check=False).returncode == 0
    )
    sums = [load_model(tmp_path / name).manifest.weights_sha256 for name in ("whole", "cut")]
    assert sums[0] == sums[1]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_trainable_cohort(tmp_path / "cohort", ("train", "validation"))
    call = [
        "train",
        "ICH",
        str(tmp_path / "cohort"),
        "-o",
        str(tmp_path / "m"),
        "--spacing",
        "4,4,4",
        "--patch",
        "16,16,16",
        "--json",
    ]
    assert (
        run(
            [
                *call,
                "--steps",
                "2",
                "--set",
                "architecture.width=4",
                "--set",
                "loop.validations=1",
                "--set",
                "architecture.deep_supervision=false",
            ]
        )
        == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert told["steps"] == 2
    assert load_model(tmp_path / "m").manifest.network.arguments["features_per_stage"][0] == 4
    assert str(tmp_path) not in (tmp_path / "m" / "model.json").read_text(encoding="utf-8")
    for wrong, says in (
        (["--set", "depth=3"], "there is no setting depth"),
        (["--set", "loop.batch=two"], "batch"),
        (["--engine", "other"], "give ichnos or nnunet"),
        (["--minutes", "1", "--steps", "2"], "not both"),
        (["--engine", "nnunet", "--steps", "2"], "nnU-Net counts in epochs"),
        (["--engine", "nnunet", "--folds", "5", "--mirror"], "networks of our own loop"),
        (["--engine", "nnunet", "--set", "nnunet.configuration=4d"], "configuration"),
        (["--set", "loop.precision=fp8"], "precision"),
        (["--patch", "16,16"], "patch"),
        (["--network", "vit"], "network = 'vit'"),
    ):
        assert run([*call, *wrong]) == 3
        assert says in capsys.readouterr().err


def test_steps_follow_from_minutes_and_stay_for_the_next_call(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_trainable_cohort(tmp_path / "cohort", ("train", "validation"))
    call = [
        "train",
        "ICH",
        str(tmp_path / "cohort"),
        "-o",
        str(tmp_path / "m"),
        "--spacing",
        "4,4,4",
        "--patch",
        "16,16,16",
        "--json",
    ]
    assert run([*call, "--minutes", "0.05", "--set", "architecture.width=4"]) == 0
    first = torch.load(tmp_path / "m.training" / "checkpoint.pt", weights_only=True)
    assert run([*call, "--minutes", "0.01", "--set", "architecture.width=4"]) == 0
    again = torch.load(tmp_path / "m.training" / "checkpoint.pt", weights_only=True)
    assert again["settings"] == first["settings"]
    assert again["step"] >= first["step"] > 0


def test_nnunet_cannot_begin_with_other_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_trainable_cohort(tmp_path / "cohort")
    assert (
        run(
            [
                "train",
                "haematoma",
                str(tmp_path / "cohort"),
                "-o",
                str(tmp_path / "m"),
                "--engine",
                "nnunet",
                "--from",
                "default",
            ]
        )
        == 3
    )
    assert "leave out --from" in capsys.readouterr().err


def test_what_is_asked_for_wins_over_what_a_start_brings(capsys: pytest.CaptureFixture[str]) -> None:
    own = TrainCommandSettings(targets=("ICH",), start="default")
    plain = _chosen("ICH", own)
    assert (plain.preprocessing.spacing_mm, plain.loop.learning_rate) == ((3.0, 3.0, 3.0), 8e-4)
    assert not capsys.readouterr().err
    loop, finer = {"learning_rate": 1e-4}, {"spacing_mm": (2, 2, 2)}
    asked = _chosen("ICH", own.model_validate(own.model_dump(exclude_unset=True) | {"loop": loop}))
    assert asked.loop.learning_rate == 1e-4
    assert asked.preprocessing == plain.preprocessing
    again = TrainCommandSettings.model_validate(
        {"targets": ("ICH",), "start": "default", "preprocessing": finer}
    )
    assert _chosen("ICH", again).preprocessing.spacing_mm == (2.0, 2.0, 2.0), "the default, and asked for"
    assert "default was trained at voxels of 3 x 3 x 3 mm, and 2 x 2 x 2 mm were" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["expansion", "--steps", "9", "--mirror"], "the expansion chain has no use for --steps, --mirror"),
        (["expansion", "--set", "loop.batch=4"], "the expansion chain has no use for loop"),
        (["haematoma", "--engine", "nnunet", "--simulated-share", "0.5"], "no use for --simulated-share"),
        (["haematoma", "--engine", "nnunet", "--set", "objective.rim_weight=1"], "no use for objective"),
    ],
)
def test_what_a_trainer_would_ignore_is_refused(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_trainable_cohort(tmp_path / "cohort", without_tract=())
    target, *flags = words
    assert run(["train", target, str(tmp_path / "cohort"), "-o", str(tmp_path / "m"), *flags]) == 3
    assert said in capsys.readouterr().err


def test_voxels_and_patch_reach_nnunet() -> None:
    asked = TrainCommandSettings(targets=("ICH",), spacing=(1, 1, 5), patch=(64, 64, 32), seed=3)
    chosen = _chosen_nnunet("ICH", asked)
    assert (chosen.spacing, chosen.patch, chosen.seed) == ("1,1,5", "64,64,32", 3)


def test_a_recipe_lies_under_the_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_trainable_cohort(tmp_path / "cohort", ("train", "validation"))
    (tmp_path / "own.yaml").write_text(
        "architecture: {width: 4}\npreprocessing: {spacing_mm: [4, 4, 4], patch: [16, 16, 16]}\n"
        "loop: {steps: 3, validations: 1, batch: 1}\n"
    )
    call = ["train", "ICH", str(tmp_path / "cohort"), "-o", str(tmp_path / "m"), "--json"]
    assert run([*call, "--recipe", str(tmp_path / "own.yaml"), "--steps", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 2
    saved = json.loads((tmp_path / "m.training" / "settings.json").read_text())
    assert saved["architecture"]["width"] == 4
    assert saved["loop"]["batch"] == 1
    again = ["--config", str(tmp_path / "m.training" / "settings.json"), "--work", str(tmp_path / "again")]
    assert run([*call, *again]) == 0, "the settings of a run reproduce it"
    assert json.loads((tmp_path / "again" / "settings.json").read_text()) == saved
    capsys.readouterr()
    assert run([*call, "--recipe", "huge"]) == 3
    assert "small, published" in capsys.readouterr().err
