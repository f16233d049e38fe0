"""The task block: ragged tasks laid one after another, the unit every kernel works on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

# Rows of about this many bytes stay in a core's private cache while several products are taken of
# them.
CACHE_BYTES = 1 << 20
# ... but so many rows for each feature: products of fewer cost less than adding them up.
ROWS_PER_FEATURE = 16
# What is not a product is done to about this many bytes at a time: each call takes Python's lock,
# and hands it from thread to thread, which costs as much as a megabyte of products.
PIECE_BYTES = 16 << 20
# Means of up to so many standard deviations are left as they are: a sixteenth of the precision of a
# product is the most they cost.
NEAR_ZERO = 4.0
# So are scales between 1/16 and 16.
NEAR_ONE = 4


@dataclass(frozen=True)
class TaskBlock:
    """Whole tasks, one after another.

    Attributes
    ----------
    X : ndarray of shape (n_rows, d), float32 or float64
        Covariates, in the user's units.
    y : ndarray of shape (n_rows,), same dtype
        Targets.
    offsets : ndarray of shape (n_tasks + 1,), int64
        Task ``i`` of the block owns rows ``offsets[i]:offsets[i + 1]``; a task may be empty.
    first_task : int
        Position of the block's first task in its store: keys the random streams, so that no
        statistic depends on where the blocks were cut.

    Examples
    --------
    >>> import numpy as np
    >>> block = TaskBlock(np.ones((5, 2)), np.arange(5.0), np.array([0, 3, 5]))
    >>> block.n_tasks, block.sizes.tolist()
    (2, [3, 2])
    """

    X: NDArray[np.floating]
    y: NDArray[np.floating]
    offsets: NDArray[np.int64]
    first_task: int = 0

    @property
    def n_tasks(self) -> int:
        """Number of tasks."""
        return len(self.offsets) - 1

    @property
    def n_rows(self) -> int:
        """Number of examples."""
        return len(self.y)

    @property
    def n_features(self) -> int:
        """Number of covariates, d."""
        return int(self.X.shape[1])

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Examples of each task, shape (n_tasks,)."""
        return np.diff(self.offsets)

    def tasks(self, start: int, stop: int) -> TaskBlock:
        """Return tasks ``start:stop`` as a block of views."""
        lo, hi = int(self.offsets[start]), int(self.offsets[stop])
        return TaskBlock(
            self.X[lo:hi],
            self.y[lo:hi],
            self.offsets[start : stop + 1] - lo,
            self.first_task + start,
        )

    def take(self, positions: NDArray[np.int64]) -> TaskBlock:
        """Return a copy of some tasks; where they are in a store is lost."""
        index, offsets = rows_of_tasks(self.sizes, positions)
        return TaskBlock(self.X[index], self.y[index], offsets)

    def pieces(self, max_rows: int | None = None) -> Iterator[TaskBlock]:
        """Cut into consecutive blocks of whole tasks of at most `max_rows` rows.

        A task larger than `max_rows` is a piece of its own. By default a piece holds about
        `CACHE_BYTES`, so that the products taken of it find it in cache; more for many features.
        """
        if max_rows is None:
            max_rows = rows_in_cache(self.X)
        start = 0
        while start < self.n_tasks:
            limit = self.offsets[start] + max_rows
            stop = int(np.searchsorted(self.offsets, limit, side="right")) - 1
            stop = min(max(stop, start + 1), self.n_tasks)
            yield self.tasks(start, stop)
            start = stop


