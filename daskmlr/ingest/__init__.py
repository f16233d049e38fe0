"""Long tables, one row per example, into task stores; predictions for the rows of a table."""

from daskmlr.ingest.arrays import ingest_arrays
from daskmlr.ingest.predict import predict_tables
from daskmlr.ingest.tables import ingest

__all__ = ["ingest", "ingest_arrays", "predict_tables"]
