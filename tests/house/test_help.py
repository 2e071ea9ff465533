"""Every line of help is whole at 80 columns and every verb shows an example; the rule can fail."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
import typer
from typer.main import get_command

import house
from ichnos.cli.main import run
from ichnos.cli.verbs import VERBS


def only_command(help_text: str, epilog: str = "Example: ichnos try") -> Any:
    app = typer.Typer(rich_markup_mode=None, add_completion=False)

    @app.command(epilog=epilog)
    def attempt(size: Annotated[int, typer.Option(help=help_text)] = 1) -> None:
        """Try."""

    return get_command(app)


def test_a_short_help_with_an_example_is_right() -> None:
    assert house.help_findings(only_command("voxel size"), "try") == []


@pytest.mark.parametrize(
    ("help_text", "epilog", "word"),
    [
        ("x" * 60, "Example: ichnos try", "60 characters"),
        ("", "Example: ichnos try", "no help text"),
        ("voxel size", "", "no example"),
    ],
)
def test_what_is_wrong_with_a_help_is_found(help_text: str, epilog: str, word: str) -> None:
    assert any(word in finding for finding in house.help_findings(only_command(help_text, epilog), "try"))


@pytest.mark.parametrize(("page", "word"), [("x" * 81, "81 characters"), ("  read head ...", "is cut")])
def test_a_page_that_is_cut_or_too_wide_is_found(page: str, word: str) -> None:
    command = SimpleNamespace(params=[], context_class=lambda *a, **k: None, get_help=lambda context: page)
    assert any(word in finding for finding in house.help_findings(command, "try"))


def test_the_whole_command_line_follows_the_rule() -> None:
    assert house.command_line_findings() == []


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_and_version_leave_with_0(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([flag]) == run([]) == run(["--version"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {verb.summary}" in shown for verb in VERBS.values() if not verb.hidden)
    assert "ichnos 0." in shown


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_shows_its_own_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*verb.split(), "-h"]) == 0
    assert VERBS[verb].example.startswith(f"ichnos {verb}")
    assert VERBS[verb].example in " ".join(capsys.readouterr().out.split())


def test_help_of_one_verb_loads_no_other() -> None:
    code = (
        "import sys; from ichnos.cli.main import run; run(['convert', '-h']);"
        "print([name for name in ('ichnos.cli.train', 'ichnos.cli.study') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "[]"


def test_an_unknown_verb_is_a_wrong_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["raed"]) == 3
    assert "raed" in capsys.readouterr().err
