"""`ichnos models`: which models are here, and whether their files are what their manifests say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def models(
    folder: Annotated[list[Path] | None, typer.Argument(help="Model folders; the shipped ones without any.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Check every file against its hash and rebuild the network.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """List models, and with --verify check them; exit code 2 when one is damaged."""
    from ichnos.errors import IchnosError
    from ichnos.models import load_model, read_manifest, shipped_models

    rows = []
    for path in folder or list(shipped_models()):
        row: dict[str, object] = {"folder": path.name}
        try:
            manifest = read_manifest(path)
            if verify:
                load_model(path).network()
            row |= {
                "name": manifest.name,
                "version": manifest.version,
                "targets": [target.name for target in manifest.targets],
                "steps": manifest.provenance.steps,
                "sha256": manifest.weights_sha256,
                "problem": "",
            }
        except IchnosError as error:
            row["problem"] = str(error)
        rows.append(row)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        for row in rows or [{"problem": "no model ships with this installation yet: make weights trains one"}]:
            typer.echo(row.get("problem") or f"{row['name']} {row['version']}: {', '.join(row['targets'])} ({row['steps']} steps)")  # type: ignore[arg-type]
    return 2 if any(row["problem"] for row in rows) else 0
