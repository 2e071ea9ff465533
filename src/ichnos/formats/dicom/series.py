"""Group images into stacks, and say of each how well it serves as a non-contrast head CT for reading, in
words with points.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.multival import MultiValue

from ichnos.arrays import Floats
from ichnos.formats.dicom.headers import IMAGE_TYPE_AT, Contents, Frame, header_number, header_value
from ichnos.scan import (
    FEWEST_SLICES,
    described_without_contrast,
    missing_slices,
    modality_name,
    names_agent,
)

_CT = (
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.2.1",
    "1.2.840.10008.5.1.4.1.1.2.2",
)  # plain, enhanced, converted
_SAME_DIRECTION = 0.9998  # cosine of 1.1 degrees


@dataclass(frozen=True, eq=False)
class Stack:
    """Images of one series that lie in one stack: sorted along their normal, one at each position."""

    # feet to head (or back to front, left to right); as found where the header gives no place
    frames: tuple[Frame, ...]
    head: Any  # pydicom header of one of its files
    placed: bool
    duplicates: int = 0  # the same image again
    repeats: int = 0  # other images at a position already taken

    @property
    def uid(self) -> str:
        """Return the SeriesInstanceUID."""
        return self.frames[0].series_uid

    @property
    def coloured(self) -> bool:
        """Say whether its images are colour pictures."""
        return (header_number(self.head, "SamplesPerPixel") or 1) != 1

    @property
    def affines(self) -> list[Floats]:
        """Return (column, row, 0) -> RAS mm of each slice."""
        return [frame.affine for frame in self.frames]

    @property
    def steps_mm(self) -> Floats:
        """Return the distance between neighbouring slices along their normal."""
        if not self.placed or len(self.frames) < 2:
            return np.zeros(0)
        return np.diff(_depth(self.frames))

    @property
    def tilt_deg(self) -> float:
        """Return the angle from the direction of table travel to the slice normal; + tips the top of the
        normal forward.
        """
        if len(self.steps_mm) == 0:
            return 0.0
        first, last = self.frames[0].affine, self.frames[-1].affine
        travel = last[:3, 3] - first[:3, 3]
        travel /= np.linalg.norm(travel)
        normal = first[:3, 2]
        angle = float(np.rad2deg(np.arctan2(np.linalg.norm(np.cross(travel, normal)), travel @ normal)))
        return angle if normal[1] >= travel[1] else -angle

    @property
    def missing(self) -> int:
        """Return how many slices seem to be missing."""
        return missing_slices(self.steps_mm).count


@dataclass(frozen=True)
class SeriesSummary:
    """One line of the table of series."""

    uid: str
    number: int | None
    description: str
    modality: str
    images: int
    shape: tuple[int, int]  # columns, rows
    pixel_mm: tuple[float, float] | None
    steps_mm: tuple[float, ...]  # distinct, along the slices' normal
    length_mm: float | None  # from the first slice's centre to the last's
    tilt_deg: float
    kernel: str
    usable: bool  # may be picked
    score: float
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Observation:
    """One observation about a stack."""

    text: str
    points: float = 0.0
    excludes: bool = False

    def __str__(self) -> str:
        return f"{self.text} ({'cannot be picked' if self.excludes else f'{self.points:+g}'})"


# ---- grouping


def stacks_of(contents: Contents) -> list[Stack]:
    """Group images into stacks; the order follows from the files, not from the order of listing."""
    stacks = []
    for frames in _bundles(contents.frames):
        head = contents.heads[frames[0].stack_key]
        unique = list({(frame.sop_uid, frame.index): frame for frame in reversed(frames)}.values())[::-1]
        duplicates = len(frames) - len(unique)
        if not frames[0].placed:
            ordered = tuple(sorted(unique, key=lambda f: (f.instance, f.sop_uid)))
            stacks.append(Stack(ordered, head, False, duplicates))
            continue
        for parallel in _parallel(unique):
            kept = _one_at_each_position(_without_repeated_scans(parallel))
            stacks.append(Stack(kept, head, True, duplicates, len(parallel) - len(kept)))
            duplicates = 0
    return stacks


def _bundles(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Bundle images that may be slices of one stack; the largest part of a bundle comes first."""
    groups: dict[tuple[object, ...], list[Frame]] = {}
    for frame in sorted(frames, key=lambda f: (f.series_uid, f.sop_uid, f.index, str(f.path))):
        groups.setdefault((*frame.stack_key, frame.placed), []).append(frame)
    alike: dict[tuple[object, ...], list[list[Frame]]] = {}
    for key, group in groups.items():
        alike.setdefault(_without_trailing_types(key), []).append(group)
    return [bundle for parts in alike.values() for bundle in _joined_where_apart(parts)]


