"""What a reading is made of: measures with a unit, an interval or a reason for none; and the whole record
that becomes reading.json.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from ichnos.errors import UsageError
from ichnos.prognosis.store import PlainModel
from ichnos.verdict import Verdict

BY_DEFINITION = "measured from the mask"  # why a measure has no interval of its own
Status = Literal["read", "none found", "withheld", "could not look"]


class Measure(PlainModel):
    """One number or grade that leaves the program."""

    name: str  # stable: "ich_volume"
    label: str  # for people: "Intracerebral haematoma"
    value: float | str | bool | None
    unit: str = ""  # UCUM: "mL", "mm", "[hnsf'U]"; "" for a grade or a ratio
    low: float | None = None  # interval, same unit
    high: float | None = None
    interval: str = ""  # what the interval is: "probability 0.25 to 0.75"
    reason: str = ""  # why there is no value, or no interval

    @model_validator(mode="after")
    def _complete(self) -> Measure:
        if isinstance(self.value, float) and not math.isfinite(self.value):
            raise ValueError(f"{self.name}: the value is {self.value}; say None and give the reason")
        if self.value is None and not self.reason:
            raise ValueError(f"{self.name}: a measure without a value must say why")
        if self.value is not None and self.low is None and not self.reason:
            raise ValueError(f"{self.name}: a measure without an interval must say why")
        return self


class Finding(PlainModel):
    """What was read of one target."""

    target: str  # "haematoma", "leukoaraiosis", "tract", "expansion"
    status: Status
    sentence: str  # in words, for the top of the report
    measures: tuple[Measure, ...] = ()
    masks: tuple[str, ...] = ()  # names of the masks that belong to it

    def measure(self, name: str) -> Measure:
        """Return one measure by its name; an unknown one is refused with the choices."""
        for measure in self.measures:
            if measure.name == name:
                return measure
        raise UsageError(
            f"the finding {self.target!r} has no measure {name!r}; it has"
            f" {', '.join(measure.name for measure in self.measures) or 'none'}"
        )


class QualityReason(PlainModel):
    """One reason of the quality verdict, as it is stored."""

    name: str
    level: str
    text: str
    value: float | None = None
    unit: str = ""


class ReadingProvenance(PlainModel):
    """What made this reading."""

    code_version: str
    model_name: str
    model_version: str
    model_sha256: str
    refinement_sha256: str = ""  # of the weights that corrected the model's answers; "": none did
    classifier_sha256: str = ""  # of the weights of an image classifier of expansion; "": there is none
    recalibration_sha256: str = ""  # of a site's recalibration (site.json); "": none was applied
    input_sha256: str  # of the HU array and affine that were read
    backend: str


class Record(PlainModel):
    """The content of reading.json."""

    schema_version: Literal["ichnos-reading-1"] = "ichnos-reading-1"
    use: str = "Research use only. Not a medical device; not for diagnosis."
    name: str  # of the scan: its folder or file, without patient identity
    status: Literal["read", "refused"]
    findings: tuple[Finding, ...] = ()
    quality: tuple[QualityReason, ...] = ()
    warnings: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    # what was known besides the image: age_years, onset_to_ct_h, …
    facts: dict[str, float] = Field(default_factory=dict)
    provenance: ReadingProvenance | None = None
    refusal: str = ""  # why the scan was not read
    masks: dict[str, str] = Field(default_factory=dict)  # mask name -> file beside reading.json
    # what else was written, in words -> file beside reading.json
    files: dict[str, str] = Field(default_factory=dict)

    def finding(self, target: str) -> Finding:
        """Return the finding of a target; an unknown one is refused with the choices."""
        for finding in self.findings:
            if finding.target == target:
                return finding
        raise UsageError(
            f"the reading has no finding {target!r}; it has"
            f" {', '.join(finding.target for finding in self.findings) or 'none'}"
        )


def quality_reasons(verdict: Verdict | None) -> tuple[QualityReason, ...]:
    """Return a verdict's reasons as they are stored; a number that is not defined is None."""
    if verdict is None:
        return ()
    return tuple(
        QualityReason(name=r.name, level=r.level, text=r.text, value=_finite(r.value), unit=r.unit)
        for r in verdict.reasons
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
