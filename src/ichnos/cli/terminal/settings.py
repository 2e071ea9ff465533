"""One settings tree per verb: defaults < `--config FILE.yaml` < `--set NAME=VALUE` < flags.

A tree is a pydantic model. Each of its fields with a description becomes a flag; nested models are set in
the file or by `--set group.name=value`. What a run used is saved as such a file and reproduces it.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

import typer
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from ichnos.cli.terminal.devices import check_device
from ichnos.errors import UsageError
from ichnos.files import atomic_file

Tree = TypeVar("Tree", bound=BaseModel)
_LONGEST_HELP = 59  # characters, with the default: a help line is read at a glance
_SETTINGS = "settings"  # the parameter of a verb that holds its tree


class SettingsTree(BaseModel):
    """The base of a verb's settings: frozen, and an unknown name is refused.

    >>> class Example(SettingsTree):
    ...     seed: int = 1
    >>> Example().seed
    1
    """

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Flag:
    """How a field is given on the command line, where its own name does not say it."""

    names: tuple[str, ...] = ()  # ("--from",); default: "--" and the field's name
    metavar: str = ""


_WANTED = {  # pydantic's kind of error -> what to give
    "greater_than_equal": "{ge} or more",
    "greater_than": "more than {gt}",
    "less_than_equal": "{le} or less",
    "less_than": "less than {lt}",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "bool_parsing": "true or false",
    "missing": "as many values as the default has",
    "too_long": "at most {max_length} values",
}
EXECUTION = object()  # marks a field that decides how a run computes, not what: it is not saved


# ---- from a tree to flags ------------------------------------------------------------------------


def with_settings(tree: type[Tree]) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a verb that takes `settings` one flag per field of the tree, `--config` and `--set`."""

    def decorate(verb: Callable[..., int]) -> Callable[..., int]:
        own = list(inspect.signature(verb, eval_str=True).parameters.values())
        at = next(i for i, parameter in enumerate(own) if parameter.name == _SETTINGS)
        shown = [*own[:at], *_parameters(tree), *_FILE_PARAMETERS, *own[at + 1 :]]

        @functools.wraps(verb)
        def command(**given: Any) -> int:
            flags = {name: given.pop(name) for name in _flagged(tree)}
            file, sets = given.pop("config"), given.pop("set_")
            settings = settings_of(tree, flags, file=file, sets=sets or ())
            check_device(getattr(settings, "device", "cpu"))
            return verb(**given, settings=settings)

        keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in shown]
        command.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]  # what typer reads
        command.__annotations__ = {p.name: p.annotation for p in keyword}
        del command.__wrapped__
        command.settings_tree = tree  # type: ignore[attr-defined]  # for `ichnos config`
        return command

    return decorate


def tree_of(command: Callable[..., int]) -> type[BaseModel] | None:
    """Return the settings tree of a verb's function, None if it has none.

    >>> tree_of(lambda: 0) is None
    True
    """
    return getattr(command, "settings_tree", None)


def _flagged(tree: type[BaseModel]) -> dict[str, FieldInfo]:
    return {name: f for name, f in tree.model_fields.items() if f.description and not _is_group(f)}


def _is_group(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _parameters(tree: type[BaseModel]) -> Iterator[inspect.Parameter]:
    for name, field in _flagged(tree).items():
        kind: Any = bool | None if _bare(field.annotation) is bool else str | None
        names = _flag_names(name, field)
        metavar = None if _bare(field.annotation) is bool else _metavar(field)
        option = typer.Option(*names, help=help_text(field), show_default=False, metavar=metavar)
        yield inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option]
        )


_FILE_PARAMETERS = (
    inspect.Parameter(
        "config",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[Path | None, typer.Option(help="settings file (`ichnos config VERB`)")],
    ),
    inspect.Parameter(
        "set_",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[
            list[str] | None, typer.Option("--set", help="any setting; repeatable", metavar="NAME=VALUE")
        ],
    ),
)


def _flag(field: FieldInfo) -> Flag:
    return next((extra for extra in field.metadata if isinstance(extra, Flag)), Flag())


def _flag_names(name: str, field: FieldInfo) -> tuple[str, ...]:
    names = _flag(field).names or (f"--{name.replace('_', '-')}",)
    if _bare(field.annotation) is bool and "/" not in names[0]:
        return (f"{names[0]}/--no-{names[0].removeprefix('--')}", *names[1:])
    return names


