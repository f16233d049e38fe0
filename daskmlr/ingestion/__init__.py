"""Long tables, one row per example, into task stores; predictions for the rows of a table."""

from daskmlr.ingestion.arrays import ingest_arrays
from daskmlr.ingestion.predict import predict_tables
from daskmlr.ingestion.tables import append_tables, ingest

__all__ = ["append_tables", "ingest", "ingest_arrays", "predict_tables"]
