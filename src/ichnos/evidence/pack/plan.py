"""What is to be evaluated and how: one validated tree, saved beside the numbers that it led to."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ichnos.clinical.expansion import DEFINITIONS
from ichnos.clinical.injury import INJURY_GRADES
from ichnos.clinical.scores import HepPoints, ScoreColumns
from ichnos.errors import UsageError
from ichnos.evidence.metrics.overlap import SIZE_BINS_ML
from ichnos.formats.text import read_text
from ichnos.targets import label_maps, targets_in


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OutcomePlan(_Frozen):
    """A yes/no outcome and the column of its predicted probability."""

    name: str
    probability: str  # column of the predictions
    truth: str = ""  # 0/1 column of the cohort; "" for expansion, which is defined by volumes
    at_most: float | None = None  # the event is a value of that column up to this, such as mRS 3
    adjust_for: tuple[str, ...] = ("age_years", "ich_ml", "onset_to_ct_h")  # those that the cohort has


class MeasurePlan(_Frozen):
    """A number that both the predictions and the cohort hold."""

    name: str
    predicted: str
    truth: str
    unit: str


class GradePlan(_Frozen):
    """A grade that both the predictions and the cohort hold."""

    name: str
    predicted: str
    truth: str
    grades: int
    words: tuple[str, ...] = ()  # names of the grades in rising order, where the columns hold words


class RegressionPlan(_Frozen):
    """A model over the joined table of facts and predictions."""

    kind: Literal["logistic", "ordinal", "linear", "cox"]
    formula: str
    time: str | None = None
    impute: bool = False  # fill missing rows by multiple imputation


def _labels() -> dict[str, dict[str, int]]:
    """Return the labels of the cohort's maps, as the registry of targets has them."""
    labels = {
        name: {
            target.name.removeprefix(f"{name}_"): target.code for target in targets_in(name) if target.codes
        }
        for name in label_maps()
    }
    return {name: codes for name, codes in labels.items() if codes} | {"expansion": {"ICH": 1}}


_FAZEKAS = tuple(
    GradePlan(name=f"Fazekas, {part}", predicted=f"fazekas_{part}", truth=f"fazekas_{part}", grades=4)
    for part in ("periventricular", "deep")
)
_INJURY = tuple(
    GradePlan(
        name=f"Tract injury, {side}",
        predicted=f"injury{suffix}",
        truth=f"injury{suffix}",
        grades=len(INJURY_GRADES),
        words=INJURY_GRADES,
    )
    for side, suffix in (("worse side", ""), ("left", "_left"), ("right", "_right"))
)
# What `ichnos read` measures, and the cohort's column of the same.
_MEASURES = (
    MeasurePlan(name="ICH volume as reported", predicted="ich_volume", truth="ich_ml", unit="mL"),
    MeasurePlan(name="IVH volume as reported", predicted="ivh_volume", truth="ivh_ml", unit="mL"),
    MeasurePlan(name="PHE volume as reported", predicted="phe_volume", truth="phe_ml", unit="mL"),
    MeasurePlan(
        name="Leukoaraiosis volume as reported",
        predicted="leukoaraiosis_volume",
        truth="leukoaraiosis_ml",
        unit="mL",
    ),
    MeasurePlan(
        name="Leukoaraiosis volume against FLAIR",
        predicted="leukoaraiosis_volume",
        truth="leukoaraiosis_flair_ml",
        unit="mL",
    ),
    MeasurePlan(name="Volume at follow-up", predicted="followup_volume", truth="ich_followup_ml", unit="mL"),
    *(
        MeasurePlan(
            name=f"Tract in blood, {side}",
            predicted=f"blood_load_{side}",
            truth=f"blood_load_{side}",
            unit="mL",
        )
        for side in ("left", "right")
    ),
    *(
        MeasurePlan(
            name=f"Largest loss of the tract's cross-section, {side}",
            predicted=f"largest_loss_{side}",
            truth=f"largest_loss_{side}",
            unit="share",
        )
        for side in ("left", "right")
    ),
    MeasurePlan(
        name="Motor NIHSS at 180 days", predicted="nihss_motor_180d", truth="nihss_motor_180d", unit="points"
    ),
)
_OUTCOMES = (
    OutcomePlan(name="expansion", probability="expansion_probability"),
    OutcomePlan(
        name="mRS 0 to 3 at 365 days",
        probability="mrs_0_3_365d",
        truth="mrs_365d",
        at_most=3,
        adjust_for=("age_years", "gcs", "ich_ml"),
    ),
)


