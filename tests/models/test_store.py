"""A Model folder comes back as it was written, or says what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ichnos import networks
from ichnos.errors import IchnosError, InputRefused, UsageError
from ichnos.models import (
    Manifest,
    NetworkSpec,
    Preprocessing,
    Provenance,
    TargetSpec,
    load_model,
    note_validation,
    read_manifest,
    save_model,
)

NETWORK = NetworkSpec(
    name="unet",
    arguments={
        "input_channels": 2,
        "num_classes": 1,
        "dim": 3,
        "features_per_stage": [4, 8],
        "strides": [1, 2],
        "n_conv_per_stage": 1,
        "n_conv_per_stage_decoder": 1,
    },
)


def made_manifest() -> Manifest:
    return Manifest(
        name="tiny",
        version="1",
        limits=("It was never trained.",),
        network=NETWORK,
        preprocessing=Preprocessing(
            spacing_mm=(4, 4, 4), windows_hu=((0, 80), (-1000, 1000)), patch=(16, 16, 16)
        ),
        targets=(TargetSpec(name="brain"),),
        provenance=Provenance(
            code_version="0",
            command="none",
            seeds=(0,),
            steps=0,
            data={},
            hardware="none",
            trained="2026-01-01",
        ),
    )


def made_model(folder: Path) -> Path:
    torch.manual_seed(0)
    save_model(folder, networks.build(NETWORK.name, **NETWORK.arguments), made_manifest())
    return folder


def test_a_model_comes_back_with_the_same_output(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = networks.build(NETWORK.name, **NETWORK.arguments).eval()
    save_model(tmp_path / "m", network, made_manifest())
    x = torch.randn(1, 2, 16, 16, 16)
    assert torch.equal(load_model(tmp_path / "m").network()(x), network(x))
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [
        "CARD.md",
        "model.json",
        "model.safetensors",
    ]


def test_how_a_model_was_checked_can_be_noted_later_and_its_weights_stay(tmp_path: Path) -> None:
    model = load_model(made_model(tmp_path / "m"))
    weights = (model.folder / "model.safetensors").read_bytes()
    noted = note_validation(model, {"median Dice, brain (7 scans)": 0.25})
    again = load_model(tmp_path / "m")
    assert again.manifest == noted.manifest != model.manifest
    assert again.manifest.provenance.validation == {"median Dice, brain (7 scans)": 0.25}
    assert "- median Dice, brain (7 scans): 0.25" in (tmp_path / "m" / "CARD.md").read_text()
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == weights


def test_the_card_says_what_the_model_is_for_and_never_saw(tmp_path: Path) -> None:
    card = (made_model(tmp_path / "m") / "CARD.md").read_text()
    assert "Research use only" in card
    assert "never trained" in card
    assert load_model(tmp_path / "m").manifest.weights_sha256 in card


def test_one_changed_byte_is_noticed(tmp_path: Path) -> None:
    file = made_model(tmp_path / "m") / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputRefused, match="SHA-256"):
        load_model(tmp_path / "m")


def test_a_manifest_with_an_unknown_or_missing_field_is_named(tmp_path: Path) -> None:
    file = made_model(tmp_path / "m") / "model.json"
    content = json.loads(file.read_text())
    del content["preprocessing"]["patch"]
    file.write_text(json.dumps(content))
    with pytest.raises(InputRefused, match=r"preprocessing\.patch"):
        read_manifest(tmp_path / "m")


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match="is not a model folder"):
        made_model(tmp_path / "m")
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    assert (tmp_path / "m" / "thesis.txt").read_text() == "precious"


def test_no_model_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="is no model"):
        load_model(tmp_path)


def test_a_full_disk_is_named_and_the_model_before_it_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read_manifest(made_model(tmp_path / "m")).weights_sha256

    def full(*args: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_model", full)
    with pytest.raises(
        IchnosError, match=r"No space left on device.*the model that was there before is kept"
    ):
        made_model(tmp_path / "m")
    assert load_model(tmp_path / "m").manifest.weights_sha256 == first
    assert [path.name for path in tmp_path.iterdir()] == ["m"], "nothing half-written stays"


def test_a_new_model_takes_the_place_of_the_old_one_and_of_nothing_else(tmp_path: Path) -> None:
    folder = made_model(tmp_path / "m")
    (folder / "notes of mine.txt").write_text("keep")
    (folder / "logs").mkdir()
    (folder / "logs" / "1.txt").write_text("keep")
    (folder / "volumes.json").write_text("fitted to the old weights")
    made_model(folder)
    assert (folder / "notes of mine.txt").read_text() == (folder / "logs" / "1.txt").read_text() == "keep"
    assert not (folder / "volumes.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_model_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.json").write_text('{"format": "another program"}')
    with pytest.raises(UsageError, match="is not a model folder"):
        made_model(tmp_path / "m")
    assert (tmp_path / "m" / "model.json").is_file()
