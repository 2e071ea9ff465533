"""CARD.md: what a model is, was trained on, never saw, and how it was checked; written from its manifest
alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ichnos.models.manifest import Manifest, TargetSpec

_OTHER = {
    "patient": "one probability per patient",
    "region": "a map around an outline that is given",
    "image": "slices that are drawn, of no patient",
}


def _meaning(target: TargetSpec) -> str:
    return _OTHER.get(target.kind) or f"counted from probability {target.threshold:g}"


def _refined(manifest: Manifest) -> str:
    return (
        f"It sees what the weights `{manifest.refines[:16]}…` said of each target, and the tract atlas, and"
        " corrects it: it reads nothing by itself. In depth a voxel is as many whole slices as come nearest"
        " to the size told."
    )


def card_text(manifest: Manifest) -> str:
    """Write the card of a model as Markdown."""
    provenance = manifest.provenance
    windows = "; ".join(f"{low:g} to {high:g} HU" for low, high in manifest.preprocessing.windows_hu)
    windows += "".join(
        f"; standardised by {mean:.1f} ± {sd:.1f} HU" for mean, sd in manifest.preprocessing.z_score
    )
    spacing = " × ".join(f"{step:g}" for step in manifest.preprocessing.spacing_mm)
    lines = [
        f"# {manifest.name} {manifest.version}",
        "",
        f"**{manifest.intended_use}**",
        "",
        "## What it reads",
        *[f"- {target.name} ({_meaning(target)})" for target in manifest.targets],
        "",
        "## What it never saw, and other limits",
        *[f"- {limit}" for limit in manifest.limits],
        "",
        "## How it sees a scan",
        f"Voxels of {spacing} mm along the scan's own axes; HU windows as channels: {windows}.",
        *([_refined(manifest)] if manifest.refines else []),
        f"Network `{manifest.network.name}`, built by the arguments in model.json.",
        "",
        "## Where the weights come from",
        (
            f"- {provenance.steps} steps on {provenance.hardware}, {provenance.trained}, code"
            f" {provenance.code_version}"
        ),
        f"- command: `{provenance.command}`; seeds {', '.join(str(seed) for seed in provenance.seeds)}",
        *[f"- source `{name}`, SHA-256 `{digest[:16]}…`" for name, digest in sorted(provenance.data.items())],
        *[f"- trained on from weights `{parent[:16]}…`" for parent in provenance.parents],
        f"- SHA-256 of the weights: `{manifest.weights_sha256}`",
        "",
        "## How it was checked",
        *(
            [f"- {name}: {value:.3g}" for name, value in sorted(provenance.validation.items())]
            or ["- No validation was run for these weights."]
        ),
        "",
    ]
    return "\n".join(lines)
