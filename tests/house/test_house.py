"""The rules of tools/house.py: each holds on a sound tree and finds what breaks it."""

from __future__ import annotations

from pathlib import Path

import pytest

import house


def built(root: Path, files: dict[str, str]) -> house.House:
    """Write files below a folder and return the house that they make."""
    for name, text in ({"src/p/__init__.py": '"""A package."""\n'} | files).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return house.House(root)


def module(lines: int) -> str:
    return "\n".join(f"_x{k} = {k}" for k in range(lines)) + "\n"


SOUND = {
    "src/p/a.py": (
        '"""A."""\n\n\ndef double(x: int) -> int:\n    """Double.\n\n    >>> double(2)\n    4\n    """\n'
        "    return 2 * x\n"
    ),
    "src/p/b.py": "import p.a\n\n\ndef quadruple(x: int) -> int:\n    return p.a.double(p.a.double(x))\n",
    "tests/test_a.py": module(20),
}


def test_a_sound_tree_breaks_no_rule(tmp_path: Path) -> None:
    tree = built(tmp_path, SOUND)
    assert {rule: check(tree) for rule, check in house.RULES.items()} == {rule: [] for rule in house.RULES}
    assert house.main([str(tmp_path)]) == 0


BREAKS = {
    "no import circles": {"src/p/a.py": "import p.b\n"},
    "one owner per public name": {"src/p/c.py": "def double() -> None: ...\n"},
    "no long files": {"src/p/long.py": module(501)},
    "no crowded folders": {f"src/p/m{k}.py": module(1) for k in range(16)},
    "short functions": {"src/p/f.py": "def f() -> None:\n" + "    pass\n" * 26},
    "short lines": {"src/p/w.py": f"_x = '{'x' * 110}'\n"},
    "enough tests": {"src/p/more.py": module(60)},
    "test files have names of their own": {"tests/room/test_a.py": module(1)},
    "enough examples": {f"src/p/d{k}.py": f'"""Module {k}."""\n' for k in range(9)},
    "no placeholders": {"docs/x.md": "to be " + "filled\n"},
}


def test_every_rule_is_tried() -> None:
    assert set(BREAKS) == set(house.RULES)


@pytest.mark.parametrize("rule", BREAKS)
def test_a_broken_rule_is_found(rule: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = built(tmp_path, SOUND | BREAKS[rule])
    assert house.RULES[rule](tree)
    assert house.main([str(tmp_path)]) == 1
    assert rule in capsys.readouterr().out


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("def f() -> None:\n    from p.b import g\n", "from p import a\n"),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.b import G\n", "from . import a\n"),
        ("from .c import d\n", "import p.a\n"),  # by way of a third
    ],
)
def test_a_circle_is_found_inside_functions_for_types_and_by_relative_names(
    a: str, b: str, tmp_path: Path
) -> None:
    tree = built(tmp_path, {"src/p/a.py": a, "src/p/b.py": b, "src/p/c.py": "from p.b import e\n"})
    (sentence,) = house.circles(tree)
    assert "p.a" in sentence
    assert "p.b" in sentence


def test_a_diamond_is_no_circle(tmp_path: Path) -> None:
    files = {"a": "import p.b, p.c\n", "b": "import p.d\n", "c": "import p.d\n", "d": ""}
    assert house.circles(built(tmp_path, {f"src/p/{k}.py": text for k, text in files.items()})) == []


def test_private_and_imported_names_may_stand_in_many_files(tmp_path: Path) -> None:
    text = "from os import path\n_LIMIT = 3\n\n\ndef _f() -> None: ...\n"
    assert house.shared_names(built(tmp_path, {"src/p/a.py": text, "src/p/b.py": text})) == []


def test_folders_of_one_format_or_architecture_per_file_may_be_larger(tmp_path: Path) -> None:
    files = {f"src/p/networks/m{k}.py": "" for k in range(20)}
    assert house.crowded_folders(built(tmp_path, files)) == []


def test_the_percentile_is_a_length_that_occurs() -> None:
    assert house.p95_lines([10] * 95 + [40] * 5) == 10
    assert house.p95_lines([10] * 94 + [40] * 6) == 40


def test_only_public_docstrings_count_for_examples(tmp_path: Path) -> None:
    text = (
        '"""M."""\n\n\ndef _f() -> None:\n    """No.\n\n    >>> 1\n    1\n    """\n\n\n'
        'class C:\n    """C."""\n\n    def m(self) -> None:\n        """M.\n\n        >>> 2\n'
        '        2\n        """\n'
    )
    tree = built(tmp_path, {"src/p/a.py": text})
    assert house.example_share([m for m in tree.modules if m.name == "p.a"]) == (1, 3)
