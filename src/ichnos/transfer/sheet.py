"""One picture per pair, and a page to click through: does the partner exam lie on the CT, and the target
where it should?
"""

from __future__ import annotations

import csv
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from ichnos.errors import InputRefused, foreign
from ichnos.files import atomic_file
from ichnos.formats.text import TSV_DELIMITERS, read_table
from ichnos.registration.contrast import contrast_of
from ichnos.registration.transform import Transform
from ichnos.verdict import Verdict
from ichnos.volume import Array, Volume, box_around

TILE = 190  # pixels
SLICES = 7
ROWS = ("CT", "partner exam on the CT", "checkerboard", "partner's edges on the CT", "target on the CT")
_COLOURS = ((255, 90, 80), (90, 200, 255), (255, 210, 70))
LEVEL_WORDS = {"pass": "pass", "warn": "warn", "refuse": "fail"}  # what a person reads of a pair
_LEVEL_COLOURS = {"pass": "#1a7f37", "warn": "#9a6700", "refuse": "#cf222e"}


def pair_sheet(
    ct: Volume,
    partner: Volume,
    partner_from_ct: Transform,
    target: Volume | None,
    brain: Volume,
    *,
    title: str,
    verdict: Verdict,
) -> Image.Image:
    """Draw seven axial slices in five rows: CT, partner, checkerboard, edges, target (labels 1 … 3 or a
    share). Patient's left is right.
    """
    grid = _slices(ct, brain)
    low = np.clip((ct.on_grid(grid, fill=-1000.0).array) / 80.0, 0, 1)
    other = _grey(partner, partner_from_ct, grid)
    labels = np.zeros(grid.shape, np.uint8) if target is None else _labels(target, grid)
    edges = _edges(other)
    columns = [
        _column(low[:, :, k], other[:, :, k], edges[:, :, k], labels[:, :, k]) for k in range(grid.shape[2])
    ]
    picture = Image.fromarray((np.concatenate(columns, axis=1) * 255).astype(np.uint8))
    return _captioned(picture, title, verdict)


def _column(ct: Array, partner: Array, edges: Array, labels: Array) -> Array:
    """Stack the tiles of one slice in the order of ROWS."""
    tiles = (
        _rgb(ct),
        _rgb(partner),
        _rgb(_checked(ct, partner)),
        _painted(ct, edges),
        _painted(ct, _outline(labels)),
    )
    return np.concatenate([np.rot90(tile) for tile in tiles], axis=0)


