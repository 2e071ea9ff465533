"""Who a virtual cohort consists of: patients, centres, splits and exams, freely chosen or after one of the
four papers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ichnos.cohort import EXAMS, Exam, Split
from ichnos.errors import UsageError
from ichnos.simulation.disease.law import USUAL, PopulationMix
from ichnos.simulation.exams.scanners import CENTRES, centre


@dataclass(frozen=True)
class Group:
    """Patients of one centre who are chosen alike."""

    patients: int
    centre: str
    split: Split = ""
    exams: tuple[Exam, ...] = EXAMS
    haematoma_share: float = 1.0  # the others have no blood; infarcts and white-matter disease as drawn
    expansion_share: float | None = None  # share of bleeds that expand; None: as the law has it
    least_ich_ml: float = 0.0
    trial: bool = False  # the arm is drawn by a coin
    mix: PopulationMix = USUAL  # ages, sites and drugs of this centre's patients


@dataclass(frozen=True)
class Subject:
    """One patient to be made."""

    id: str
    centre: str
    split: Split
    exams: tuple[Exam, ...]
    seed: int
    has_haematoma: bool
    expands: bool | None  # None: as the law has it
    least_ich_ml: float
    trial: bool
    mix: PopulationMix = USUAL


@dataclass(frozen=True)
class Design:
    """A cohort's groups, and where its numbers come from."""

    groups: tuple[Group, ...]
    about: str = ""
    assumed: tuple[str, ...] = field(default=())  # what the paper does not tell and we chose


@dataclass(frozen=True)
class RenderSettings:
    """All that decides what the patients look like, besides who they are."""

    anatomy: str | None = None  # folder of label maps; None: the MNI head
    voxel_mm: float = 1.0
    oracle_samples: int = 32  # re-drawn bleeds behind the oracle's map of growth
    dicom: bool = False
    compact: bool = False  # a piece of the CT around the blood, outlines and facts alone

    def __post_init__(self) -> None:
        if not 0.5 <= self.voxel_mm <= 3:
            raise UsageError(f"voxels of {self.voxel_mm:g} mm were asked for; give 0.5 to 3")


_PAIRED: tuple[Exam, ...] = ("ct", "followup")

# the training set's mean; sd assumed
_RYU = PopulationMix(age_mean_years=68.1, age_sd_years=12.5, male_share=0.67)

PRESETS: dict[str, Design] = {
    "demo": Design(
        (Group(1, "A", "train"), Group(1, "B", "validation"), Group(1, "C", "test")),
        "three patients with every exam: one to train, one to validate, one to test",
    ),
    "yu2025": Design(
        (
            Group(468, "A", "train", _PAIRED, expansion_share=0.198),
            Group(365, "B", "train", _PAIRED, expansion_share=0.198),
            Group(270, "C", "train", _PAIRED, expansion_share=0.198),
            Group(513, "D", "external", _PAIRED, expansion_share=0.218),
            Group(404, "E", "external", _PAIRED, expansion_share=0.200),
        ),
        "expansion: 1103 patients to train, 513 and 404 external, expansion in 19.8, 21.8 and 20.0 %",
        ("how the 1103 divide among three centres",),
    ),
    "ryu2025": Design(
        (
            Group(386, "A", "train", ("ct", "flair"), haematoma_share=0.0, mix=_RYU),
            Group(96, "A", "validation", ("ct", "flair"), haematoma_share=0.0, mix=_RYU),
            Group(390, "B", "external", ("ct", "flair"), haematoma_share=0.0, mix=_RYU),
            Group(867, "C", "external", ("ct",), haematoma_share=0.0, mix=_RYU),
            Group(100, "E", "external", ("ct", "flair"), haematoma_share=0.0, mix=_RYU),
        ),
        "leukoaraiosis: 482 to train and validate, 390 external, 867 clinical, 100 from another country",
        (
            "482 as 386 to train and 96 to validate",
            "age and sex of the training set in all sets, and its spread of age",
            "patients of the sets have an ischaemic stroke or none, and no bleed",
        ),
    ),
    "murray2024": Design(
        (
            Group(80, "A", "train", ("ct", "t1", "diffusion")),
            Group(20, "B", "test", ("ct", "t1", "diffusion")),
            Group(499, "D", "external", _PAIRED, least_ich_ml=30.0, trial=True),
        ),
        "corticospinal tract: pairs of CT and diffusion, then a trial like MISTIE III, one half operated on",
        ("100 pairs", "499 randomised, bleeds of at least 30 mL"),
    ),
    "abramova2024": Design(
        (Group(30, "A", "train", _PAIRED, expansion_share=1.0),),
        "expanded lesion: 30 patients with both scans, left out one at a time",
        ("all thirty expand",),
    ),
}


