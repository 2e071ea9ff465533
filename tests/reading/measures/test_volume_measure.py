"""A volume's interval: from the model's law where it has one, from other operating points where it has
none.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ichnos.errors import InputRefused
from ichnos.learning.fit.volume import fit_volume_calibration
from ichnos.prognosis.volume import VOLUME_FILE, VolumeCalibration, VolumeErrors, load_volume_calibration
from ichnos.reading.measures.volume import volume_measure
from ichnos.volume import Volume

CLOT = Volume(np.ones((20, 20, 25), bool), np.eye(4))  # 10 mL


def prediction(folder: Path) -> Any:
    return SimpleNamespace(
        model=SimpleNamespace(folder=folder),
        threshold=lambda name: 0.4,
        refines=lambda name: False,
        volumes_ml=lambda target, cuts: (6.0, 8.0, 12.0),
    )


def test_the_law_beside_the_weights_gives_the_interval(tmp_path: Path) -> None:
    law = VolumeCalibration(
        cohort="simulated patients", level=0.8, targets={"ICH": VolumeErrors(low=-0.3, high=0.2, patients=41)}
    )
    (tmp_path / VOLUME_FILE).write_text(law.model_dump_json(), encoding="utf-8")
    told = volume_measure(prediction(tmp_path), "ICH", CLOT, "Haematoma")
    assert (told.value, told.unit) == (10.0, "mL")
    assert (told.low, told.high) == pytest.approx((11 * np.exp(-0.3) - 1, 11 * np.exp(0.2) - 1), abs=1e-3)
    assert told.interval == "80 % interval, calibrated on 41 simulated patients"
    above = law.model_copy(update={"targets": {"ICH": VolumeErrors(low=0.1, high=0.2, patients=41)}})
    (tmp_path / VOLUME_FILE).write_text(above.model_dump_json(), encoding="utf-8")
    assert volume_measure(prediction(tmp_path), "ICH", CLOT, "Haematoma").low == 10.0, (
        "what was measured lies in its own interval"
    )


def test_without_a_law_or_without_blood_the_thresholds_give_a_band(tmp_path: Path) -> None:
    told = volume_measure(prediction(tmp_path), "ICH", CLOT, "Haematoma")
    assert (told.low, told.high) == (7.5, 15.0)
    assert "probability 0.70 and 0.20" in told.interval
    (tmp_path / VOLUME_FILE).write_text(
        VolumeCalibration(
            cohort="x", level=0.8, targets={"ICH": VolumeErrors(low=-1, high=1, patients=20)}
        ).model_dump_json(),
        encoding="utf-8",
    )
    none = CLOT.map_array(np.zeros_like)
    possible = prediction(tmp_path)
    possible.volumes_ml = lambda target, cuts: (0.0, 0.0, 1.5)
    told = volume_measure(possible, "ICH", none, "Haematoma")
    assert (told.value, told.low, told.high) == (0.0, 0.0, 1.5)
    assert "probability" in told.interval


def test_nothing_is_not_given_the_interval_of_nothing(tmp_path: Path) -> None:
    told = volume_measure(prediction(tmp_path), "ICH", CLOT.map_array(np.zeros_like), "Haematoma")
    assert (told.value, told.low, told.high, told.interval) == (0.0, None, None, "")
    assert "missed" in told.reason


def test_a_damaged_law_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / VOLUME_FILE).write_text('{"cohort": "x"}', encoding="utf-8")
    with pytest.raises(InputRefused, match=VOLUME_FILE):
        load_volume_calibration(tmp_path)


def test_few_patients_teach_no_interval() -> None:
    pairs = [(1.0 + k, 1.2 + k) for k in range(19)]
    with pytest.raises(InputRefused, match="ICH in 19"):
        fit_volume_calibration({"ICH": [*pairs, (0.0, 3.0)]}, cohort="x")
    law = fit_volume_calibration({"ICH": [*pairs, (3.0, 3.0)], "IVH": pairs}, cohort="x")
    assert set(law.targets) == {"ICH"}
    assert law.targets["ICH"].patients == 20
