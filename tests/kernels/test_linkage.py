from __future__ import annotations

import itertools
from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daskmlr.errors import InputError
from daskmlr.kernels.blocks import TaskBlock
from daskmlr.kernels.linkage import cluster_by_linkage, linkage_labels
from daskmlr.kernels.metrics import coefficient_error, label_accuracy
from daskmlr.kernels.projected import combine_projected
from tests.kernels.drawing import laws, offsets_of, planted, random_block, seeds
from tests.kernels.projecting import project


def single_linkage_by_loop(distance, k) -> list[set[int]]:
    """Join the two nearest groups until k are left."""
    groups = [{i} for i in range(len(distance))]
    while len(groups) > k:
        near = min(
            itertools.combinations(groups, 2),
            key=lambda pair: min(distance[i][j] for i in pair[0] for j in pair[1]),
        )
        groups = [g for g in groups if g not in near] + [near[0] | near[1]]
    return groups


@laws
@given(seed=seeds, n=st.integers(2, 9), n_batches=st.integers(1, 4), data=st.data())
def test_linkage_joins_by_the_median_of_batches(seed, n, n_batches, data):
    k, r = data.draw(st.integers(1, n)), data.draw(st.integers(1, 3))
    halves = np.random.default_rng(seed).normal(size=(n, n_batches, 2, r))
    distance = [
        [
            abs(
                np.median(
                    [
                        (halves[i, b, 0] - halves[j, b, 0]) @ (halves[i, b, 1] - halves[j, b, 1])
                        for b in range(n_batches)
                    ]
                )
            )
            for j in range(n)
        ]
        for i in range(n)
    ]
    labels = linkage_labels(halves, k)
    found = {frozenset(np.flatnonzero(labels == c).tolist()) for c in range(k)}
    assert found == {frozenset(group) for group in single_linkage_by_loop(distance, k)}


@pytest.mark.parametrize("method", ["single", "average"])
@pytest.mark.parametrize("n_batches", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_linkage_recovers_well_separated_tasks(seed, n_batches, method):
    """Orthogonal coefficients, 800 examples: the paper's Algorithm 3 in its own regime."""
    rng = np.random.default_rng(seed)
    slopes = 3 * np.linalg.qr(rng.normal(size=(4, 4)))[0]
    labels = np.repeat(np.arange(4), 15)
    X = rng.normal(size=(60 * 800, 4))
    y = (slopes[np.repeat(labels, 800)] * X).sum(axis=1) + 0.3 * rng.normal(size=len(X))
    block = TaskBlock(X, y, offsets_of([800] * 60))
    tasks = project(block, n_batches=n_batches)
    found = linkage_labels(tasks.halves, 4, method=method)
    assert label_accuracy(found, labels, n_components=4) == 1
    clustering = cluster_by_linkage(tasks, 4, method=method)
    coef = np.column_stack([np.zeros(4), slopes])
    assert coefficient_error(clustering.mixture.coef, coef).max() < 0.02
    np.testing.assert_allclose(clustering.mixture.noise_variance, 0.09, rtol=0.1)
    np.testing.assert_allclose(clustering.mixture.weights, 0.25)
    assert clustering.agreed
    assert not clustering.log_likelihoods.size


@pytest.mark.parametrize("seed", range(2))
def test_products_of_halves_are_unbiased_for_squared_distances(seed):
    """``<b1_i - b1_j, b2_i - b2_j>`` has mean ``|w_i - w_j|^2``, zero for one component's tasks."""
    n = 1500
    problem = planted(seed, [8] * (2 * n), 3, 2, noise=1.0)
    halves = project(problem.block).halves[:, 0]
    difference = halves[:n] - halves[n:]
    products = (difference[:, 0] * difference[:, 1]).sum(axis=1)
    coef = problem.coef[problem.labels]
    truth = ((coef[:n] - coef[n:]) ** 2).sum(axis=1)
    for distance in np.unique(truth.round(9)):
        own = products[truth.round(9) == distance]
        assert len(own) > 50
        assert abs(own.mean() - distance) < 4 * own.std(ddof=1) / np.sqrt(len(own))


def test_linkage_of_tasks_that_are_all_alike_leaves_components_empty():
    block = random_block(0, [6], 1)
    tasks = project(block)
    same = reduce(combine_projected, [tasks] * 5)
    mixture = cluster_by_linkage(same, 3).mixture
    assert sorted(mixture.weights.tolist()) == [0, 0, 1]
    assert np.isfinite(mixture.coef).all()
    assert np.all(mixture.noise_variance > 0)


def test_linkage_without_a_batch_is_refused():
    tasks = project(random_block(0, [3, 3], 1), n_batches=0)
    with pytest.raises(InputError, match="n_batches of at least 1, got 0"):
        cluster_by_linkage(tasks, 2)


def test_fewer_tasks_than_groups_are_refused():
    tasks = project(random_block(0, [3], 1))
    with pytest.raises(InputError, match="2 components need at least as many tasks, got 1"):
        cluster_by_linkage(tasks, 2)
