"""CARD.md: what a model is, was trained on, never saw, and how it was checked; from manifests alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ichnos.models.manifest import Manifest, TargetSpec

_OTHER_KINDS = {
    "coordinate": "one axis of the voxel's position in MNI152 space, mm",
    "patient": "one probability per patient",
    "region": "a map around an outline that is given",
    "image": "synthetic slices, of no patient",
}


def card_text(manifest: Manifest, refinement: Manifest | None = None) -> str:
    """Write the card of a model as Markdown; `refinement` is the one whose thresholds decide, if any."""
    sections = {
        "What it reads": _targets(manifest, refinement),
        "What it never saw, and other limits": [f"- {limit}" for limit in manifest.limits],
        "How it sees a scan": _inputs(manifest),
        "Where the weights come from": _training(manifest),
        "How it was checked": _validation(manifest),
    }
    lines = [f"# {manifest.name} {manifest.version}", "", f"**{manifest.intended_use}**", ""]
    for heading, text in sections.items():
        lines += [f"## {heading}", *text, ""]
    return "\n".join(lines)


def _targets(manifest: Manifest, refinement: Manifest | None) -> list[str]:
    refined = {target.name: target for target in refinement.targets} if refinement is not None else {}
    return [f"- {target.name} ({_meaning(target, refined.get(target.name))})" for target in manifest.targets]


def _meaning(target: TargetSpec, refined: TargetSpec | None) -> str:
    if target.kind in _OTHER_KINDS:
        return _OTHER_KINDS[target.kind]
    if refined is not None:
        return f"outlined from probability {refined.threshold:g} of the refinement"
    return f"outlined from probability {target.threshold:g}"


def _inputs(manifest: Manifest) -> list[str]:
    how = manifest.preprocessing
    windows = "; ".join(f"{low:g} to {high:g} HU" for low, high in how.windows_hu)
    windows += "".join(f"; standardised by {mean:.1f} ± {sd:.1f} HU" for mean, sd in how.z_score)
    spacing = " × ".join(f"{step:g}" for step in how.spacing_mm)
    lines = [f"Voxels of {spacing} mm along the scan's own axes; HU windows as channels: {windows}."]
    if manifest.refines:
        lines.append(
            f"It refines the weights `{manifest.refines[:16]}…`: it sees their output for each target and the"
            " tract atlas, and replaces that output; alone it reads nothing. In depth its voxel is the number"
            " of whole slices that comes nearest to the size above."
        )
    return [*lines, f"Network `{manifest.network.name}`, built by the arguments in model.json."]


def _training(manifest: Manifest) -> list[str]:
    made = manifest.provenance
    return [
        f"- {made.steps} steps on {made.hardware}, {made.trained}, code {made.code_version}",
        f"- command: `{made.command}`; seeds {', '.join(str(seed) for seed in made.seeds)}",
        *[f"- source `{name}`, SHA-256 `{digest[:16]}…`" for name, digest in sorted(made.data.items())],
        *[f"- fine-tuned from weights `{parent[:16]}…`" for parent in made.parents],
        f"- SHA-256 of the weights: `{manifest.weights_sha256}`",
    ]


def _validation(manifest: Manifest) -> list[str]:
    measured = [f"- {name}: {value:.3g}" for name, value in sorted(manifest.provenance.validation.items())]
    return measured or ["- No validation was run for these weights."]
