"""A whole cohort: transfer every pair, resume where a run was cut, settle the verdicts, write the index
and the nnU-Net dataset.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ichnos.errors import InputRefused, UsageError
from ichnos.formats import bids, nnunet
from ichnos.runs import Failure, Ledger, Summary, apply
from ichnos.targets import label_values
from ichnos.transfer.makers import PARTNER, TransferOptions, TransferTarget
from ichnos.transfer.pairs import ACCEPTED, REJECTED, pairs_of, settle, transfer_pair
from ichnos.transfer.sheet import read_overrides, write_index

_RUN = "transfer"  # its ledger
_OVERRIDES = "override.tsv"
_BY_HAND = "manual"  # where masks drawn by people lie, if there are any


@dataclass(frozen=True)
class CohortTransfer:
    """What became of a cohort's pairs."""

    rows: tuple[dict[str, Any], ...]  # one per pair that could be judged, with the verdict that holds
    failures: tuple[Failure, ...]  # pairs that gave nothing, each with its reason
    index: Path  # the page to click through
    nnunet: Path | None
    seconds: float

    def count(self, level: str) -> int:
        """Return how many pairs have a verdict."""
        return sum(row["verdict"] == level for row in self.rows)


def transfer_cohort(
    root: Path,
    targets: Sequence[TransferTarget],
    *,
    settings: TransferOptions,
    out: Path | None = None,
    restart: bool = False,
    workers: int = 1,
    scheduler: str | None = None,
    nnunet_dataset: str | None = None,
    progress: bool = True,
    patients: Collection[str] | None = None,
) -> CohortTransfer:
    """Transfer the given targets of a cohort (of these patients: all) into its derivatives, or into `out`.

    What an earlier call with the same settings has done is kept, and what failed is tried again; `restart`
    forgets it.
    """
    folder = None if nnunet_dataset is None else _dataset(root, nnunet_dataset, targets, out)
    cohort = bids.read_cohort(root)
    if patients is not None:
        cohort = replace(cohort, patients=tuple(p for p in cohort if p.id in patients))
    _refuse_unknown(root, settings.given)
    pairs, home = pairs_of(cohort, targets), out or root
    if restart:
        _forget(home)
    task, kept = partial(transfer_pair, settings=settings), asdict(settings)
    del kept["root"]  # the same cohort elsewhere is the same run
    how: dict[str, Any] = {"workers": workers, "scheduler": scheduler, "progress": progress}
    done = apply(task, pairs, out=home, settings=kept, name=_RUN, **how)
    settled, index = _settled(home, done)
    own = {row["id"] for row in done.rows}
    rows = [row for row in settled if row["id"] in own]
    if folder is not None:
        _export(root, folder, targets[0], rows)
    return CohortTransfer(tuple(rows), done.failures, index, folder, done.seconds)


def _settled(home: Path, done: Summary) -> tuple[list[dict[str, Any]], Path]:
    """Put every target where its verdict wants it, those of earlier calls too; return the rows and the page
    to click through.
    """
    accepted = bids.write_pipeline(home, ACCEPTED)
    bids.write_pipeline(home, REJECTED)
    finished = Ledger(home, _RUN).finished()
    rows = settle(
        home,
        [{"id": name, **record["row"]} for name, record in finished.items()],
        read_overrides(accepted / _OVERRIDES),
    )
    lines = [*map(_line, rows), *map(_failed, done.failures)]
    return rows, write_index(accepted, lines)


def _refuse_unknown(root: Path, given: Sequence[str]) -> None:
    """Refuse a pipeline of masks that is not there: without its blood, other masks would be taken."""
    derivatives = root / "derivatives"
    for name in given:
        if name != _BY_HAND and not (derivatives / name).is_dir():
            there = sorted(folder.name for folder in derivatives.glob("*") if folder.is_dir())
            raise UsageError(f"--given {name}: derivatives/ has {', '.join(there) or 'no folder'}")


def _forget(home: Path) -> None:
    """Remove what earlier calls wrote; the verdicts of people (override.tsv) stay."""
    overrides = home / "derivatives" / ACCEPTED / _OVERRIDES
    kept = overrides.read_bytes() if overrides.is_file() else None
    for folder in (home / ".ichnos" / _RUN, *(home / "derivatives" / name for name in (ACCEPTED, REJECTED))):
        shutil.rmtree(folder, ignore_errors=True)
    if kept is not None:
        overrides.parent.mkdir(parents=True)
        overrides.write_bytes(kept)


def _dataset(root: Path, name: str, targets: Sequence[TransferTarget], out: Path | None) -> Path:
    if out is not None:
        raise UsageError("an nnU-Net dataset is made from the cohort's own derivatives: leave out --out")
    if len(targets) != 1:
        raise UsageError(
            f"an nnU-Net dataset holds one target, and {len(targets)} were asked for; give one with --targets"
        )
    number, _, rest = Path(name).name.removeprefix("Dataset").partition("_")
    if not Path(name).name.startswith("Dataset") or not number.isdigit():
        raise UsageError(f"{name} is no nnU-Net dataset name; give one such as Dataset101_Tract")
    parent = Path(name).parent if len(Path(name).parts) > 1 else root / "derivatives" / "nnunet"
    return nnunet.dataset_folder(parent, int(number), rest)


def _export(root: Path, folder: Path, target: TransferTarget, rows: Sequence[Mapping[str, Any]]) -> None:
    cohort = bids.read_cohort(root, pipelines=(ACCEPTED,)).with_exams("ct", PARTNER[target])
    if not any(target in p.targets for p in cohort):
        raise InputRefused(
            f"no pair gave {target} that may be trained on, so {folder.name} was not written; look at the"
            " contact sheets"
        )
    nnunet.export_cohort(cohort, folder, target, label_values(target))


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**{k: v for k, v in row.items() if k != "files"}, "sheet": f"sheets/{row['id']}.png"}


def _failed(failure: Failure) -> dict[str, Any]:
    return {"id": failure.id, "verdict": "refuse", "causes": failure.why}
