"""`ichnos models list|show|verify|export|import`: the models that are here, and their way out and in."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
        list[Path] | None, typer.Argument(help="model folders or names (default: those that ship)")
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
    """List models, show a card, verify files, export to ONNX or MONAI, import from nnU-Net or U-Mamba."""
    if action not in _ACTIONS:
        raise UsageError(f"there is no action {action!r}; give one of {', '.join(_ACTIONS)}")
    _refuse_unused(
        action,
        {
            "export": {"--onnx": onnx, "--monai": monai},
            "import": {"--out": out, "--label": label, "--fold": fold if fold != "0" else None},
            "list, show or verify": {"--json": as_json or None},
        },
    )
    if action == "import":
        return _imported(folders, out, label or [], fold)
    named = _named(folders or [])
    if action in ("list", "verify"):
        return _listed(named, verify=action == "verify", as_json=as_json)
    return _shown(_one(named), as_json=as_json) if action == "show" else _exported(_one(named), onnx, monai)


def _refuse_unused(action: str, options: Mapping[str, Mapping[str, object]]) -> None:
    """Refuse options of other actions."""
    for actions, own in options.items():
        given = [name for name, value in own.items() if value is not None]
        if given and action not in actions.replace(" or", ",").split(", "):
            raise UsageError(f"{', '.join(given)} is of `ichnos models {actions}`: leave it out")


def _named(folders: list[Path]) -> list[Path]:
    from ichnos.cli.inputs.models import model_folder

    return [model_folder(name) for name in folders]


def _listed(folders: list[Path], *, verify: bool, as_json: bool) -> int:
    from ichnos.models import shipped_models

    rows = [_row(path, verify=verify) for path in folders or shipped_models()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    elif not rows:
        typer.echo("no model came with this installation: `make weights` trains one in a checkout")
    else:
        for row in rows:
            typer.echo(_line(row, verified=verify))
    return 2 if any(row["problem"] for row in rows) else 0


def _line(row: Mapping[str, Any], *, verified: bool) -> str:
    if row["problem"]:
        return str(row["problem"])
    checked = ", files verified" if verified else ""
    targets = ", ".join(row["targets"])
    return f"{row['folder_name']} ({row['name']} {row['version']}): {targets}; {row['steps']} steps{checked}"


def _row(path: Path, *, verify: bool) -> dict[str, Any]:
    from ichnos.models import Model, load_model, read_manifest

    row: dict[str, Any] = {"folder": str(path), "folder_name": path.name, "problem": ""}
    try:
        manifest = read_manifest(path)
        refinement = Model(path, manifest).refinement()
        if verify:
            for model in (load_model(path), refinement):
                if model is not None:
                    model.network()
    except InputRefused as error:
        return row | {"problem": str(error)}
    return row | {
        "name": manifest.name,
        "version": manifest.version,
        "targets": [target.name for target in manifest.targets],
        "steps": manifest.provenance.steps,
        "sha256": manifest.weights_sha256,
        "refinement_sha256": refinement.manifest.weights_sha256 if refinement else "",
    }


def _one(folders: list[Path]) -> Model:
    from ichnos.models import default_model, load_model

    if len(folders) > 1:
        raise UsageError(f"{len(folders)} models were given; give one")
    return load_model(folders[0]) if folders else default_model()


def _shown(model: Model, *, as_json: bool) -> int:
    from ichnos.models.card import card_text

    if as_json:
        typer.echo(model.manifest.model_dump_json(indent=2))
        return 0
    for part in (model, model.refinement()):
        typer.echo(card_text(part.manifest) if part is not None else "")
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
