"""The registry of targets: everything that is known of a mask or coordinate before a network draws it.

A target is added by one entry here and, where a finding of its own is wanted, by a reader in
`ichnos.reading.read.READERS`. Nothing else spells out names, codes, colours or mirror partners.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ichnos.errors import UsageError

Code = tuple[str, str, str]  # of DICOM: value, scheme, meaning
TargetKind = Literal["mask", "coordinate"]

PRIVATE_SCHEME = "99ICHNOS"  # of codes that no public scheme has (docs/dicom.md)
_ABNORMAL: Code = ("49755003", "SCT", "Morphologically Abnormal Structure")
_ANATOMICAL: Code = ("91723000", "SCT", "Anatomical Structure")
_HAEMORRHAGE: Code = ("50960005", "SCT", "Hemorrhage")
_OEDEMA: Code = ("79654002", "SCT", "Edema")
_INFARCT: Code = ("55641003", "SCT", "Infarct")
_BRAIN: Code = ("12738006", "SCT", "Brain")
_BRAIN_VENTRICLE: Code = ("35764002", "SCT", "Brain ventricle")
_LATERAL_VENTRICLE: Code = ("66720007", "SCT", "Lateral Ventricle")
_WHITE_MATTER: Code = ("68523003", "SCT", "Cerebral White Matter")
_INTERNAL_CAPSULE: Code = ("85637007", "SCT", "Internal Capsule")
_LEFT: Code = ("7771000", "SCT", "Left")
_RIGHT: Code = ("24028007", "SCT", "Right")
_TRACT: Code = ("CST", PRIVATE_SCHEME, "Corticospinal tract")
_LEUKOARAIOSIS: Code = ("LA", PRIVATE_SCHEME, "Leukoaraiosis")
_FOLLOWUP_BLOOD: Code = ("ICH-FU", PRIVATE_SCHEME, "Predicted hemorrhage at follow-up")


@dataclass(frozen=True)
class Target:
    """One mask or coordinate on the CT grid."""

    name: str  # in models, files and DICOM segments: "ICH"
    label: str  # for people: "Intracerebral haemorrhage"
    group: str = "anatomy"  # "haematoma", "leukoaraiosis", "tract", "expansion", "anatomy"
    kind: TargetKind = "mask"
    label_map: str = ""  # the cohort's map `label-<label_map>` that holds its ground truth; "": none does
    codes: tuple[int, ...] = ()  # values of that map that are the target, its own first; (): all but 0
    truth: tuple[str, ...] = ()  # simulated masks whose union is its ground truth
    mirror: str = ""  # the target that it becomes when left and right are exchanged; "": itself
    colour: str = "#ffff00"  # on screen and in DICOM
    reported: bool = False  # its mask leaves a reading, as NIfTI and DICOM
    outlined: bool = False  # drawn in the report
    tile: str = ""  # the measure on its tile in the report; "": its volume
    category: Code | None = None  # DICOM: property category, type, anatomic region; None: never a segment
    type: Code | None = None
    region: Code | None = None
    side: Code | None = None
    findings: tuple[str, ...] = ()  # findings that cannot be read without it

    @property
    def code(self) -> int:
        """Return its value in the label map; 1 where the map holds nothing else."""
        return self.codes[0] if self.codes else 1

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Return its colour as three numbers from 0 to 255.

        >>> Target("x", "X", colour="#ff3b30").rgb
        (255, 59, 48)
        """
        red, green, blue = bytes.fromhex(self.colour.removeprefix("#"))
        return red, green, blue


