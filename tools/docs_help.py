"""What mkdocs needs to build the reference: the help of every verb, and examples laid out as code."""

from __future__ import annotations

import re
from typing import Any

import griffe

MARK = "<!-- command line -->"
_EXAMPLE = re.compile(r"(?:^[ ]*>>>.*\n?(?:(?![ ]*\n).+\n?)*)+", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the mark of a page by the help of every verb: a hook of mkdocs."""
    return markdown.replace(MARK, command_line_pages()) if MARK in markdown else markdown


def command_line_pages() -> str:
    """Return the help of every verb as Markdown, one heading each."""
    from typer.main import get_command

    from ichnos.cli.main import application

    group: Any = get_command(application())
    parts = []
    for name, command in group.commands.items():
        context = command.context_class(command, info_name=f"ichnos {name}", max_content_width=80)
        parts.append(f"## {name}\n\n```text\n{command.get_help(context)}\n```")
    return "\n\n".join(parts)


def fenced(text: str) -> str:
    """Return a docstring whose examples stand in code fences.

    >>> print(fenced("Add.\\n\\n>>> 1 + 1\\n2\\n"), end="")
    Add.
    <BLANKLINE>
    ```pycon
    >>> 1 + 1
    2
    ```
    """
    return _EXAMPLE.sub(lambda match: f"```pycon\n{match.group(0).rstrip()}\n```\n", text)


class FencedExamples(griffe.Extension):
    """Lets mkdocstrings show examples as code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Fence the examples of an object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
