"""Read a scan: the network and its refinement, then masks, measures, warnings and provenance."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

import ichnos
from ichnos.cohort import Fact
from ichnos.errors import InputRefused, UsageError
from ichnos.formats.dicom.geometry import shared_slabs
from ichnos.inference import Prediction, Predictor
from ichnos.inference.coordinates import AtlasCoordinates
from ichnos.inference.expansion import classifier_beside
from ichnos.prognosis.site import load_site_recalibration, recalibration_digest
from ichnos.quality import judge
from ichnos.reading.expansion import (
    expansion_mask,
    forecast_of,
    installed_growth_model,
    read_expansion,
    with_classifier,
)
from ichnos.reading.haematoma import read_haematoma
from ichnos.reading.leukoaraiosis import read_leukoaraiosis
from ichnos.reading.masks import Masks, consistent_masks
from ichnos.reading.outcome import installed_outcome_model, read_outcome
from ichnos.reading.record import Finding, QualityReason, ReadingProvenance, Record, quality_reasons
from ichnos.reading.result import Reading
from ichnos.reading.safety import refuse_minors, warnings_of
from ichnos.reading.tract import read_tract
from ichnos.scan import Scan
from ichnos.targets import targets_needed
from ichnos.verdict import Verdict
from ichnos.volume import Volume

LEAST_BRAIN_ML = 200.0  # with less brain than this, a network has failed on the scan


@dataclass(frozen=True, eq=False)
class ReaderInputs:
    """What a finding is read from."""

    prediction: Prediction
    masks: Masks
    hu: Volume  # RAS, on the masks' grid
    coordinates: AtlasCoordinates | None
    findings: Mapping[str, Finding]  # those read before, in the order of READERS

    @property
    def facts(self) -> Mapping[str, Fact]:
        """Return the clinical facts that came with the scan."""
        return self.prediction.scan.facts


FindingReader = Callable[[ReaderInputs], Finding]


def _haematoma(given: ReaderInputs) -> Finding:
    return read_haematoma(given.prediction, given.masks, given.hu, coordinates=given.coordinates)


def _expansion(given: ReaderInputs) -> Finding:
    model, forecast = installed_growth_model(given.prediction.model), forecast_of(given.prediction)
    site = load_site_recalibration(given.prediction.model.folder)
    finding = read_expansion(model, given.masks, given.hu, facts=given.facts, forecast=forecast, site=site)
    classifier = classifier_beside(given.prediction.model)
    if classifier is None:
        return finding
    return with_classifier(finding, classifier, given.masks, given.hu, facts=given.facts)


def _outcome(given: ReaderInputs) -> Finding:
    before = [given.findings[target] for target in BEFORE_OUTCOME]
    return read_outcome(installed_outcome_model(given.prediction.model), before, facts=given.facts)


# Finding -> what reads it, in the order of the record. The masks that each needs stand in `ichnos.targets`.
READERS: dict[str, FindingReader] = {
    "haematoma": _haematoma,
    "leukoaraiosis": lambda given: read_leukoaraiosis(given.prediction, given.masks),
    "tract": lambda given: read_tract(given.masks, coordinates=given.coordinates),
    "expansion": _expansion,
    "outcome": _outcome,
}
BEFORE_OUTCOME = ("haematoma", "tract", "leukoaraiosis")  # findings that the outcome is read from


def read_scan(
    scan: Scan, predictor: Predictor, *, name: str = "scan", only: Collection[str] | None = None
) -> Reading:
    """Read every finding the model knows; a scan that cannot be read yields a refusal, never empty masks."""
    chosen = chosen_findings(only)
    limits = _limits(predictor, chosen)
    judged = scan if scan.quality is not None else scan.judged(judge(scan))
    verdict = refuse_minors(judged)
    if verdict.level == "refuse":
        reason = "; ".join(reason.text for reason in verdict.at("refuse"))
        return refused(name, reason, scan=judged, verdict=verdict, only=chosen, limits=limits)
    try:
        prediction = predictor(judged)
        coordinates = prediction.atlas_coordinates()
        masks = consistent_masks(prediction, coordinates)
        _refuse_without_brain(masks)
    except InputRefused as error:
        return refused(name, str(error), scan=judged, verdict=verdict, only=chosen, limits=limits)
    findings = _findings(prediction, masks, chosen, coordinates)
    record = Record(
        name=name,
        status="read",
        findings=findings,
        quality=quality_reasons(verdict),
        warnings=_warnings(verdict, judged, masks),
        limits=limits,
        facts=_numbers(judged.facts),
        provenance=_provenance(predictor, judged),
    )
    return Reading(record, judged, replace(masks, expansion=_expected_mask(findings, prediction, masks)))


def _limits(predictor: Predictor, chosen: Collection[str]) -> tuple[str, ...]:
    """Return the limits of the model, and of its classifier where expansion is read."""
    classifier = classifier_beside(predictor.model) if "expansion" in chosen else None
    further = classifier.model.manifest.limits if classifier else ()
    return (*predictor.model.manifest.limits, *(f"Classifier of expansion: {limit}" for limit in further))


def _warnings(verdict: Verdict, scan: Scan, masks: Masks) -> tuple[str, ...]:
    of_quality = (reason.text for reason in verdict.at("warn"))
    return (*of_quality, *warnings_of(scan.volume.reoriented("RAS"), masks))


def _numbers(facts: Mapping[str, Fact]) -> dict[str, float]:
    return {key: float(fact) for key, fact in sorted(facts.items()) if isinstance(fact, (int, float))}


def _provenance(predictor: Predictor, scan: Scan) -> ReadingProvenance:
    manifest, refinement = predictor.model.manifest, predictor.refinement
    classifier = classifier_beside(predictor.model)
    return ReadingProvenance(
        code_version=ichnos.__version__,
        model_name=manifest.name,
        model_version=manifest.version,
        model_sha256=manifest.weights_sha256,
        refinement_sha256=refinement.manifest.weights_sha256 if refinement else "",
        classifier_sha256=classifier.model.manifest.weights_sha256 if classifier else "",
        recalibration_sha256=recalibration_digest(predictor.model.folder),
        input_sha256=volume_digest(scan.volume),
        backend=predictor.backend,
    )


def _expected_mask(findings: Sequence[Finding], prediction: Prediction, masks: Masks) -> Volume | None:
    """Return where the haematoma is expected at follow-up; None where that was not forecast."""
    forecast = next((finding for finding in findings if finding.target == "expansion"), None)
    mask = None if forecast is None else expansion_mask(forecast, masks, forecast=forecast_of(prediction))
    slabs = shared_slabs(prediction.scan)
    return mask if mask is None or slabs is None else slabs.one_each(mask)


def refused(
    name: str,
    reason: str,
    *,
    scan: Scan | None = None,
    verdict: Verdict | None = None,
    only: Collection[str] | None = None,
    limits: tuple[str, ...] = (),
) -> Reading:
    """Return the reading of a scan that was not read; every finding says so. `limits` are the model's."""
    reasons: tuple[QualityReason, ...] = quality_reasons(verdict)
    findings = tuple(
        Finding(target=t, status="could not look", sentence=f"Not read: {reason}")
        for t in chosen_findings(only)
    )
    record = Record(
        name=name, status="refused", quality=reasons, refusal=reason, findings=findings, limits=limits
    )
    return Reading(record, scan, None)