def _bare(annotation: Any) -> Any:
    """Return a type without "or None"."""
    arguments = [a for a in get_args(annotation) if a is not type(None)]
    is_union = get_origin(annotation) is Union or type(annotation).__name__ == "UnionType"
    return arguments[0] if is_union and len(arguments) == 1 else annotation


def _metavar(field: FieldInfo) -> str:
    bare = _bare(field.annotation)
    if word := _flag(field).metavar:
        return word
    if get_origin(bare) is Literal:
        return "|".join(map(str, get_args(bare)))
    if get_origin(bare) in (tuple, list):
        return "A,B,…"
    return {int: "N", float: "X", Path: "PATH"}.get(bare, "TEXT")


def help_text(field: FieldInfo) -> str:
    """Return a field's help line: its description, with the default unless that is told or empty.

    >>> from pydantic import Field
    >>> help_text(Field(1, description="processes"))
    'processes (default: 1)'
    >>> help_text(Field(None, description="threads (default: all cores)"))
    'threads (default: all cores)'
    """
    text, value = field.description or "", field.get_default(call_default_factory=True)
    if value in (None, (), "") or isinstance(value, bool) or "default" in text:
        return text
    words = ",".join(map(str, value)) if isinstance(value, tuple) else f"{value}"
    return f"{text} (default: {words})"


# ---- from flags and files to a tree --------------------------------------------------------------


def settings_of(
    tree: type[Tree],
    flags: Mapping[str, Any] | None = None,
    *,
    file: Path | None = None,
    sets: tuple[str, ...] | list[str] = (),
) -> Tree:
    """Return the settings that defaults, a file, `--set` and flags give together, the later overruling.

    >>> class Example(SettingsTree):
    ...     threads: int = 1
    >>> settings_of(Example, {"threads": "4"}).threads
    4
    >>> settings_of(Example, sets=["treads=2"])
    Traceback (most recent call last):
    ichnos.errors.UsageError: there is no setting treads; did you mean threads?
    """
    given = read_settings(file) if file is not None else {}
    for text in sets:
        _put(given, text, tree)
    by_flag = {name: value for name, value in (flags or {}).items() if value is not None}
    given |= {name: _split(value, tree.model_fields[name]) for name, value in by_flag.items()}
    try:
        return tree.model_validate(given)
    except ValidationError as error:
        raise UsageError(_sentence(tree, error, by_flag, file)) from None


def read_settings(file: Path) -> dict[str, Any]:
    """Read a settings file as plain data.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "read.yaml"
    ...     _ = file.write_text("only: [tract]\\nworkers: 2\\n")
    ...     read_settings(file)
    {'only': ['tract'], 'workers': 2}
    """
    import yaml

    if not file.is_file():
        raise UsageError(
            f"{file} does not exist; give a YAML file of settings, as `ichnos config VERB` prints"
        )
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{file} is not readable as YAML ({reason}); write NAME: VALUE lines") from None
    if not isinstance(found, dict | None):
        raise UsageError(f"{file} holds no NAME: VALUE lines; `ichnos config VERB` prints an example")
    return found or {}


def _put(given: dict[str, Any], text: str, tree: type[BaseModel]) -> None:
    """Set group.name=value in plain data."""
    import yaml

    path, equals, value = text.partition("=")
    if not equals:
        raise UsageError(
            f"--set {text}: write it as NAME=VALUE, such as --set {next(iter(tree.model_fields))}=…"
        )
    *groups, last = path.strip().split(".")
    fields: Any = tree
    for name in groups:
        field = fields.model_fields.get(name)
        if field is None or not _is_group(field):
            raise UsageError(_unknown(name, [n for n, f in fields.model_fields.items() if _is_group(f)]))
        fields = field.annotation
        inside = given[name] = {} if given.get(name) is None else given[name]
        if not isinstance(inside, dict):
            raise UsageError(f"--set {text}: the file has {name}: {inside!r}, which is no group of settings")
        given = inside
    if last not in fields.model_fields:
        raise UsageError(_unknown(last, list(fields.model_fields)))
    try:
        given[last] = _split(yaml.safe_load(value), fields.model_fields[last])
    except yaml.YAMLError:
        given[last] = value


