"""Draw the realism sheet of a simulated cohort: one HTML page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ichnos.errors import require
from ichnos.files import atomic_file
from ichnos.simulation.check.measure import (
    PUBLISHED,
    Check,
    Example,
    column,
    measure,
    prevalence,
    site_shares,
)
from ichnos.volume import Array, Volume

WINDOWS = {"brain, W80 L40": (80, 40), "stroke, W40 L40": (40, 40), "bone, W2500 L500": (2500, 500)}


def write_sheet(root: str | Path, check: Check | None = None) -> Path:
    """Write the sheet of a cohort, measured now or before, to derivatives/truth/realism.html; return its
    path.
    """
    check = check or measure(root)
    path = Path(root) / "derivatives" / "truth" / "realism.html"
    with atomic_file(path) as temporary:
        temporary.write_text(page(check, Path(root).resolve().name), encoding="utf-8")
    return path


def page(check: Check, name: str) -> str:
    """Return the sheet as HTML."""
    jinja2 = require("jinja2", extra="report", purpose="the realism sheet")
    loader = jinja2.PackageLoader("ichnos.simulation.check")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    text: str = environment.get_template("realism.html.j2").render(
        name=name,
        patients=len(check.cohort),
        rows=_rows(check),
        windows=[
            *WINDOWS,
            "brain, with labels: haematoma red, ventricular blood yellow, oedema green, leukoaraiosis blue",
        ],
        realism=check.realism,
        examples=[
            (example.id, ", ".join(example.findings), _pictures(example)) for example in check.examples
        ],
        figures=[figure for figure in _figures(check) if figure[1]],
    )
    return text


def _figures(check: Check) -> list[tuple[str, str, str]]:
    """Return title, drawing ("" where there is nothing to draw) and caption of each figure."""
    drawings = (
        ("HU of the tissues", _hu, "Up to 4,000 voxels per tissue and patient, from the truth's masks."),
        ("Noise power in the brain", _spectra, "Patches of 40 x 40 pixels without bone or blood."),
        ("Volumes of the parenchymal haematoma", _volumes, "Lines: published medians."),
        ("Sites", _sites, "Light: what the simulation aims at."),
    )
    return [(title, _drawn(draw, check), caption) for title, draw, caption in drawings]


def _rows(check: Check) -> list[tuple[str, str, str]]:
    """Return the comparison: what, here, published."""
    rows = [
        (f"{title} (median, IQR), mL", _spread(column(check.truth, key)), told)
        for title, key, told in _VOLUMES
    ]
    published: Any = PUBLISHED["expansion"]
    for key in ("train", "D", "E"):
        found = prevalence(check, key)
        if found.n:
            where = "training centres" if key == "train" else f"centre {key}"
            rows.append((f"expansion, {where}", str(found), f"{published[key]:.1%}"))
    rows.append(("oracle AUC for expansion, this cohort", str(check.oracle_auc), "0.80 to 0.83 aimed at"))
    at = f" at threshold {check.growth_threshold:.2f}" if check.growth_dice.n else ", of those who expand"
    rows.append(
        (f"oracle Dice of the growth{at}", str(check.growth_dice), "0.506 by a network (Abramova 2024)")
    )
    return rows


_VOLUMES = (
    ("haematoma at baseline", "ich_ml", "20.4, IQR 21.9 (Yu 2025)"),
    ("haematoma at follow-up", "ich_followup_ml", "22.7, IQR 26.2 (Yu 2025)"),
    ("oedema at baseline", "phe_ml", ""),
    ("leukoaraiosis", "leukoaraiosis_ml", ""),
)


def _spread(values: Any) -> str:
    if not len(values):
        return "none"
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{median:.1f}, IQR {high - low:.1f} (n = {len(values)})"


# ---- pictures
# ------------------------------------------------------------------------------------------


def windowed_grey(hu: Array, width: float, level: float) -> Array:
    """Return grey values 0..255 of HU at a window.

    >>> windowed_grey(np.array([0.0, 40.0, 80.0]), 80, 40).tolist()
    [0, 127, 255]
    """
    return np.asarray(np.clip((hu - level + width / 2) / width, 0, 1) * 255, np.uint8)


def axial(volume: Volume, k: int) -> Array:
    """Return slice k of a RAS image as radiologists look at it: (row, column), front on top, the patient's
    left on the right.

    >>> axial(Volume(np.arange(4).reshape(2, 2, 1), np.eye(4)), 0).tolist()
    [[3, 1], [2, 0]]
    """
    return np.asarray(volume.array[::-1, ::-1, k].T)


def _pictures(example: Example) -> list[str]:
    """Return rows of five slices as data URIs, one for each window and one with the labels in colour."""
    chosen = _slices_of(example)
    rows = [
        np.hstack([windowed_grey(axial(example.ct, k), *window)[::2, ::2] for k in chosen])
        for window in WINDOWS.values()
    ]
    rows.append(np.hstack([_labelled_slice(example, k)[::2, ::2] for k in chosen]))
    return [png_uri(row) for row in rows]


def _slices_of(example: Example) -> list[int]:
    """Return five slices from base to vertex, among them the one with most blood."""
    count = example.ct.shape[2]
    chosen = [int(q * (count - 1)) for q in (0.18, 0.33, 0.48, 0.63, 0.8)]
    blood = example.blood
    if blood is not None and (blood.array > 0).any():
        most = int(((blood.array == 1) | (blood.array == 2)).sum((0, 1)).argmax())
        chosen[int(np.argmin([abs(k - most) for k in chosen]))] = most
    return chosen


def _labelled_slice(example: Example, k: int) -> Array:
    grey = windowed_grey(axial(example.ct, k), 80, 40)
    colour = np.repeat(grey[..., None], 3, axis=2).astype(np.float64)
    layers = [] if example.leukoaraiosis is None else [(axial(example.leukoaraiosis, k) > 0, (80, 80, 255))]
    if example.blood is not None:
        labels = axial(example.blood, k)
        layers += [(labels == 3, (0, 220, 0)), (labels == 2, (255, 210, 0)), (labels == 1, (255, 40, 40))]
    for mask, tint in layers:
        colour[mask] = 0.6 * colour[mask] + 0.4 * np.array(tint)
    return colour.astype(np.uint8)


def png_uri(grey: Array) -> str:
    """Return a grey or coloured picture as a data URI."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


