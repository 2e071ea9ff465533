"""Pair plain CTs with the partner exams that followed, and write them as a cohort.

A baseline is the earliest plain CT of a patient with a partner exam within its window. The cohort is what
`transfer`, `train`, `evaluate` and `audit` take.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from ichnos.audit.exams import DatedExam, FoundExams, by_patient
from ichnos.cohort import Cohort, Exam, Fact, Patient, Split
from ichnos.errors import InputRefused, MissingExtra
from ichnos.formats import bids
from ichnos.runs import Failure, apply

HOURS_PER_DAY = 24.0
BEST_FOLLOWUP_H = 24.0  # of several follow-ups in the window the one nearest to a day
TEST_SHARE, VALIDATION_SHARE = 0.2, 0.2  # of patients; the rest may be trained on
PAIR_RUN = "pair"  # its ledger


@dataclass(frozen=True)
class PairWindows:
    """How long after the plain CT a partner exam may be taken, in hours: (earliest, latest)."""

    followup_h: tuple[float, float] = (6.0, 72.0)
    flair_h: tuple[float, float] = (0.0, 30 * HOURS_PER_DAY)
    diffusion_h: tuple[float, float] = (0.0, 90 * HOURS_PER_DAY)

    def of(self, exam: Exam) -> tuple[float, float]:
        """Return the window of a partner exam; a T1 has that of the FLAIR.

        >>> PairWindows().of("followup"), PairWindows().of("t1")
        ((6.0, 72.0), (0.0, 720.0))
        """
        windows = {"followup": self.followup_h, "diffusion": self.diffusion_h}
        return windows.get(exam, self.flair_h)


@dataclass(frozen=True)
class Episode:
    """One plain CT with the partner exams that followed it."""

    patient_id: str  # in the cohort: letters and digits, no identity
    baseline: DatedExam
    partners: Mapping[Exam, DatedExam]

    @property
    def id(self) -> str:
        """Return the ledger's name of the episode: another one as soon as another exam belongs to it."""
        tokens = " ".join(
            [self.baseline.token, *(f"{e}={x.token}" for e, x in sorted(self.partners.items()))]
        )
        return f"{self.patient_id}-{hashlib.sha256(tokens.encode()).hexdigest()[:8]}"

    def hours_to(self, exam: Exam) -> float:
        """Return the hours from the plain CT to a partner exam."""
        return _hours(self.baseline, self.partners[exam])


def _hours(first: DatedExam, second: DatedExam) -> float:
    return (second.taken - first.taken).total_seconds() / 3600.0


def episodes_of(exams: Iterable[DatedExam], windows: PairWindows, *, salt: str = "") -> list[Episode]:
    """Return one episode for each patient who has one, in order of time; ids are salted hashes."""
    found = []
    for patient, own in by_patient(exams).items():
        for baseline in (exam for exam in own if exam.exam == "ct"):
            partners = _partners(baseline, own, windows)
            if set(partners) - {"t1"}:
                found.append(Episode(_pseudonym(patient, baseline, salt), baseline, partners))
                break
    return sorted(found, key=lambda e: (e.baseline.taken, e.patient_id))


def _pseudonym(patient: str, baseline: DatedExam, salt: str) -> str:
    """Return a salted hash of person and baseline, so that exams of another baseline never mix with these."""
    who = f"{patient} {baseline.token.split()[0]}".encode("utf-8", "surrogatepass")
    return hmac.new(salt.encode(), who, hashlib.sha256).hexdigest()[:12]


def _partners(baseline: DatedExam, own: list[DatedExam], windows: PairWindows) -> dict[Exam, DatedExam]:
    found: dict[Exam, DatedExam] = {}
    for exam in cast("tuple[Exam, ...]", ("followup", "flair", "t1", "diffusion")):
        kind, wanted_h = ("ct", BEST_FOLLOWUP_H) if exam == "followup" else (exam, 0.0)
        low, high = windows.of(exam)
        within = [
            e for e in own if e.exam == kind and e is not baseline and low <= _hours(baseline, e) <= high
        ]
        if within:
            found[exam] = min(within, key=lambda e: abs(_hours(baseline, e) - wanted_h))
    return found


