from __future__ import annotations

import math
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daskmlr.kernels import blocks
from daskmlr.kernels.assignment import (
    Mixture,
    block_log_likelihood,
    joint_log_likelihood,
    log_add,
    posterior,
    squared_residuals,
)
from daskmlr.kernels.blocks import Frame
from tests.kernels.drawing import (
    cut,
    cut_tasks,
    dimensions,
    empty_block,
    laws,
    plain_frame,
    planted,
    random_block,
    random_frame,
    rows_by_loop,
    seeds,
    small_sizes,
)

components = st.integers(1, 4)


def random_mixture(seed, k, d) -> Mixture:
    rng = np.random.default_rng([seed, 3])
    return Mixture(
        rng.normal(size=(k, d + 1)), rng.uniform(0.2, 2, k), rng.dirichlet(np.full(k, 2.0))
    )


def truth_of(problem, frame) -> Mixture:
    coef = frame.from_user(problem.slopes, problem.intercepts)
    return Mixture(coef, problem.noise_variance, problem.weights)


def joint_by_loop(block, frame, mixture) -> np.ndarray:
    """``log p_l + sum_j log N(r_j; a_j . w_l, s_l^2)``, one density at a time."""
    joint = np.zeros((block.n_tasks, mixture.n_components))
    for i, rows in enumerate(rows_by_loop(block, frame)):
        for c in range(mixture.n_components):
            s2 = mixture.noise_variance[c]
            joint[i, c] = math.log(mixture.weights[c])
            for a, r in rows:
                error = r - sum(a[f] * mixture.coef[c, f] for f in range(len(a)))
                joint[i, c] -= error**2 / (2 * s2) + math.log(2 * math.pi * s2) / 2
    return joint


@laws
@given(seed=seeds, sizes=small_sizes, d=dimensions, k=components)
def test_residuals_are_those_of_each_row(seed, sizes, d, k):
    block, frame = random_block(seed, sizes, d), random_frame(seed, d)
    coef = random_mixture(seed, k, d).coef
    expected = [
        [sum((r - a @ w) ** 2 for a, r in rows) for w in coef]
        for rows in rows_by_loop(block, frame)
    ]
    found = squared_residuals(*frame.rows(block), block.offsets, coef)
    np.testing.assert_allclose(found, np.reshape(expected, (-1, k)), rtol=1e-9, atol=1e-9)


@laws
@given(seed=seeds, sizes=small_sizes, d=dimensions, k=components)
def test_likelihood_is_the_product_of_normal_densities(seed, sizes, d, k):
    block, frame = random_block(seed, sizes, d), random_frame(seed, d)
    mixture = random_mixture(seed, k, d)
    np.testing.assert_allclose(
        block_log_likelihood(block, frame, mixture),
        joint_by_loop(block, frame, mixture),
        rtol=1e-9,
        atol=1e-8,
    )


@laws
@given(seed=seeds, drawn=cut_tasks(), d=dimensions, k=components)
def test_any_cut_gives_the_same_likelihoods(seed, drawn, d, k):
    sizes, places = drawn
    block, frame, mixture = (
        random_block(seed, sizes, d),
        random_frame(seed, d),
        random_mixture(seed, k, d),
    )
    whole = block_log_likelihood(block, frame, mixture)
    assert whole.shape == (len(sizes), k)
    with mock.patch.object(blocks, "CACHE_BYTES", 1):
        cuts = [block_log_likelihood(piece, frame, mixture) for piece in cut(block, places)]
    np.testing.assert_allclose(np.concatenate(cuts), whole, rtol=1e-10, atol=1e-9)


@laws
@given(seed=seeds, sizes=small_sizes, d=dimensions, k=components)
def test_posterior_is_bayes_rule(seed, sizes, d, k):
    block, mixture = random_block(seed, sizes, d), random_mixture(seed, k, d)
    joint = block_log_likelihood(block, random_frame(seed, d), mixture)
    shares, log_likelihood = posterior(joint)
    for i in range(block.n_tasks):
        top = max(joint[i])
        total = sum(math.exp(value - top) for value in joint[i])
        assert log_likelihood[i] == pytest.approx(top + math.log(total))
        expected = [math.exp(value - top) / total for value in joint[i]]
        np.testing.assert_allclose(shares[i], expected, atol=1e-12)


@laws
@given(seed=seeds, d=dimensions, k=components)
def test_an_empty_task_says_nothing_beyond_the_weights(seed, d, k):
    mixture = random_mixture(seed, k, d)
    joint = block_log_likelihood(random_block(seed, [0, 2, 0], d), random_frame(seed, d), mixture)
    shares, log_likelihood = posterior(joint)
    np.testing.assert_allclose(shares[[0, 2]], [mixture.weights] * 2)
    np.testing.assert_allclose(log_likelihood[[0, 2]], 0, atol=1e-12)


def test_an_empty_block_gives_no_rows():
    mixture = random_mixture(0, 3, 2)
    assert block_log_likelihood(empty_block(2), plain_frame(2), mixture).shape == (0, 3)


@pytest.mark.parametrize("size", [0, 1, 4])
def test_an_empty_component_takes_no_task_and_breaks_none(size):
    mixture = replace(random_mixture(0, 3, 2), weights=np.array([0.4, 0.0, 0.6]))
    joint = block_log_likelihood(random_block(0, [size], 2), plain_frame(2), mixture)
    shares, log_likelihood = posterior(joint)
    assert shares[0, 1] == 0
    assert shares.sum() == pytest.approx(1)
    assert np.isfinite(log_likelihood).all()