@dataclass(frozen=True)
class Frame:
    """The numerically safe coordinates of one fit: raw units moved and scaled, intercept added.

    The augmented covariate is ``a = [1, (x - shift) / scale]`` and the target becomes
    ``r = y - a . offset``. Any frame gives the same fit in exact arithmetic; one whose shift is
    near the mean of ``x`` and whose offset is near the pooled regression keeps the products
    free of cancellation and the second moments free of what all tasks share.

    Attributes
    ----------
    shift, scale : ndarray of shape (d,), float64
        In the units of the covariates.
    offset : ndarray of shape (d + 1,), float64
        Pooled coefficients in this frame, intercept first, in the units of ``y``.
    """

    shift: NDArray[np.float64]
    scale: NDArray[np.float64]
    offset: NDArray[np.float64]

    @classmethod
    def near(
        cls,
        mean: NDArray[np.float64],
        scale: NDArray[np.float64],
        target_mean: float,
        dtype: np.dtype[np.floating],
    ) -> Frame:
        """Return a frame that suits some data and costs a pass over them little.

        Covariates none of which lies far from zero are not moved, else by numbers that `dtype` has;
        scales are powers of two, and 1 where the covariates' are not far from it.

        Parameters
        ----------
        mean, scale : ndarray of shape (d,), float64
            Of the covariates; a scale of 0 counts as 1.
        target_mean : float
        dtype : numpy dtype
            Of the data.
        """
        scale = np.where(scale > 0, scale, 1.0)
        shift = mean.astype(dtype).astype(np.float64)
        if (np.abs(mean) <= NEAR_ZERO * scale).all():
            shift[:] = 0
        power = np.round(np.log2(scale))
        power[np.abs(power) <= NEAR_ONE] = 0
        return cls(shift, np.exp2(power), np.append(target_mean, np.zeros(len(mean))))

    def rows(self, block: TaskBlock) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Return ``(x - shift) / scale`` and ``r`` of every row, in the block's dtype.

        The first is the block's own array where the frame leaves covariates as they are.

        A shift that the dtype does not have, and the intercept, are subtracted in double
        precision: rounded they would move every row the same way, which no number of examples
        averages out.
        """
        dtype = block.X.dtype
        covariates = block.X
        if self.shift.any():
            shift = self.shift.astype(dtype)
            if not np.array_equal(shift, self.shift):
                shift = self.shift
            covariates = np.empty_like(block.X)
            np.subtract(block.X, shift, out=covariates, casting="same_kind")
        if (self.scale != 1).any():
            covariates = covariates * (1 / self.scale).astype(dtype)
        shared = self.offset[0]
        if self.offset[1:].any():
            shared = shared + covariates @ self.offset[1:].astype(dtype)
        targets = np.empty_like(block.y)
        np.subtract(block.y, shared, out=targets, casting="same_kind")
        return covariates, targets

    def augment(self, block: TaskBlock) -> NDArray[np.floating]:
        """Return ``[a, r]`` of every row, shape (n_rows, d + 2), in the block's dtype."""
        covariates, targets = self.rows(block)
        out = np.empty((block.n_rows, covariates.shape[1] + 2), dtype=block.X.dtype)
        out[:, 0] = 1
        out[:, 1:-1] = covariates
        out[:, -1] = targets
        return out

    def with_offset(self, offset: NDArray[np.float64]) -> Frame:
        """Return the same frame with another pooled regression taken out."""
        return Frame(self.shift, self.scale, offset)

    def to_user(self, coef: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Turn coefficients on ``a`` for ``r`` into slopes and intercepts in the user's units.

        Parameters
        ----------
        coef : ndarray of shape (k, d + 1)
            Intercept first.

        Returns
        -------
        slopes : ndarray of shape (k, d)
        intercepts : ndarray of shape (k,)
        """
        total = coef + self.offset
        slopes = total[:, 1:] / self.scale
        return slopes, total[:, 0] - slopes @ self.shift

    def from_user(
        self, slopes: NDArray[np.float64], intercepts: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Inverse of `to_user`: coefficients on ``a`` for ``r``, shape (k, d + 1)."""
        return (
            np.column_stack([intercepts + slopes @ self.shift, slopes * self.scale]) - self.offset
        )


def hash64(keys: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """Hash each key (SplitMix64, Steele, Lea, Flood 2014): random bits that depend on no order."""
    # the seed's share in Python's integers: NumPy warns when a scalar wraps round, as this must
    z = keys.astype(np.uint64) + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@dataclass(frozen=True)
class Part:
    """Which tasks count: one of several disjoint random parts, less those that are excluded.

    Random parts are fixed by the seed and a task's place.

    Attributes
    ----------
    index, n_parts : int
        Part `index` of `n_parts`.
    seed : int
    excluded : ndarray of int64
        Places of tasks that are in no part, ascending.
    """

    index: int
    n_parts: int
    seed: int
    excluded: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @classmethod
    def without(cls, excluded: NDArray[np.int64]) -> Part:
        """Return the part of all tasks but those at some places, ascending."""
        return cls(0, 1, 0, excluded)

    def holds(self, start: int, stop: int) -> NDArray[np.bool_]:
        """Whether each of the tasks at places ``start:stop`` is in the part."""
        place = np.arange(start, stop)
        inside: NDArray[np.bool_] = ~self.excludes(start, stop)
        if self.n_parts > 1:
            inside &= hash64(place, self.seed) % np.uint64(self.n_parts) == self.index
        return inside

    def excludes(self, start: int, stop: int) -> NDArray[np.bool_]:
        """Whether each of the tasks at places ``start:stop`` is excluded."""
        outside = np.zeros(stop - start, dtype=bool)
        first, last = np.searchsorted(self.excluded, [start, stop])
        outside[self.excluded[first:last] - start] = True
        return outside


def tasks_in(part: Part | None, block: TaskBlock) -> NDArray[np.bool_]:
    """Whether each task of a block is in `part`; all are if it is None."""
    if part is None:
        return np.ones(block.n_tasks, dtype=bool)
    return part.holds(block.first_task, block.first_task + block.n_tasks)


def tasks_excluded(part: Part | None, block: TaskBlock) -> NDArray[np.bool_]:
    """Whether each task of a block is excluded, whichever part it is in."""
    if part is None:
        return np.zeros(block.n_tasks, dtype=bool)
    return part.excludes(block.first_task, block.first_task + block.n_tasks)


def rows_not_excluded(part: Part | None, block: TaskBlock) -> NDArray[np.bool_] | None:
    """Whether each row's task is not excluded, whichever part it is in; None if all are so."""
    if part is None:
        return None
    outside = tasks_excluded(part, block)
    return np.repeat(~outside, block.sizes) if outside.any() else None


def segment_matrix(
    offsets: NDArray[np.int64], values: NDArray[np.floating]
) -> scipy.sparse.csr_array:
    """Sparse (n_segments, n_rows) matrix whose product with rows is the weighted segment sum.

    ``segment_matrix(offsets, v) @ Z`` is ``sum_j v_j Z_j`` over each segment's rows, at the
    bandwidth of memory (``np.add.reduceat`` is 10-30 times slower). `offsets` must start at 0
    and end at ``len(values)``; empty segments give zero rows.
    """
    columns = np.arange(len(values), dtype=np.int32)
    return scipy.sparse.csr_array(
        (values, columns, offsets.astype(np.int32)), shape=(len(offsets) - 1, len(values))
    )


def rows_in_cache(wide: NDArray[np.floating]) -> int:
    """Rows of about `CACHE_BYTES`, more for many features."""
    d = int(wide.shape[1])
    return max(256, CACHE_BYTES // (wide.itemsize * (d + 2)), ROWS_PER_FEATURE * d)


def rows_in_piece(block: TaskBlock, n_more: int = 0) -> int:
    """Rows of about `PIECE_BYTES`, with so many numbers more for each row than it has itself."""
    return max(PIECE_BYTES // (block.X.itemsize * (block.n_features + 2 + n_more)), 256)


def cut_rows(first: int, last: int, wide: NDArray[np.floating]) -> Iterator[slice]:
    """Cut rows ``first:last``, as wide as some array's, into what stays in cache."""
    step = rows_in_cache(wide)
    for start in range(first, last, step):
        yield slice(start, min(start + step, last))


def crossprod(left: NDArray[np.floating], right: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return ``left.T @ right`` of long arrays with few columns.

    By ``@`` threads would wait for each other: it keeps Python's lock where the result has 500
    numbers or fewer, however long it takes.
    """
    product: NDArray[np.floating] = np.dot(left.T, right)
    return product


def add_joint_gram(
    total: NDArray[np.float64],
    pieces: Iterable[tuple[NDArray[np.floating], NDArray[np.floating]]],
) -> None:
    """Add the Gram matrix of rows whose parts need not lie side by side, in place.

    Parameters
    ----------
    total : ndarray of shape (d + m, d + m), float64
        Its first row and column are those of the first of `thin`, the intercept; then `wide` and
        the others of `thin`.
    pieces : iterable of (wide, thin)
        Rows, of shape (n, d) and (n, m); best so many at a time as stay in cache (`cut_rows`).
    """
    between: NDArray[np.float64] | None = None
    for wide, thin in pieces:
        if between is None:
            d, m = wide.shape[1], thin.shape[1]
            inside = total[1 : d + 1, 1 : d + 1]
            between, outside = np.zeros((d, m)), np.zeros((m, m))
        inside += crossprod(wide, wide)
        between += crossprod(wide, thin)
        outside += crossprod(thin, thin)
    if between is not None:
        features, others = slice(1, d + 1), np.r_[0, d + 1 : d + m]
        total[features, others] += between
        total[others, features] += between.T
        total[np.ix_(others, others)] += outside


def task_of_row(block: TaskBlock) -> NDArray[np.int64]:
    """Position within the block of the task that owns each row, shape (n_rows,)."""
    return np.repeat(np.arange(block.n_tasks), block.sizes)


def rows_of_tasks(
    sizes: NDArray[np.int64], tasks: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Index of the rows of some tasks, task after task, and their offsets within it.

    Parameters
    ----------
    sizes : ndarray of shape (n_tasks,), int64
        Of all tasks of a block.
    tasks : ndarray of shape (n,), int64
        Positions in the block.

    Returns
    -------
    index : ndarray of shape (sizes[tasks].sum(),), int64
    offsets : ndarray of shape (n + 1,), int64
    """
    lengths = sizes[tasks]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    starts = (np.cumsum(sizes) - sizes)[tasks]
    return np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths), offsets
