"""Patients simulated in processes of their own, handed over in shared memory.

Which patients are made follows from their numbers alone; in which order they arrive depends on the machine.
"""

from __future__ import annotations

import mmap
import queue
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.context import ForkContext, ForkProcess
from typing import Any

import numpy as np
import torch

from ichnos.errors import IchnosError
from ichnos.learning.virtual.accelerated.phantom import Phantom, PhantomLayout, read_phantom, write_phantom
from ichnos.simulation.heads.source import SourceHead
from ichnos.simulation.patient import SITES, VirtualPatient
from ichnos.simulation.simulate import PatientSpec, simulate_patient

SMALL_ML, DISEASED_ML = (0.6, 8.0), (1.0, 50.0)  # drawn evenly in their logarithm
_BLEEDING, _SMALL, _ANY_SITE, _DISEASED = 0.65, 0.35, 0.5, 0.5  # shares of patients
_MOST_FAILURES, _FAILING_SHARE = 20, 0.1  # more failed patients than both end a run
_OLD_INFARCT, _ACUTE_INFARCT, _OPERATED = 0.25, 0.08, 0.05


@dataclass(frozen=True)
class PatientJob:
    """Which patient to make: its number, from which of two lists of heads, on which grid."""

    number: int
    spacing_mm: float
    held_out: bool = False
    followup: bool = True


def spec_of(seed: int, number: int, *, spacing_mm: float, followup: bool) -> tuple[int, PatientSpec]:
    """Return a patient's seed and specification: what cohorts hardly hold is common here.

    >>> spec_of(0, 1, spacing_mm=1.5, followup=True) == spec_of(0, 1, spacing_mm=1.5, followup=True)
    True
    """
    rng = np.random.default_rng([seed, number])
    small, diseased = (float(np.exp(rng.uniform(*np.log(limits)))) for limits in (SMALL_ML, DISEASED_ML))
    bled = bool(rng.random() < _BLEEDING)
    spec = PatientSpec(
        spacing_mm=spacing_mm,
        haematoma_probability=float(bled),
        acute_infarct_probability=_ACUTE_INFARCT,
        old_infarct_probability=_OLD_INFARCT,
        operated_probability=_OPERATED,
        ich_ml=small if rng.random() < _SMALL else None,
        site=SITES[int(rng.integers(len(SITES)))] if rng.random() < _ANY_SITE else None,
        leukoaraiosis_ml=diseased if rng.random() < _DISEASED else None,
        followup=followup and bled,
        mni=True,
    )
    return int(rng.integers(2**31)), spec


def patient_for(job: PatientJob, heads: Sequence[SourceHead], seed: int) -> VirtualPatient:
    """Simulate the patient of a job."""
    own, spec = spec_of(seed, job.number, spacing_mm=job.spacing_mm, followup=job.followup)
    return simulate_patient(own, heads[job.number % len(heads)], spec)


@dataclass
class Production:
    """Worker processes and the memory through which phantoms come back.

    It forks, so that the heads are held once: begin it before anything touches a GPU.
    """

    heads: tuple[SourceHead, ...]
    held_out: tuple[SourceHead, ...]
    workers: int
    slots: int
    seed: int = 0
    spacings_mm: tuple[float, ...] = (1.5, 1.0)  # that jobs may ask for
    failures: list[str] = field(default_factory=list)
    _came: int = 0
    _workers: list[ForkProcess] = field(default_factory=list)

    def __post_init__(self) -> None:
        context: ForkContext = get_context("fork")
        self._size = PhantomLayout(min(self.spacings_mm)).size
        self._memory = mmap.mmap(-1, self._size * self.slots)
        self._view = memoryview(self._memory)
        self._jobs: Any = context.Queue()
        self._free: Any = context.Queue()
        self._ready: dict[float, Any] = {step: context.Queue() for step in self.spacings_mm}
        for slot in range(self.slots):
            self._free.put(slot)
        for _ in range(self.workers):
            worker = context.Process(target=self._work, daemon=True)
            worker.start()
            self._workers.append(worker)

    def ask(self, jobs: Sequence[PatientJob]) -> None:
        """Queue patients to be made."""
        for job in jobs:
            self._jobs.put(job)

    def taken(
        self, device: torch.device | str, *, spacing_mm: float, wait_s: float = 0.0
    ) -> tuple[PatientJob, Phantom] | None:
        """Return the next phantom of a voxel size that is ready, on the device, or None."""
        try:
            slot, job, problem = self._ready[spacing_mm].get(wait_s > 0, wait_s or None)
        except queue.Empty:
            if not any(worker.is_alive() for worker in self._workers):
                raise IchnosError("all processes that simulate patients have ended") from None
            return None
        if problem:
            self._free.put(slot)
            self.failed(job, problem)
            return None
        self._came += 1
        layout = PhantomLayout(job.spacing_mm)
        phantom = read_phantom(self._part(slot), layout, device)
        self._free.put(slot)
        return job, phantom

    def failed(self, job: PatientJob, problem: str) -> None:
        """Note a patient whose simulation or scan failed; stop with an error when many have failed."""
        self.failures.append(f"patient {job.number}: {problem}")
        if len(self.failures) > max(_MOST_FAILURES, _FAILING_SHARE * self._came):
            raise IchnosError(f"too many patients could not be simulated; the last: {self.failures[-1]}")

    def waiting(self) -> int:
        """Return how many jobs no process has begun."""
        return int(self._jobs.qsize())

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.join()

    def _part(self, slot: int) -> memoryview:
        return self._view[slot * self._size : (slot + 1) * self._size]

    def _work(self) -> None:
        torch.set_num_threads(1)
        while True:
            job: PatientJob = self._jobs.get()
            slot: int = self._free.get()
            try:
                patient = patient_for(job, self.held_out if job.held_out else self.heads, self.seed)
                write_phantom(patient, job.number, PhantomLayout(job.spacing_mm), self._part(slot))
                self._ready[job.spacing_mm].put((slot, job, ""))
            except Exception as error:  # told to the parent, which names the patient
                self._ready[job.spacing_mm].put((slot, job, repr(error)))


def warmed_up(heads: Sequence[SourceHead]) -> None:
    """Simulate a patient who bleeds, so that atlases are made once and not in every process."""
    for site in SITES:
        spec = PatientSpec(spacing_mm=4.0, site=site, followup=False, mni=True, old_infarct_probability=1.0)
        simulate_patient(1, heads[0], spec)
