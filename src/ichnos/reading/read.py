"""Read a scan: the network and its refinement, then masks, measures, warnings and provenance."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import ichnos
from ichnos.errors import InputRefused, UsageError
from ichnos.inference import Prediction, Predictor
from ichnos.inference.coordinates import Placement, placement_of
from ichnos.quality import judge
from ichnos.reading.expansion import expansion_mask, forecast_of, growth_law_of, read_expansion
from ichnos.reading.haematoma import read_haematoma
from ichnos.reading.leukoaraiosis import read_leukoaraiosis
from ichnos.reading.masks import Masks, consistent_masks
from ichnos.reading.outcome import outcome_model_of, read_outcome
from ichnos.reading.record import Finding, QualityReason, ReadingProvenance, Record, quality_reasons
from ichnos.reading.safety import refuse_minors, warnings_of
from ichnos.reading.tract import read_tract
from ichnos.scan import Scan
from ichnos.verdict import Verdict
from ichnos.volume import Volume

TARGETS = ("haematoma", "leukoaraiosis", "tract", "expansion", "outcome")
# Masks without which a target is not read; a model that draws none of them was not made for it.
_NEEDS: dict[str, tuple[str, ...]] = {
    "haematoma": ("ICH",),
    "leukoaraiosis": ("leukoaraiosis",),
    "tract": ("tract_left", "tract_right", "ICH"),
    "expansion": ("ICH", "brain"),
    "outcome": ("ICH", "tract_left", "tract_right"),
}
_BEFORE_OUTCOME = ("haematoma", "tract", "leukoaraiosis")  # findings that the outcome is read from
LEAST_BRAIN_ML = 200.0  # a network that finds less brain than this has not understood the scan


@dataclass(frozen=True, eq=False)
class Reading:
    """What a model says of one scan. `masks` is None when the scan was refused, `scan` when it could not
    even be opened.
    """

    record: Record
    scan: Scan | None
    masks: Masks | None
    page: Callable[[Reading], str] | None = (
        None  # draws report.html; the room `report` gives it, which lies above this one
    )

    def save(self, out: str | Path) -> Path:
        """Write reading.json, the masks on the input's own grid, SEG and SR for DICOM, and report.html;
        return the folder.
        """
        from ichnos.reading.save import save_reading

        return save_reading(self, Path(out))


def read(scan: Scan, predictor: Predictor, *, name: str = "scan", only: Collection[str] = TARGETS) -> Reading:
    """Read every target the model knows; a scan that cannot be read yields a refusal with its reasons,
    never an empty mask.
    """
    chosen = chosen_targets(only)
    judged = scan if scan.quality is not None else scan.judged(judge(scan))
    verdict = refuse_minors(judged)
    if verdict.level == "refuse":
        return refused(
            name,
            "; ".join(reason.text for reason in verdict.at("refuse")),
            scan=judged,
            verdict=verdict,
            only=chosen,
        )
    try:
        prediction = predictor(judged)
        place = placement_of(prediction)
        masks = consistent_masks(prediction, place)
        _refuse_without_brain(masks)
    except InputRefused as error:
        return refused(name, str(error), scan=judged, verdict=verdict, only=chosen)
    manifest = predictor.model.manifest
    findings = _findings(prediction, masks, chosen, place)
    record = Record(
        name=name,
        status="read",
        findings=findings,
        quality=quality_reasons(verdict),
        warnings=(
            *(r.text for r in verdict.at("warn")),
            *warnings_of(judged.volume.reoriented("RAS"), masks),
        ),
        limits=manifest.limits,
        facts={
            key: float(value)
            for key, value in sorted(judged.facts.items())
            if isinstance(value, (int, float))
        },
        provenance=ReadingProvenance(
            code_version=ichnos.__version__,
            model_name=manifest.name,
            model_version=manifest.version,
            model_sha256=manifest.weights_sha256,
            refinement_sha256=predictor.refinement.manifest.weights_sha256 if predictor.refinement else "",
            input_sha256=_digest(judged.volume),
            backend=predictor.backend,
        ),
    )
    grown = [
        expansion_mask(f, masks, forecast=forecast_of(prediction))
        for f in findings
        if f.target == "expansion"
    ]
    return Reading(record, judged, replace(masks, expansion=grown[0] if grown else None))


def refused(
    name: str,
    reason: str,
    *,
    scan: Scan | None = None,
    verdict: Verdict | None = None,
    only: Collection[str] = TARGETS,
) -> Reading:
    """Return the reading of a scan that was not read: every finding says that nobody looked."""
    reasons: tuple[QualityReason, ...] = quality_reasons(verdict)
    findings = tuple(
        Finding(target=t, status="could not look", sentence=f"Not read: {reason}")
        for t in chosen_targets(only)
    )
    return Reading(
        Record(name=name, status="refused", quality=reasons, refusal=reason, findings=findings), scan, None
    )


def chosen_targets(only: Collection[str]) -> tuple[str, ...]:
    """Return the targets asked for, in our order; an unknown one is bad usage.

    >>> chosen_targets(["tract", "haematoma"])
    ('haematoma', 'tract')
    """
    unknown = sorted(set(only) - set(TARGETS))
    if unknown or not only:
        raise UsageError(
            f"targets {', '.join(unknown) or 'none'} were asked for; give any of {', '.join(TARGETS)}"
        )
    return tuple(target for target in TARGETS if target in only)


def _findings(
    prediction: Prediction, masks: Masks, only: Collection[str], place: Placement | None
) -> tuple[Finding, ...]:
    hu, facts, model = prediction.scan.volume.reoriented("RAS"), prediction.scan.facts, prediction.model
    readers: dict[str, Callable[[], Finding]] = {
        "haematoma": lambda: read_haematoma(prediction, masks, hu, place=place),
        "leukoaraiosis": lambda: read_leukoaraiosis(prediction, masks),
        "tract": lambda: read_tract(masks, place=place),
        "expansion": lambda: read_expansion(
            growth_law_of(model), masks, hu, facts=facts, forecast=forecast_of(prediction)
        ),
        "outcome": lambda: read_outcome(
            outcome_model_of(model), [found[t] for t in _BEFORE_OUTCOME], facts=facts
        ),
    }
    needed = {*only, *(_BEFORE_OUTCOME if "outcome" in only else ())}
    found: dict[str, Finding] = {}
    for target in (t for t in TARGETS if t in needed):  # in TARGETS' order, outcome last
        found[target] = (
            readers[target]() if masks.known.issuperset(_NEEDS[target]) else _not_taught(target, masks)
        )
    return tuple(found[target] for target in only)


def _not_taught(target: str, masks: Masks) -> Finding:
    missing = [name for name in _NEEDS[target] if name not in masks.known]
    sentence = f"{target.capitalize()} was not looked for: this model draws no {' and no '.join(missing)}."
    return Finding(target=target, status="withheld", sentence=sentence)


def _refuse_without_brain(masks: Masks) -> None:
    found_ml = float(np.count_nonzero(masks.brain.array)) * masks.brain.voxel_ml
    if "brain" in masks.known and found_ml < LEAST_BRAIN_ML:
        raise InputRefused(
            f"the network found only {found_ml:.0f} mL of brain, so whatever else it drew cannot be trusted; "
            "is this a whole, plain head CT, and are the model's weights trained?"
        )


def _digest(volume: Volume) -> str:
    """Hash what was read: HU in RAS order and the affine, so that the same scan has the same digest
    however it arrived.
    """
    ras = volume.reoriented("RAS")
    digest = hashlib.sha256(np.ascontiguousarray(ras.array, np.float32).tobytes())
    digest.update(np.round(ras.affine, 4).astype("<f8").tobytes())
    return digest.hexdigest()
