"""Each slice beside its neighbours: blank ones, jumps of the HU, lost air, the same pixels twice.

A slice that was zeroed, rescaled otherwise or written twice looks fine alone; its neighbours tell.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ichnos.arrays import Array, Floats, Mask
from ichnos.quality.levels import level_of
from ichnos.quality.slices import slice_axis
from ichnos.scan import Scan
from ichnos.verdict import Reason

# Of the median of soft tissue from one slice to the next, at brain level: warn, refuse. 15 real heads and the
# virtual ones stay under 6; near base and vertex, where slices differ more, a third of the step counts.
HU_JUMP = (9.0, 25.0)
_BASE_AND_VERTEX = 1 / 3
HOLE_SHARE = (0.08, 0.25)  # of the soft tissue that both neighbours show, air in this slice
_WORK_MM = 2.0
_SOFT_HU = (-20.0, 110.0)
_AIR_BELOW_HU = -500.0
_BRAIN_LEVEL, _HEAD_LEVEL = 0.65, 0.4  # of the largest slice's soft tissue
_FEWEST_PIXELS = 60  # of soft tissue, about 2.4 cm2
_NO_AIR, _MUCH_AIR = 0.002, 0.05  # shares of a slice
_NOISELESS_HU = 0.5  # between neighbouring pixels of soft tissue: a drawn picture, whose slices may be alike


@dataclass(frozen=True, eq=False)
class _Stack:
    """The slices as they were acquired, feet to head."""

    whole: Sequence[Array]  # (columns, rows) each, every pixel
    thin: Array  # (x, y, slices) float32, about 2 mm, in place; NaN where nothing was acquired
    spread: bool  # a grid with several planes for one slice, whose slices are not known

    @property
    def soft(self) -> Mask:
        return np.asarray((self.thin > _SOFT_HU[0]) & (self.thin < _SOFT_HU[1]))


def continuity_reasons(scan: Scan) -> Iterator[Reason]:
    """Judge whether the slices of a scan belong together."""
    stack = _stack_of(scan)
    blank = _blank(stack)
    yield _named("blank_slices", blank, "hold one value only, though the head goes on beyond them")
    yield _holes(stack, blank)
    yield _jumps(stack, blank)
    yield _named(
        "air_in_slices", _without_air(stack), "show no air, though their neighbours do: another HU scale"
    )
    yield _repeated(stack)


def _named(name: str, numbers: Iterable[int], what: str) -> Reason:
    slices = sorted(numbers)
    if not slices:
        return Reason(name, "pass", f"no slices {what.split(',')[0]}", 0.0)
    return Reason(name, "refuse", f"slice(s) {numbered(slices)} {what}", float(len(slices)))


def numbered(slices: Sequence[int], *, most: int = 6) -> str:
    """Return the numbers of slices for people, from 1, counted from the feet.

    >>> numbered([2, 3, 4, 9])
    '3-5, 10 (counted from the feet)'
    """
    runs: list[list[int]] = []
    for k in slices:
        if runs and k == runs[-1][1] + 1:
            runs[-1][1] = k
        else:
            runs.append([k, k])
    parts = [str(a + 1) if a == b else f"{a + 1}-{b + 1}" for a, b in runs]
    more = f" and {len(parts) - most} more" if len(parts) > most else ""
    return f"{', '.join(parts[:most])}{more} (counted from the feet)"


# ---- the slices of a scan


def _stack_of(scan: Scan) -> _Stack:
    axis = slice_axis(scan)
    turned = np.moveaxis(np.asarray(scan.hu), axis, 2)
    in_plane = [s for a, s in enumerate(scan.volume.spacing_mm) if a != axis]
    step = tuple(max(1, round(_WORK_MM / s)) for s in in_plane)
    upwards = bool(scan.volume.affine[2, axis] > 0)
    slices = scan.source.slices if scan.source is not None else ()
    if len(slices) < 2 or axis != 2:
        thin = turned[:: step[0], :: step[1]].astype(np.float32)
        whole = [turned[..., k] for k in range(turned.shape[2])]
        same = sum(np.array_equal(thin[..., k], thin[..., k + 1]) for k in range(thin.shape[2] - 1))
        order = slice(None) if upwards else slice(None, None, -1)
        return _Stack(whole[order], thin[..., order], same > 0.2 * thin.shape[2])
    corners = scan.volume.index(np.array([s.affine[:3, 3] for s in slices]))
    planes = np.clip(np.round(corners[:, 2]), 0, turned.shape[2] - 1).astype(int)
    first = np.round(corners[:, :2]).astype(int)
    columns, rows = (-(-n // s) for n, s in zip(turned.shape[:2], step, strict=True))
    thin = np.full((columns, rows, len(slices)), np.nan, np.float32)
    whole = []
    for k, ((x, y), plane) in enumerate(zip(first, planes, strict=True)):
        window = slice(max(x, 0), x + slices[k].shape[0]), slice(max(y, 0), y + slices[k].shape[1])
        whole.append(turned[(*window, plane)])
        placed = np.full(turned.shape[:2], np.nan, np.float32)
        placed[window] = whole[k]
        thin[..., k] = placed[:: step[0], :: step[1]]
    return _Stack(whole, thin, bool((np.diff(planes) < 1).any()))


# ---- the checks


def _blank(stack: _Stack) -> list[int]:
    """Return the slices of one value, between slices that show soft tissue."""
    shown = np.flatnonzero(stack.soft.sum(axis=(0, 1)) >= _FEWEST_PIXELS)
    if not len(shown):
        return []
    inner = range(int(shown[0]) + 1, int(shown[-1]))
    return [k for k in inner if np.nanmin(stack.thin[..., k]) == np.nanmax(stack.thin[..., k])]


def _holes(stack: _Stack, blank: Sequence[int]) -> Reason:
    """Measure the share of what both neighbours show as soft tissue that is air in a slice."""
    soft, air = stack.soft, stack.thin < _AIR_BELOW_HU
    worst, at = 0.0, []
    for k in range(1, soft.shape[2] - 1):
        around = soft[..., k - 1] & soft[..., k + 1]
        if k in blank or around.sum() < _FEWEST_PIXELS:
            continue
        share = float(air[..., k][around].mean())
        worst = max(worst, share)
        if share > HOLE_SHARE[0]:
            at.append(k)
    text = (
        f"slice(s) {numbered(at)} are empty where both neighbours show tissue" if at else "no slice has holes"
    )
    return Reason("holes", level_of(worst, HOLE_SHARE), text, 100 * worst, "%")


def _jumps(stack: _Stack, blank: Sequence[int]) -> Reason:
    """Measure the largest step of the median HU of soft tissue from a slice to the next."""
    steps = {
        k: _step_hu(stack, k) for k in range(stack.thin.shape[2] - 1) if k not in blank and k + 1 not in blank
    }
    worst = max(steps.values(), default=0.0)
    level = level_of(worst, HU_JUMP)
    at = [k + 1 for k, step in steps.items() if step > HU_JUMP[0]]
    text = "soft tissue has the same HU from slice to slice"
    if at:
        text = f"soft tissue changes by up to {worst:.0f} HU from slice to slice, at slice(s) {numbered(at)}"
    return Reason("hu_jump", level, text, worst, "HU")


def _step_hu(stack: _Stack, k: int) -> float:
    """Return how far the HU of the same tissue lie apart in slices k and k + 1; 0 where that cannot be told.

    Where too little is soft tissue in both, tissue of either is looked up in the other, at the levels of the
    brain alone: towards the vertex every slice ends inside the one below it.
    """
    one, other = stack.thin[..., k], stack.thin[..., k + 1]
    soft = stack.soft
    here, there = soft[..., k], soft[..., k + 1]
    area = soft.sum(axis=(0, 1))
    weight = 1.0 if min(area[k : k + 2]) >= _BRAIN_LEVEL * area.max() else _BASE_AND_VERTEX
    common = here & there
    if common.sum() >= max(_FEWEST_PIXELS, 0.2 * min(here.sum(), there.sum())):
        return weight * abs(float(np.median(one[common]) - np.median(other[common])))
    seen = [region for region in (here, there) if region.sum() >= _HEAD_LEVEL * area.max()]
    goes_on = min(area[:k].max(initial=0), area[k + 2 :].max(initial=0)) >= _FEWEST_PIXELS
    if not goes_on or not seen:
        return 0.0
    return min(_step_in(one, other, region) for region in seen)


def _step_in(one: Array, other: Array, region: Mask) -> float:
    step = float(np.nanmedian(one[region]) - np.nanmedian(other[region]))
    return 0.0 if np.isnan(step) else abs(step)


def _without_air(stack: _Stack) -> list[int]:
    """Return the slices that show no air although a neighbour shows much."""
    share: Floats = np.nanmean(
        np.where(np.isnan(stack.thin), np.nan, stack.thin < _AIR_BELOW_HU), axis=(0, 1)
    )
    beside = np.maximum(np.append(share[1:], 0), np.insert(share[:-1], 0, 0))
    without = {int(k) for k in np.flatnonzero((share < _NO_AIR) & (beside > _MUCH_AIR))}
    for k in sorted(without):  # those next to them are of the same kind
        for step in (-1, 1):
            n = k + step
            while 0 <= n < len(share) and share[n] < _NO_AIR:
                without.add(n)
                n += step
    return sorted(without)


def _repeated(stack: _Stack) -> Reason:
    """Find slices whose pixels are those of another slice, to the last one."""
    alike: dict[bytes, list[int]] = defaultdict(list)
    for k in range(stack.thin.shape[2]):
        if not stack.spread and _is_measured(stack.thin[..., k]):
            alike[stack.whole[k].tobytes()[:: max(1, stack.whole[k].nbytes // 4096)]].append(k)
    pairs = [
        (a, b)
        for group in alike.values()
        for a, b in pairwise(group)
        if np.array_equal(stack.whole[a], stack.whole[b])
    ]
    if not pairs:
        return Reason("repeated_slices", "pass", "every slice has pixels of its own", 0.0)
    shown = "; ".join(f"{a + 1} and {b + 1}" for a, b in pairs[:4])
    text = f"slices {shown} (counted from the feet) hold the same pixels: one of each was lost"
    return Reason("repeated_slices", "refuse", text, float(len(pairs)))


def _is_measured(plane: Array) -> bool:
    """Say whether a slice shows tissue with noise; drawn pictures may repeat themselves."""
    soft = (plane > _SOFT_HU[0]) & (plane < _SOFT_HU[1])
    both = soft[1:] & soft[:-1]
    if both.sum() < _FEWEST_PIXELS:
        return False
    return bool(np.mean(np.abs(np.diff(plane, axis=0)[both])) > _NOISELESS_HU)
