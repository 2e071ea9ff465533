"""The codes in our SEG and SR: SNOMED CT, DICOM and UCUM where they have one, else the private scheme
99ICHNOS (docs/dicom.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SCHEME = "99ICHNOS"
SCHEME_NAME = "ichnos private codes, see docs/dicom.md of the ichnos project"
NOTICE = "Research use only. Not a medical device; not for diagnosis."

Code = tuple[str, str, str]  # value, scheme, meaning

ABNORMAL: Code = ("49755003", "SCT", "Morphologically Abnormal Structure")
ANATOMICAL: Code = ("91723000", "SCT", "Anatomical Structure")
HAEMORRHAGE: Code = ("50960005", "SCT", "Hemorrhage")
OEDEMA: Code = ("79654002", "SCT", "Edema")
BRAIN: Code = ("12738006", "SCT", "Brain")
BRAIN_VENTRICLE: Code = ("35764002", "SCT", "Brain ventricle")
LATERAL_VENTRICLE: Code = ("66720007", "SCT", "Lateral Ventricle")
WHITE_MATTER_CODE: Code = ("68523003", "SCT", "Cerebral White Matter")
INTERNAL_CAPSULE: Code = ("85637007", "SCT", "Internal Capsule")
LEFT: Code = ("7771000", "SCT", "Left")
RIGHT: Code = ("24028007", "SCT", "Right")
VOLUME: Code = ("118565006", "SCT", "Volume")
PROBABILITY: Code = ("122157", "DCM", "Probability")
SUM_OF_VOXELS: Code = ("126030", "DCM", "Sum of segmented voxel volumes")
ARTIFICIAL_INTELLIGENCE: Code = ("123110", "DCM", "Artificial Intelligence")
COMMENT: Code = ("121106", "DCM", "Comment")
TRACT: Code = ("CST", SCHEME, "Corticospinal tract")
LEUKOARAIOSIS: Code = ("LA", SCHEME, "Leukoaraiosis")


@dataclass(frozen=True)
class SegmentKind:
    """What a segment shows, in words and codes."""

    label: str  # for people
    category: Code
    kind: Code
    region: Code
    side: Code | None = None
    rgb: tuple[int, int, int] = (255, 255, 0)


# Our name of a mask -> what it shows. A name that is not here is refused: no segment leaves without a
# meaning.
SEGMENTS: Mapping[str, SegmentKind] = {
    "ICH": SegmentKind("Intracerebral haemorrhage", ABNORMAL, HAEMORRHAGE, BRAIN, rgb=(214, 39, 40)),
    "IVH": SegmentKind(
        "Intraventricular haemorrhage", ABNORMAL, HAEMORRHAGE, LATERAL_VENTRICLE, rgb=(148, 0, 150)
    ),
    "PHE": SegmentKind("Perihaematomal oedema", ABNORMAL, OEDEMA, BRAIN, rgb=(255, 187, 60)),
    "expansion": SegmentKind(
        "Predicted haemorrhage at follow-up",
        ABNORMAL,
        ("ICH-FU", SCHEME, "Predicted hemorrhage at follow-up"),
        BRAIN,
        rgb=(255, 127, 80),
    ),
    "leukoaraiosis": SegmentKind(
        "Leukoaraiosis", ABNORMAL, LEUKOARAIOSIS, WHITE_MATTER_CODE, rgb=(65, 182, 230)
    ),
    "tract_left": SegmentKind(
        "Corticospinal tract, left", ANATOMICAL, TRACT, INTERNAL_CAPSULE, LEFT, (44, 160, 44)
    ),
    "tract_right": SegmentKind(
        "Corticospinal tract, right", ANATOMICAL, TRACT, INTERNAL_CAPSULE, RIGHT, (152, 223, 90)
    ),
    "brain": SegmentKind("Brain", ANATOMICAL, BRAIN, BRAIN, rgb=(250, 235, 215)),
    "ventricles": SegmentKind("Ventricles", ANATOMICAL, BRAIN_VENTRICLE, BRAIN, rgb=(100, 149, 237)),
}

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
    return name, SCHEME, label[:64]


def describe_private_scheme(dataset: Any) -> None:
    """Say in the file what our private scheme is, as DICOM asks of private schemes."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    item = Dataset()
    item.CodingSchemeDesignator, item.CodingSchemeName, item.CodingSchemeResponsibleOrganization = (
        SCHEME,
        SCHEME_NAME,
        "ichnos",
    )
    dataset.CodingSchemeIdentificationSequence = Sequence([item])