# ---- figures
# ------------------------------------------------------------------------------------------


def _drawn(draw: Callable[[Any, Check], bool], check: Check) -> str:
    """Draw one figure; "" if there was nothing to draw."""
    figure_module = require("matplotlib.figure", extra="report", purpose="the realism sheet")
    figure = figure_module.Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    if not draw(axes, check):
        return ""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]


def _hu(axes: Any, check: Check) -> bool:
    edges = np.arange(-10, 101, 1.0)
    for tissue, values in check.hu.items():
        if tissue != "bone":
            density, _ = np.histogram(values, edges, density=True)
            axes.plot(edges[:-1] + 0.5, density, label=f"{tissue}: {np.median(values):.0f}")
    axes.set(xlabel="HU", ylabel="density")
    axes.legend(frameon=False, fontsize=9, title="median HU")
    return bool(check.hu)


def _spectra(axes: Any, check: Check) -> bool:
    for centre, (frequency, power) in sorted(check.spectra.items()):
        axes.plot(frequency, power, label=f"centre {centre}")
    axes.set(xlabel="frequency per mm", ylabel="HU² mm²")
    axes.legend(frameon=False, fontsize=9)
    return bool(check.spectra)


def _volumes(axes: Any, check: Check) -> bool:
    edges = np.linspace(0, 120, 31)
    shown = False
    kinds = (
        ("ich_ml", "C0", "baseline_median_ml", "baseline"),
        ("ich_followup_ml", "C3", "followup_median_ml", "follow-up"),
    )
    for key, colour, told, name in kinds:
        values = column(check.truth, key)
        if len(values):
            axes.hist(values, edges, histtype="step", color=colour, label=name)
            axes.axvline(PUBLISHED[told], color=colour, linestyle=":")
            shown = True
    axes.set(xlabel="mL", ylabel="patients")
    axes.yaxis.get_major_locator().set_params(integer=True)
    if shown:
        axes.legend(frameon=False, fontsize=9)
    return shown


def _sites(axes: Any, check: Check) -> bool:
    found, told = site_shares(check.truth), PUBLISHED["sites"]
    assert isinstance(told, dict)
    at = np.arange(len(told))
    axes.bar(at - 0.2, [found.get(site, 0.0) for site in told], 0.4, color="C0")
    axes.bar(at + 0.2, list(told.values()), 0.4, color="#c8d4e4")
    axes.set_xticks(at, list(told), rotation=20)
    axes.set_ylabel("share")
    return bool(found)
