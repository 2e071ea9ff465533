"""What a new user meets: missing devices, names that look like markup, runs that differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from builders.tiny_model import tiny_model
from ichnos.cli.inputs.models import model_folder
from ichnos.cli.main import run
from ichnos.cli.terminal.devices import check_device
from ichnos.cli.terminal.tables import print_table
from ichnos.errors import InputRefused, UsageError
from ichnos.formats import nifti
from ichnos.runs.ledger import _difference
from ichnos.volume import Volume


def test_a_device_that_is_not_there_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    missing = "mps" if torch.cuda.is_available() else "cuda"
    for call in (["read", str(tmp_path)], ["evaluate", str(tmp_path)], ["train", "haematoma", str(tmp_path)]):
        assert run([*call, "-o", str(tmp_path / "out"), "--device", missing]) == 3, call
        assert f"--device {missing} cannot be used here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("device", ["abacus", "cuda:99"])
def test_a_device_that_cannot_be_is_refused(device: str) -> None:
    pytest.importorskip("torch")
    with pytest.raises(UsageError, match="cpu"):
        check_device(device)


def test_names_that_look_like_markup_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("[bold]scan", "x"), [["[red]a[/red]", None], ["[/]", 3]])
    shown = capsys.readouterr().out
    assert "[red]a[/red]" in shown
    assert "[/]" in shown
    assert "[bold]scan" in shown


def test_a_row_off_a_terminal_is_one_line_and_loses_no_letter(capsys: pytest.CaptureFixture[str]) -> None:
    words = tuple(f"a cell of several words, number {number}" for number in range(8))
    print_table(words, [words])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert all(word in lines[1] and word in lines[3] for word in words)


def test_scans_whose_names_look_like_markup_are_read_and_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "scans"
    for name in ("[red]a.nii.gz", "[b].nii.gz"):
        nifti.save(Volume(np.zeros((20, 20, 20), np.int16), np.eye(4)), place / name)
    model = tiny_model(tmp_path / "tiny").folder
    assert run(["read", str(place), "-o", str(tmp_path / "out"), "--model", str(model)]) == 2
    assert "0 of 2 scans read" in capsys.readouterr().out


def test_other_settings_are_named_and_nothing_else() -> None:
    before = {"facts": {"x": {"gcs": 9, "age_years": 70}, "y": {"gcs": 3}}, "only": ["a", "b"], "pdf": False}
    now = {"facts": {"x": {"gcs": 10, "age_years": 70}, "y": {"gcs": 3}}, "only": ["a", "c"], "pdf": False}
    assert _difference(before, now) == "facts.x.gcs: then 9, now 10; only[1]: then b, now c"
    assert _difference({"a": 1}, {}) == "a: then 1, now not set"
    many = {str(k): k for k in range(9)}
    assert _difference(many, {}).endswith("and 5 more")


def test_a_model_that_is_not_there_is_refused_with_the_names_of_those_that_are() -> None:
    with pytest.raises(InputRefused, match="default"):
        model_folder("no-such-model")
