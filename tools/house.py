"""The rules of the house that no other tool checks, and the figures behind them: `python tools/house.py`.

Layers are import-linter's, style is ruff's, types are mypy's; what is left is counted here and held by
tests/house/test_house.py. Every rule is a function from a tree of files to a list of sentences, empty when
the rule holds.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
MOST_LINES = 500  # of a file
MOST_FILES = 15  # beside each other in a folder, without __init__.py
CROWDED = ("networks", "formats")  # one architecture, one format per file: these may hold more
P95_FUNCTION_LINES = 26
LEAST_TEST_SHARE = 0.5  # lines of tests per line of source
LEAST_EXAMPLE_SHARE = 0.15  # public docstrings that hold an example that runs
LONGEST_LINE = 110
# Names that a protocol fixes: each module of a kind has its own.
FIXED_NAMES = frozenset({"main", "run", "upgrade", "downgrade", "revision", "down_revision"})
LONGEST_HELP = 59  # characters of one option's help
_SHELL_OPTIONS = ("install_completion", "show_completion")  # typer's own
_PLACEHOLDER = "to be " + "filled"
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Module:
    """One parsed file of the package."""

    path: Path
    name: str  # dotted, "ichnos.runs" for a package's __init__.py
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """The file's syntax tree."""
        return ast.parse(self.text)

    @property
    def is_package(self) -> bool:
        """Whether the file is a package's __init__.py."""
        return self.path.name == "__init__.py"


@dataclass(frozen=True)
class House:
    """A checkout: its package, its tests, and the texts people read."""

    root: Path

    @cached_property
    def modules(self) -> tuple[Module, ...]:
        """Every file of the package."""
        source = self.root / "src"
        return tuple(_module(path, source) for path in sorted(source.rglob("*.py")))

    def room(self, module: Module) -> str:
        """Return the room of a file: its first folder, or its own name on the ground floor."""
        parts = module.name.split(".")
        return parts[1] if len(parts) > 1 else parts[0]


def _module(path: Path, source: Path) -> Module:
    parts = path.relative_to(source).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return Module(path, name, path.read_text(encoding="utf-8"))


# ---- imports -------------------------------------------------------------------------------------


def imported_modules(module: Module, names: frozenset[str]) -> frozenset[str]:
    """Return which of the package's modules a file imports, inside functions and for types alike."""
    out = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            out |= {_nearest(alias.name, names) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, module)
            out |= {_nearest(f"{base}.{alias.name}", names) for alias in node.names}
    return frozenset(name for name in out if name and name != module.name)


def _absolute(node: ast.ImportFrom, module: Module) -> str:
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    home = parts[: len(parts) - node.level + module.is_package]
    return ".".join([*home, *([node.module] if node.module else [])])


def _nearest(name: str, names: frozenset[str]) -> str:
    """Return the module that a dotted name lies in, "" if it is none of ours."""
    while name and name not in names:
        name = name.rpartition(".")[0]
    return name


def circles(house: House) -> list[str]:
    """List the groups of files that import one another, in a circle."""
    names = frozenset(module.name for module in house.modules)
    facade = house.modules[0].name if house.modules else ""  # loads names on first use; nothing comes with it
    graph = {module.name: imported_modules(module, names) for module in house.modules}
    graph[facade] = frozenset()
    groups = sorted(sorted(group) for group in _strongly_connected(graph) if len(group) > 1)
    return [f"import circle: {' ↔ '.join(group)}" for group in groups]


