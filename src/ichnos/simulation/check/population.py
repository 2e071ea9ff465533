"""The population, drawn without images, against published ones."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import torch

from ichnos.simulation.check.realism import (
    RealismRow,
    Span,
    around,
    as_floats,
    auc_interval,
    bootstrapped,
    median_row,
    share_row,
)
from ichnos.simulation.disease import law, oracle
from ichnos.simulation.patient import SIGNS
from ichnos.volume import Array, Floats

_YU = "Yu 2025, npj Digit Med s41746-025-02213-w"
# The paper is confirmed, its table of odds ratios could not be looked up.
_SALMAN = "attributed to Al-Shahi Salman 2018, Lancet Neurol 17:885; growth > 6 mL"
_AIM = "our aim; no source looked up"
_FIRST_HOURS = "our aim; Brott 1997, Stroke 28:1: 26 % by 1 h, 38 % by 20 h"
_IVH = "Moullaali 2017, JNNP 88:19; Maas 2013, Neurology 80:1295; Witsch 2015, Neurology 84:989"
_BAT = "Morotti 2018, Stroke 49:1163"
_OEDEMA = "band about 0.58 is our choice; Gebel 2002, Stroke 33:2631"
_RATIOS: tuple[tuple[str, str, Span], ...] = (
    ("anticoagulation", "3.48 (1.96 to 6.16)", (1.96, 6.16)),
    ("antiplatelets", "1.68 (1.06 to 2.66)", (1.06, 2.66)),
    ("volume, third against first quartile", "7.18 (4.46 to 11.60)", (4.46, 11.60)),
)


def population_rows(draws: law.Draws) -> list[RealismRow]:
    """Compare patients drawn without images (20,000 or so) with the published populations."""
    return [
        *_volume_rows(draws),
        *_expansion_rows(draws),
        *_odds_rows(draws),
        *_ventricle_rows(draws),
        *_disease_rows(draws),
    ]


def _volume_rows(draws: law.Draws) -> list[RealismRow]:
    rows = []
    moments = (("baseline", draws.ich_ml, 20.4, 21.9), ("follow-up", draws.followup_ich_ml, 22.7, 26.2))
    for name, volumes, median, iqr in moments:
        values, title = as_floats(volumes), f"haematoma at {name}"
        rows.append(median_row(f"{title}, median mL", values, f"{median:g}", around(median, 0.1), _YU))
        spread = bootstrapped(partial(_iqr, values), len(values), rounds=100)
        rows.append(
            RealismRow(
                f"{title}, interquartile range mL",
                spread.value,
                (spread.low, spread.high),
                f"{iqr:g}",
                around(iqr, 0.1),
                _YU,
                len(values),
            )
        )
    return rows


def _iqr(values: Floats, at: Array) -> float:
    first, third = np.quantile(values[at], [0.25, 0.75])
    return float(third - first)


def _expansion_rows(draws: law.Draws) -> list[RealismRow]:
    expanded, hours = draws.expanded.numpy(), draws.onset_to_ct_h.numpy()
    early, late = expanded[hours < 3], expanded[hours > 24]
    score = oracle.expansion_probability(draws)
    return [
        share_row("expansion", expanded, "19.8 to 21.8 %", (0.18, 0.22), _YU),
        share_row("expansion, first CT under 3 h", early, "about 30 %", (0.25, 0.33), _FIRST_HOURS),
        share_row("expansion, first CT after 24 h", late, "about 2 %", (0.0, 0.045), _AIM),
        _area_row("oracle AUC for expansion", score, draws.expanded, "0.78 to 0.82", (0.80, 0.83), _YU),
        _area_row("BAT score, AUC", bat_score(draws), draws.expanded, "0.65 to 0.77", (0.65, 0.77), _BAT),
    ]


def _area_row(
    quantity: str, score: torch.Tensor, outcome: torch.Tensor, published: str, band: Span, source: str
) -> RealismRow:
    area, events = oracle.ranking_auc(score, outcome), int(outcome.sum())
    interval = auc_interval(area, events, len(outcome) - events)
    return RealismRow(quantity, area, interval, published, band, source, len(outcome))


def _odds_rows(draws: law.Draws) -> list[RealismRow]:
    ratios, n = growth_odds_ratios(draws), len(draws)
    return [
        RealismRow(f"odds ratio of {name}", *ratios[name], published, band, _SALMAN, n)
        for name, published, band in _RATIOS
    ]


def _ventricle_rows(draws: law.Draws) -> list[RealismRow]:
    bled, later = draws.ivh_ml.numpy() > 0, draws.followup_ivh_ml.numpy() > 0
    return [
        share_row("ventricular blood", bled, "27, 48, 54 %", (0.36, 0.45), _IVH),
        share_row("new ventricular blood", later[~bled], "11, 21, 14.5 %", (0.08, 0.15), _IVH),
    ]


def _disease_rows(draws: law.Draws) -> list[RealismRow]:
    ratio = as_floats(draws.phe_ml / draws.ich_ml)
    leuko = as_floats(draws.leukoaraiosis_ml[(draws.age_years >= 60) & (draws.age_years < 70)])
    return [
        median_row(
            "oedema over haematoma, median",
            ratio,
            "0.47 under 3 h, 0.81 a day later",
            (0.52, 0.64),
            _OEDEMA,
        ),
        median_row(
            "white-matter disease at 60 to 70, median mL",
            leuko,
            "5.86, ischaemic stroke of all ages",
            (5.0, 6.0),
            "Giese 2020, Neurology 95:e79",
        ),
    ]


def bat_score(draws: law.Draws) -> torch.Tensor:
    """Return the BAT score: blend sign 1, any hypodensity 2, first CT under 2.5 h 2."""
    sign = {name: draws.signs[:, column] for column, name in enumerate(SIGNS)}
    dark = sign["black_hole"] | sign["swirl"] | sign["fluid_level"]
    return sign["blend"].float() + 2 * dark + 2 * (draws.onset_to_ct_h < 2.5)


def growth_odds_ratios(draws: law.Draws) -> Mapping[str, tuple[float, Span]]:
    """Return adjusted odds ratios of growth by more than 6 mL with their 95 % intervals, by logistic
    regression on clinical facts.
    """
    ln_ml = torch.log(draws.ich_ml).double().numpy()
    columns = [
        np.ones(len(draws)),
        draws.anticoagulated.double().numpy(),
        draws.antiplatelet.double().numpy(),
        draws.earlier_bleed.double().numpy(),
        torch.log(draws.onset_to_ct_h).double().numpy(),
        ln_ml,
    ]
    grew = (draws.followup_ich_ml - draws.ich_ml > 6.0).double().numpy()
    slopes, errors = _logistic(np.stack(columns, axis=1), grew)
    first, third = np.quantile(ln_ml, [0.25, 0.75])
    steps = ((1, 1.0), (2, 1.0), (5, float(third - first)))
    return {
        name: _ratio(slopes[k] * step, errors[k] * step)
        for (name, *_), (k, step) in zip(_RATIOS, steps, strict=True)
    }


def _ratio(slope: float, error: float) -> tuple[float, Span]:
    low, high = np.exp([slope - 1.96 * error, slope + 1.96 * error])
    return float(np.exp(slope)), (float(low), float(high))


def _logistic(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return maximum-likelihood coefficients and their standard errors, by Newton's method."""
    beta, information = np.zeros(x.shape[1]), np.eye(x.shape[1])
    for _ in range(25):
        p = 1 / (1 + np.exp(-x @ beta))
        information = (x * (p * (1 - p))[:, None]).T @ x
        step = np.linalg.solve(information, x.T @ (y - p))
        beta = beta + step
        if np.abs(step).max() < 1e-8:
            break
    return beta, np.sqrt(np.diag(np.linalg.inv(information)))
