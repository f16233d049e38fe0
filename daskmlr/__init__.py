"""Mixed linear regression over millions of small tasks: spectral meta-learning on Dask."""

from daskmlr.errors import ComponentWarning, DaskmlrError, InputError, StoreError
from daskmlr.estimator import MixedLinearRegression
from daskmlr.graph.reduce import map_tasks, reduce_tasks
from daskmlr.kernels.blocks import TaskBlock
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
    "TaskBlock",
    "TaskStore",
    "append_tasks",
    "create_tasks",
    "load_truth",
    "map_tasks",
    "open_tasks",
    "reduce_tasks",
    "simulate",
]
