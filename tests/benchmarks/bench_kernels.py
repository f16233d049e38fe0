"""Kernels on one block in memory, one BLAS thread, by pytest-benchmark.

OPENBLAS_NUM_THREADS=1 pytest tests/benchmarks/bench_kernels.py
"""

from __future__ import annotations

import numpy as np
import pytest

from daskmlr.kernels.assignment import Mixture, block_log_likelihood, posterior
from daskmlr.kernels.blocks import Frame, TaskBlock, add_joint_gram, cut_rows, segment_matrix
from daskmlr.kernels.diagnosis import diagnosis_from_block
from daskmlr.kernels.moments import ALL_PAIRS, SPLIT, example_signs, moments_from_block
from daskmlr.kernels.regression import sums_from_block

BLOCK_BYTES = 16 << 20
TASK_ROWS, N_COMPONENTS = 8, 8


@pytest.fixture(params=[8, 32, 128, 512], ids="{} features".format)
def block(request):
    d = request.param
    n_tasks = BLOCK_BYTES // (4 * d * TASK_ROWS)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_tasks * TASK_ROWS, d), dtype=np.float32)
    y = rng.standard_normal(len(X), dtype=np.float32)
    return TaskBlock(X, y, np.arange(n_tasks + 1) * TASK_ROWS)


@pytest.fixture
def frame(block):
    d = block.n_features
    return Frame(np.zeros(d), np.ones(d), np.zeros(d + 1))


@pytest.fixture
def mixture(block):
    rng = np.random.default_rng(1)
    coef = rng.normal(size=(N_COMPONENTS, block.n_features + 1)) / np.sqrt(block.n_features)
    return Mixture(coef, np.ones(N_COMPONENTS), np.full(N_COMPONENTS, 1 / N_COMPONENTS))


def test_bare_product(benchmark, block):
    benchmark(lambda: block.X.T @ block.X)


def test_joint_gram(benchmark, block):
    total = np.zeros((block.n_features + 2,) * 2)
    thin = np.column_stack([np.ones_like(block.y), block.y])
    cuts = [(block.X[rows], thin[rows]) for rows in cut_rows(0, block.n_rows, block.X)]
    benchmark(add_joint_gram, total, cuts)


def test_segment_sums(benchmark, block):
    benchmark(lambda: segment_matrix(block.offsets, block.y) @ block.X)


def test_signs(benchmark, block):
    benchmark(example_signs, block, 0)


@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_rows(benchmark, block, shift):
    d = block.n_features
    frame = Frame(np.full(d, shift), np.ones(d), np.append(1.0, np.full(d, 0.1)))
    benchmark(frame.rows, block)


@pytest.mark.parametrize("groups", [SPLIT, ALL_PAIRS], ids=["split", "all pairs"])
def test_moments(benchmark, block, frame, groups):
    benchmark(moments_from_block, block, frame, groups=groups, signal_share=0.1, seed=0)


def test_assignment(benchmark, block, frame, mixture):
    benchmark(lambda: posterior(block_log_likelihood(block, frame, mixture)))


def test_refinement(benchmark, block, frame, mixture):
    benchmark(sums_from_block, block, frame, mixture, assign="soft")


def test_diagnosis(benchmark, block, frame, mixture):
    basis = np.eye(block.n_features + 1)[:, :N_COMPONENTS]
    nearest = np.roll(np.arange(N_COMPONENTS), 1)
    benchmark(diagnosis_from_block, block, frame, mixture, basis, nearest, mixture, seed=0)
