"""Drawing tasks in fixed chunks, each from random streams of its own.

No number depends on the blocks of a store nor on the order in which chunks are drawn, and a longer
run begins with the shorter one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from daskmlr.errors import InputError
from daskmlr.synthetic.streams import Stream, generator, whole_number
from daskmlr.synthetic.truth import MixtureTruth, TruthParameters, make_truth

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

# A chunk holds at most so many tasks, and about so many values (4 MiB of float32, which stay in
# cache). Both are part of what a seed means: another number here is other data.
CHUNK_TASKS = 1024
CHUNK_VALUES = 1 << 20

TaskGroup = tuple[int, int | tuple[int, int]]


class Chunk(NamedTuple):
    """Consecutive tasks: covariates, targets, sizes and labels."""

    X: NDArray[np.floating]
    y: NDArray[np.floating]
    sizes: NDArray[np.int64]
    labels: NDArray[np.int16]


@dataclass(frozen=True)
class Draw:
    """Everything that decides the bits of a simulation; groups are (n_tasks, low, high)."""

    truth: MixtureTruth
    groups: tuple[tuple[int, int, int], ...]
    random_state: int
    dtype: Literal["float32", "float64"]
    noise_dof: float | None

    @property
    def n_tasks(self) -> int:
        """Number of tasks of all groups."""
        return sum(n for n, _, _ in self.groups)

    def parameters(self) -> dict[str, Any]:
        """How the tasks are drawn, for the record; the mixture itself is kept in full."""
        return {
            "task_groups": [[n, [low, high]] for n, low, high in self.groups],
            "random_state": self.random_state,
            "dtype": self.dtype,
            "noise_dof": self.noise_dof,
            "n_components": self.truth.n_components,
            "n_features": self.truth.n_features,
        }

    def chunk_tasks(self, group: int) -> int:
        """Tasks in every chunk of a group but its last."""
        largest = self.groups[group][2] * (self.truth.n_features + 1)
        return max(1, min(CHUNK_TASKS, CHUNK_VALUES // largest))

    def chunks(self) -> Iterator[Chunk]:
        """Draw every chunk, in the order of the store."""
        for group, (n_tasks, _, _) in enumerate(self.groups):
            for index in range(-(-n_tasks // self.chunk_tasks(group))):
                yield self.chunk(group, index)

    def chunk(self, group: int, index: int) -> Chunk:
        """Draw one chunk.

        The last chunk of a group is drawn whole and then cut, so that a longer group begins with
        the shorter one, bit for bit.
        """
        truth, (n_tasks, low, high) = self.truth, self.groups[group]
        n_drawn = self.chunk_tasks(group)
        size_rng, label_rng, covariate_rng, noise_rng = (
            generator(self.random_state, stream, group, index)
            for stream in (Stream.SIZE, Stream.LABEL, Stream.COVARIATE, Stream.NOISE)
        )
        sizes = _log_uniform(size_rng, low, high, n_drawn)
        shares = truth.weights / truth.weights.sum()
        labels = label_rng.choice(truth.n_components, p=shares, size=n_drawn)
        X = covariate_rng.standard_normal((int(sizes.sum()), truth.n_features), dtype=self.dtype)
        _correlate(X, truth.correlation)
        X += truth.feature_mean.astype(self.dtype)
        y = _targets(X, np.repeat(labels, sizes), truth, noise_rng, self.noise_dof)
        kept = min(n_drawn, n_tasks - index * n_drawn)
        rows = int(sizes[:kept].sum())
        return Chunk(X[:rows], y[:rows], sizes[:kept], labels[:kept].astype(np.int16))


def _targets(
    X: NDArray[np.floating],
    labels: NDArray[np.int64],
    truth: MixtureTruth,
    rng: np.random.Generator,
    noise_dof: float | None,
) -> NDArray[np.floating]:
    """Targets of rows of known labels: summed in float64, rounded once."""
    if noise_dof is None:
        noise = rng.standard_normal(len(X))
    else:
        noise = rng.standard_t(noise_dof, len(X)) * np.sqrt((noise_dof - 2) / noise_dof)
    # not a matrix product: its bits would depend on the threads of BLAS
    y: NDArray[np.float64] = np.einsum("ij,ij->i", X, truth.coef[labels])
    y += truth.intercept[labels]
    y += np.sqrt(truth.noise_variance)[labels] * noise
    return y.astype(X.dtype)


def _correlate(X: NDArray[np.floating], correlation: float) -> None:
    """Turn independent unit columns into an autoregressive sequence of unit columns, in place."""
    if correlation == 0:
        return
    fresh = X.dtype.type(np.sqrt(1 - correlation**2))
    kept = X.dtype.type(correlation)
    for column in range(1, X.shape[1]):
        X[:, column] = kept * X[:, column - 1] + fresh * X[:, column]


def _log_uniform(rng: np.random.Generator, low: int, high: int, count: int) -> NDArray[np.int64]:
    """Integers in ``low .. high``, ``P(s) = log((s + 1) / s) / log((high + 1) / low)``."""
    if low == high:
        return np.full(count, low, dtype=np.int64)
    sizes = low * ((high + 1) / low) ** rng.random(count)
    return np.minimum(sizes.astype(np.int64), high)


def checked_draw(
    truth: MixtureTruth | None,
    truth_parameters: TruthParameters,
    task_groups: Sequence[TaskGroup],
    random_state: int,
    dtype: Literal["float32", "float64"],
    noise_dof: float | None,
) -> Draw:
    """Turn a user's parameters into a draw, or say which of them is impossible."""
    if truth is None:
        missing = {"n_components", "n_features"} - truth_parameters.keys()
        if missing:
            raise InputError(f"give a truth, or else also {' and '.join(sorted(missing))}")
        truth = make_truth(random_state=random_state, **truth_parameters)
    elif truth_parameters:
        raise InputError(f"a truth is given: remove {', '.join(truth_parameters)}, or the truth")
    if dtype not in ("float32", "float64"):
        raise InputError(f"dtype must be 'float32' or 'float64', not {dtype!r}")
    if noise_dof is not None and not 2 < noise_dof < np.inf:
        raise InputError(f"noise_dof must be finite and more than 2, not {noise_dof}")
    if not task_groups:
        raise InputError("task_groups must name at least 1 group such as (1000, 8)")
    groups = tuple(_task_group(group, at) for at, group in enumerate(task_groups))
    return Draw(truth, groups, int(random_state), dtype, noise_dof)


def _task_group(group: TaskGroup, at: int) -> tuple[int, int, int]:
    """Return (n_tasks, low, high) of one group."""
    name = f"task_groups[{at}]"
    if not isinstance(group, Sequence) or len(group) != 2:
        raise InputError(f"{name} must be a pair (n_tasks, size), not {group!r}")
    n_tasks = whole_number(group[0], f"the number of tasks of {name}")
    bounds = group[1] if isinstance(group[1], Sequence) else (group[1], group[1])
    if len(bounds) != 2:
        raise InputError(f"the size of {name} must be a number or (low, high), not {bounds!r}")
    low, high = (whole_number(bound, f"the task size of {name}") for bound in bounds)
    if low > high:
        raise InputError(f"the sizes of {name} must be (low, high), but {low} > {high}")
    return n_tasks, low, high
