"""Long tables, one row per example, into task stores."""

import sys
from types import ModuleType

from daskmlr.ingest.arrays import ingest_arrays
from daskmlr.ingest.predict import predict_tables
from daskmlr.ingest.tables import ingest

__all__ = ["ingest", "ingest_arrays", "predict_tables"]


class _CallableModule(ModuleType):
    """`daskmlr.ingest` is a function; importing this package puts the package in its place."""

    __call__ = staticmethod(ingest)


sys.modules[__name__].__class__ = _CallableModule
__doc__ = ingest.__doc__ or ""