def _without_trailing_types(key: tuple[object, ...]) -> tuple[object, ...]:
    """Return a stack's key with only the first three values of ImageType, which DICOM itself defines.

    A scanner adds others slice by slice: ORIGINAL/PRIMARY/AXIAL and ORIGINAL/PRIMARY/AXIAL/ADD.
    """
    value = key[IMAGE_TYPE_AT]
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    types = [part.strip(" '\0") for part in re.split(r"\\|,", text.strip("[]"))]
    return (*key[:IMAGE_TYPE_AT], *types[:3], *key[IMAGE_TYPE_AT + 1 :])


def _joined_where_apart(parts: list[list[Frame]]) -> list[list[Frame]]:
    """Join the parts of a series that cover different stretches; those that overlap stay apart."""
    bundles: list[list[Frame]] = []
    for part in sorted(parts, key=lambda p: -len(p)):
        home = next(
            (b for b in bundles if part[0].placed and _alike(b[0], part[0]) and _apart(b, part)), None
        )
        if home is None:
            bundles.append(part)
        else:
            home += part
    return bundles


def _apart(one: Sequence[Frame], other: Sequence[Frame]) -> bool:
    """Say whether two sets of slices share no more than a tenth of the shorter one's stretch."""
    a, b = _depth(one), _depth(other, one[0])
    shared = min(a.max(), b.max()) - max(a.min(), b.min())
    return bool(shared <= 0.1 * min(np.ptp(a), np.ptp(b)) and not (np.ptp(a) == 0 and np.ptp(b) == 0))


