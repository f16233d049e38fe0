from __future__ import annotations

import itertools
from dataclasses import fields, replace
from functools import reduce
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daskmlr.errors import InputError
from daskmlr.kernels import regression
from daskmlr.kernels.assignment import block_log_likelihood
from daskmlr.kernels.blocks import TaskBlock
from daskmlr.kernels.clustering import (
    MIN_RESTARTS,
    ProjectedTasks,
    cluster_by_em,
    cluster_by_linkage,
    combine_projected,
    linkage_labels,
    projected_from_block,
    select_largest,
)
from daskmlr.kernels.metrics import coefficient_error, label_accuracy
from daskmlr.kernels.moments import finalise_moments, moments_from_block
from daskmlr.kernels.regression import finalise_sums, sums_from_block
from daskmlr.kernels.standardise import Standardiser
from daskmlr.kernels.subspace import top_eigenspace
from tests.kernels.drawing import (
    cut,
    cut_tasks,
    dimensions,
    dtypes,
    empty_block,
    laws,
    offsets_of,
    plain_frame,
    planted,
    random_block,
    random_frame,
    rows_by_loop,
    seeds,
    small_sizes,
)

batches = st.integers(0, 3)


def basis_of(seed, d, r) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng([seed, 5]).normal(size=(d + 1, r)))[0]


def project(block, frame=None, basis=None, positions=None, *, n_batches=1) -> ProjectedTasks:
    d = block.n_features
    if positions is None:
        positions = np.arange(block.first_task, block.first_task + block.n_tasks)
    return projected_from_block(
        block,
        plain_frame(d) if frame is None else frame,
        np.eye(d + 1) if basis is None else basis,
        positions,
        n_batches=n_batches,
    )


def cluster(tasks, k, *, seed=0, n_restarts=24, prior=None, **settings):
    r = tasks.cross.shape[1]
    prior = np.ones(r) if prior is None else prior
    rng = np.random.default_rng(seed)
    return cluster_by_em(tasks, k, prior, n_restarts=n_restarts, rng=rng, **settings)


def assert_same(found: ProjectedTasks, expected: ProjectedTasks, atol=1e-9) -> None:
    for field in fields(ProjectedTasks):
        values, wanted = getattr(found, field.name), getattr(expected, field.name)
        assert values.shape == wanted.shape
        np.testing.assert_allclose(values, wanted, atol=atol, err_msg=field.name)


@laws
@given(sizes=st.lists(st.integers(0, 4), max_size=12), data=st.data())
def test_the_largest_tasks_are_chosen_and_ties_spread(sizes, data):
    count = data.draw(st.integers(0, len(sizes) + 2))
    chosen = select_largest(np.array(sizes, dtype=np.int32), count)
    assert len(chosen) == len(set(chosen.tolist())) == min(count, len(sizes))
    assert np.all(np.diff(chosen) > 0)
    left_out = [t for i, t in enumerate(sizes) if i not in chosen]
    assert max(left_out, default=0) <= min((sizes[i] for i in chosen), default=9)


def test_ties_are_spread_over_the_store():
    chosen = select_largest(np.full(1000, 5), 10)
    np.testing.assert_array_equal(chosen, np.arange(0, 1000, 100))


