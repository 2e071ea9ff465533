"""Read a scan: one pass of the network, then masks, measures, warnings and provenance."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import ichnos
from ichnos import quality
from ichnos.inference import Predictor
from ichnos.reading.haematoma import read_haematoma
from ichnos.reading.leukoaraiosis import read_leukoaraiosis
from ichnos.reading.masks import Masks, consistent_masks
from ichnos.reading.record import Finding, ReadingProvenance, Record, quality_reasons
from ichnos.reading.tract import read_tract
from ichnos.scan import Scan
from ichnos.volume import Volume

TARGETS = ("haematoma", "leukoaraiosis", "tract")


@dataclass(frozen=True, eq=False)
class Reading:
    """What a model says of one scan. `masks` is None when the scan was refused."""

    record: Record
    scan: Scan
    masks: Masks | None

    def save(self, out: str | Path) -> Path:
        """Write reading.json and the masks on the input's own grid; return the folder."""
        from ichnos.formats import nifti

        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        files = {}
        for name, mask in (self.masks.named() if self.masks else {}).items():
            files[name] = f"{name}.nii.gz"
            nifti.save(mask.astype(np.uint8).reoriented(self.scan.volume.orientation), folder / files[name])
        record = self.record.model_copy(update={"masks": files})
        text = json.dumps(record.model_dump(mode="json"), indent=2, ensure_ascii=False)
        (folder / "reading.json").write_text(text + "\n", encoding="utf-8")
        return folder


def read(scan: Scan, predictor: Predictor, *, name: str = "scan", backend: str = "") -> Reading:
    """Read every target the model knows; a scan that cannot be read yields a refusal with its reasons, never an empty mask."""
    judged = scan if scan.quality is not None else scan.judged(quality.judge(scan))
    verdict = judged.quality
    reasons = quality_reasons(verdict)
    if verdict is not None and verdict.level == "refuse":
        refusal = "; ".join(reason.text for reason in verdict.at("refuse"))
        findings = tuple(
            Finding(target=t, status="could not look", sentence=f"Not read: {refusal}") for t in ("haematoma", "leukoaraiosis", "tract")
        )
        record = Record(name=name, status="refused", quality=reasons, refusal=refusal, findings=findings)
        return Reading(record, judged, None)
    prediction = predictor(judged)
    masks = consistent_masks(prediction)
    hu = judged.volume.reoriented("RAS")
    found = (read_haematoma(prediction, masks, hu), read_leukoaraiosis(prediction, masks), read_tract(prediction, masks))
    manifest = predictor.model.manifest
    provenance = ReadingProvenance(
        code_version=ichnos.__version__,
        model_name=manifest.name,
        model_version=manifest.version,
        model_sha256=manifest.weights_sha256,
        input_sha256=_digest(judged.volume),
        backend=backend or "auto",
    )
    warnings = tuple(r.text for r in verdict.at("warn")) if verdict is not None else ()
    record = Record(
        name=name, status="read", findings=found, quality=reasons, warnings=warnings, limits=manifest.limits, provenance=provenance
    )
    return Reading(record, judged, masks)


def _digest(volume: Volume) -> str:
    """Hash what was read: HU in RAS order and the affine, so that the same scan has the same digest however it arrived."""
    ras = volume.reoriented("RAS")
    digest = hashlib.sha256(np.ascontiguousarray(ras.array, np.float32).tobytes())
    digest.update(np.round(ras.affine, 4).astype("<f8").tobytes())
    return digest.hexdigest()
