"""One grown head and a few patients for the whole session."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from ichnos.simulation.heads.from_mni import mni_head
from ichnos.simulation.heads.source import SourceHead
from ichnos.simulation.patient import VirtualPatient
from ichnos.simulation.simulate import PatientSpec, simulate_patient

BROKEN_THROUGH = 223  # a seed whose law draws 9 mL of intraventricular blood, no signs, and oedema


@pytest.fixture(scope="session")
def head() -> SourceHead:
    """Return the MNI head: grown once and then kept under build/; where the code that grows heads has
    changed, it is grown anew.
    """
    return mni_head(Path(__file__).resolve().parents[2] / "build" / "heads")


@pytest.fixture(scope="session")
def bled(head: SourceHead) -> VirtualPatient:
    """A left putaminal haematoma that has broken into the ventricles, at 1 mm."""
    return simulate_patient(
        BROKEN_THROUGH,
        head,
        PatientSpec(
            site="putamen",
            side="left",
            ich_ml=30.0,
            old_infarct_probability=1.0,
            leukoaraiosis_ml=15.0,
            mni=True,
            fibres=True,
        ),
    )
