"""README's own commands run in the order printed, and every command and link that the pages name exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from builders.tiny_model import tiny_model
from ichnos.cli.main import _joined, application, run

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]
QUICK = {
    "simulate": ["--voxel-mm", "3"],
    "read": ["--only", "haematoma,leukoaraiosis"],
}  # nothing else is changed


def code_blocks(page: Path) -> list[str]:
    """Return the code blocks of a page."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """Return the `ichnos …` command lines in the code blocks of a page, without comments."""
    lines = [line for block in code_blocks(page) for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("ichnos ")]


@pytest.mark.timeout(900)
def test_the_first_commands_of_readme_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Coarse patients and a tiny model, so that it is quick; nothing else is changed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = tiny_model(tmp_path / "tiny").folder
    quick = {"simulate": ["--voxel-mm", "3"], "read": ["--model", str(model)]}
    first = commands(REPOSITORY / "README.md")[:3]
    assert [words[1] for words in first] == ["simulate", "read", "evaluate"]
    for _, verb, *words in first:
        assert run([verb, *words, *quick.get(verb, [])]) == 0, capsys.readouterr().err
    scans = (tmp_path / "readings" / "summary.csv").read_text().splitlines()[1:]
    assert len(scans) == 6  # a CT and a follow-up of each of three patients
    assert (tmp_path / "evidence" / "report.html").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_names_exists(page: Path) -> None:
    verbs = get_command(application()).commands  # type: ignore[attr-defined]
    for _, *words in commands(page):
        name, *rest = _joined(words)
        assert name in verbs or name.startswith("-"), f"ichnos {name}"
        flags = (
            {flag for p in verbs[name].params for flag in (*p.opts, *p.secondary_opts)}
            if name in verbs
            else set()
        )
        for word in (w.split("=")[0] for w in rest if re.match(r"--?[a-z]", w)):
            assert word in flags | {"-h", "--help"}, f"ichnos {name} has no {word} ({page.name})"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_and_script_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []
    scripts = re.findall(r"\b((?:tools|benchmarks)/\w+\.(?:py|sh))", text)
    assert [script for script in scripts if not (REPOSITORY / script).exists()] == []


def test_every_target_of_the_makefile_that_a_page_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE))
    for page in PAGES:
        in_blocks = [n for block in code_blocks(page) for n in re.findall(r"^make ([a-z-]+)", block, re.M)]
        in_lines = re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8"))
        assert {*in_blocks, *in_lines} <= targets, page.name
