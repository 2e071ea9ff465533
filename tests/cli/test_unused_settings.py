"""What a verb has no use for is refused by name: a setting that is taken and ignored would mislead."""

from __future__ import annotations

from pathlib import Path

import pytest

from builders.trainable_cohort import write_trainable_cohort
from ichnos.cli.main import run


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["adapt", "default", "--audit", "a", "--share", "0.9"], "--audit has no use for --share"),
        (["adapt", "default", "--tuned", "m", "--exam-sd", "x=0.1"], "--tuned has no use for --exam-sd"),
        (["adapt", "default", "--pairs", "c", "--site", "north"], "--pairs has no use for --site"),
        (["pool", "s1", "s2", "--quantity", "tract_volume"], "--quantity serves --models alone"),
        (["pair", "exams", "--followup-h", "72,6"], "give the earlier limit first"),
    ],
)
def test_settings_of_another_way_are_refused(
    words: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*words, "-o", str(tmp_path / "out")]) == 3
    assert sentence in said(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["show", "default", "--onnx", "m.onnx"], "--onnx is of `ichnos models export`"),
        (["list", "--label", "a=b"], "--label is of `ichnos models import`"),
        (["export", "--onnx", "m", "--json"], "--json is of `ichnos models list, show or verify`"),
    ],
)
def test_options_of_another_action_are_refused(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", *words]) == 3
    assert sentence in said(capsys)


def test_a_cohort_has_no_row_of_slices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_trainable_cohort(tmp_path / "cohort", without_tract=())
    assert run(["inspect", str(tmp_path / "cohort"), "--montage", str(tmp_path / "row.png")]) == 3
    assert "is a cohort, for which --montage cannot be used" in said(capsys)


def test_misspelt_splits_and_targets_are_not_left_out_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_trainable_cohort(tmp_path / "cohort", without_tract=())
    (tmp_path / "plan.json").write_text('{"targets": ["haematom"]}')
    (tmp_path / "readings").mkdir()
    call = ["evaluate", str(tmp_path / "readings"), str(tmp_path / "cohort"), "-o", str(tmp_path / "out")]
    assert run([*call, "--splits", "validation,extrenal"]) == 3
    assert "split 'extrenal' is unknown; there are external, test, train, validation" in said(capsys)
    assert run([*call, "--plan", str(tmp_path / "plan.json")]) == 3
    assert "target 'haematom' is unknown; there are" in said(capsys)


def test_a_folder_of_no_ct_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cohort").mkdir()
    (tmp_path / "cohort" / "participants.tsv").write_text("participant_id\nsub-01\n")
    assert run(["read", str(tmp_path / "cohort"), "-o", str(tmp_path / "out")]) == 2
    assert "no CT was found in cohort" in said(capsys)


@pytest.mark.parametrize(
    ("text", "more", "sentence"),
    [
        (
            "sending: {destinations: [{name: a, kind: dicom, host: h, ae_title: P, prot: 4}]}",
            [],
            "there is no setting prot; did you mean port?",
        ),
        ("receiver: {peers: [{host: 10.0.0.1}]}", [], "receiver.peers.0.ae_title is missing"),
        ("reading: {device: nowhere}", [], "reading.device nowhere cannot be used here"),
        ("web: 5", ["--set", "web.port=1"], "the file has web: 5, which is no group of settings"),
    ],
)
def test_a_wrong_node_file_is_explained(
    text: str, more: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "node.yaml").write_text(text)
    assert run(["serve", "--config", str(tmp_path / "node.yaml"), "--check", *more]) == 3
    assert sentence in said(capsys)


def test_an_empty_group_of_a_file_takes_what_is_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "node.yaml").write_text("web:\n")
    assert run(["serve", "--config", str(tmp_path / "node.yaml"), "--set", "web.port=8100", "--check"]) == 0
    assert '"port": 8100' in capsys.readouterr().out