def _strongly_connected(graph: dict[str, frozenset[str]]) -> list[set[str]]:
    """Return Tarjan's strongly connected components, without recursion."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[set[str]] = []
    for root in graph:
        todo: list[tuple[str, Iterator[str]]] = [] if root in index else [(root, iter(graph[root]))]
        while todo:
            node, following = todo[-1]
            if node not in index:
                index[node] = low[node] = len(index)
                stack.append(node)
            child = next((c for c in following if c not in index or c in stack), None)
            if child is None:
                todo.pop()
                if todo:
                    low[todo[-1][0]] = min(low[todo[-1][0]], low[node])
                if low[node] == index[node]:
                    at = stack.index(node)
                    groups.append(set(stack[at:]))
                    del stack[at:]
            elif child in index:
                low[node] = min(low[node], index[child])
            else:
                todo.append((child, iter(graph[child])))
    return groups


# ---- names ---------------------------------------------------------------------------------------


def public_names(module: Module) -> list[str]:
    """Return the public names that a file defines itself: classes, functions and assigned names."""
    out: list[str] = []
    for node in module.tree.body:
        if isinstance(node, _Documented):
            out.append(node.name)
        elif isinstance(node, ast.Assign):
            out += [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            out.append(node.target.id)
    return [name for name in dict.fromkeys(out) if not name.startswith("_")]


def shared_names(house: House) -> list[str]:
    """List the public names that more than one file defines."""
    owners: dict[str, list[str]] = defaultdict(list)
    for module in house.modules:
        for name in public_names(module):
            owners[name].append(module.name)
    return [
        f"public name with {len(modules)} owners: {name} in {', '.join(modules)}"
        for name, modules in sorted(owners.items())
        if len(modules) > 1 and name not in FIXED_NAMES
    ]


# ---- sizes ---------------------------------------------------------------------------------------


def long_files(house: House) -> list[str]:
    """List the files of more than MOST_LINES lines."""
    folders = [house.root / name for name in ("src", "tests", "tools", "benchmarks")]
    files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    return [
        f"{path.relative_to(house.root)} has {count} lines, more than {MOST_LINES}"
        for path in files
        if (count := _lines(path)) > MOST_LINES
    ]


def crowded_folders(house: House) -> list[str]:
    """List the folders of the package with more than MOST_FILES files beside each other."""
    counts: dict[Path, int] = defaultdict(int)
    for module in house.modules:
        counts[module.path.parent] += not module.is_package
    return [
        f"{folder.relative_to(house.root)} has {count} files beside each other, more than {MOST_FILES}"
        for folder, count in sorted(counts.items())
        if count > MOST_FILES and folder.name not in CROWDED
    ]


def function_lengths(house: House) -> dict[str, int]:
    """Return the lines of every function, from its def to its end, by its dotted name."""
    out = {}
    for module in house.modules:
        for node in ast.walk(module.tree):
            if isinstance(node, _Function):
                out[f"{module.name}.{node.name}:{node.lineno}"] = (node.end_lineno or 0) - node.lineno + 1
    return out


def p95_lines(lengths: Iterable[int]) -> int:
    """Return the 95th percentile: the least length that 95 % of functions do not exceed.

    >>> p95_lines(range(1, 101)), p95_lines([])
    (95, 0)
    """
    ordered = sorted(lengths)
    return ordered[-(-len(ordered) * 95 // 100) - 1] if ordered else 0


def long_functions(house: House) -> list[str]:
    """Say when the 95th percentile of function length exceeds P95_FUNCTION_LINES."""
    found = p95_lines(function_lengths(house).values())
    return [f"5 % of functions exceed {found} lines; at most {P95_FUNCTION_LINES} are wanted"] * (
        found > P95_FUNCTION_LINES
    )


def long_lines(house: House) -> list[str]:
    """List the lines of the package that are longer than LONGEST_LINE characters."""
    return [
        f"{module.path.relative_to(house.root)}:{number} has {len(line)} characters"
        for module in house.modules
        for number, line in enumerate(module.text.splitlines(), 1)
        if len(line) > LONGEST_LINE and "noqa: E501" not in line
    ]


# ---- shares --------------------------------------------------------------------------------------


def test_share(house: House) -> float:
    """Return the lines of tests per line of the package."""
    source = sum(_lines(module.path) for module in house.modules)
    return sum(map(_lines, (house.root / "tests").rglob("*.py"))) / max(source, 1)


def few_tests(house: House) -> list[str]:
    """Say when there are fewer than LEAST_TEST_SHARE lines of tests per line of the package."""
    share = test_share(house)
    return [f"{share:.2f} lines of tests per line of source; at least {LEAST_TEST_SHARE} are wanted"] * (
        share < LEAST_TEST_SHARE
    )


def namesakes(house: House) -> list[str]:
    """List the test files that share a file name: pytest imports them by it, and takes only one of them."""
    places: dict[str, list[str]] = defaultdict(list)
    for path in sorted((house.root / "tests").rglob("test_*.py")):
        places[path.name].append(str(path.parent.relative_to(house.root)))
    return [f"{name} is in {' and in '.join(found)}" for name, found in places.items() if len(found) > 1]


def docstrings(module: Module) -> list[str]:
    """Return the docstrings of a file's public names and of their public methods, and the file's own."""
    found = [ast.get_docstring(module.tree)]
    for node in module.tree.body:
        if isinstance(node, _Documented) and not node.name.startswith("_"):
            found.append(ast.get_docstring(node))
            inner = node.body if isinstance(node, ast.ClassDef) else []
            methods = [n for n in inner if isinstance(n, _Function) and not n.name.startswith("_")]
            found += [ast.get_docstring(method) for method in methods]
    return [text for text in found if text]


def example_share(modules: Iterable[Module]) -> tuple[int, int]:
    """Return how many public docstrings hold an example that runs, and how many there are."""
    texts = [text for module in modules for text in docstrings(module)]
    return sum(">>>" in text for text in texts), len(texts)


def few_examples(house: House) -> list[str]:
    """Say when fewer than LEAST_EXAMPLE_SHARE of the public docstrings hold an example."""
    examples, total = example_share(house.modules)
    return [
        f"{examples} of {total} docstrings hold an example; at least {LEAST_EXAMPLE_SHARE:.0%} are wanted"
    ] * (examples < LEAST_EXAMPLE_SHARE * total)


# ---- texts ---------------------------------------------------------------------------------------


def placeholders(house: House) -> list[str]:
    """List the files that promise text which is not there."""
    folders = [house.root / name for name in ("src", "docs", "tests", "tools", "benchmarks")]
    files = [p for folder in folders for p in sorted(folder.rglob("*")) if p.suffix in (".py", ".md", ".j2")]
    files += sorted(house.root.glob("*.md"))
    pattern = re.compile(_PLACEHOLDER, re.IGNORECASE)
    return [
        f'{path.relative_to(house.root)} says "{_PLACEHOLDER}"'
        for path in files
        if pattern.search(path.read_text(encoding="utf-8"))
    ]


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


# ---- the command line ----------------------------------------------------------------------------


def help_findings(command: Any, name: str) -> list[str]:
    """List what is wrong with a verb's help: texts too long or cut, lines too wide, no example."""
    out = []
    for parameter in command.params:
        text = getattr(parameter, "help", None) or ""
        if not text and parameter.name != "help":
            out.append(f"{name}: {parameter.name} has no help text")
        if len(text) > LONGEST_HELP and parameter.name not in _SHELL_OPTIONS:
            out.append(f"{name}: the help of {parameter.name} has {len(text)} characters: {text}")
    page = command.get_help(command.context_class(command, info_name=name, max_content_width=80))
    for row in page.splitlines():
        if len(row) > 80:
            out.append(f"{name}: a line of help has {len(row)} characters")
        if row.endswith("...") and "Usage:" not in row:
            out.append(f"{name}: a line of help is cut: {row.strip()}")
    if f"Example: ichnos {name}" not in " ".join(page.split()):
        out.append(f"{name}: the help shows no example")
    return out


