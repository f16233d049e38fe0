"""Problems for the kernel tests: ragged tasks, cuts into blocks, frames, planted mixtures.

Everything is drawn constructively from a few integers, so that hypothesis filters nothing away
and a failing example is read off its arguments.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from daskmlr.kernels.blocks import Frame, TaskBlock

laws = settings(deadline=None, max_examples=40)

seeds = st.integers(0, 2**32 - 1)
dimensions = st.integers(1, 4)
dtypes = st.sampled_from([np.float64, np.float32])
# Empty tasks, tasks without a pair, the smallest pair, and a few more: loops can follow these.
small_sizes = st.lists(st.sampled_from([0, 1, 2, 3, 5]), max_size=6)
# A task larger than the least piece (256 rows) among them.
ragged_sizes = st.lists(st.sampled_from([0, 1, 2, 7, 300]), max_size=7)


@st.composite
def cut_tasks(draw, sizes=ragged_sizes):
    """Task sizes, and places where the tasks are cut into blocks; places may repeat."""
    drawn = draw(sizes)
    cuts = draw(st.lists(st.integers(0, len(drawn)), max_size=4))
    return drawn, sorted(cuts)


def cut(block: TaskBlock, places) -> list[TaskBlock]:
    """Cut a block before each of the tasks at `places`; a repeated place gives an empty block."""
    bounds = [0, *places, block.n_tasks]
    return [block.tasks(lo, hi) for lo, hi in itertools.pairwise(bounds)]


def offsets_of(sizes) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)


def random_block(seed, sizes, d, *, dtype=np.float64, first_task=0) -> TaskBlock:
    """Covariates of mean 0 to 3 and targets that depend on them in no way."""
    rng = np.random.default_rng(seed)
    n = int(np.sum(sizes))
    X = rng.normal(rng.uniform(0, 3, d), 1.0, (n, d))
    y = rng.normal(1.0, 2.0, n)
    return TaskBlock(X.astype(dtype), y.astype(dtype), offsets_of(sizes), first_task)


def empty_block(d, *, dtype=np.float64) -> TaskBlock:
    return random_block(0, [], d, dtype=dtype)


def random_frame(seed, d) -> Frame:
    rng = np.random.default_rng([seed, 1])
    return Frame(rng.normal(1, 1, d), rng.uniform(0.5, 2, d), rng.normal(0, 1, d + 1))


def plain_frame(d) -> Frame:
    """``a = [1, x]``, ``r = y``."""
    return Frame(np.zeros(d), np.ones(d), np.zeros(d + 1))


def rows_by_loop(block: TaskBlock, frame: Frame) -> list[list[tuple[np.ndarray, float]]]:
    """``(a, r)`` of each example of each task, one by one from the definition of a frame."""
    tasks = []
    for i in range(block.n_tasks):
        rows = []
        for j in range(int(block.offsets[i]), int(block.offsets[i + 1])):
            a = np.ones(block.n_features + 1)
            for f in range(block.n_features):
                a[f + 1] = (float(block.X[j, f]) - frame.shift[f]) / frame.scale[f]
            rows.append((a, float(block.y[j]) - float(a @ frame.offset)))
        tasks.append(rows)
    return tasks


@dataclass(frozen=True)
class Planted:
    """A block and the mixture it was drawn from, in the user's units."""

    block: TaskBlock
    slopes: np.ndarray
    intercepts: np.ndarray
    noise_variance: np.ndarray
    weights: np.ndarray
    labels: np.ndarray

    @property
    def coef(self) -> np.ndarray:
        """Intercept first, shape (k, d + 1)."""
        return np.column_stack([self.intercepts, self.slopes])


def planted(
    seed, sizes, k, d, *, noise=0.5, mean=0.0, separation=1.0, dtype=np.float64, intercepts=True
) -> Planted:
    """Tasks of ``y = b_z + w_z . x + e`` with Gaussian covariates of unit variance."""
    rng = np.random.default_rng([seed, 2])
    weights = rng.dirichlet(np.full(k, 10.0))
    slopes = separation * rng.normal(size=(k, d))
    heights = rng.normal(size=k) * separation if intercepts else np.zeros(k)
    labels = rng.choice(k, size=len(sizes), p=weights)
    z = np.repeat(labels, sizes)
    X = rng.normal(size=(len(z), d))
    y = heights[z] + np.sum(slopes[z] * X, axis=1) + noise * rng.normal(size=len(z))
    return Planted(
        TaskBlock((X + mean).astype(dtype), y.astype(dtype), offsets_of(sizes)),
        slopes,
        heights - slopes @ np.full(d, mean),
        np.full(k, noise**2),
        weights,
        labels,
    )


def corrupted_samples(
    n: int, d: int, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the experiment's samples, clean and corrupted.

    Standard normal, but the first coordinate has variance 1.1 and the second is the first, of
    unit variance and with a random sign; a corrupted sample has first coordinate 0 and second
    ``2 / fraction^(1/4)``, its sign kept.
    """
    clean = rng.normal(size=(n, d))
    clean[:, 1] = clean[:, 0] * rng.choice([-1, 1], n)
    clean[:, 0] *= np.sqrt(1.1)
    corrupted, bad = clean.copy(), rng.random(n) < fraction
    corrupted[bad, 0] = 0
    corrupted[bad, 1] = 2 * np.sign(clean[bad, 1]) / fraction**0.25
    return clean, corrupted
