"""What to take of a table: as the user says, or as a store or a model has it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from daskmlr.encoding import FeatureEncoding
from daskmlr.errors import InputError
from daskmlr.model import Model
from daskmlr.storage import layout
from daskmlr.storage.publish import what_is
from daskmlr.storage.tasks import TaskStore, open_tasks

if TYPE_CHECKING:
    from collections.abc import Sequence

Dtype: TypeAlias = Literal["float32", "float64"]
Like: TypeAlias = "str | os.PathLike[str] | TaskStore | Model"


@dataclass(frozen=True)
class Wanted:
    """The columns of a table to take, and as what.

    Attributes
    ----------
    task, target : str
    features : sequence of str or None
        None: all columns that are left.
    categorical : sequence of str
        Of the features.
    dtype : {"float32", "float64"}
        Of the store to write.
    known : FeatureEncoding or None
        How the features are to be made; None: as the values suggest.
    whose : str
        Whose encoding that is.
    text_ids : bool
        Whether ids are text, whatever they look like.
    """

    task: str
    target: str
    features: Sequence[str] | None
    categorical: Sequence[str]
    dtype: Dtype
    known: FeatureEncoding | None = None
    whose: str = ""
    text_ids: bool = False

    def __post_init__(self) -> None:
        if self.task == self.target:
            raise InputError(f"column {self.task!r} cannot be both task and target")
        features = self.features or ()
        for name, what in ((self.task, "task"), (self.target, "target")):
            if name in features:
                raise InputError(f"column {name!r} is the {what}: take it out of the features")
            if name in self.categorical:
                raise InputError(f"column {name!r} is the {what}: only features can be categorical")
        if len(set(features)) < len(features):
            raise InputError(f"the features name a column twice: {list(features)}")


def wanted_columns(
    like: Like | None,
    *,
    task: str | None = None,
    target: str | None = None,
    features: Sequence[str] | None = None,
    categorical: Sequence[str] | None = None,
    dtype: str | None = None,
) -> Wanted:
    """Take the columns that a store or a model has, as it has them; without one, those named.

    Raises
    ------
    InputError
        For columns that are not named or contradict each other, another dtype, a `like` that is
        neither store nor model, or wishes that contradict it.
    StoreError
        If there is neither at a path.
    """
    if like is not None:
        return _as_like(like, task, target, features, categorical, dtype)
    if task is None or target is None:
        raise InputError(
            "name the columns of the task and of the target (task=..., target=...; on the command "
            "line --task, --target), or a store or model that has them (like=..., --like)"
        )
    return Wanted(task, target, features, categorical or (), _dtype(dtype))


def _as_like(
    like: Like,
    task: str | None,
    target: str | None,
    features: Sequence[str] | None,
    categorical: Sequence[str] | None,
    dtype: str | None,
) -> Wanted:
    source, whose = _opened(like)
    for name, value in (("features", features), ("categorical", categorical)):
        if value is not None:
            raise InputError(f"{name} and like exclude each other: they are those of {whose}")
    had = source.dtype.name if isinstance(source, TaskStore) else None
    if dtype is not None and had not in (None, dtype):
        raise InputError(f"dtype is {dtype}, and {had} in {whose}: leave it out")
    # what arrays were called says nothing of tables
    if source.encoding is not None and target not in (None, source.target_name):
        raise InputError(
            f"the target is {target!r}, and {source.target_name!r} in {whose}: rename the column "
            "if it is the same quantity"
        )
    encoding = FeatureEncoding.of(source)
    return Wanted(
        source.task_name if task is None else task,
        source.target_name if target is None else target,
        encoding.columns,
        tuple(encoding.categories),
        _dtype(had or dtype),
        encoding,
        whose,
        isinstance(source, TaskStore) and source.task_ids(0, 1).dtype == object,
    )


def _dtype(dtype: str | None) -> Dtype:
    if dtype not in (None, *layout.DTYPES):
        raise InputError(f"dtype must be one of {layout.DTYPES}, got {dtype!r}")
    return "float32" if dtype == "float32" else "float64"


def _opened(like: Like) -> tuple[TaskStore | Model, str]:
    """Give the store or model, and what to call it."""
    if not isinstance(like, str | os.PathLike | TaskStore | Model):
        raise InputError(
            f"like must be a task store, a Model, or the path of one, got {type(like).__name__}; "
            "of a fitted estimator give its model_"
        )
    if isinstance(like, Model):
        return like, "the model"
    if not isinstance(like, TaskStore) and what_is(like) == layout.KINDS["daskmlr-model"]:
        return Model.load(like), f"the model {like}"
    tasks = like if isinstance(like, TaskStore) else open_tasks(like)
    return tasks, f"the store {tasks.path}"