def _slices(ct: Volume, brain: Volume) -> Volume:
    """Return an upright grid over the brain: square tiles, seven slices from bottom to top, right of the
    patient on the left.
    """
    where = brain if brain.array.any() else ct.with_array(np.ones(ct.shape, np.uint8))
    box = box_around(where)
    ends = np.array([box.start, box.stop])
    corners = where.world(
        [(ends[i, 0], ends[j, 1], ends[k, 2]) for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    )
    low, high = corners.min(axis=0), corners.max(axis=0)
    middle, side = (low + high) / 2, max(high[0] - low[0], high[1] - low[1]) + 24
    heights = np.linspace(low[2], high[2], SLICES + 2)[1:-1]
    step = side / TILE
    affine = np.diag([step, step, heights[1] - heights[0], 1.0])
    affine[:3, 3] = (middle[0] - side / 2, middle[1] - side / 2, heights[0])
    affine[0, 0], affine[0, 3] = (
        -step,
        middle[0] + side / 2,
    )  # radiological view: the patient's right is on the left
    return Volume(np.broadcast_to(np.uint8(0), (TILE, TILE, SLICES)), affine)


def _grey(partner: Volume, partner_from_ct: Transform, grid: Volume) -> Array:
    on = partner_from_ct.pull(partner.astype(np.float32), grid, fill=float(partner.array.min())).array
    if contrast_of(partner) == "ct":
        return np.clip(on / 80.0, 0, 1)
    bright = float(np.percentile(on[on > 0.05 * on.max()], 99)) if (on > 0).any() else 1.0
    return np.clip(on / max(bright, 1e-6), 0, 1)


def _labels(target: Volume, grid: Volume) -> Array:
    if target.array.dtype.kind == "f":
        return (target.on_grid(grid).array >= 0.5).astype(np.uint8)
    return target.on_grid(grid, interpolation="nearest").array.astype(np.uint8)


def _edges(array: Array) -> Array:
    smooth = ndimage.gaussian_filter(array, (2, 2, 0))
    strength = np.hypot(ndimage.sobel(smooth, 0), ndimage.sobel(smooth, 1))
    thin = strength > np.percentile(strength, 93, axis=(0, 1), keepdims=True)
    return np.stack(
        [ndimage.binary_erosion(thin[:, :, k], iterations=1) for k in range(thin.shape[2])], axis=2
    ).astype(np.uint8)


def _checked(a: Array, b: Array) -> Array:
    i, j = np.indices(a.shape) // (TILE // 8)
    return np.where((i + j) % 2 == 0, a, b)


def _outline(labels: Array) -> Array:
    return np.where(ndimage.grey_erosion(labels, 3) != labels, labels, 0) if labels.any() else labels


def _rgb(a: Array) -> Array:
    return np.repeat(np.asarray(a, np.float32)[..., None], 3, axis=2)


def _painted(a: Array, labels: Array) -> Array:
    out = _rgb(a)
    for label, colour in enumerate(_COLOURS, 1):
        out[labels == label] = np.array(colour) / 255
    return out


def _captioned(picture: Image.Image, title: str, verdict: Verdict) -> Image.Image:
    causes = [reason.text for reason in (*verdict.at("refuse"), *verdict.at("warn"))][:4]
    lines = [f"{title}: {LEVEL_WORDS[verdict.level]}", *causes]
    head = 20 * len(lines) + 8
    sheet = Image.new("RGB", (picture.width, picture.height + head), "black")
    sheet.paste(picture, (0, head))
    draw = ImageDraw.Draw(sheet)
    for n, line in enumerate(lines):
        draw.text(
            (8, 4 + 20 * n), line, fill=_LEVEL_COLOURS[verdict.level] if n == 0 else "white", font_size=15
        )
    for n, row in enumerate(ROWS):
        draw.text((6, head + n * TILE + 4), row, fill="#ffe08a", font_size=12)
    draw.text((picture.width - 120, head + 4), "patient's left: right", fill="#ffe08a", font_size=12)
    return sheet


def write_index(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write index.html: a line per pair, worst first, each with its sheet one click away; and verdicts.tsv
    with the numbers.
    """
    order = {"refuse": 0, "warn": 1, "pass": 2}
    lines = sorted(rows, key=lambda row: (order.get(str(row.get("verdict")), 0), str(row["id"])))
    columns = list(dict.fromkeys(key for row in rows for key in row if key not in ("sheet",)))
    with (
        atomic_file(folder / "verdicts.tsv") as temporary,
        temporary.open("w", newline="", encoding="utf-8") as stream,
    ):
        table = csv.DictWriter(
            stream, columns, delimiter="\t", lineterminator="\n", restval="n/a", extrasaction="ignore"
        )
        table.writeheader()
        table.writerows({k: "n/a" if v is None else v for k, v in row.items()} for row in lines)
    body = "\n".join(_line(row) for row in lines)
    with atomic_file(folder / "index.html") as temporary:
        temporary.write_text(_PAGE.format(count=len(lines), body=body), encoding="utf-8")
    return folder / "index.html"


def _line(row: Mapping[str, Any]) -> str:
    level = str(row.get("verdict", "refuse"))
    causes = html.escape(str(row.get("causes") or ""))
    sheet = row.get("sheet")
    picture = (
        f'<a href="{html.escape(str(sheet))}"><img src="{html.escape(str(sheet))}" loading="lazy"'
        ' alt="contact sheet"></a>'
        if sheet
        else ""
    )
    return (
        f'<section class="{level}"><h2>{html.escape(str(row["id"]))} <b'
        f' style="color:{_LEVEL_COLOURS[level]}">{LEVEL_WORDS[level]}</b></h2>'
        f"<p>{causes}</p>{picture}</section>"
    )


_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>ichnos transfer</title>
<style>body{{font:15px system-ui;margin:2rem;max-width:90rem}}img{{width:100%}}
section{{border-top:1px solid #ccc;padding:.6rem 0}}
h2{{font-size:1.05rem;margin:.2rem 0}}</style>
<h1>Transfer: {count} pairs, the doubtful ones first</h1>
<p>Research use only. To overrule a verdict, write a line into <code>override.tsv</code> beside this page
(columns id, verdict, who, why; verdict is pass or fail) and run <code>ichnos transfer</code> again.</p>
{body}
</html>"""


def read_overrides(path: Path) -> dict[str, tuple[str, str]]:
    """Read a person's verdicts: pair id -> (pass or fail, who and why). A file that is not there holds
    none.
    """
    if not path.is_file():
        return {}
    columns, rows = read_table(path, delimiters=TSV_DELIMITERS)
    if not {"id", "verdict"} <= set(columns):
        raise InputRefused(
            f"{path} needs the columns id and verdict, divided by tabs (and may have who and why)"
        )
    overrides = {}
    for number, row in enumerate(rows, start=2):
        if row["verdict"] not in ("pass", "fail"):
            raise InputRefused(
                f"{path}, line {number}: verdict {foreign(repr(row['verdict']))} is unknown; write pass or"
                " fail"
            )
        reason = " ".join(text for text in (row.get("who"), row.get("why")) if text)
        overrides[row["id"]] = (row["verdict"], reason)
    return overrides
