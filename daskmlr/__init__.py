"""Mixed linear regression over millions of small tasks: spectral meta-learning on Dask."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daskmlr.errors import (
        ComponentWarning,
        DaskmlrError,
        InputError,
        StoreError,
        StructureWarning,
    )
    from daskmlr.estimator import MixedLinearRegression
    from daskmlr.graph.reduce import map_tasks, reduce_tasks
    from daskmlr.ingestion import ingest
    from daskmlr.kernels.blocks import TaskBlock
    from daskmlr.kernels.outliers import odd_tasks
    from daskmlr.model import Model
    from daskmlr.storage.tasks import TaskStore, open_tasks
    from daskmlr.storage.writing import append_tasks, create_tasks
    from daskmlr.synthetic import load_truth, simulate

__all__ = [
    "ComponentWarning",
    "DaskmlrError",
    "InputError",
    "MixedLinearRegression",
    "Model",
    "StoreError",
    "StructureWarning",
    "TaskBlock",
    "TaskStore",
    "append_tasks",
    "create_tasks",
    "ingest",
    "load_truth",
    "map_tasks",
    "odd_tasks",
    "open_tasks",
    "reduce_tasks",
    "simulate",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())

# Imported on first use, so that the kernels load without Dask and the command answers at once.
_HOME = {
    "ComponentWarning": "errors",
    "DaskmlrError": "errors",
    "InputError": "errors",
    "StoreError": "errors",
    "StructureWarning": "errors",
    "MixedLinearRegression": "estimator",
    "map_tasks": "graph.reduce",
    "reduce_tasks": "graph.reduce",
    "ingest": "ingestion",
    "TaskBlock": "kernels.blocks",
    "odd_tasks": "kernels.outliers",
    "Model": "model",
    "TaskStore": "storage.tasks",
    "open_tasks": "storage.tasks",
    "append_tasks": "storage.writing",
    "create_tasks": "storage.writing",
    "load_truth": "synthetic",
    "simulate": "synthetic",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'daskmlr' has no attribute {name!r}")
    value = getattr(import_module(f"daskmlr.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