@laws
@given(seed=seeds, sizes=small_sizes, d=dimensions, n_batches=batches, data=st.data(), dtype=dtypes)
def test_projected_moments_are_those_of_the_formula(seed, sizes, d, n_batches, data, dtype):
    r = data.draw(st.integers(1, d + 1))
    block = random_block(seed, sizes, d, dtype=dtype, first_task=4)
    frame, basis = random_frame(seed, d), basis_of(seed, d, r)
    expected = []
    for rows in rows_by_loop(block, frame):
        gram, cross, square = np.zeros((r, r)), np.zeros(r), 0.0
        for a, target in rows:
            v = np.array([sum(basis[f, c] * a[f] for f in range(d + 1)) for c in range(r)])
            gram += np.outer(v, v)
            cross += target * v
            square += target**2
        # 2 n_batches runs of rows, the first ones longer by one if the rows do not divide
        halves, start, n_runs = np.zeros((n_batches, 2, r)), 0, 2 * n_batches
        for run in range(n_runs):
            length = len(rows) // n_runs + (run < len(rows) % n_runs)
            for a, target in rows[start : start + length]:
                halves[run // 2, run % 2] += target * (a @ basis) / length
            start += length
        expected.append((gram, cross, square, len(rows), halves))
    found = project(block, frame, basis, n_batches=n_batches)
    assert found.gram.dtype == found.cross.dtype == np.float64
    assert found.halves.shape == (len(sizes), n_batches, 2, r)
    for i, moments in enumerate(expected):
        for field, wanted in zip(fields(ProjectedTasks), moments, strict=True):
            atol = 1e-9 if dtype == np.float64 else 1e-3
            np.testing.assert_allclose(getattr(found, field.name)[i], wanted, atol=atol)


@laws
@given(seed=seeds, drawn=cut_tasks(), d=dimensions, n_batches=batches, data=st.data())
def test_any_cut_gives_the_same_tasks_in_the_same_order(seed, drawn, d, n_batches, data):
    sizes, places = drawn
    block, frame = random_block(seed, sizes, d, first_task=4), random_frame(seed, d)
    chosen = data.draw(st.sets(st.integers(0, len(sizes) + 8)))  # some before, some after
    positions = np.array(sorted(chosen), dtype=np.int64)
    inside = positions[(positions >= 4) & (positions < 4 + len(sizes))] - 4
    whole = project(block, frame, positions=positions, n_batches=n_batches)
    assert whole.size.tolist() == [sizes[i] for i in inside]
    pieces = [
        project(piece, frame, positions=positions, n_batches=n_batches)
        for piece in cut(block, places)
    ]
    assert_same(reduce(combine_projected, pieces), whole)
    from_right = reduce(lambda right, left: combine_projected(left, right), reversed(pieces))
    assert_same(from_right, whole)
    nothing = project(empty_block(d), frame, n_batches=n_batches)
    assert_same(combine_projected(nothing, combine_projected(whole, nothing)), whole, atol=0)


@laws
@given(seed=seeds, sizes=small_sizes, d=dimensions, c=st.sampled_from([-2.0, 0.5]))
def test_projections_scale_with_the_target_and_turn_with_the_basis(seed, sizes, d, c):
    block, frame = random_block(seed, sizes, d), random_frame(seed, d)
    basis, turn = basis_of(seed, d, d), np.eye(d)[::-1]
    expected = project(block, frame, basis, n_batches=2)
    found = project(
        replace(block, y=c * block.y),
        frame.with_offset(c * frame.offset),
        basis @ turn,
        n_batches=2,
    )
    turned = ProjectedTasks(
        turn.T @ expected.gram @ turn,
        c * expected.cross @ turn,
        c**2 * expected.square,
        expected.size,
        c * expected.halves @ turn,
    )
    assert_same(found, turned)


def restart_from(problem, mixture, *, frame):
    """One exact step of expectation-maximisation by the refinement's kernels."""
    p = problem.block.n_features + 1
    with mock.patch.object(regression, "NEGLIGIBLE", 0.0):
        sums = sums_from_block(problem.block, frame, mixture, assign="soft")
    return finalise_sums(sums, mixture, Standardiser(np.eye(p), np.eye(p)), np.eye(p))


@pytest.mark.parametrize("seed", range(3))
def test_em_ends_where_passes_over_the_rows_stay(seed):
    """With every direction kept, the projected likelihood is the likelihood."""
    problem = planted(seed, [5, 9] * 200, 3, 2, noise=1.0)
    frame = plain_frame(2)
    found = cluster(project(problem.block), 3, tol=1e-9, max_iter=2000)
    joint = block_log_likelihood(problem.block, frame, found.mixture)
    top = joint.max(axis=1)
    total = np.sum(top + np.log(np.exp(joint - top[:, None]).sum(axis=1)))
    assert found.log_likelihoods[0] == pytest.approx(total, rel=1e-9)
    again = restart_from(problem, found.mixture, frame=frame)
    np.testing.assert_allclose(again.coef, found.mixture.coef, atol=1e-3)
    np.testing.assert_allclose(again.noise_variance, found.mixture.noise_variance, rtol=1e-2)
    np.testing.assert_allclose(again.weights, found.mixture.weights, atol=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_em_in_the_subspace_recovers_planted_components(seed):
    """k = 4, d = 20: the subspace of light tasks, then EM of 200 tasks of 14 examples in it."""
    k, d = 4, 20
    problem = planted(seed, [6] * 4000 + [14] * 200, k, d, noise=0.5)
    sums = moments_from_block(problem.block, plain_frame(d), groups=0, signal_share=1 / k, seed=0)
    values, basis = top_eigenspace(finalise_moments(sums)[0], k, rng=np.random.default_rng(0))
    positions = select_largest(problem.block.sizes, 200)
    np.testing.assert_array_equal(positions, np.arange(4000, 4200))
    found = cluster(project(problem.block, None, basis, positions), k, prior=values)
    coef = found.mixture.coef @ basis.T
    error = coefficient_error(coef, problem.coef)  # the subspace's own error bounds it from below
    assert np.all(error < 0.2 * np.linalg.norm(problem.coef, axis=1))
    heavy = problem.block.tasks(4000, 4200)
    labels = block_log_likelihood(heavy, plain_frame(d), replace(found.mixture, coef=coef)).argmax(
        axis=1
    )
    assert label_accuracy(labels, problem.labels[4000:], n_components=k) > 0.97
    assert found.agreed


@pytest.mark.parametrize("seed", range(3))
def test_em_finds_more_components_than_dimensions(seed):
    """k = 6 lines over d = 1."""
    problem = planted(seed, [25] * 300, 6, 1, noise=0.1, separation=3.0)
    found = cluster(project(problem.block), 6, prior=np.full(2, 9.0))
    assert coefficient_error(found.mixture.coef, problem.coef).max() < 0.1
    assert found.agreed


@pytest.mark.parametrize("seed", range(2))
def test_em_does_not_know_the_unit_of_the_target_nor_the_axes(seed):
    problem = planted(seed, [2, 0, 1, 8] * 40, 3, 2, noise=1.0)
    tasks = project(problem.block)
    c, turn = 1e3, basis_of(seed, 2, 3)
    turned = project(replace(problem.block, y=c * problem.block.y), basis=turn)
    expected = cluster(tasks, 3)
    found = cluster(turned, 3, prior=np.full(3, c**2))
    np.testing.assert_allclose(found.mixture.coef @ turn.T, c * expected.mixture.coef, rtol=1e-4)
    np.testing.assert_allclose(
        found.mixture.noise_variance, c**2 * expected.mixture.noise_variance, rtol=1e-4
    )
    moved = -tasks.size.sum() * np.log(c)
    np.testing.assert_allclose(found.log_likelihoods, expected.log_likelihoods + moved, rtol=1e-6)


@pytest.mark.parametrize("seed", range(2))
def test_em_finds_the_same_components_in_any_order_of_tasks(seed):
    problem = planted(seed, [10] * 150, 3, 2, noise=0.5)
    tasks = project(problem.block)
    order = np.random.default_rng(seed).permutation(150)
    shuffled = ProjectedTasks(*(getattr(tasks, f.name)[order] for f in fields(ProjectedTasks)))
    found, expected = cluster(shuffled, 3), cluster(tasks, 3)
    assert coefficient_error(found.mixture.coef, expected.mixture.coef).max() < 1e-2


@pytest.mark.parametrize("n_restarts", [1, 3, 30])
def test_restarts_end_when_the_best_is_found_twice(n_restarts):
    problem = planted(0, [10] * 150, 3, 2, noise=0.3)
    found = cluster(project(problem.block), 3, n_restarts=n_restarts)
    values = found.log_likelihoods
    assert np.all(np.diff(values) <= 0)
    assert min(n_restarts, MIN_RESTARTS) <= len(values) <= n_restarts
    assert found.agreed == (n_restarts > 1)
    if n_restarts == 30:  # an easy problem needs no more than the least
        assert len(values) == MIN_RESTARTS


def test_equal_likelihoods_of_other_components_are_no_agreement():
    """Four truths on the corners of a square, two components: split either way, equally likely."""
    corners = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    X = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    y = np.concatenate([X @ w for w in corners for _ in range(5)])
    tasks = project(TaskBlock(np.tile(X, (20, 1)), y, offsets_of([4] * 20)), basis=np.eye(3)[:, 1:])
    pairs = [cluster(tasks, 2, seed=seed, n_restarts=2) for seed in range(12)]
    equal = [pair for pair in pairs if np.ptp(pair.log_likelihoods) < 1e-6]
    assert {pair.agreed for pair in equal} == {True, False}


def test_restarts_that_never_meet_are_told():
    """Eight components for tasks of pure noise: no two searches end alike."""
    block = random_block(3, [6] * 60, 4)
    found = cluster(project(block), 8, n_restarts=9)
    assert len(found.log_likelihoods) == 9
    assert not found.agreed


@pytest.mark.parametrize("seed", range(3))
def test_em_without_noise_is_exact(seed):
    problem = planted(seed, [8] * 60, 3, 2, noise=0.0)
    found = cluster(project(problem.block), 3)
    assert coefficient_error(found.mixture.coef, problem.coef).max() < 1e-3
    assert np.all(found.mixture.noise_variance > 0)


def test_em_takes_empty_tasks_and_single_examples():
    problem = planted(1, [0, 1, 12] * 60, 2, 2, noise=0.2)
    found = cluster(project(problem.block), 2)
    assert coefficient_error(found.mixture.coef, problem.coef).max() < 0.1
    assert found.mixture.weights.sum() == pytest.approx(1)


def test_em_with_a_task_for_each_component_is_finite():
    problem = planted(2, [3, 3, 3], 3, 1)
    mixture = cluster(project(problem.block), 3).mixture
    assert all(np.isfinite(getattr(mixture, f.name)).all() for f in fields(mixture))


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


@pytest.mark.parametrize("count", [-1, -4])
def test_a_negative_number_of_largest_tasks_is_refused(count):
    with pytest.raises(InputError, match=f"must not be negative, got {count}"):
        select_largest(np.array([1, 2]), count)


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_tasks_than_components_are_refused(n):
    tasks = project(random_block(0, [3] * n, 1))
    with pytest.raises(InputError, match=rf"2 components need .* two examples or more, got {n}"):
        cluster(tasks, 2)
    with pytest.raises(InputError, match=f"2 components need at least as many tasks, got {n}"):
        cluster_by_linkage(tasks, 2)


@pytest.mark.parametrize("n_restarts", [0, -1])
def test_less_than_one_restart_is_refused(n_restarts):
    with pytest.raises(InputError, match=f"n_restarts must be at least 1, got {n_restarts}"):
        cluster(project(random_block(0, [3, 3], 1)), 2, n_restarts=n_restarts)


def test_linkage_without_a_batch_is_refused():
    tasks = project(random_block(0, [3, 3], 1), n_batches=0)
    with pytest.raises(InputError, match="n_batches of at least 1, got 0"):
        cluster_by_linkage(tasks, 2)