def _parallel(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Split images by direction and pixel size."""
    bundles: list[list[Frame]] = []
    for frame in frames:
        for bundle in bundles:
            if _alike(bundle[0], frame):
                bundle.append(frame)
                break
        else:
            bundles.append([frame])
    return bundles


def _alike(a: Frame, b: Frame) -> bool:
    if a.orientation == b.orientation and a.pixel_mm == b.pixel_mm:
        return True
    u, v = np.array(a.orientation).reshape(2, 3), np.array(b.orientation).reshape(2, 3)
    return bool(
        (np.sum(u * v, axis=1) > _SAME_DIRECTION).all()
        and np.allclose(a.pixel_mm or 0, b.pixel_mm or 0, rtol=1e-3)
    )


def _depth(frames: Sequence[Frame], along: Frame | None = None) -> Floats:
    """Return each image's place along the normal of one of them, the first if none is named."""
    normal = (along or frames[0]).affine[:3, 2]
    positions: Floats = np.array([frame.position for frame in frames]) * (-1.0, -1.0, 1.0)
    return np.asarray(positions @ normal, np.float64)


def _without_repeated_scans(frames: list[Frame]) -> list[Frame]:
    """Leave out an acquisition that goes over the same part of the head as one with more slices, as after
    motion.
    """
    acquisitions: dict[int, list[Frame]] = {}
    for frame in frames:
        acquisitions.setdefault(frame.acquisition, []).append(frame)
    kept: list[Frame] = []
    spans: list[tuple[float, float]] = []
    for number in sorted(acquisitions, key=lambda n: (-len(acquisitions[n]), n)):
        depth = _depth(acquisitions[number], frames[0])
        low, high = float(depth.min()), float(depth.max())
        shared = sum(max(0.0, min(high, b) - max(low, a)) for a, b in spans)
        if len(depth) >= FEWEST_SLICES and shared > 0.5 * (high - low):
            continue
        kept += acquisitions[number]
        if len(depth) >= FEWEST_SLICES:
            spans.append((low, high))
    return kept


def _one_at_each_position(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """Sort along the normal and keep one image at each position: of the acquisition that covers most
    positions, then the first taken.
    """
    depth = _depth(frames)
    order = np.argsort(depth, kind="stable")
    steps = np.diff(depth[order])
    apart = steps[steps > 0.01]
    same = max(0.01, 0.1 * float(np.median(apart))) if len(apart) else 0.01
    place = np.concatenate([[0], np.cumsum(steps > same)])
    covered = Counter(
        acquisition
        for _, acquisition in {(p, frames[k].acquisition) for p, k in zip(place, order, strict=True)}
    )

    def rank(frame: Frame) -> tuple[int, int, int, str]:
        return -covered[frame.acquisition], frame.acquisition, frame.instance, frame.sop_uid

    best: dict[int, Frame] = {}
    for p, k in zip(place.tolist(), order, strict=True):
        if p not in best or rank(frames[k]) < rank(best[p]):
            best[p] = frames[k]
    return tuple(best[p] for p in sorted(best))


# ---- scoring

_WORD = {
    "localizer": r"localizer|scout|topogram|sur?view|scanogram|pilot",
    "report": (
        r"dose (report|info|sheet|summary|record|page)|^\s*dose\s*$|exam summary|screen"
        r" ?(save|capture)|patient protocol|"
        r"smart ?prep|bolus track|monitoring"
    ),
    "angiography": r"\bcta\b|\bctv\b|angio|circle of willis|\bcow\b|carotid|venogra",
    "perfusion": r"\bctp\b|perfusion|\bcbf\b|\bcbv\b|\bmtt\b|\btmax\b|\bttp\b",
    "projection": r"\bmip\b|\bminip\b|\bvrt?\b|volume render|projection",
    "bone": r"\bbone|\bknochen|\bosseu|\bhueso|\bosso|petrous|temporal bone|\biac\b|sinus",
    "head": (
        r"head|brain|skull|cranial|cereb|schädel|schaedel|kopf|crane|crâne|craneo|cerveau|hirn"
        r"|encephal|stroke"
    ),
    "elsewhere": (
        r"chest|thora|abdom|pelvi|spine|lung|heart|cardi|liver|neck|\bhals"
        r"|\bknee|\bhip\b|\bfoot|\bhand|shoulder|extrem|coronar"
    ),
    "with": (
        r"\bc\+|\+ ?c\b|with contrast|w/ ?c|kontrast|mit km|\bkm\b|\benhanced\b|\bafter"
        r" contrast|arterial|venous|delayed|"
        r"\bpost\b(?!.{0,2}(fossa|op|surg|evd|trauma|coil|clip|lysis|thromb|cran))"
    ),
}
_PATTERN = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in _WORD.items()}


def judge_stack(stack: Stack) -> list[Observation]:
    """Return everything that speaks for or against reading a stack as the non-contrast head CT."""
    return [*_kind(stack), *_contrast(stack), *_region(stack), *_kernel(stack), *_geometry(stack)]


def words(stack: Stack, *keywords: str) -> str:
    """Return the text under some keywords of a stack's header, joined."""
    return " ".join(_joined(header_value(stack.head, keyword)) for keyword in keywords)


def _joined(value: Any) -> str:
    return (
        "\\".join(str(part) for part in value)
        if isinstance(value, list | tuple | MultiValue)
        else str(value or "")
    )


def contrast_agent(stack: Stack) -> str | None:
    """Return the contrast agent that a header names, None where it names none."""
    agent = str(header_value(stack.head, "ContrastBolusAgent") or "")
    if names_agent(agent):
        return agent
    sequence = header_value(stack.head, "ContrastBolusAgentSequence")
    if sequence:
        return str(sequence[0].get("CodeMeaning") or "coded agent")
    volume = header_number(stack.head, "ContrastBolusVolume") or 0.0
    if volume > 0:
        return f"{volume:g} mL of an unnamed agent"
    described = words(stack, "SeriesDescription")
    if _PATTERN["with"].search(described) and not described_without_contrast(described):
        return "named in the description"
    return None


def _kind(stack: Stack) -> Iterator[Observation]:
    modality = words(stack, "Modality")
    if modality != "CT":
        given = modality_name(modality) if modality else "not given"
        yield Observation(f"modality {given}, not CT", excludes=True)
    if 0 in stack.frames[0].shape:
        yield Observation("no image but a report or other object", excludes=True)
    elif words(stack, "SOPClassUID") not in _CT:
        yield Observation("a secondary capture or other object, not a CT image", excludes=True)
    yield from _image_kind(stack)


def _image_kind(stack: Stack) -> Iterator[Observation]:
    image_type = words(stack, "ImageType").upper()
    described = words(stack, "SeriesDescription", "DerivationDescription")
    if "LOCALIZER" in image_type or _PATTERN["localizer"].search(described):
        yield Observation("a localizer", excludes=True)
    if any(word in image_type for word in ("SCREEN SAVE", "DOSE")) or _PATTERN["report"].search(described):
        yield Observation("a dose report, exam summary or bolus monitoring", excludes=True)
    if stack.coloured:
        yield Observation("a colour picture", excludes=True)
    if re.search(r"\bM(IN)?IP\b|PROJECTION|VOLUME_?RENDER|\bVRT?\b|\b3D", image_type) or _PATTERN[
        "projection"
    ].search(described):
        yield Observation("a projection or rendering (MIP, VRT)", excludes=True)
    elif image_type.startswith("ORIGINAL\\PRIMARY"):
        yield Observation("original images", 20)
    elif "DERIVED" in image_type:
        yield Observation("derived images", -15)


def _contrast(stack: Stack) -> Iterator[Observation]:
    described = words(stack, "SeriesDescription", "ProtocolName")
    agent, says_without = contrast_agent(stack), described_without_contrast(described)
    if agent and says_without:
        yield Observation(f"contrast agent in the header ({agent}), but described as without", -20)
    elif agent:
        yield Observation(f"contrast agent ({agent})", -100)
    elif says_without:
        yield Observation("described as without contrast", 10)
    if _PATTERN["angiography"].search(described):
        yield Observation("angiography", -100)
    if _PATTERN["perfusion"].search(described):
        yield Observation("perfusion", -100)


def _region(stack: Stack) -> Iterator[Observation]:
    part = words(stack, "BodyPartExamined")
    described = words(stack, "SeriesDescription", "ProtocolName", "StudyDescription")
    if _PATTERN["head"].search(part):
        yield Observation(f"body part {part.strip()}", 20)
    elif part.strip():
        yield Observation(f"body part {part.strip()}, not head", -80)
    if _PATTERN["head"].search(described):
        yield Observation("head or brain in the description", 10)
    elif _PATTERN["elsewhere"].search(described):
        yield Observation("another region in the description", -60)
    pixel = stack.frames[0].pixel_mm
    if pixel and max(stack.frames[0].shape[0] * pixel[0], stack.frames[0].shape[1] * pixel[1]) > 350:
        width = max(stack.frames[0].shape[0] * pixel[0], stack.frames[0].shape[1] * pixel[1])
        yield Observation(f"field of view {width:.0f} mm, wider than a head's", -20)


def _kernel(stack: Stack) -> Iterator[Observation]:
    kernel, described = words(stack, "ConvolutionKernel"), words(stack, "SeriesDescription")
    sharpness = kernel_sharpness(kernel)
    if sharpness == "bone" or _PATTERN["bone"].search(described):
        yield Observation(f"bone kernel or bone series ({kernel or described})", -40)
    elif sharpness == "soft":
        yield Observation(f"soft-tissue kernel {kernel}", 20)


def kernel_sharpness(kernel: str) -> str:
    """Say whether a reconstruction kernel is "soft" or "bone"; "" where its name does not tell.

    >>> [kernel_sharpness(k) for k in ("H31s", "Hr68", "BONEPLUS", "UB", "FC30", "FC21", "11")]
    ['soft', 'bone', 'bone', 'soft', 'bone', 'soft', '']
    """
    name = kernel.upper().split("\\")[0].strip()
    if siemens := re.fullmatch(r"[HBJTUSI][A-Z]?(\d\d)[A-Z]*\d?", name):
        return "bone" if int(siemens[1]) >= 56 else "soft"
    if canon := re.fullmatch(r"FC(\d\d?)", name):
        return (
            "bone"
            if int(canon[1]) in {30, 31, 35, 80, 81, 82, 83, 84, 85, 86}
            else "soft"
            if int(canon[1]) < 70
            else ""
        )
    if re.search(r"BONE|EDGE|LUNG|SHARP", name) or name in {"D", "E", "L", "YB", "YC", "YD", "YE"}:
        return "bone"
    return (
        "soft"
        if re.search(r"STAND|SOFT|BRAIN", name) or name in {"A", "B", "C", "UA", "UB", "UC", "EB", "EC"}
        else ""
    )


def _geometry(stack: Stack) -> Iterator[Observation]:
    count, steps = len(stack.frames), stack.steps_mm
    if not stack.placed:
        yield Observation("no place in the patient is given", excludes=True)
        return
    if count < FEWEST_SLICES:
        yield Observation(f"too few slices ({count}, at least {FEWEST_SLICES} are needed)", excludes=True)
    if len(steps) == 0:
        return
    if abs(stack.frames[0].affine[2, 2]) < 0.7:
        yield Observation("coronal or sagittal, not axial", -50)
    length = float(steps.sum())
    yield Observation(f"{count} slices over {length:.0f} mm", 15 if 100 <= length <= 260 else -20)
    yield _slice_step(steps)
    if stack.missing:
        yield Observation(
            f"{stack.missing} slice(s) missing, largest step {steps.max():.1f} mm",
            -5.0 * min(stack.missing, 4),
        )
    if stack.repeats:
        yield Observation(f"{stack.repeats} more image(s) of places already taken, left out", -5)
    if stack.duplicates:
        yield Observation(f"{stack.duplicates} exact duplicate(s) left out", 0)


def _slice_step(steps_mm: Floats) -> Observation:
    step = float(np.median(steps_mm))
    named = f"slice step {' and '.join(f'{s:g}' for s in distinct(steps_mm)[:4])} mm"
    score = 10 if 2.9 <= step <= 6 else 5 if 1 <= step < 2.9 else 0 if step <= 7 else -10
    return Observation(named + (", thin" if step < 1 else ""), score)


def distinct(steps_mm: Floats) -> tuple[float, ...]:
    """Return the different steps, to 0.1 mm (below 1 mm: 0.01), sorted.

    >>> distinct(np.array([4.0, 4.001, 7.0]))
    (4.0, 7.0)
    """
    return tuple(sorted({round(float(s), 1) if s >= 1 else round(float(s), 2) for s in steps_mm}))


def summary_of(stack: Stack) -> SeriesSummary:
    """Return a stack's line in the table."""
    observations = judge_stack(stack)
    steps = stack.steps_mm
    number = header_number(stack.head, "SeriesNumber")
    return SeriesSummary(
        uid=stack.uid,
        number=None if number is None else int(number),
        description=words(stack, "SeriesDescription").strip(),
        modality=words(stack, "Modality"),
        images=len(stack.frames),
        shape=stack.frames[0].shape,
        pixel_mm=stack.frames[0].pixel_mm,
        steps_mm=distinct(steps),
        length_mm=float(steps.sum()) if len(steps) else None,
        tilt_deg=round(stack.tilt_deg, 2),
        kernel=words(stack, "ConvolutionKernel").strip(),
        usable=not any(observation.excludes for observation in observations),
        score=sum(observation.points for observation in observations),
        reasons=tuple(str(observation) for observation in observations),
    )


def preference(stack: Stack, summary: SeriesSummary) -> tuple[bool, float, int, int, str]:
    """Return a key by which the better stack is greater: usable, points, slices, earlier series number,
    UID.
    """
    return summary.usable, summary.score, summary.images, -(summary.number or 0), summary.uid
