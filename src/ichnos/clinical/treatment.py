"""The two ways of treatment that outcome models compare."""

from __future__ import annotations

from typing import Literal, get_args

TreatmentArm = Literal["medical", "surgery"]
TREATMENT_ARMS: tuple[TreatmentArm, ...] = get_args(TreatmentArm)
