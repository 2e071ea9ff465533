"""Recalibrate the model that reads by the node's own scores: a new model, which nobody reads with yet."""

from __future__ import annotations

from pathlib import Path

from ichnos.audit.adaptation import Adapted, identity_of, recalibrated_model, teaching_scores
from ichnos.audit.recalibration import judged_intervals
from ichnos.models import default_model, load_model
from ichnos.service.installed import folder_of_model, free_folder
from ichnos.service.node import Node
from ichnos.service.partners.evidence import scores_in
from ichnos.service.partners.taught import untaught_scores
from ichnos.service.store import events


def recalibrate_here(node: Node, *, actor: str) -> Adapted:
    """Recalibrate the model that reads, as `ichnos adapt --audit` does; who reads tomorrow stays as it is.

    The new folder lies among the node's models: let it read in the shadow, compare, then choose.
    """
    with node.database.snapshot() as session:
        scores, reads = scores_in(session), folder_of_model(session, node.settings)
    model = load_model(Path(reads)) if reads else default_model()
    with node.database.snapshot() as session:  # who was learnt by heart would make intervals too narrow
        scores = untaught_scores(session, node.settings, scores, {identity_of(model)})
    enough = judged_intervals(teaching_scores(model, scores))  # a setting stands before its pairs have come
    errors = {name: sd for name, sd in node.settings.partners.exam_sd.items() if name in enough}
    folder = free_folder(node.settings, model.folder.name, now=node.clock())
    folder.parent.mkdir(exist_ok=True)
    made = recalibrated_model(model, scores, folder, exam_sd=errors)
    with node.database.transaction() as session:
        details = {"model": made.folder.name, "from": model.folder.name, "patients": len(made.taught)}
        events.append_event(session, "recalibrated", at=node.clock(), actor=actor, details=details)
    return made