class EvidencePlan(_Frozen):
    """Everything that decides what the evidence pack says."""

    splits: tuple[str, ...] = ("test", "external", "")
    # target -> label -> value in the map; other targets: every voxel that is not zero
    labels: Mapping[str, Mapping[str, int]] = Field(default_factory=_labels)
    targets: tuple[str, ...] = ("haematoma", "leukoaraiosis", "tract", "expansion")
    lesions: tuple[str, ...] = ("haematoma ICH", "leukoaraiosis")  # counted lesion by lesion
    tubes: tuple[str, ...] = ("tract left", "tract right")  # judged by their centre line
    tolerance_mm: float = Field(default=2.0, gt=0)  # of the normalised surface distance
    size_bins_ml: tuple[float, ...] = SIZE_BINS_ML
    expansion: str = "33%-or-6ml"
    volume_columns: tuple[str, str] = ("ich_ml", "ich_followup_ml")
    ivh_columns: tuple[str, str] = ("ivh_ml", "ivh_followup_ml")
    outcomes: tuple[OutcomePlan, ...] = _OUTCOMES
    measures: tuple[MeasurePlan, ...] = _MEASURES
    grades: tuple[GradePlan, ...] = (*_FAZEKAS, *_INJURY)
    regressions: tuple[RegressionPlan, ...] = ()
    score_columns: ScoreColumns = ScoreColumns()
    hep_points: HepPoints | None = None
    # operating point given beforehand; None: chosen on the validation split
    threshold: float | None = Field(default=None, ge=0, le=1)
    # share of events among the training images, after balancing
    training_prevalence: float | None = Field(default=None, gt=0, lt=1)
    conformal_coverage: float = Field(default=0.9, gt=0.5, lt=1)
    bootstrap_repeats: int = Field(default=1000, ge=100)
    gallery: int = Field(default=6, ge=0, le=24)  # worst cases drawn per target
    vector_figures: bool = True  # a PDF beside each PNG
    seed: int = 1

    def labels_of(self, target: str) -> Mapping[str, int | None]:
        """Return the labels of a target; None stands for every voxel that is not zero."""
        return self.labels.get(target) or {"": None}


def load_plan(
    path: str | Path | None, *, expansion: str | None = None, splits: tuple[str, ...] = ()
) -> EvidencePlan:
    """Read a plan from JSON or TOML (defaults without a file), with what the command line overrides."""
    changes = {"expansion": expansion} if expansion else {}
    given: dict[str, object] = {**changes, **({"splits": splits} if splits else {})}
    try:
        plan = EvidencePlan.model_validate({**_stored_plan(path), **given})
    except (ValidationError, tomllib.TOMLDecodeError) as error:
        raise UsageError(
            f"the evaluation plan {path or ''} is not valid: {_first(error)}; docs/evidence.md lists its"
            " fields"
        ) from None
    if plan.expansion not in DEFINITIONS:
        raise UsageError(
            f"expansion definition {plan.expansion!r} is unknown; choose one of {', '.join(DEFINITIONS)}"
        )
    return plan


def _stored_plan(path: str | Path | None) -> dict[str, object]:
    if path is None:
        return {}
    text = read_text(path)
    if str(path).endswith(".toml"):
        return tomllib.loads(text)
    return EvidencePlan.model_validate_json(text).model_dump()


def _first(error: Exception) -> str:
    if isinstance(error, ValidationError):
        detail = error.errors()[0]
        return f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}"
    return str(error)
