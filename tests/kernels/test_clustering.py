from __future__ import annotations

from dataclasses import fields, replace
from unittest import mock

import numpy as np
import pytest

from daskmlr.errors import InputError
from daskmlr.kernels import clustering, regression
from daskmlr.kernels.assignment import block_log_likelihood
from daskmlr.kernels.blocks import TaskBlock
from daskmlr.kernels.clustering import MIN_RESTARTS, absorption_loss, cluster_by_em
from daskmlr.kernels.metrics import coefficient_error, label_accuracy
from daskmlr.kernels.moments import finalise_moments, moments_from_block
from daskmlr.kernels.projected import ProjectedTasks, expectation, select_largest
from daskmlr.kernels.regression import finalise_sums, sums_from_block
from daskmlr.kernels.standardise import Standardiser
from daskmlr.kernels.subspace import top_eigenspace
from tests.kernels.drawing import offsets_of, plain_frame, planted, random_block
from tests.kernels.projecting import basis_of, project


def cluster(tasks, k, *, seed=0, n_restarts=12, prior=None, **settings):
    r = tasks.cross.shape[1]
    prior = np.ones(r) if prior is None else prior
    rng = np.random.default_rng(seed)
    return cluster_by_em(tasks, k, prior, n_restarts=n_restarts, rng=rng, **settings)


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
    positions = select_largest(lambda: [problem.block.sizes], 200)
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
@pytest.mark.parametrize("cheap", [False, True])
def test_restarts_end_when_the_best_is_found_twice(cheap, n_restarts, monkeypatch):
    """An easy problem needs no more than the least, a cheap one as many again."""
    problem = planted(0, [10] * 150, 3, 2, noise=0.3)
    tasks = project(problem.block)
    step = 150 * 3 * tasks.cross.shape[1] ** 2
    monkeypatch.setattr(clustering, "CHEAP_STEP", step if cheap else step - 1)
    found = cluster(tasks, 3, n_restarts=n_restarts)
    values = found.log_likelihoods
    assert np.all(np.diff(values) <= 0)
    assert len(values) == min(n_restarts, 2 * MIN_RESTARTS if cheap else MIN_RESTARTS)
    assert found.agreed == (n_restarts > 1)


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


def test_absorption_loss_is_that_of_the_mixture_without_the_component():
    problem = planted(0, [3, 6] * 60, 4, 2, noise=2.0)
    tasks = project(problem.block)
    mixture = cluster(tasks, 4).mixture
    now = expectation(tasks, mixture)
    loss = absorption_loss(now.posterior, mixture.weights)
    assert np.all(np.isinf(np.diag(loss)))
    for leaving in range(4):
        for heir in set(range(4)) - {leaving}:
            weights = mixture.weights.copy()
            weights[heir] += weights[leaving]
            weights[leaving] = 0
            without = expectation(tasks, replace(mixture, weights=weights))
            expected = (now.log_likelihood - without.log_likelihood).sum()
            assert loss[leaving, heir] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_search_finds_the_components_that_em_lost(seed):
    problem = planted(seed, [12] * 600, 12, 5, noise=0.5)
    tasks = project(problem.block)
    with mock.patch.object(clustering, "MAX_FAILURES", 0):
        stuck = cluster(tasks, 12, n_restarts=1)
    assert coefficient_error(stuck.mixture.coef, problem.coef).max() > 0.5
    found = cluster(tasks, 12, n_restarts=1)
    assert found.log_likelihoods[0] > stuck.log_likelihoods[0]
    assert coefficient_error(found.mixture.coef, problem.coef).max() < 0.2


def test_the_search_does_not_grow_a_component_that_interpolates():
    """Tasks smaller than the coefficients: one that fits a task exactly has no likelihood."""
    problem = planted(0, [4] * 60, 2, 7, noise=0.5)
    found = cluster(project(problem.block), 4)
    assert found.mixture.noise_variance.min() > 0.05


def test_a_rival_is_the_optimum_from_equal_noises():
    """One task in ten is much noisier: a component of those alone is likelier among these."""
    problem = planted(2, [6] * 600, 4, 3, noise=0.5, separation=0.7)
    rng = np.random.default_rng(2)
    noisy = np.repeat(rng.random(600) < 0.1, 6)
    y = problem.block.y + 1.5 * noisy * rng.normal(size=3600)
    found = cluster(project(replace(problem.block, y=y)), 4)
    assert np.sqrt(found.mixture.noise_variance.max()) > 1.2
    assert coefficient_error(found.mixture.coef, problem.coef).max() > 0.3
    assert coefficient_error(found.rival.coef, problem.coef).max() < 0.15
    assert cluster(project(problem.block), 4).rival is None


def test_with_heavy_tails_equal_noises_are_a_rival_though_they_end_at_the_same():
    problem = planted(2, [6] * 600, 4, 3, noise=0.0)
    y = problem.block.y + 0.2 * np.random.default_rng(2).standard_t(4, size=3600)
    found = cluster(project(replace(problem.block, y=y)), 4)
    assert np.array_equal(found.rival.coef, found.mixture.coef)
    assert np.ptp(found.rival.noise_variance) == 0 < np.ptp(found.mixture.noise_variance)


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


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_tasks_than_components_are_refused(n):
    tasks = project(random_block(0, [3] * n, 1))
    with pytest.raises(InputError, match=rf"2 components need .* two examples or more, got {n}"):
        cluster(tasks, 2)


@pytest.mark.parametrize("n_restarts", [0, -1])
def test_less_than_one_restart_is_refused(n_restarts):
    with pytest.raises(InputError, match=f"n_restarts must be at least 1, got {n_restarts}"):
        cluster(project(random_block(0, [3, 3], 1)), 2, n_restarts=n_restarts)