@dataclass(frozen=True)
class PairSummary:
    """What a place gave."""

    cohort: Cohort
    failures: tuple[Failure, ...]
    left_out: tuple[str, ...]
    done_now: int
    counts: Mapping[str, int] = field(default_factory=dict)  # partner exam -> pairs


def pair_exams(
    found: FoundExams,
    out: Path,
    *,
    windows: PairWindows = PairWindows(),
    centre: str = "",
    salt: str = "",
    workers: int = 1,
    progress: bool = False,
) -> PairSummary:
    """Write the cohort of a place's pairs; what an earlier call wrote is kept, new episodes are added."""
    episodes = episodes_of(found.exams, windows, salt=salt)
    if not episodes:
        raise InputRefused(
            f"no pair among {len(found.exams)} dated exams: a plain head CT and, within its window, a"
            f" follow-up CT, FLAIR or diffusion exam of the same patient are needed;"
            f" {len(found.left_out)} series were left out"
        )
    done = apply(
        write_episode,
        episodes,
        out=out,
        settings={
            **asdict(windows),
            "centre": centre,
            "salt": hashlib.sha256(salt.encode()).hexdigest()[:12],
        },
        name=PAIR_RUN,
        workers=workers,
        progress=progress,
        keep_names=False,
    )
    bids.write_cohort([_patient(row, centre) for row in done.rows], out, name="pairs", columns=_COLUMNS)
    cohort = bids.read_cohort(out)
    counts = {exam: len(cohort.with_exams("ct", exam)) for exam in ("followup", "flair", "diffusion")}
    return PairSummary(cohort, done.failures, found.left_out, done.done_now, counts)


def write_episode(episode: Episode, folder: Path) -> dict[str, Any]:
    """Write the exams of an episode as a cohort holds them; return its facts."""
    facts: dict[str, Any] = dict(episode.baseline.write(folder, episode.patient_id, "ct"))
    facts["month"] = f"{episode.baseline.taken:%Y-%m}"
    refused: list[str] = []
    for exam, partner in episode.partners.items():
        try:
            partner.write(folder, episode.patient_id, exam)
        except (InputRefused, MissingExtra) as refusal:
            refused.append(f"{exam}: {refusal.without_names}")
        else:
            facts[f"ct_to_{exam}_h"] = round(episode.hours_to(exam), 2)
    if refused and len(refused) == len(set(episode.partners)):
        raise InputRefused("; ".join(refused))
    if refused:
        facts["left_out"] = "; ".join(refused)
    return {"patient": episode.patient_id, "facts": facts}


def split_of(patient_id: str) -> Split:
    """Return the split of a patient: by a hash of the id, so that a test patient stays one whatever comes.

    >>> from collections import Counter
    >>> counts = Counter(split_of(f"p{n}") for n in range(4000))
    >>> [round(counts[name] / 4000, 1) for name in ("train", "validation", "test")]
    [0.6, 0.2, 0.2]
    """
    place = int(hashlib.sha256(patient_id.encode()).hexdigest()[:8], 16) / 16**8
    return (
        "test" if place < TEST_SHARE else "validation" if place < TEST_SHARE + VALIDATION_SHARE else "train"
    )


def _patient(row: Mapping[str, Any], centre: str) -> Patient:
    facts: dict[str, Fact] = dict(row["facts"])
    return Patient(str(row["patient"]), centre, split_of(str(row["patient"])), facts=facts)


_COLUMNS: dict[str, dict[str, str]] = {
    "month": {"Description": "month of the plain CT"},
    "scanner": {"Description": "manufacturer and model of the plain CT's scanner"},
    "thickness_mm": {"Units": "mm", "Description": "slice thickness of the plain CT"},
    "left_out": {"Description": "partner exams that came and could not be used, and why"},
    "ct_to_followup_h": {"Units": "h", "Description": "from the plain CT to the follow-up CT"},
    "ct_to_flair_h": {"Units": "h", "Description": "from the plain CT to the FLAIR"},
    "ct_to_diffusion_h": {"Units": "h", "Description": "from the plain CT to the diffusion exam"},
}
