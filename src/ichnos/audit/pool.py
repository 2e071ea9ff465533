"""Evidence over sites from their statistics alone: random effects, and shares by which to average models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.special import expit, stdtrit

from ichnos.arrays import Floats
from ichnos.audit.adaptation import Adapted, averaged_provenance, identity_of, note_taught, taught_by
from ichnos.audit.statistics import SiteStatistic
from ichnos.errors import InputRefused, UsageError
from ichnos.evidence.metrics.intervals import Estimate
from ichnos.evidence.metrics.pooling import RandomEffects, random_effects
from ichnos.evidence.tables import Cell, Table
from ichnos.models import Model, save_model

_DRAWS = 20_000  # of the pooled losses, to say how often each model has the least
_LEAST_SHARE = 0.01  # a model with less is left out of an average
Question = tuple[str, str, str]  # model, quantity, number


def pooled(statistics: Sequence[SiteStatistic]) -> dict[Question, RandomEffects]:
    """Return each number pooled over sites (DerSimonian-Laird, Hartung-Knapp) where two or more have it.

    Sites differ, so that the prediction interval says where the next site is expected (from three sites on).
    """
    groups: dict[Question, list[SiteStatistic]] = {}
    for one in statistics:
        groups.setdefault((one.model, one.quantity, one.number), []).append(one)
    for question, own in groups.items():
        sites = [one.site for one in own]
        if len(set(sites)) < len(sites):
            raise InputRefused(
                f"a site counts twice for {question[1]}: {', '.join(sites)}; give each its own name"
            )
    return {
        question: random_effects([one.value for one in own], [one.error for one in own])
        for question, own in groups.items()
        if len(own) > 1
    }


def pooled_table(statistics: Sequence[SiteStatistic]) -> Table:
    """Return the pooled numbers as a table; logits are shown as shares."""
    rows: list[tuple[Cell, ...]] = []
    for (model, quantity, number), effects in pooled(statistics).items():
        shown = expit if number.startswith("logit ") else float
        one = effects.pooled
        value = Estimate(float(shown(one.value)), float(shown(one.low)), float(shown(one.high)), one.n)
        low, high = float(shown(effects.prediction_low)), float(shown(effects.prediction_high))
        following = f"{low:.3g} to {high:.3g}" if np.isfinite(low) else "needs three sites"
        name = number.removeprefix("logit ")
        rows.append((model[:12], quantity, name, effects.centres, value, following, f"{effects.i2:.2f}"))
    columns = ("model", "quantity", "number", "sites", "mean over sites", "next site", "I2")
    note = "Random effects from each site's own estimate and standard error; no patient's row left a site."
    return Table("pooled", "Evidence over sites", columns, tuple(rows), note)


def shares_by_evidence(
    statistics: Sequence[SiteStatistic], quantity: str, rng: np.random.Generator
) -> dict[str, float]:
    """Return for each model how probably its mean loss over sites is the least: the share in an average."""
    losses = {
        model: effects for (model, what, number), effects in pooled(statistics).items()
        if what == quantity and number == "mean loss"
    }  # fmt: skip
    if len(losses) < 2:
        raise InputRefused(
            f"{len(losses)} model(s) have a loss of {quantity} at two sites or more; two are needed"
        )
    draws = np.stack([_drawn(effects, rng) for effects in losses.values()], axis=1)
    best = np.bincount(draws.argmin(axis=1), minlength=len(losses)) / _DRAWS
    return dict(zip(losses, best.tolist(), strict=True))


def _drawn(effects: RandomEffects, rng: np.random.Generator) -> Floats:
    """Draw pooled values: Student's t with as many degrees of freedom as their interval has."""
    freedom, one = effects.centres - 1, effects.pooled
    error = (one.high - one.low) / (2 * float(stdtrit(freedom, 0.5 + one.level / 2)))
    return np.asarray(one.value + error * rng.standard_t(freedom, _DRAWS))


def pooled_model(models: Sequence[Model], shares: Mapping[str, float], out: Path) -> Adapted:
    """Average the weights of several sites' models by shares."""
    used = _used(models, shares)
    if out.exists():
        raise UsageError(f"{out} exists; give a new folder, so that no model is replaced unseen")
    first, network = used[0][0], used[0][0].network()
    states = [(model.network().state_dict(), share) for model, share in used]
    network.load_state_dict(
        {
            name: sum(share * state[name] for state, share in states) if value.is_floating_point() else value
            for name, value in network.state_dict().items()
        }
    )
    parents = tuple(model.manifest.weights_sha256 for model, _ in used)
    provenance = averaged_provenance(first.manifest.provenance, parents, used[0][1])
    manifest = first.manifest.model_copy(update={"name": out.name, "provenance": provenance})
    saved = save_model(out, network, manifest)
    taught = tuple(sorted(frozenset().union(*(taught_by(model.folder) for model, _ in used))))
    note_taught(out, taught)
    said = ", ".join(f"{share:.0%} {model.folder.name}" for model, share in used)
    return Adapted(out, identity_of(saved), taught, said)


def _used(models: Sequence[Model], shares: Mapping[str, float]) -> list[tuple[Model, float]]:
    """Return the models with a share, whose shares then sum to one; refuse models of different shapes."""
    given = [(model, shares.get(identity_of(model), 0.0)) for model in models]
    used = [(model, share) for model, share in given if share >= _LEAST_SHARE]
    if not used:
        raise InputRefused("none of the models has a share in the evidence; give those that were judged")
    first = used[0][0].manifest
    for model, _ in used[1:]:
        other = model.manifest
        same = (first.network, first.preprocessing, first.targets)
        if same != (other.network, other.preprocessing, other.targets):
            raise InputRefused(f"{first.name} and {other.name} differ in network, input or targets")
    whole = sum(share for _, share in used)
    return [(model, share / whole) for model, share in used]