def _split(value: Any, field: FieldInfo) -> Any:
    """Split a comma list for a field that holds several values."""
    several = get_origin(_bare(field.annotation)) in (tuple, list)
    return (
        [part.strip() for part in value.split(",") if part.strip()]
        if several and isinstance(value, str)
        else value
    )


def _unknown(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known) or 'none'}"
    return f"there is no setting {name}; {hint}"


def _sentence(
    tree: type[BaseModel], errors: ValidationError, by_flag: Mapping[str, Any], file: Path | None
) -> str:
    """Say what the first error is about: where it was given, what was given, what to give."""
    error: dict[str, Any] = dict(errors.errors()[0])
    kind, context, path = error["type"], error.get("ctx", {}), [str(part) for part in error["loc"]]
    at, source = ".".join(path), f"{file}: " if file is not None else ""
    if path[:1] and path[0] in by_flag:
        at, source = _flag_names(path[0], tree.model_fields[path[0]])[0].split("/")[0], ""
    if kind == "extra_forbidden":
        return source + _unknown(path[-1], list(_group_at(tree, path[:-1]).model_fields))
    if kind == "missing" and not path[-1].isdigit():
        return f"{source}{at} is missing; give it a value"
    if kind == "literal_error":
        return f"{source}{at} {error['input']!r} is unknown; give {context['expected'].replace(chr(39), '')}"
    if kind == "value_error":
        return f"{source}{at}: {context['error']}"
    wanted = _WANTED.get(kind, "").format(**context) or error["msg"]
    return f"{source}{at} {error.get('input')!r} cannot be used; give {wanted}"


def _group_at(tree: type[BaseModel], path: list[str]) -> type[BaseModel]:
    group: Any = tree
    for part in path:
        if part.isdigit():  # one of several groups
            continue
        group = _bare(group.model_fields[part].annotation)
        group = get_args(group)[0] if get_origin(group) in (tuple, list) else group
    return cast("type[BaseModel]", group)


def asked_for(settings: BaseModel, names: Iterable[str]) -> list[str]:
    """Return the flags of those fields that are not at their default: what a verb may have no use for."""
    plain = type(settings).model_validate({})
    return [
        f"--{name.replace('_', '-')}" for name in names if getattr(settings, name) != getattr(plain, name)
    ]


# ---- from a tree to a file -----------------------------------------------------------------------


def settings_text(settings: BaseModel, title: str, *, saved: bool = False) -> str:
    """Return settings as a commented YAML file; a saved one leaves out what only concerns execution.

    >>> class Example(SettingsTree):
    ...     threads: int | None = None
    >>> print(settings_text(Example(threads=2), "settings of an example"), end="")
    # settings of an example
    threads: 2
    """
    return (
        "\n".join([*(f"# {line}" for line in title.splitlines()), *_yaml_lines(settings, "", saved)]) + "\n"
    )


def _yaml_lines(settings: BaseModel, indent: str, saved: bool) -> Iterator[str]:
    plain = settings.model_dump(mode="json")
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if saved and EXECUTION in field.metadata:
            continue
        if field.description:
            yield f"{indent}# {field.description}"
        if isinstance(value, BaseModel):
            yield f"{indent}{name}:"
            yield from _yaml_lines(value, indent + "  ", saved)
        else:
            yield f"{indent}{name}: {_yaml(plain[name])}"


def _yaml(value: Any) -> str:
    import yaml

    text: str = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def save_settings(settings: BaseModel, file: Path, *, verb: str) -> None:
    """Save the settings of a run as a file that `ichnos VERB --config` takes.

    >>> import tempfile
    >>> class Example(SettingsTree):
    ...     seed: int = 1
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "settings.yaml"
    ...     save_settings(Example(seed=5), file, verb="simulate")
    ...     settings_of(Example, file=file).seed
    5
    """
    from ichnos import __version__

    file.parent.mkdir(parents=True, exist_ok=True)
    title = (
        f"ichnos {__version__}: settings of this run; reproduce it with: ichnos {verb} … --config {file.name}"
    )
    with atomic_file(file) as temporary:
        temporary.write_text(settings_text(settings, title, saved=True), encoding="utf-8")