@laws
@given(seed=seeds, sizes=small_sizes, d=dimensions, k=components, c=st.sampled_from([-3.0, 0.1]))
def test_posteriors_do_not_know_the_unit_of_the_target(seed, sizes, d, k, c):
    """``y -> c y``: the density gains ``-t log |c|``, the posterior nothing."""
    block, frame = random_block(seed, sizes, d), random_frame(seed, d)
    mixture = random_mixture(seed, k, d)
    scaled = replace(mixture, coef=c * mixture.coef, noise_variance=c**2 * mixture.noise_variance)
    found = block_log_likelihood(
        replace(block, y=c * block.y), frame.with_offset(c * frame.offset), scaled
    )
    expected = block_log_likelihood(block, frame, mixture)
    expected -= np.reshape(sizes, (-1, 1)) * math.log(abs(c))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-8)


@laws
@given(seed=seeds, other=seeds, sizes=small_sizes, d=dimensions, k=components)
def test_likelihood_does_not_know_the_frame(seed, other, sizes, d, k):
    block = random_block(seed, sizes, d)
    mixture = random_mixture(seed, k, d)
    slopes, intercepts = mixture.coef[:, 1:], mixture.coef[:, 0]
    first, second = (
        block_log_likelihood(
            block, frame, replace(mixture, coef=frame.from_user(slopes, intercepts))
        )
        for frame in (random_frame(seed, d), random_frame(other, d))
    )
    np.testing.assert_allclose(first, second, rtol=1e-8, atol=1e-8)


@laws
@given(seed=seeds, sizes=small_sizes, d=dimensions, k=components)
def test_likelihood_turns_with_the_covariates_and_permutes_with_tasks_and_components(
    seed, sizes, d, k
):
    rng = np.random.default_rng(seed)
    block, mixture = random_block(seed, sizes, d), random_mixture(seed, k, d)
    expected = block_log_likelihood(block, plain_frame(d), mixture)
    turn = np.eye(d + 1)
    turn[1:, 1:] = np.linalg.qr(rng.normal(size=(d, d)))[0]
    turned = block_log_likelihood(
        replace(block, X=block.X @ turn[1:, 1:]),
        plain_frame(d),
        replace(mixture, coef=mixture.coef @ turn),
    )
    np.testing.assert_allclose(turned, expected, rtol=1e-9, atol=1e-8)
    order = rng.permutation(k)
    shuffled = Mixture(mixture.coef[order], mixture.noise_variance[order], mixture.weights[order])
    for i in rng.permutation(block.n_tasks):
        one = block_log_likelihood(block.tasks(i, i + 1), plain_frame(d), shuffled)
        np.testing.assert_allclose(one[0], expected[i, order], rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_posteriors_of_the_truth_are_calibrated(seed):
    """Of the tasks given posterior q for a component, a share q belongs to it."""
    problem = planted(seed, [2] * 6000, 3, 2, noise=1.5)
    shares, _ = posterior(
        block_log_likelihood(problem.block, plain_frame(2), truth_of(problem, plain_frame(2)))
    )
    belongs = np.eye(3)[problem.labels]
    for lo in (0.05, 0.3, 0.6):
        chosen = (shares > lo) & (shares < lo + 0.3)
        n = chosen.sum()
        assert n > 300
        error = np.sqrt((shares[chosen] * (1 - shares[chosen])).sum()) / n
        assert abs((belongs[chosen] - shares[chosen]).mean()) < 4 * error


@pytest.mark.parametrize("seed", range(3))
def test_single_precision_assigns_like_double(seed):
    """Covariates and target of mean 100, tasks up to 3,000 rows, in a frame."""
    problem = planted(seed, [1, 2, 5, 20] * 200 + [3000], 3, 4, mean=100.0)
    X, y = problem.block.X, problem.block.y
    frame = Frame(X.mean(axis=0), X.std(axis=0), np.append(y.mean(), np.zeros(4)))
    truth = truth_of(problem, frame)
    exact = block_log_likelihood(problem.block, frame, truth)
    single = replace(problem.block, X=X.astype(np.float32), y=y.astype(np.float32))
    found = block_log_likelihood(single, frame, truth)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, exact, rtol=2e-5, atol=5e-3)
    np.testing.assert_allclose(posterior(found)[0], posterior(exact)[0], atol=2e-3)


def test_far_tasks_do_not_underflow():
    """Likelihoods of exp(-1e6) still compare."""
    block = random_block(0, [4], 1)
    far = replace(block, y=block.y + 1e3)
    mixture = Mixture(np.array([[0.0, 0.0], [1.0, 0.0]]), np.ones(2), np.array([0.5, 0.5]))
    shares, log_likelihood = posterior(block_log_likelihood(far, plain_frame(1), mixture))
    np.testing.assert_allclose(shares, [[0, 1]], atol=1e-300)
    assert log_likelihood[0] < -1e6


def test_joint_is_in_double_precision_for_single_residuals():
    mixture = random_mixture(0, 2, 1)
    found = joint_log_likelihood(np.ones((3, 2), np.float32), np.array([1, 2, 3]), mixture)
    assert found.dtype == np.float64


@laws
@given(seed=seeds, far=st.sampled_from([1.0, 30.0, 1e4]))
def test_logarithms_are_added_as_numpy_does(seed, far):
    left, right = far * np.random.default_rng(seed).normal(size=(2, 5, 3))
    np.testing.assert_allclose(log_add(left, right), np.logaddexp(left, right), 1e-14, 1e-14)
    np.testing.assert_allclose(log_add(left, left), left + np.log(2), 1e-14, 1e-14)