def chosen_findings(only: Collection[str] | None = None) -> tuple[str, ...]:
    """Return the findings asked for (None: all), in our order; an unknown one is bad usage.

    >>> chosen_findings(["tract", "haematoma"])
    ('haematoma', 'tract')
    """
    if only is None:
        return tuple(READERS)
    unknown = sorted(set(only) - set(READERS))
    if unknown or not only:
        raise UsageError(
            f"findings {', '.join(unknown) or 'none'} were asked for; give any of {', '.join(READERS)}"
        )
    return tuple(name for name in READERS if name in only)


def _findings(
    prediction: Prediction, masks: Masks, only: Collection[str], coordinates: AtlasCoordinates | None
) -> tuple[Finding, ...]:
    hu = prediction.scan.volume.reoriented("RAS")
    needed = {*only, *(BEFORE_OUTCOME if "outcome" in only else ())}
    findings: dict[str, Finding] = {}
    for name in (name for name in READERS if name in needed):
        missing = [target for target in targets_needed(name) if target not in masks.known]
        given = ReaderInputs(prediction, masks, hu, coordinates, findings)
        findings[name] = _not_drawn(name, missing) if missing else READERS[name](given)
    return tuple(findings[name] for name in only)


def _not_drawn(name: str, missing: Sequence[str]) -> Finding:
    sentence = f"{name.capitalize()} not read: this model does not outline {' or '.join(missing)}."
    return Finding(target=name, status="withheld", sentence=sentence)


def _refuse_without_brain(masks: Masks) -> None:
    brain_ml = float(np.count_nonzero(masks.brain.array)) * masks.brain.voxel_ml
    if "brain" in masks.known and brain_ml < LEAST_BRAIN_ML:
        raise InputRefused(
            f"the network outlined only {brain_ml:.0f} mL of brain, so no other outline can be trusted;"
            " check that this is a whole, plain head CT and that the model's weights are trained"
        )


def volume_digest(volume: Volume) -> str:
    """Hash HU in RAS order and the affine: the same scan has the same digest however it arrived."""
    ras = volume.reoriented("RAS")
    digest = hashlib.sha256(np.ascontiguousarray(ras.array, np.float32).tobytes())
    digest.update(np.round(ras.affine, 4).astype("<f8").tobytes())
    return digest.hexdigest()
