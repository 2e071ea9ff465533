"""Growth and outcome: read where the model folder brings a law for them, withheld with the reason where it does not."""

from __future__ import annotations

from ichnos.models import Model
from ichnos.reading.masks import Masks
from ichnos.reading.record import Finding

EXPANSION_LAW = "expansion.json"  # beside model.json: features of the baseline -> distribution of growth in mL, P(expansion)
OUTCOME_LAW = "outcome.json"


def read_expansion(model: Model, masks: Masks) -> Finding:
    """Predict growth until the follow-up, or say why not."""
    if not masks.ich.array.any():
        return Finding(target="expansion", status="withheld", sentence="Growth was not predicted: there is no haematoma that could grow.")
    sentence = f"Growth was not predicted: model {model.manifest.name} brings no validated law of expansion ({EXPANSION_LAW})."
    return Finding(target="expansion", status="withheld", sentence=sentence)


def read_outcome(model: Model, masks: Masks) -> Finding:
    """Predict motor outcome, or say why not."""
    if not masks.ich.array.any():
        return Finding(target="outcome", status="withheld", sentence="Outcome was not predicted: there is no haematoma.")
    sentence = f"Outcome was not predicted: model {model.manifest.name} brings no validated outcome model ({OUTCOME_LAW})."
    return Finding(target="outcome", status="withheld", sentence=sentence)