def preset(name: str, *, scale: float = 1.0, fewest: int = 1) -> Design:
    """Return a published design, shrunk by a factor; every group keeps so many patients, or all it has if
    they are fewer.

    >>> [group.patients for group in preset("yu2025", scale=0.02).groups]
    [9, 7, 5, 10, 8]
    >>> [group.patients for group in preset("murray2024", scale=0.02, fewest=4).groups]
    [4, 4, 10]
    """
    if name not in PRESETS:
        raise UsageError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
    if not 0 < scale <= 1:
        raise UsageError(f"a scale of {scale:g} was asked for; give a number above 0 and up to 1")
    design = PRESETS[name]
    groups = tuple(
        Group(**{**vars(g), "patients": min(g.patients, max(fewest, round(g.patients * scale)))})
        for g in design.groups
    )
    return Design(groups, design.about, design.assumed)


def free_design(
    *, patients: int, centres: Sequence[str], exams: Sequence[str], haematoma_share: float = 1.0
) -> Design:
    """Spread patients evenly over centres; of each centre 70 % train, 10 % validate and 20 % test.

    >>> design = free_design(patients=10, centres=["A"], exams=["ct"])
    >>> [(group.split, group.patients) for group in design.groups]
    [('train', 7), ('validation', 1), ('test', 2)]
    """
    _check_wishes(patients, centres, exams, haematoma_share)
    chosen = tuple(e for e in EXAMS if e in exams)
    groups = []
    for position, name in enumerate(centres):
        here = (patients - position + len(centres) - 1) // len(centres)
        test, validation = round(0.2 * here), round(0.1 * here)
        sizes: dict[Split, int] = {
            "train": here - test - validation,
            "validation": validation,
            "test": test,
        }
        groups += [Group(n, name, split, chosen, haematoma_share) for split, n in sizes.items() if n > 0]
    return Design(tuple(groups))


def _check_wishes(
    patients: int, centres: Sequence[str], exams: Sequence[str], haematoma_share: float
) -> None:
    """Refuse what no cohort can be made of."""
    if patients < 1:
        raise UsageError(f"{patients} patients were asked for; give 1 or more")
    if not set(exams) <= set(EXAMS) or "ct" not in exams:
        raise UsageError(
            f"exams {', '.join(exams) or 'none'} were asked for; give ct and any of {', '.join(EXAMS[1:])}"
        )
    if not 0 <= haematoma_share <= 1:
        raise UsageError(
            f"a share of {haematoma_share:g} with haematoma was asked for; give a number from 0 to 1"
        )
    if not centres:
        raise UsageError(f"no centre was given; there are {', '.join(CENTRES)}")
    for name in centres:
        centre(name)


def subjects(design: Design, *, seed: int) -> list[Subject]:
    """List the patients of a design; shares are met exactly, to one patient.

    >>> people = subjects(Design((Group(4, "A", haematoma_share=0.5),)), seed=1)
    >>> [person.id for person in people], sum(person.has_haematoma for person in people)
    (['001', '002', '003', '004'], 2)
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    total = sum(group.patients for group in design.groups)
    if total < 1:
        raise UsageError("the design holds no patients; give 1 or more")
    digits = max(3, len(str(total)))
    people: list[Subject] = []
    for group in design.groups:
        for bleeds, expands in _course(group, rng):
            number = len(people) + 1
            own = int(np.random.SeedSequence(seed, spawn_key=(1, number)).generate_state(1, np.uint32)[0])
            people.append(_subject(group, f"{number:0{digits}d}", own, bleeds, expands))
    return people


def _course(group: Group, rng: np.random.Generator) -> list[tuple[bool, bool | None]]:
    """Draw who of a group bleeds, and whose bleed expands; None leaves it to the law."""
    bleeds = _quota(group.patients, group.haematoma_share, rng)
    if group.expansion_share is None:
        return [(bool(b), None) for b in bleeds]
    expands = _quota(group.patients, group.expansion_share, rng)
    return [(bool(b), bool(e) if b else None) for b, e in zip(bleeds, expands, strict=True)]


def _subject(group: Group, name: str, seed: int, bleeds: bool, expands: bool | None) -> Subject:
    return Subject(
        id=name,
        centre=group.centre,
        split=group.split,
        exams=group.exams,
        seed=seed,
        has_haematoma=bleeds,
        expands=expands,
        least_ich_ml=group.least_ich_ml,
        trial=group.trial,
        mix=group.mix,
    )


def _quota(count: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """Return `count` truth values of which the share is true, in random order; what a share leaves over
    falls by chance.
    """
    exact = count * share
    whole = int(np.floor(exact + 1e-9))
    whole += int(rng.random() < exact - whole)
    values = np.arange(count) < whole
    return np.asarray(rng.permutation(values))
