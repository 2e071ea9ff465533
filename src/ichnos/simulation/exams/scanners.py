"""CT scanners of four vendors, the centres that own them, and the protocol that is drawn for one exam.

Model and kernel names are those of real machines so that headers look familiar; the physics behind a name is
our own estimate of a typical machine of that make, not a measurement of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ichnos.errors import InputRefused

# Heads are scanned along the orbitomeatal line: the slices rise forward by this much against the line between
# the commissures.
NOD_DEG = -12.0
SHIFTED_ZERO_SHARE = 0.03  # half of what exports had: scanners' own series keep their zero


@dataclass(frozen=True)
class Kernel:
    """An in-plane reconstruction kernel."""

    name: str
    cutoff_per_mm: (
        float  # where the modulation transfer has fallen to 1/e without enhancement: 0.25 smooth .. 0.7 sharp
    )
    enhancement: float = 0.0  # relative gain at mid frequency: 0 none .. 1 strong edges


@dataclass(frozen=True)
class Scanner:
    """A machine with its habits."""

    vendor: str
    model: str
    brain: Kernel  # routine brain kernel
    sharp: Kernel  # the second one some centres use
    noise_hu: float  # standard deviation in mid-brain at 5 mm with the brain kernel
    beam_hardening: float  # what is left after the machine's own correction; 1: plainly visible
    padding_hu: int  # outside the reconstructed circle
    tilts: bool  # can the gantry tilt
    tube_kv: float = 120.0


@dataclass(frozen=True)
class Centre:
    """A hospital: its scanners and its way of scanning heads."""

    name: str
    scanners: tuple[str, ...]  # keys of SCANNERS, drawn evenly
    thickness_mm: tuple[float, ...] = (5.0,)  # drawn evenly
    tilt_deg: tuple[float, float] = (0.0, 0.0)  # mean and standard deviation, on machines that can
    field_of_view_mm: tuple[float, float] = (220.0, 250.0)  # least and greatest
    dose: float = 1.0  # relative; noise falls with its root
    sharp_share: float = 0.0  # share of exams with the sharp kernel
    offset_hu: float = 0.0  # mean calibration error


SCANNERS: dict[str, Scanner] = {
    "siemens": Scanner(
        "SIEMENS",
        "SOMATOM Definition AS+",
        Kernel("J40s", 0.31),
        Kernel("H60s", 0.50, 0.5),
        3.2,
        0.8,
        -1024,
        True,
    ),
    "ge": Scanner(
        "GE MEDICAL SYSTEMS",
        "Revolution EVO",
        Kernel("STANDARD", 0.34),
        Kernel("BONEPLUS", 0.55, 0.7),
        3.8,
        1.0,
        -2000,
        True,
    ),
    "philips": Scanner(
        "Philips", "Ingenuity CT", Kernel("UB", 0.30), Kernel("D", 0.52, 0.6), 3.3, 0.7, -1024, False
    ),
    "canon": Scanner(
        "TOSHIBA",
        "Aquilion ONE",
        Kernel("FC21", 0.33, 0.15),
        Kernel("FC30", 0.52, 0.5),
        3.6,
        1.1,
        -2048,
        True,
    ),
}

CENTRES: dict[str, Centre] = {
    "A": Centre("A", ("siemens", "ge"), (5.0,), (-8.0, 5.0)),
    "B": Centre("B", ("ge",), (5.0, 2.5), (-14.0, 4.0), dose=0.85, offset_hu=2.0),
    "C": Centre("C", ("philips",), (5.0, 3.0), dose=1.1, offset_hu=-1.5),
    "D": Centre("D", ("canon", "siemens"), (5.0, 6.0), (10.0, 6.0), dose=0.8, offset_hu=1.0),
    "E": Centre(
        "E", ("canon", "philips", "ge"), (5.0, 7.0, 1.0), (-4.0, 8.0), (210.0, 260.0), 0.7, 0.1, -2.0
    ),
}


@dataclass(frozen=True)
class CtProtocol:
    """How one head CT is made; everything about it that is not the patient."""

    scanner: Scanner
    kernel: Kernel
    thickness_mm: float = 5.0
    step_mm: float = 5.0
    tilt_deg: float = 0.0  # + tips the top of the slice normal forward
    matrix: int = 512
    field_of_view_mm: float = 230.0
    noise_hu: float = 3.5  # in mid-brain, at this thickness
    beam_hardening: float = 1.0
    cupping_hu: float = 0.0  # by which the brain beside the inner table is too bright
    streaks: float = 1.0  # of starved rays, between the petrous bones: 1 is usual
    offset_hu: float = 0.0
    scale: float = 1.0  # calibration gain about water
    motion_mm: float = 0.0  # largest displacement during the scan; 0: the patient lay still
    metal: bool = False  # a clip or a dental work in the head
    pose_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)  # nod, roll, turn: rotation about x, y, z
    shift_mm: tuple[float, float] = (0.0, 0.0)  # head off the centre of the field of view, x and y
    cover_mm: tuple[float, float] = (12.0, 14.0)  # beyond the brain, below and above
    table: bool = True

    @property
    def pixel_mm(self) -> float:
        """Return the side of a pixel.

        >>> CtProtocol(SCANNERS["ge"], SCANNERS["ge"].brain, matrix=500).pixel_mm
        0.46
        """
        return self.field_of_view_mm / self.matrix


def centre(name: str) -> Centre:
    """Return a centre by its name, or say which there are.

    >>> centre("B").scanners
    ('ge',)
    """
    if name not in CENTRES:
        raise InputRefused(f"there is no simulated centre {name!r}; there are {', '.join(CENTRES)}")
    return CENTRES[name]


def _offset_hu(place: Centre, rng: np.random.Generator) -> float:
    """Draw a calibration error; six of 104 exported real series had their zero 9 to 22 HU too high."""
    usual, shifted = float(np.clip(place.offset_hu + rng.normal(0, 2.5), -8, 8)), float(rng.uniform(9, 22))
    return shifted if rng.random() < SHIFTED_ZERO_SHARE else usual


def draw_protocol(place: Centre, *, rng: np.random.Generator, still: bool = False) -> CtProtocol:
    """Draw how one exam is made at a centre; with `still`, of a head that does not move."""
    scanner = SCANNERS[str(rng.choice(place.scanners))]
    thickness_mm = float(rng.choice(place.thickness_mm))
    kernel = scanner.sharp if rng.random() < place.sharp_share else scanner.brain
    tilts = scanner.tilts and place.tilt_deg != (0.0, 0.0)
    tilt_deg = float(np.clip(rng.normal(*place.tilt_deg), -25, 25)) if tilts else 0.0
    noise_hu = _mean_noise_hu(scanner, kernel, thickness_mm, place.dose) * np.exp(rng.normal(0, 0.12))
    moved = rng.random() < 0.10 and not still
    return CtProtocol(
        scanner=scanner,
        kernel=kernel,
        thickness_mm=thickness_mm,
        step_mm=thickness_mm,
        tilt_deg=round(tilt_deg * 2) / 2,
        field_of_view_mm=round(float(rng.uniform(*place.field_of_view_mm))),
        noise_hu=float(noise_hu),
        beam_hardening=float(scanner.beam_hardening * rng.uniform(0.6, 1.4)),
        cupping_hu=float(20.0 * rng.random() ** 2),  # as seen on real series: 5 to 20 HU, little in most
        streaks=float(0.5 + 2.5 * rng.random() ** 2),
        offset_hu=_offset_hu(place, rng),
        scale=float(rng.normal(1.0, 0.01)),
        motion_mm=float(rng.uniform(1.0, 5.0)) if moved else 0.0,
        metal=bool(rng.random() < 0.03),
        **_position(tilt_deg, rng),
    )


def _mean_noise_hu(scanner: Scanner, kernel: Kernel, thickness_mm: float, dose: float) -> float:
    """Return the usual noise: it falls with thickness and dose and rises with the kernel's sharpness."""
    sharpness = (kernel.cutoff_per_mm / scanner.brain.cutoff_per_mm) ** 1.5 * (1 + 0.5 * kernel.enhancement)
    return float(scanner.noise_hu * np.sqrt(5.0 / thickness_mm / dose) * sharpness)


def _position(tilt_deg: float, rng: np.random.Generator) -> dict[str, Any]:
    """Draw how the head lies, and how far beyond the brain the slices go."""
    return {
        "pose_deg": tuple(float(rng.normal(*spread)) for spread in ((NOD_DEG - tilt_deg, 5), (0, 3), (0, 4))),
        "shift_mm": tuple(float(rng.normal(0, spread)) for spread in (4, 5)),
        "cover_mm": tuple(float(rng.uniform(*ends)) for ends in ((2, 18), (8, 18))),
    }
