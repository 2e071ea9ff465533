"""What is to be evaluated and how: one validated tree, saved beside the numbers that it led to."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ichnos.clinical.expansion import DEFINITIONS
from ichnos.clinical.scores import HepPoints, ScoreColumns
from ichnos.errors import UsageError
from ichnos.evidence.metrics.overlap import SIZE_BINS_ML


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OutcomePlan(_Frozen):
    """A yes/no outcome and the column of its predicted probability."""

    name: str
    probability: str  # column of the predictions
    truth: str = ""  # 0/1 column of the cohort; "" for expansion, which is defined by volumes
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


class RegressionPlan(_Frozen):
    """A model over the joined table of facts and predictions."""

    kind: Literal["logistic", "ordinal", "linear", "cox"]
    formula: str
    time: str | None = None
    impute: bool = False  # fill missing rows by multiple imputation


class EvidencePlan(_Frozen):
    """Everything that decides what the evidence pack says."""

    splits: tuple[str, ...] = ("test", "external", "")
    labels: Mapping[
        str, Mapping[str, int]
    ] = {  # target -> label -> value in the map; other targets: every voxel that is not zero
        "haematoma": {"ICH": 1, "IVH": 2, "PHE": 3},
        "tract": {"left": 1, "right": 2},
        "expansion": {"ICH": 1},
    }
    targets: tuple[str, ...] = ("haematoma", "leukoaraiosis", "tract", "expansion")
    lesions: tuple[str, ...] = ("haematoma ICH", "leukoaraiosis")  # counted lesion by lesion
    tubes: tuple[str, ...] = ("tract left", "tract right")  # judged by their centre line
    tolerance_mm: float = Field(default=2.0, gt=0)  # of the normalised surface distance
    size_bins_ml: tuple[float, ...] = SIZE_BINS_ML
    expansion: str = "33%-or-6ml"
    volume_columns: tuple[str, str] = ("ich_ml", "ich_followup_ml")
    ivh_columns: tuple[str, str] = ("ivh_ml", "ivh_followup_ml")
    outcomes: tuple[OutcomePlan, ...] = (OutcomePlan(name="expansion", probability="expansion_probability"),)
    measures: tuple[MeasurePlan, ...] = ()
    grades: tuple[GradePlan, ...] = tuple(
        GradePlan(name=f"Fazekas, {place}", predicted=f"fazekas_{place}", truth=f"fazekas_{place}", grades=4)
        for place in ("periventricular", "deep")
    )
    regressions: tuple[RegressionPlan, ...] = ()
    score_columns: ScoreColumns = ScoreColumns()
    hep_points: HepPoints | None = None
    threshold: float | None = Field(
        default=None, ge=0, le=1
    )  # operating point given beforehand; None: chosen on the validation split
    training_prevalence: float | None = Field(
        default=None, gt=0, lt=1
    )  # share of events among the training images, after balancing
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
        if path is None:
            plan = EvidencePlan.model_validate(given)
        else:
            text = Path(path).read_text(encoding="utf-8")
            content = (
                tomllib.loads(text)
                if str(path).endswith(".toml")
                else EvidencePlan.model_validate_json(text).model_dump()
            )
            plan = EvidencePlan.model_validate({**content, **given})
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


def _first(error: Exception) -> str:
    if isinstance(error, ValidationError):
        detail = error.errors()[0]
        return f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}"
    return str(error)
