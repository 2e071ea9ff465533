"""A node that has really read studies: made heads, a small random model, the worker's own code."""

from __future__ import annotations

from pathlib import Path

from pydicom import Dataset, dcmread

from builders.head import head_hu
from builders.series import Quirks, build_series
from builders.tiny_model import tiny_model
from ichnos.service.node import Node, open_node
from ichnos.service.settings import Destination, Extra, NodeSettings, ReadingSettings, SendingSettings
from ichnos.service.store import studies
from ichnos.service.store.images import store_image
from ichnos.service.store.studies import SettleRule
from ichnos.service.worker import Worker, study_reader

NAME, PATIENT, BORN, ACCESSION = "ZQDOE^ZQJANE", "ZQ4711", "19511103", "ZQACC9"


def made_study(
    folder: Path, *, date: str = "20260103", seed: str = "a", tilt_deg: float = 0.0, enhanced: bool = False
) -> list[Dataset]:
    """Make a small readable study of a patient whose name must not get about."""
    header = {
        "patient_name": NAME,
        "patient_id": PATIENT,
        "birth_date": BORN,
        "sex": "F",
        "age_years": 74,
        "date": date,
        "seed": seed,
    }
    quirks = Quirks(
        shape=(40, 40), pixel_mm=5.5, steps_mm=(10.0,) * 14, tilt_deg=tilt_deg, header=header,
        enhanced=enhanced, tags={"AccessionNumber": ACCESSION, "InstitutionName": "ZQHOSPITAL"},
    )  # fmt: skip
    return [dcmread(file) for file in build_series(head_hu(bleed_mm=14), folder, quirks)]


def node_that_reads(folder: Path, extras: tuple[Extra, ...] = ()) -> Node:
    """Open a node with the small model and one destination that wants these extras."""
    tiny_model(folder / "model")
    there = Destination(name="PACS", ae_title="PACS", host="127.0.0.1", extras=extras)
    return open_node(
        NodeSettings(
            home=folder / "home",
            reading=ReadingSettings(model=str(folder / "model"), threads=1),
            sending=SendingSettings(destinations=(there,)),
        )
    )


def read_here(node: Node, datasets: list[Dataset], *, now: float = 0.0) -> None:
    """Receive a study, settle it and read it with the model."""
    file = node.settings.home / "in.dcm"
    for dataset in datasets:
        dataset.save_as(file, enforce_file_format=True)
        image = store_image(node.settings.home, file)
        with node.database.transaction() as session:
            studies.register_image(session, image, now=now, source="CT1")
    with node.database.transaction() as session:
        studies.settle_studies(session, SettleRule(quiet_s=0.001, limit_s=1.0), now=now + 1)
    assert Worker(node, study_reader(node)).step()