def command_line_findings() -> list[str]:
    """List what is wrong with the help of every verb of ichnos."""
    from typer.main import get_command

    from ichnos.cli.main import application

    group: Any = get_command(application())
    out = [finding for name, verb in group.commands.items() for finding in help_findings(verb, name)]
    page = group.get_help(group.context_class(group, info_name="ichnos", max_content_width=80))
    for name, verb in ((n, v) for n, v in group.commands.items() if not v.hidden):
        if f"{verb.short_help}\n" not in page + "\n":
            out.append(f"ichnos --help does not show the line of {name} whole: {verb.short_help}")
    return out


RULES: dict[str, Callable[[House], list[str]]] = {
    "no import circles": circles,
    "one owner per public name": shared_names,
    "no long files": long_files,
    "no crowded folders": crowded_folders,
    "short functions": long_functions,
    "short lines": long_lines,
    "enough tests": few_tests,
    "test files have names of their own": namesakes,
    "enough examples": few_examples,
    "no placeholders": placeholders,
}


def room_figures(house: House) -> list[str]:
    """Return one line per room: files, lines, 95th percentile of function length, examples."""
    rooms: dict[str, list[Module]] = defaultdict(list)
    for module in house.modules:
        rooms[house.room(module)].append(module)
    lengths = function_lengths(house)
    lines = [f"{'room':<14}{'files':>6}{'lines':>8}{'p95':>5}{'examples':>12}"]
    for room, modules in sorted(rooms.items()):
        prefixes = tuple(f"{module.name}." for module in modules)
        p95 = p95_lines(count for name, count in lengths.items() if name.startswith(prefixes))
        examples, total = example_share(modules)
        count = sum(_lines(module.path) for module in modules)
        share = f"{examples}/{total} {examples / max(total, 1):4.0%}"
        lines.append(f"{room:<14}{len(modules):>6}{count:>8}{p95:>5}{share:>12}")
    return lines


def main(arguments: list[str]) -> int:
    """Print figures per room, then every finding; leave with 1 if there is one."""
    house = House(Path(arguments[0]) if arguments else REPOSITORY)
    findings = [f"{rule}: {sentence}" for rule, check in RULES.items() for sentence in check(house)]
    if house.root == REPOSITORY:
        findings += [f"whole help: {sentence}" for sentence in command_line_findings()]
    examples, total = example_share(house.modules)
    print("\n".join(room_figures(house)))
    print(f"95 % of functions are within {p95_lines(function_lengths(house).values())} lines")
    print(f"{test_share(house):.2f} lines of tests per line of source")
    print(f"{examples} of {total} public docstrings hold an example ({examples / max(total, 1):.1%})")
    print("\n".join(findings) or "every rule of the house holds")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
