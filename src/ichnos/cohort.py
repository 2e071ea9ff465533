"""Patients with their exams, and cohorts of them with centres and splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ichnos.errors import InputRefused

Exam = Literal["ct", "followup", "flair", "t1", "diffusion"]
EXAMS: tuple[Exam, ...] = ("ct", "followup", "flair", "t1", "diffusion")
Split = Literal["train", "validation", "test", "external", ""]
Fact = str | float | None  # None: not known
# the first limit of a model that was trained on such cohorts alone; reports and evidence look for it
SIMULATED_ONLY = "Trained on simulated patients only; it has never seen a real scan."


@dataclass(frozen=True)
class Patient:
    """One person: exams (files), one row of clinical facts, and whatever targets exist on the CT grid.

    >>> Patient("01", centre="north", facts={"age_years": 61.0}).facts["age_years"]
    61.0
    """

    id: str  # without "sub-"
    centre: str = ""
    split: Split = ""
    exams: Mapping[Exam, Path] = field(default_factory=dict)
    # "haematoma", "leukoaraiosis", "tract", "expansion" -> file on the CT grid
    targets: Mapping[str, Path] = field(default_factory=dict)
    facts: Mapping[str, Fact] = field(default_factory=dict)  # age_years, sex, onset_to_ct_h, …

    def exam(self, name: Exam) -> Path:
        """Return the file of one exam, or refuse with what the patient has.

        >>> Patient("01", exams={"ct": Path("ct.nii.gz")}).exam("ct").name
        'ct.nii.gz'
        >>> Patient("01", exams={"ct": Path("ct.nii.gz")}).exam("t1")
        Traceback (most recent call last):
        ichnos.errors.InputRefused: patient 01 has no t1 exam; there is ct
        """
        if name not in self.exams:
            raise InputRefused(
                f"patient {self.id} has no {name} exam; there is {', '.join(self.exams) or 'none'}"
            )
        return self.exams[name]


@dataclass(frozen=True)
class Cohort:
    """Patients in a fixed order, each once.

    >>> len(Cohort((Patient("01"), Patient("02"))))
    2
    >>> Cohort((Patient("01"), Patient("01")))
    Traceback (most recent call last):
    ichnos.errors.InputRefused: the cohort holds 1 patient(s) more than once: 01; give each its ...
    """

    patients: tuple[Patient, ...]
    root: Path | None = None

    def __post_init__(self) -> None:
        counts = Counter(patient.id for patient in self.patients)
        double = sorted(name for name, count in counts.items() if count > 1)
        if double:
            raise InputRefused(
                f"the cohort holds {len(double)} patient(s) more than once: {', '.join(double[:5])}; give"
                " each its own id"
            )

    def __iter__(self) -> Iterator[Patient]:
        return iter(self.patients)

    def __len__(self) -> int:
        return len(self.patients)

    def of_split(self, *splits: Split) -> Cohort:
        """Return the patients of the given splits.

        >>> cohort = Cohort((Patient("01", split="train"), Patient("02", split="test")))
        >>> [patient.id for patient in cohort.of_split("test")]
        ['02']
        """
        return replace(self, patients=tuple(p for p in self.patients if p.split in splits))

    def with_exams(self, *exams: Exam) -> Cohort:
        """Return the patients who have every one of the given exams.

        >>> cohort = Cohort((Patient("01", exams={"ct": Path("ct.nii.gz")}), Patient("02")))
        >>> [patient.id for patient in cohort.with_exams("ct")]
        ['01']
        """
        return replace(self, patients=tuple(p for p in self.patients if all(e in p.exams for e in exams)))

    @property
    def centres(self) -> tuple[str, ...]:
        """Return the centres, sorted.

        >>> Cohort((Patient("01", centre="south"), Patient("02", centre="north"))).centres
        ('north', 'south')
        """
        return tuple(sorted({p.centre for p in self.patients}))
