"""One function over many patients: ledger, resume, workers, dask."""
