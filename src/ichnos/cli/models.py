"""`ichnos models list|show|verify|export|import`: which models are here, whether their files are sound,
and their way out and in.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ichnos.errors import InputRefused, UsageError

if TYPE_CHECKING:
    from ichnos.models import Model

_ACTIONS = ("list", "show", "verify", "export", "import")


def models_command(
    action: Annotated[str, typer.Argument(help="list, show, verify, export or import")] = "list",
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="model folders or names (default: those that ship)"),
    ] = None,
    onnx: Annotated[Path | None, typer.Option(help="export: ONNX file to write")] = None,
    monai: Annotated[Path | None, typer.Option(help="export: new folder for a MONAI bundle")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="import: new model folder")] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="import: their label = our target (hematoma=ICH)")
    ] = None,
    fold: Annotated[str, typer.Option(help="import: which fold")] = "0",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> int:
    """List models, show a card, verify files against their hashes, export to ONNX or MONAI, import from
    nnU-Net or U-Mamba.
    """
    if action not in _ACTIONS:
        raise UsageError(f"there is no action {action!r}; give one of {', '.join(_ACTIONS)}")
    if action in ("list", "verify"):
        return _listed(folders or [], verify=action == "verify", as_json=as_json)
    if action == "show":
        return _shown(_one(folders, default=True), as_json=as_json)
    if action == "export":
        return _exported(_one(folders, default=True), onnx, monai)
    return _imported(folders, out, label or [], fold)


def _listed(folders: list[Path], *, verify: bool, as_json: bool) -> int:
    from ichnos.models import shipped_models

    rows = [_row(path, verify=verify) for path in folders or shipped_models()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    elif not rows:
        typer.echo("no model came with this installation: `make weights` trains one in a checkout")
    for row in rows if not as_json else ():
        checked = ", files as they should be" if verify else ""
        told = (
            f"{row['name']} {row['version']}: {', '.join(row['targets'])} ({row['steps']} steps{checked})"
            if not row["problem"]
            else ""
        )
        typer.echo(told or row["problem"])
    return 2 if any(row["problem"] for row in rows) else 0


def _row(path: Path, *, verify: bool) -> dict[str, Any]:
    from ichnos.models import Model, load_model, read_manifest

    row: dict[str, Any] = {"folder": str(path), "problem": ""}
    try:
        manifest = read_manifest(path)
        refinement = Model(path, manifest).refinement()
        if verify:
            for model in (load_model(path), refinement):
                if model is not None:
                    model.network()
    except InputRefused as error:
        return row | {"problem": str(error)}
    told = {
        "name": manifest.name,
        "version": manifest.version,
        "targets": [target.name for target in manifest.targets],
    }
    refined_by = refinement.manifest.weights_sha256 if refinement else ""
    return (
        row
        | told
        | {
            "steps": manifest.provenance.steps,
            "sha256": manifest.weights_sha256,
            "refinement_sha256": refined_by,
        }
    )


def _one(folders: list[Path] | None, *, default: bool) -> Model:
    from ichnos.models import default_model, load_model

    if folders and len(folders) == 1:
        return load_model(folders[0])
    if not folders and default:
        return default_model()
    raise UsageError("give one model folder")


def _shown(model: Model, *, as_json: bool) -> int:
    from ichnos.models.card import card_text

    if as_json:
        typer.echo(model.manifest.model_dump_json(indent=2))
        return 0
    refinement = model.refinement()
    typer.echo(card_text(model.manifest, refinement.manifest if refinement is not None else None))
    if refinement is not None:
        typer.echo(card_text(refinement.manifest))
    return 0


def _exported(model: Model, onnx: Path | None, monai: Path | None) -> int:
    from ichnos.models.export import export_bundle, export_graph

    if onnx is None and monai is None:
        raise UsageError("say what to export to: --onnx FILE.onnx, --monai FOLDER, or both")
    if onnx is not None:
        typer.echo(f"ONNX: {export_graph(model, onnx)}")
    if monai is not None:
        typer.echo(f"MONAI bundle: {export_bundle(model, monai)}")
    return 0


def _imported(folders: list[Path] | None, out: Path | None, labels: list[str], fold: str) -> int:
    from ichnos.learning.nnunet.results import import_result_folder

    if not folders or len(folders) != 1 or out is None:
        raise UsageError(
            "give one result folder and a new model folder: ichnos models import RESULTS -o MODEL"
        )
    pairs = [text.split("=", 1) for text in labels]
    if any(len(pair) != 2 for pair in pairs):
        raise UsageError("--label is written as theirs=ours, such as --label hematoma=ICH")
    model = import_result_folder(folders[0], out, names={theirs: ours for theirs, ours in pairs}, fold=fold)
    typer.echo(f"{model.folder}: {', '.join(target.name for target in model.manifest.targets)}")
    return 0
