"""One function over many patients: ledger, atomic outputs, resume, workers, dask.

>>> import tempfile
>>> from ichnos.cohort import Patient
>>> def count(patient, folder):
...     (folder / f"{patient.id}.txt").write_text("done")
...     return {"letters": len(patient.id)}
>>> with tempfile.TemporaryDirectory() as out:
...     people, how = [Patient("a"), Patient("bb")], {"settings": {}, "name": "count", "progress": False}
...     first = apply(count, people, out=out, **how)
...     again = apply(count, people, out=out, **how)
...     [row["letters"] for row in again.rows], first.done_now, again.done_now
([1, 2], 2, 0)
"""

from ichnos.runs.apply import Failure, Item, Numbered, Summary, Task, apply
from ichnos.runs.ledger import Ledger, settings_hash

__all__ = ["Failure", "Item", "Ledger", "Numbered", "Summary", "Task", "apply", "settings_hash"]
