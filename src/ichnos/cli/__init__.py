"""The command line: one file per verb, thin. Exit codes: 0 fine, 2 refused input, 3 bad usage, 1 bug."""

from ichnos.cli.main import main

__all__ = ["main"]
