"""One settings tree: defaults < file < --set < flags; what is saved is such a file and reproduces it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from pydantic import BaseModel, ConfigDict, Field
from typer.testing import CliRunner

from ichnos.cli.main import run
from ichnos.cli.terminal import settings as mechanism
from ichnos.cli.terminal.settings import (
    EXECUTION,
    Flag,
    SettingsTree,
    save_settings,
    settings_of,
    settings_text,
    tree_of,
    with_settings,
)
from ichnos.cli.verbs import VERBS
from ichnos.errors import MissingExtra, UsageError


class Loop(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    steps: int = Field(100, ge=1, description="training steps")


class Example(SettingsTree):
    names: tuple[str, ...] = Field(("a", "b"), description="names")
    patch: tuple[int, int, int] = Field((8, 8, 8), description="voxels of a patch")
    start: Annotated[Path | None, Flag(("--from",), "MODEL")] = Field(None, description="model to start from")
    kind: Literal["one", "two"] = Field("one", description="kind")
    fast: bool = Field(False, description="be fast")
    workers: Annotated[int, EXECUTION] = Field(1, ge=1, description="processes")
    loop: Loop = Field(Loop(), description="the training loop")


seen: list[Example] = []


@with_settings(Example)
def example_command(
    out: Annotated[Path, typer.Argument(help="folder")],
    settings: Example,
    as_json: Annotated[bool, typer.Option("--json", help="JSON")] = False,
) -> int:
    """Keep the settings."""
    seen.append(settings)
    return 0


def settings_from(*words: str) -> Example:
    """Run the command with these words, and return the settings it was given."""
    app = typer.Typer(rich_markup_mode=None)
    app.command()(example_command)
    result = CliRunner().invoke(app, ["out", *words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return seen[-1]


def test_without_flags_the_defaults_hold() -> None:
    assert settings_from() == Example()


def test_flags_overrule_set_overrules_the_file_overrules_the_default(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("kind: two\nworkers: 2\nfast: true\nloop: {steps: 7}\npatch: [1, 2, 3]\n")
    one = settings_from("--config", str(file), "--set", "workers=3", "--set", "kind=one", "--kind", "two")
    assert (one.kind, one.workers, one.fast, one.loop.steps, one.patch) == ("two", 3, True, 7, (1, 2, 3))
    assert settings_from("--config", str(file), "--no-fast", "--set", "loop.steps=9").loop.steps == 9
    assert not settings_from("--config", str(file), "--no-fast").fast


def test_lists_are_given_with_commas_and_names_of_flags_may_differ() -> None:
    given = settings_from("--names", "x, y,,", "--patch", "4,5,6", "--from", "there")
    assert (given.names, given.patch, given.start) == (("x", "y"), (4, 5, 6), Path("there"))
    assert settings_from("--set", "names=x,y").names == ("x", "y")


def test_what_is_saved_reproduces_the_run_and_leaves_out_execution(tmp_path: Path) -> None:
    used = settings_from("--names", "ä: b,c", "--patch", "4,5,6", "--set", "loop.steps=3", "--workers", "2")
    save_settings(used, tmp_path / "saved" / "settings.yaml", verb="example")
    text = (tmp_path / "saved" / "settings.yaml").read_text(encoding="utf-8")
    assert "workers" not in text
    assert "# training steps" in text
    again = settings_from("--config", str(tmp_path / "saved" / "settings.yaml"), "--workers", "2")
    assert again == used


def test_the_printed_default_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "d.yaml").write_text(settings_text(Example(), "title"))
    assert settings_of(Example, file=tmp_path / "d.yaml") == Example()


@pytest.mark.parametrize(
    ("words", "file", "sentence"),
    [
        (["--kind", "three"], "", "--kind 'three' is unknown; give one or two"),
        (["--workers", "0"], "", "--workers '0' cannot be used; give 1 or more"),
        (["--workers", "two"], "", "--workers 'two' cannot be used; give a whole number"),
        (["--patch", "4,5"], "", "--patch"),
        (["--set", "wrokers=2"], "", "no setting wrokers; did you mean workers?"),
        (["--set", "loop.step=2"], "", "did you mean steps?"),
        (["--set", "lop.steps=2"], "", "no setting lop"),
        (["--set", "workers"], "", "NAME=VALUE"),
        ([], "wrokers: 2", "x.yaml: there is no setting wrokers; did you mean workers?"),
        ([], "loop: {step: 2}", "x.yaml: there is no setting step; did you mean steps?"),
        ([], "loop: {steps: 0}", "x.yaml: loop.steps 0 cannot be used"),
        ([], "a: [", "not readable as YAML"),
        ([], "- 1", "NAME: VALUE"),
    ],
)
def test_what_is_wrong_is_said_with_its_source(
    words: list[str], file: str, sentence: str, tmp_path: Path
) -> None:
    config = tmp_path / "x.yaml"
    config.write_text(file)
    with pytest.raises(UsageError) as error:
        settings_from(*words, *(["--config", str(config)] if file else []))
    assert sentence in str(error.value)


def test_a_file_that_is_not_there_is_a_wrong_call() -> None:
    with pytest.raises(UsageError, match="does not exist"):
        settings_from("--config", "nowhere.yaml")


def trees() -> dict[str, Any]:
    modules = {name: importlib.import_module(verb.module) for name, verb in VERBS.items()}
    commands = {n: getattr(module, f"{n.replace(' ', '_')}_command") for n, module in modules.items()}
    return {name: tree for name, command in commands.items() if (tree := tree_of(command)) is not None}


def test_every_default_of_every_verb_is_printed_and_read_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {"read", "simulate", "transfer"} <= set(trees())
    for verb, tree in trees().items():
        assert run(["config", *verb.split()]) == 0
        (tmp_path / "s.yaml").write_text(capsys.readouterr().out, encoding="utf-8")
        assert settings_of(tree, file=tmp_path / "s.yaml") == tree(), verb
    assert run(["config", "doctor"]) == run(["config", "nothing"]) == 3


def test_every_flag_of_every_verb_has_a_short_description() -> None:
    for verb, tree in trees().items():
        for name, field in tree.model_fields.items():
            if field.description:
                assert len(mechanism.help_text(field)) < 60, (verb, name)


def test_a_missing_extra_is_named_with_its_remedy_before_any_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else real(name))
    for verb, arguments in (("read", ["x", "-o", str(tmp_path / "o")]), ("simulate", [str(tmp_path / "o")])):
        assert run([verb, *arguments]) == MissingExtra.exit_code
        assert 'pip install "ichnos[' in capsys.readouterr().err
        assert not (tmp_path / "o").exists()
    assert run(["read", "--help"]) == 0
