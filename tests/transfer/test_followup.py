"""Follow-up haematomas on the baseline CT, with the registration given: growth, labels, verdict, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from ichnos.errors import InputRefused
from ichnos.registration import IDENTITY, Registration
from ichnos.transfer import followup as module
from ichnos.transfer.followup import ICH, IVH, PHE, Growth, transfer_followup
from ichnos.volume import Volume

GRID = Volume(np.zeros((60, 60, 30), np.uint8), np.diag([1.0, 1.0, 2.0, 1.0]))


@pytest.fixture(autouse=True)
def _aligned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the exams for aligned: registration has tests of its own."""
    same = Registration(IDENTITY, "rigid", 1.3, 1.3, 1.0, 1.0, 1.0, 1.0)
    monkeypatch.setattr(module, "register", lambda *exams, **options: same)


def bled(radius_mm: float, *, label: int = ICH, centre: tuple[float, float, float] = (30, 30, 30)) -> Volume:
    index = np.stack(np.meshgrid(*map(np.arange, GRID.shape), indexing="ij"), axis=-1)
    inside = np.linalg.norm(GRID.world(index) - centre, axis=-1) <= radius_mm
    return GRID.with_array((label * inside).astype(np.uint8))


def grown(before: Volume, after: Volume) -> Growth:
    ct = GRID.with_array(np.zeros(GRID.shape, np.float32))
    return transfer_followup(ct, ct, blood=before, followup_blood=after)


def test_an_unchanged_haematoma_has_not_grown() -> None:
    result = grown(bled(12), bled(12))
    assert not result.growth.array.any()
    assert result.volumes_ml["growth"] == 0
    assert not any(result.expanded.values())
    assert result.verdict.level == "pass"


def test_growth_is_the_new_shell_and_its_volume_the_difference() -> None:
    result = grown(bled(12), bled(17))
    shell = result.volumes_ml["followup_ich"] - result.volumes_ml["ich"]
    assert result.volumes_ml["growth"] == pytest.approx(shell, rel=1e-6)
    assert all(value for name, value in result.expanded.items() if name != "revised")


@pytest.mark.parametrize("label", [IVH, ICH])
def test_blood_elsewhere_is_growth_and_oedema_is_not(label: int) -> None:
    far = bled(6, label=label, centre=(48, 48, 44))
    oedema = bled(16, label=PHE)
    later = GRID.with_array(
        np.where(bled(12).array > 0, ICH, np.maximum(far.array, oedema.array)).astype(np.uint8)
    )
    result = grown(bled(12), later)
    assert (result.growth.array == (far.array > 0)).all()


def test_specks_of_new_blood_are_the_noise_of_two_outlines() -> None:
    later = bled(12).array.copy()
    later[2:5, 2:5, 2] = ICH  # 18 microlitres
    assert not grown(bled(12), GRID.with_array(later)).growth.array.any()


def test_without_blood_at_baseline_expansion_is_not_defined() -> None:
    result = grown(GRID, bled(12))
    assert set(result.expanded.values()) == {None}
    assert any(reason.name == "no_baseline_blood" for reason in result.verdict.at("warn"))


def test_a_haematoma_that_shrinks_to_a_third_is_doubted() -> None:
    reasons = {reason.name for reason in grown(bled(14), bled(7)).verdict.at("warn")}
    assert "shrunk" in reasons


def test_masks_on_another_grid_or_with_unknown_labels_are_refused() -> None:
    other = Volume(np.zeros((10, 10, 10), np.uint8), np.eye(4))
    with pytest.raises(InputRefused, match="baseline CT lies on another grid"):
        grown(other, bled(5))
    with pytest.raises(InputRefused, match="follow-up CT holds the values"):
        grown(bled(5), bled(5, label=7))


def test_masks_may_come_from_a_model() -> None:
    ct = GRID.with_array(np.zeros(GRID.shape, np.float32))
    drawn = transfer_followup(ct, ct, blood=lambda volume: bled(10), followup_blood=lambda volume: bled(10))
    assert drawn.volumes_ml["ich"] == pytest.approx(4.19, rel=0.05)