_TARGETS = (
    Target(
        "ICH",
        "Intracerebral haemorrhage",
        "haematoma",
        label_map="haematoma",
        codes=(1,),
        truth=("ich",),
        colour="#ff3b30",
        reported=True,
        outlined=True,
        category=_ABNORMAL,
        type=_HAEMORRHAGE,
        region=_BRAIN,
        findings=("haematoma", "tract", "expansion", "outcome"),
    ),
    Target(
        "IVH",
        "Intraventricular haemorrhage",
        "haematoma",
        label_map="haematoma",
        codes=(2,),
        truth=("ivh",),
        colour="#ff9500",
        reported=True,
        outlined=True,
        category=_ABNORMAL,
        type=_HAEMORRHAGE,
        region=_LATERAL_VENTRICLE,
    ),
    Target(
        "PHE",
        "Perihaematomal oedema",
        "haematoma",
        label_map="haematoma",
        codes=(3,),
        truth=("phe",),
        colour="#ffd60a",
        reported=True,
        outlined=True,
        category=_ABNORMAL,
        type=_OEDEMA,
        region=_BRAIN,
    ),
    Target(
        "expansion",
        "Predicted haemorrhage at follow-up",
        "expansion",
        label_map="expansion",
        codes=(1,),
        truth=("ich_followup",),
        colour="#ff7fbf",
        tile="expansion_probability",
        reported=True,
        outlined=True,
        category=_ABNORMAL,
        type=_FOLLOWUP_BLOOD,
        region=_BRAIN,
    ),
    Target(
        "leukoaraiosis",
        "Leukoaraiosis",
        "leukoaraiosis",
        label_map="leukoaraiosis",
        truth=("leukoaraiosis",),
        colour="#64d2ff",
        reported=True,
        outlined=True,
        category=_ABNORMAL,
        type=_LEUKOARAIOSIS,
        region=_WHITE_MATTER,
        findings=("leukoaraiosis",),
    ),
    Target(
        "tract_left",
        "Corticospinal tract, left",
        "tract",
        label_map="tract",
        codes=(1,),
        truth=("tract_left",),
        mirror="tract_right",
        colour="#30d158",
        tile="injury_left",
        reported=True,
        outlined=True,
        category=_ANATOMICAL,
        type=_TRACT,
        region=_INTERNAL_CAPSULE,
        side=_LEFT,
        findings=("tract", "outcome"),
    ),
    Target(
        "tract_right",
        "Corticospinal tract, right",
        "tract",
        label_map="tract",
        codes=(2,),
        truth=("tract_right",),
        mirror="tract_left",
        colour="#bf5af2",
        tile="injury_right",
        reported=True,
        outlined=True,
        category=_ANATOMICAL,
        type=_TRACT,
        region=_INTERNAL_CAPSULE,
        side=_RIGHT,
        findings=("tract", "outcome"),
    ),
    Target(
        "brain",
        "Brain",
        label_map="brain",
        codes=(1, 2),  # the ventricles lie inside it
        truth=("brain",),
        reported=True,
        colour="#faebd7",
        category=_ANATOMICAL,
        type=_BRAIN,
        region=_BRAIN,
        findings=("expansion",),
    ),
    Target(
        "ventricles",
        "Ventricles",
        label_map="brain",
        codes=(2,),
        truth=("ventricles",),
        reported=True,
        colour="#6495ed",
        category=_ANATOMICAL,
        type=_BRAIN_VENTRICLE,
        region=_BRAIN,
    ),
    Target(
        "infarct",
        "Infarct, acute or old",
        "leukoaraiosis",
        label_map="infarct",
        truth=("infarct_acute", "infarct_old"),
        colour="#8e8e93",
        category=_ABNORMAL,
        type=_INFARCT,
        region=_BRAIN,
    ),
    Target("followup", "Blood at follow-up", "expansion", truth=("ich_followup", "ivh_followup")),
    Target("mni_x", "MNI152 position, left to right", kind="coordinate"),
    Target("mni_y", "MNI152 position, back to front", kind="coordinate"),
    Target("mni_z", "MNI152 position, down to up", kind="coordinate"),
)
TARGETS: dict[str, Target] = {target.name: target for target in _TARGETS}


def target_named(name: str) -> Target:
    """Return a target by its name, or refuse with the names there are.

    >>> target_named("PHE").label
    'Perihaematomal oedema'
    """
    if name not in TARGETS:
        raise UsageError(f"there is no target {name!r}; give any of {', '.join(TARGETS)}")
    return TARGETS[name]


def mirrored(name: str) -> str:
    """Return the target that one becomes when left and right are exchanged.

    >>> mirrored("tract_left"), mirrored("ICH")
    ('tract_right', 'ICH')
    """
    return (TARGETS[name].mirror if name in TARGETS else "") or name


def mirrored_channels(names: tuple[str, ...] | list[str]) -> list[int]:
    """Return, for each channel, the one that takes its place when left and right are exchanged.

    >>> mirrored_channels(["ICH", "tract_left", "tract_right"])
    [0, 2, 1]
    """
    order = list(names)
    return [order.index(mirrored(name)) for name in order]


def targets_in(label_map: str) -> tuple[Target, ...]:
    """Return the targets whose ground truth lies in one label map of a cohort.

    >>> [target.name for target in targets_in("haematoma")]
    ['ICH', 'IVH', 'PHE']
    """
    return tuple(target for target in TARGETS.values() if target.label_map == label_map)


def label_values(label_map: str) -> dict[str, int]:
    """Return the value of each structure in a label map; the expansion map has those of the haematoma.

    >>> label_values("haematoma"), label_values("leukoaraiosis")
    ({'ICH': 1, 'IVH': 2, 'PHE': 3}, {'leukoaraiosis': 1})
    """
    shown = "haematoma" if label_map == "expansion" else label_map
    return {target.name: target.code for target in targets_in(shown)}


def label_maps() -> tuple[str, ...]:
    """Return the label maps of a cohort that are targets themselves, not only their anatomy.

    >>> label_maps()
    ('haematoma', 'expansion', 'leukoaraiosis', 'tract')
    """
    maps = (target.label_map for target in TARGETS.values() if target.label_map == target.group)
    return tuple(dict.fromkeys(maps))


def targets_needed(finding: str) -> tuple[str, ...]:
    """Return the targets without which a finding cannot be read.

    >>> targets_needed("tract")
    ('ICH', 'tract_left', 'tract_right')
    """
    return tuple(name for name, target in TARGETS.items() if finding in target.findings)


def outlined_targets() -> tuple[Target, ...]:
    """Return the targets that are drawn in the report, in the order of its legend.

    >>> "ICH" in [target.name for target in outlined_targets()]
    True
    """
    return tuple(target for target in TARGETS.values() if target.outlined)


def truth_masks(*names: str) -> tuple[str, ...]:
    """Return the simulated masks that are the ground truth of some targets, each once.

    >>> truth_masks("ICH", "infarct")
    ('ich', 'infarct_acute', 'infarct_old')
    """
    return tuple(dict.fromkeys(mask for name in names for mask in target_named(name).truth))
