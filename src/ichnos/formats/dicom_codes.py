"""The codes in our SEG and SR: SNOMED CT, DICOM and UCUM where they have one, else the private scheme
99ICHNOS (docs/dicom.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ichnos.errors import UsageError
from ichnos.targets import PRIVATE_SCHEME, TARGETS, Code, Target

SCHEME_NAME = "ichnos private codes, see docs/dicom.md of the ichnos project"
NOTICE = "Research use only. Not a medical device; not for diagnosis."

VOLUME: Code = ("118565006", "SCT", "Volume")
PROBABILITY: Code = ("122157", "DCM", "Probability")
SUM_OF_VOXELS: Code = ("126030", "DCM", "Sum of segmented voxel volumes")
ARTIFICIAL_INTELLIGENCE: Code = ("123110", "DCM", "Artificial Intelligence")
COMMENT: Code = ("121106", "DCM", "Comment")


@dataclass(frozen=True)
class SegmentCodes:
    """The codes of a target as highdicom takes them, new ones each time."""

    category: Any
    type: Any
    region: Any
    side: Any | None


def segment_targets() -> dict[str, Target]:
    """Return the targets that can be segments: those with codes. No segment leaves without a meaning.

    >>> "ICH" in segment_targets()
    True
    """
    return {name: target for name, target in TARGETS.items() if target.category is not None}


def segment_codes(target: Target) -> SegmentCodes:
    """Return a target's codes; one without is refused."""
    if target.category is None or target.type is None or target.region is None:
        raise UsageError(f"the target {target.name!r} has no DICOM codes, so it cannot be a segment")
    side = concept(target.side) if target.side is not None else None
    return SegmentCodes(concept(target.category), concept(target.type), concept(target.region), side)


# Unit as we write it -> UCUM code and meaning.
UNITS: Mapping[str, tuple[str, str]] = {
    "mL": ("mL", "milliliter"),
    "mm": ("mm", "millimeter"),
    "cm": ("cm", "centimeter"),
    "%": ("%", "percent"),
    "h": ("h", "hour"),
    "HU": ("[hnsf'U]", "Hounsfield unit"),
    "[hnsf'U]": ("[hnsf'U]", "Hounsfield unit"),
    "": ("1", "no units"),
    "1": ("1", "no units"),
}


def concept(code: Code) -> Any:
    """Return a code as highdicom takes it, a new one each time: the caller may add modifiers to it."""
    from highdicom.sr import CodedConcept

    value, scheme, meaning = code
    return CodedConcept(value, scheme, meaning)


def unit_concept(unit: str) -> Any:
    """Return a unit in UCUM; one that is not in our table is taken to be UCUM already."""
    value, meaning = UNITS.get(unit, (unit, unit))
    return concept((value, "UCUM", meaning))


def measure_code(name: str, label: str) -> Code:
    """Return the code of a measure from its stable name: volumes and probabilities have standard codes, the
    rest private ones.

    >>> measure_code("ich_volume", "Intracerebral haematoma")[0], measure_code("fazekas", "Fazekas grade")
    ('118565006', ('fazekas', '99ICHNOS', 'Fazekas grade'))
    """
    if name == "volume" or name.endswith("_volume"):
        return VOLUME
    if name == "probability" or name.endswith("_probability"):
        return PROBABILITY
    return name, PRIVATE_SCHEME, label[:64]


def describe_private_scheme(dataset: Any) -> None:
    """Say in the file what our private scheme is, as DICOM asks of private schemes."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    item = Dataset()
    item.CodingSchemeDesignator, item.CodingSchemeName, item.CodingSchemeResponsibleOrganization = (
        PRIVATE_SCHEME,
        SCHEME_NAME,
        "ichnos",
    )
    dataset.CodingSchemeIdentificationSequence = Sequence([item])
