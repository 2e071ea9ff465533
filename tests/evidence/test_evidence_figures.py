"""What the figures show: every defined estimate, no undefined one, axes that hold them all."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from ichnos.evidence.figures import (
    Figure,
    bland_altman_figure,
    calibration_figure,
    decision_figure,
    forest_figure,
    scatter_figure,
    strip_figure,
)
from ichnos.evidence.metrics.agreement import bland_altman, passing_bablok
from ichnos.evidence.metrics.calibration import calibration, decision_curve
from ichnos.evidence.metrics.intervals import Estimate, undefined

RNG = np.random.default_rng(0)
TRUTH = np.exp(RNG.normal(3, 0.6, 40))
PREDICTED = TRUTH * np.exp(RNG.normal(0, 0.2, 40))


def _axes(figure: Figure, index: int = 0):  # type: ignore[no-untyped-def]
    return figure.drawing.axes[index]


def test_a_forest_leaves_out_what_is_undefined_and_keeps_the_order() -> None:
    rows = [("A", Estimate(0.8, 0.7, 0.9, 40)), ("B", undefined(3)), ("C", Estimate(0.7, 0.6, 0.8, 50))]
    ax = _axes(forest_figure("f", rows, axis="AUC", reference=0.5, caption=""))
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["A", "C"]
    low, high = ax.get_xlim()
    assert low < 0.5 < 0.9 < high


def test_the_pooled_estimate_stands_last_with_its_prediction() -> None:
    rows = [("A", Estimate(0.8, 0.7, 0.9, 40))]
    pooled = ("Random effects", Estimate(0.75, 0.7, 0.8, 3))
    with_it, without = (
        _axes(forest_figure("f", rows, pooled=pooled, prediction=p, axis="AUC", caption=""))
        for p in ((0.6, 0.9), (float("nan"), float("nan")))
    )
    assert [tick.get_text() for tick in with_it.get_yticklabels()] == ["A", "Random effects"]
    assert len(with_it.lines) == len(without.lines) + 1


def test_ratios_lie_on_a_logarithmic_axis_and_boundless_ones_are_not_drawn() -> None:
    rows = [("age", Estimate(1.4, 0.9, 2.2, 80)), ("sex", Estimate(30.0, 0.2, 1e6, 80))]
    ax = _axes(forest_figure("f", rows, axis="Odds ratio", ratio=True, reference=1.0, caption=""))
    assert ax.get_xscale() == "log"
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["age"]


def test_a_forest_of_nothing_can_still_be_saved() -> None:
    figure = forest_figure("f", [("A", undefined(2))], axis="Odds ratio", ratio=True, caption="")
    assert Image.open(io.BytesIO(figure.png)).width > 100


@pytest.mark.parametrize("percent", [False, True])
def test_bias_and_limits_are_drawn_where_they_are(percent: bool) -> None:
    result = bland_altman(PREDICTED, TRUTH, percent=percent)
    ax = _axes(bland_altman_figure("b", PREDICTED, TRUTH, result, unit="mL", caption=""))
    levels = [line.get_ydata()[0] for line in ax.lines if len(set(line.get_ydata())) == 1]
    assert levels == pytest.approx([result.bias.value, result.lower.value, result.upper.value])
    assert ("%" in ax.get_ylabel()) is percent
    points = ax.lines[0].get_ydata()
    relative = 100 * (PREDICTED - TRUTH) / ((PREDICTED + TRUTH) / 2)
    assert points == pytest.approx(relative if percent else PREDICTED - TRUTH)


def test_the_scatter_is_square_and_holds_every_case() -> None:
    ax = _axes(scatter_figure("s", TRUTH, PREDICTED, passing_bablok(TRUTH, PREDICTED), unit="mL", caption=""))
    assert ax.get_xlim() == ax.get_ylim()
    assert ax.get_xlim()[1] >= max(TRUTH.max(), PREDICTED.max())
    assert len(_axes(scatter_figure("s", TRUTH, PREDICTED, None, unit="mL", caption="")).lines) == 2


def test_calibration_shows_every_bin_with_its_interval() -> None:
    probability = RNG.random(400)
    events = RNG.random(400) < probability
    result = calibration(events, probability)
    figure = calibration_figure("c", result, probability, caption="")
    shown = _axes(figure).containers[0].lines[0]
    assert shown.get_ydata() == pytest.approx([b.observed.value for b in result.bins])
    assert shown.get_xdata() == pytest.approx([b.predicted for b in result.bins])
    assert _axes(figure, 1).patches  # the distribution of the predictions below


def test_a_constant_probability_still_has_a_calibration_figure() -> None:
    probability = np.full(50, 0.3)
    result = calibration(np.arange(50) % 3 == 0, probability)
    assert len(calibration_figure("c", result, probability, caption="").png) > 1000


def test_a_decision_curve_starts_at_the_prevalence() -> None:
    probability = RNG.random(300)
    events = RNG.random(300) < probability
    curve = decision_curve(events, probability)
    prevalence = float(events.mean())
    ax = _axes(decision_figure("d", {"model": (curve, "model")}, prevalence=prevalence, caption=""))
    none, treat_all, model = (line.get_ydata() for line in ax.lines)
    assert set(none) == {0}
    assert treat_all[0] == pytest.approx(prevalence, abs=0.02)
    assert model[0] == pytest.approx(prevalence, abs=0.02)


def test_groups_without_a_defined_case_are_drawn_empty() -> None:
    groups = {"A": np.array([0.8, np.nan, 0.9]), "B": np.array([np.nan])}
    ax = _axes(strip_figure("s", groups, axis="Dice", caption=""))
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["A\n(n 2)", "B\n(n 0)"]


def test_the_same_figure_is_the_same_file_twice() -> None:
    result = bland_altman(PREDICTED, TRUTH)
    first, again = (
        bland_altman_figure("b", PREDICTED, TRUTH, result, unit="mL", caption="") for _ in range(2)
    )
    assert first.png == again.png
    assert first.pdf() == again.pdf()
