"""The Python face: read a path, a Scan, a Volume or a nibabel image; save the reading with its report."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ichnos.errors import InputRefused, UsageError
from ichnos.inference import BackendName, Predictor, backend_name
from ichnos.models import default_model, load_model
from ichnos.reading import Reading, read_scan, refused
from ichnos.reading.save import write_record
from ichnos.report.page import reading_page
from ichnos.scan import FACTS, Scan, known_facts, upright
from ichnos.volume import Volume

if TYPE_CHECKING:
    from ichnos.models import Model


@dataclass(frozen=True)
class Engine:
    """Which model reads, and how: plain data, so that each process can load the model itself, once."""

    model: str = ""  # a model folder; "": the default model
    backend: BackendName = "auto"
    device: str = "cpu"
    threads: int | None = None
    cache: str = ""  # folder for what a back end compiles; "": none

    def open_model(self) -> Model:
        """Return the model after checking its files."""
        return load_model(self.model) if self.model else default_model()

    def predictor(self) -> Predictor:
        """Return the predictor; the same one for every scan of this process."""
        return _predictor(self)


@lru_cache(maxsize=2)
def _predictor(engine: Engine) -> Predictor:
    if backend_name(engine.backend, engine.device) == "torch":
        _prepare_torch(engine)
    cache = Path(engine.cache) if engine.cache else None
    return Predictor(
        engine.open_model(), backend=engine.backend, device=engine.device, threads=engine.threads, cache=cache
    )


def _prepare_torch(engine: Engine) -> None:
    import torch

    if engine.threads is not None:
        torch.set_num_threads(engine.threads)
    try:
        torch.empty(1, device=engine.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"device {engine.device!r} cannot be used here ({reason}); give cpu, or a device that torch knows"
        ) from None


def read(
    scan: Any,
    *,
    model: str | Path = "",
    only: Collection[str] | None = None,
    facts: Mapping[str, float] | None = None,
    name: str = "",
    device: str = "cpu",
    threads: int | None = None,
) -> Reading:
    """Read a head CT: a path (DICOM file, folder, zip, NIfTI), a Scan, a Volume in HU, or a nibabel image.

    `facts` are clinical facts: any of age_years, onset_to_ct_h, anticoagulation (0 or 1), gcs. A path that
    does not exist raises; a scan that must not be read gives a Reading whose record says "refused" and why.

    >>> reading = read("head_ct.nii.gz", only=["haematoma"], facts={"age_years": 71})  # doctest: +SKIP
    >>> reading.finding("haematoma").measure("ich_volume").value  # doctest: +SKIP
    19.3
    """
    if unknown := sorted(set(facts or {}) - set(FACTS)):
        raise UsageError(f"facts hold {unknown[0]!r}; give any of {', '.join(FACTS)}")
    known = known_facts(facts or {}, where="facts")
    engine = Engine(model=str(model), device=device, threads=threads)
    if isinstance(scan, str | Path):
        if not Path(scan).exists():
            raise InputRefused(f"{scan} does not exist; give the path of a head CT (DICOM or NIfTI)")
        return read_with(engine.predictor(), Path(scan), name=name or "scan", only=only, facts=known)
    return read_with(engine.predictor(), _as_scan(scan), name=name or "scan", only=only, facts=known)


def read_with(
    predictor: Predictor,
    scan: Scan | Path,
    *,
    name: str,
    only: Collection[str] | None = None,
    facts: Mapping[str, float] | None = None,
) -> Reading:
    """Read a scan, or the one at a path; what cannot be opened becomes a refusal."""
    if isinstance(scan, Path):
        from ichnos.formats import open_scan

        try:
            scan = open_scan(scan)
        except InputRefused as error:
            return refused(name, error.without_names, only=only, limits=predictor.model.manifest.limits)
    return read_scan(scan.with_facts(facts or {}), predictor, name=name, only=only)


def save_reading(reading: Reading, folder: str | Path) -> Path:
    """Write reading.json, the masks on the input's grid, SEG and SR for DICOM, and report.html.

    Returns the folder. The same reading gives the same bytes.
    """
    return write_record(reading, Path(folder), draw_page=reading_page)


def _as_scan(given: Any) -> Scan:
    from ichnos.formats.nifti import why_not_ct

    if isinstance(given, Scan):
        return given
    volume = given if isinstance(given, Volume) else _as_volume(given)
    if volume.array.ndim != 3:
        raise InputRefused(f"the image has {volume.array.ndim} axes; a head CT has three (x, y, z)")
    if objection := why_not_ct(volume.array):
        raise InputRefused(f"the image does not look like a CT in HU: {objection}")
    return upright(volume)


def _as_volume(given: Any) -> Volume:
    if not hasattr(given, "dataobj") or not hasattr(given, "affine"):
        raise UsageError(
            f"a {type(given).__name__} cannot be read; give a path, a Scan, a Volume in HU or a nibabel image"
        )
    return Volume.from_nibabel(given)
