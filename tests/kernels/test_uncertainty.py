from __future__ import annotations

import tracemalloc
from dataclasses import fields, replace
from functools import reduce
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daskmlr import plan
from daskmlr.errors import InformationError
from daskmlr.kernels import uncertainty
from daskmlr.kernels.assignment import Mixture, block_log_likelihood, posterior
from daskmlr.kernels.blocks import Frame, Part, TaskBlock
from daskmlr.kernels.uncertainty import (
    InformationSums,
    combine_information,
    covariance_to_user,
    covariances,
    finalise_information,
    information_from_block,
    n_parameters,
)
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

components = st.integers(1, 4)


def random_mixture(seed, k, d) -> Mixture:
    """Noise variances of 2 to 9, so that most posteriors are neither 0 nor 1."""
    rng = np.random.default_rng([seed, 4])
    return Mixture(
        rng.normal(size=(k, d + 1)), rng.uniform(2, 9, k), rng.dirichlet(np.full(k, 5.0))
    )


def information_of(block, frame, mixture):
    return finalise_information(information_from_block(block, frame, mixture), mixture)


def covariances_of(problem, frame=None):
    """Covariances at the maximum near the truth of a planted problem, and that maximum."""
    frame = plain_frame(problem.block.n_features) if frame is None else frame
    coef = frame.from_user(problem.slopes, problem.intercepts)
    mixture = climb(problem.block, frame, Mixture(coef, problem.noise_variance, problem.weights))
    return covariances(information_of(problem.block, frame, mixture)), mixture


def pack(mixture) -> np.ndarray:
    own = np.column_stack([mixture.coef, np.log(mixture.noise_variance)])
    return np.append(own.ravel(), np.log(mixture.weights[1:] / mixture.weights[0]))


def unpack(values, k) -> Mixture:
    d = (len(values) + 1) // k - 3
    own = values[: k * (d + 2)].reshape(k, d + 2)
    weights = np.exp(np.append(0.0, values[k * (d + 2) :]))
    return Mixture(own[:, :-1], np.exp(own[:, -1]), weights / weights.sum())


def climb(block, frame, mixture, steps=20) -> Mixture:
    """Newton's steps on the log-likelihood."""
    at = pack(mixture)
    for _ in range(steps):
        information = information_of(block, frame, unpack(at, mixture.n_components))
        at = at + np.linalg.solve(information.observed, information.score)
    return unpack(at, mixture.n_components)


def information_by_loop(block, frame, mixture):
    """Louis' identity with every complete-data score and information written out in full."""
    k, d = mixture.n_components, block.n_features
    p = n_parameters(d, k)
    observed, outer, score = np.zeros((p, p)), np.zeros((p, p)), np.zeros(p)
    shares, _ = posterior(block_log_likelihood(block, frame, mixture))
    ratios = np.diag(mixture.weights) - np.outer(mixture.weights, mixture.weights)
    for i, rows in enumerate(rows_by_loop(block, frame)):
        expected, missing = np.zeros(p), np.zeros((p, p))
        for c in range(k):
            s2, at = mixture.noise_variance[c], c * (d + 2)
            s, C = np.zeros(p), np.zeros((p, p))
            s[at + d + 1] = -len(rows) / 2
            for a, r in rows:
                e = r - a @ mixture.coef[c]
                s[at : at + d + 1] += a * e / s2
                s[at + d + 1] += e**2 / (2 * s2)
                C[at : at + d + 1, at : at + d + 1] += np.outer(a, a) / s2
                C[at : at + d + 1, at + d + 1] += a * e / s2
                C[at + d + 1, at : at + d + 1] += a * e / s2
                C[at + d + 1, at + d + 1] += e**2 / (2 * s2)
            s[k * (d + 2) :] = ((np.arange(k) == c) - mixture.weights)[1:]
            C[k * (d + 2) :, k * (d + 2) :] = ratios[1:, 1:]
            expected += shares[i, c] * s
            missing += shares[i, c] * (C - np.outer(s, s))
        observed += missing + np.outer(expected, expected)
        outer += np.outer(expected, expected)
        score += expected
    return observed, outer, score


def assert_close(found, expected, tolerance=1e-8):
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * scale)


def assert_same_sums(found: InformationSums, expected: InformationSums):
    for field in fields(InformationSums):
        assert_close(getattr(found, field.name), getattr(expected, field.name))


@laws
@given(seed=seeds, sizes=small_sizes, d=dimensions, k=components)
def test_information_is_that_of_the_formula(seed, sizes, d, k):
    block, frame = random_block(seed, sizes, d), random_frame(seed, d)
    mixture = random_mixture(seed, k, d)
    with mock.patch.object(uncertainty, "NEGLIGIBLE", 0):
        found = information_of(block, frame, mixture)
    expected = information_by_loop(block, frame, mixture)
    for mine, theirs in zip((found.observed, found.outer, found.score), expected, strict=True):
        assert_close(mine, theirs)
    assert found.mass.sum() == pytest.approx(len(sizes))


@pytest.mark.parametrize(("k", "d"), [(1, 2), (2, 1), (3, 2)])
def test_information_is_minus_the_second_derivative(k, d):
    """Of the log-likelihood that `assignment` computes, by differences, away from its maximum."""
    block, frame, mixture = (
        random_block(8, [0, 1, 2, 5, 9] * 8, d), random_frame(8, d), random_mixture(8, k, d),
    )  # fmt: skip

    def log_likelihood(values):
        return posterior(block_log_likelihood(block, frame, unpack(values, k)))[1].sum()

    at, h = pack(mixture), 1e-3
    steps = h * np.eye(len(at))
    first = [(log_likelihood(at + e) - log_likelihood(at - e)) / (2 * h) for e in steps]
    second = [
        [
            sum(s * t * log_likelihood(at + s * e + t * f) for s in (1, -1) for t in (1, -1))
            / (4 * h * h)
            for f in steps
        ]
        for e in steps
    ]
    with mock.patch.object(uncertainty, "NEGLIGIBLE", 0):
        found = information_of(block, frame, mixture)
    assert_close(found.score, np.array(first), 1e-4)
    assert_close(found.observed, -np.array(second), 1e-4)


@laws
@given(seed=seeds, drawn=cut_tasks(), d=dimensions, k=components)
def test_any_cut_gives_the_same_sums(seed, drawn, d, k):
    sizes, places = drawn
    block, frame = random_block(seed, sizes, d), random_frame(seed, d)
    mixture = random_mixture(seed, k, d)
    whole = information_from_block(block, frame, mixture)
    with (
        mock.patch.object(uncertainty, "ROWS_BYTES", 1),  # pieces of 256 rows
        mock.patch.object(uncertainty, "SCORES_BYTES", 1),  # of one task
    ):
        sums = [information_from_block(piece, frame, mixture) for piece in cut(block, places)]
    assert_same_sums(reduce(combine_information, sums), whole)


@laws
@given(seed=seeds, drawn=cut_tasks(), d=dimensions, k=components)
def test_a_part_is_as_if_its_tasks_were_all(seed, drawn, d, k):
    sizes, places = drawn
    block, frame = random_block(seed, sizes, d), random_frame(seed, d)
    mixture = random_mixture(seed, k, d)
    excluded = np.flatnonzero(np.random.default_rng(seed).random(len(sizes)) < 0.3)
    kept = np.setdiff1d(np.arange(len(sizes)), excluded)
    wanted = information_from_block(block.take(kept), frame, mixture)
    part = Part(0, 1, 0, block.first_task + excluded)
    sums = [information_from_block(piece, frame, mixture, part) for piece in cut(block, places)]
    found = reduce(combine_information, sums)
    assert found.n_tasks == len(kept)
    assert_same_sums(found, wanted)


@laws
@given(seed=seeds, d=dimensions, k=components)
def test_a_sum_over_no_task_is_the_identity(seed, d, k):
    frame, mixture = random_frame(seed, d), random_mixture(seed, k, d)
    nothing = information_from_block(empty_block(d), frame, mixture)
    some = information_from_block(random_block(seed, [3, 1], d), frame, mixture)
    assert nothing.n_tasks == 0
    assert_same_sums(combine_information(nothing, some), some)
    assert_same_sums(combine_information(some, nothing), some)


@laws
@given(seed=seeds, sizes=small_sizes, dtype=dtypes, factor=st.sampled_from([1e-3, 7.0, 1e4]))
def test_the_unit_of_the_target_scales_the_scores(seed, sizes, dtype, factor):
    block, frame = random_block(seed, sizes, 2, dtype=dtype), plain_frame(2)
    mixture = random_mixture(seed, 3, 2)
    larger = Mixture(factor * mixture.coef, factor**2 * mixture.noise_variance, mixture.weights)
    scaled = TaskBlock(block.X, block.y * dtype(factor), block.offsets)
    per_parameter = np.append(np.tile([factor, factor, factor, 1.0], 3), [1.0, 1.0])
    found = information_of(scaled, frame, larger)
    expected = information_of(block, frame, mixture)
    tolerance = 1e-8 if dtype == np.float64 else 1e-3
    assert_close(
        found.observed * np.outer(per_parameter, per_parameter), expected.observed, tolerance
    )
    assert_close(found.score * per_parameter, expected.score, tolerance)


def test_neither_frame_nor_order_of_tasks_nor_of_components_matters():
    problem = planted(5, [4] * 400, 3, 2, noise=1.0)
    found, mixture = covariances_of(problem)
    expected = covariance_to_user(found.sandwich, plain_frame(2), mixture)
    for frame in (random_frame(1, 2), random_frame(2, 2)):
        other, moved = covariances_of(problem, frame)
        assert_close(covariance_to_user(other.sandwich, frame, moved), expected, 1e-6)

    order = np.random.default_rng(0).permutation(400)
    index = (4 * order[:, None] + np.arange(4)).ravel()
    shuffled = TaskBlock(problem.block.X[index], problem.block.y[index], problem.block.offsets)
    turn = [2, 0, 1]
    turned = Mixture(mixture.coef[turn], mixture.noise_variance[turn], mixture.weights[turn])
    again = covariances(information_of(shuffled, plain_frame(2), turned))
    found_again = covariance_to_user(again.sandwich, plain_frame(2), turned)
    place = np.append(np.arange(12).reshape(3, 4)[turn].ravel(), 12 + np.array(turn))
    assert_close(found_again, expected[np.ix_(place, place)], 1e-6)


def test_one_component_has_the_textbook_covariances():
    problem = planted(3, [1, 2, 6] * 50, 1, 3)
    found, mixture = covariances_of(problem)
    block = problem.block
    A = np.column_stack([np.ones(block.n_rows), block.X])
    inverse = np.linalg.inv(A.T @ A)
    error = block.y - A @ mixture.coef[0]
    assert_close(found.observed[:4, :4], inverse * (error @ error) / block.n_rows, 1e-7)
    totals = np.add.reduceat(A * error[:, None], block.offsets[:-1])
    assert_close(found.sandwich[:4, :4], inverse @ totals.T @ totals @ inverse, 1e-7)
    assert found.observed[4, 4] == pytest.approx(2 / block.n_rows)


def test_known_labels_leave_each_component_its_own_least_squares():
    problem = planted(3, [8] * 90, 3, 2, noise=0.02, separation=3)
    found, mixture = covariances_of(problem)
    for component in range(3):
        mine = np.repeat(problem.labels == component, 8)
        A = np.column_stack([np.ones(mine.sum()), problem.block.X[mine]])
        expected = mixture.noise_variance[component] * np.linalg.inv(A.T @ A)
        own = slice(4 * component, 4 * component + 3)
        assert_close(found.observed[own, own] / expected.max(), expected / expected.max(), 1e-6)
    shares = np.bincount(problem.labels) / 90
    expected = (np.diag(shares) - np.outer(shares, shares)) / 90
    user = covariance_to_user(found.observed, plain_frame(2), mixture)
    assert_close(user[-3:, -3:], expected, 1e-6)


def test_uncertain_labels_cost_precision():
    near = planted(4, [3] * 3000, 2, 2, noise=1.5, separation=0.7)
    found, mixture = covariances_of(near)
    mine = np.repeat(near.labels == 0, 3)
    A = np.column_stack([np.ones(mine.sum()), near.block.X[mine]])
    known = mixture.noise_variance[0] * np.linalg.inv(A.T @ A)
    assert (np.diag(found.observed)[:3] > 1.2 * np.diag(known)).all()


@pytest.mark.parametrize("seed", range(3))
def test_both_informations_agree_when_the_model_holds(seed):
    problem = planted(seed, [5] * 20_000, 2, 2, noise=1.0)
    truth = Mixture(problem.coef, problem.noise_variance, problem.weights)
    information = information_of(problem.block, plain_frame(2), truth)
    found, _ = covariances_of(problem)
    error = np.sqrt(np.diag(information.observed))
    gap = (information.outer - information.observed) / np.outer(error, error)
    assert np.abs(gap).max() < 0.06
    ratio = np.diag(found.sandwich) / np.diag(found.observed)
    np.testing.assert_allclose(ratio, 1, atol=0.08)


def test_the_sandwich_sees_noise_that_depends_on_a_covariate():
    """Noise of variance ``h^2 = (1 + 4 x_0^2) / 5``: ``E[x_0^2 h^2] = 13 / 5``, others 1."""
    problem = planted(2, [5] * 8000, 2, 2, noise=0.05, separation=3)
    z, X = np.repeat(problem.labels, 5), problem.block.X
    mean = problem.intercepts[z] + np.sum(problem.slopes[z] * X, axis=1)
    y = mean + (problem.block.y - mean) * np.sqrt((1 + 4 * X[:, 0] ** 2) / 5)
    found, _ = covariances_of(replace(problem, block=replace(problem.block, y=y)))
    ratio = np.diag(found.sandwich) / np.diag(found.observed)
    for at in (0, 4):
        np.testing.assert_allclose(ratio[at : at + 3], [1, 13 / 5, 1], rtol=0.1)


def test_the_sandwich_sees_what_tasks_share():
    """Each example of a task given twice: the same evidence, which the model takes for double."""
    problem = planted(6, [3] * 600, 2, 2, noise=0.3, separation=2)
    twice = np.repeat(np.arange(problem.block.n_rows), 2)
    doubled = TaskBlock(problem.block.X[twice], problem.block.y[twice], offsets_of([6] * 600))
    once, _ = covariances_of(problem)
    found, _ = covariances_of(replace(problem, block=doubled))
    for mine, theirs in ((found.sandwich, 1.0), (found.observed, 0.5)):
        ratio = np.diag(mine)[[0, 1, 2, 4, 5, 6]] / np.diag(once.sandwich)[[0, 1, 2, 4, 5, 6]]
        np.testing.assert_allclose(ratio, theirs, rtol=0.25)


def test_the_delta_method_is_the_derivative_of_the_users_parameters():
    frame, mixture = random_frame(2, 2), random_mixture(2, 3, 2)

    def user(values):
        found = unpack(values, 3)
        slopes, intercepts = frame.to_user(found.coef)
        own = np.column_stack([intercepts, slopes, found.noise_variance])
        return np.append(own.ravel(), found.weights)

    at, h = pack(mixture), 1e-5
    J = np.array([(user(at + e) - user(at - e)) / (2 * h) for e in h * np.eye(len(at))]).T
    L = np.random.default_rng(0).normal(size=(len(at), len(at)))
    assert_close(covariance_to_user(L @ L.T, frame, mixture), J @ (L @ L.T) @ J.T, 1e-7)


@pytest.mark.parametrize("separation", [0.6, 2.0])
def test_negligible_posteriors_move_no_fourth_digit(separation):
    problem = planted(3, [6] * 2000, 5, 3, noise=1.0, separation=separation)
    _, mixture = covariances_of(problem)
    found = covariances(information_of(problem.block, plain_frame(3), mixture))
    with mock.patch.object(uncertainty, "NEGLIGIBLE", 0):
        exact = covariances(information_of(problem.block, plain_frame(3), mixture))
    for name in ("observed", "sandwich"):
        errors = [np.sqrt(np.diag(getattr(c, name))) for c in (found, exact)]
        np.testing.assert_allclose(*errors, rtol=1e-4)
        assert np.abs(errors[0] - errors[1]).max() > 0  # some were left out


def test_single_precision_costs_few_digits():
    problem = planted(7, [6] * 2000, 3, 3, noise=0.7, mean=5.0)
    coef = problem.coef
    frame = Frame(np.full(3, 5.0), np.ones(3), np.zeros(4))
    mixture = Mixture(
        frame.from_user(coef[:, 1:], coef[:, 0]), problem.noise_variance, problem.weights
    )
    block = problem.block
    single = TaskBlock(block.X.astype(np.float32), block.y.astype(np.float32), block.offsets)
    exact, found = (
        np.sqrt(np.diag(covariances(information_of(b, frame, mixture)).sandwich))
        for b in (block, single)
    )
    np.testing.assert_allclose(found, exact, rtol=1e-4)


def test_the_shortfall_is_the_distance_from_the_maximum():
    problem = planted(5, [5] * 500, 2, 2)
    found, mixture = covariances_of(problem)
    assert found.shortfall < 1e-6
    error = np.sqrt(found.observed[1, 1])
    moved = mixture.coef.copy()
    moved[0, 1] += 0.5 * error
    there = covariances(information_of(problem.block, plain_frame(2), replace(mixture, coef=moved)))
    assert there.shortfall == pytest.approx(0.5, rel=0.05)


def test_memory_of_the_inversion_is_what_the_plan_says():
    k, d = 4, 60
    problem = planted(1, [8] * 2000, k, d, noise=1.0)
    mixture, frame = Mixture(problem.coef, problem.noise_variance, problem.weights), plain_frame(d)
    sums = information_from_block(problem.block, frame, mixture)
    matrix = 8 * n_parameters(d, k) ** 2
    tracemalloc.start()
    found = covariances(finalise_information(sums, mixture))
    for covariance in (found.observed, found.sandwich):
        covariance_to_user(covariance, frame, mixture)
    peak = tracemalloc.get_traced_memory()[1] / matrix + 1  # the sums were there before
    tracemalloc.stop()
    assert 0.6 * plan.INVERSION_MATRICES < peak < plan.INVERSION_MATRICES
    held = sum(getattr(sums, f.name).nbytes for f in fields(InformationSums)[:4])
    assert held == pytest.approx(plan.sum_bytes_of_uncertainty(d, k), rel=0.02)


@pytest.mark.parametrize("weight", [0.0, 1e-7])
def test_an_empty_component_is_an_error_that_names_it(weight):
    problem = planted(5, [4] * 200, 2, 2)
    coef = np.vstack([problem.coef, [[50.0, 0.0, 0.0]]])
    weights = np.append(problem.weights * (1 - weight), weight)
    empty = Mixture(coef, np.full(3, 0.25), weights)
    with pytest.raises(InformationError, match=r"1 of 3 .* of the 200 tasks: 2 \(.*at most 2"):
        covariances(information_of(problem.block, plain_frame(2), empty))


def test_duplicate_components_are_an_error_that_names_them():
    problem = planted(5, [4] * 200, 2, 2)
    coef = problem.coef[[0, 1, 1]]
    weights = problem.weights[[0, 1, 1]] / [1, 2, 2]
    double = Mixture(coef, np.full(3, 0.25), weights)
    with pytest.raises(InformationError, match=r"200 tasks do not .* components 1 \(.*, 2 \("):
        covariances(information_of(problem.block, plain_frame(2), double))


def test_a_covariate_that_a_component_never_varies_is_an_error_with_the_eigenvalue():
    problem = planted(5, [4] * 200, 2, 2, separation=3, noise=0.1)
    z = np.repeat(problem.labels, 4)
    X = problem.block.X.copy()
    X[z == 1, 1] = 0
    y = problem.intercepts[z] + np.sum(problem.slopes[z] * X, axis=1)
    y += 0.1 * np.random.default_rng(0).normal(size=len(y))
    mixture = Mixture(problem.coef, np.full(2, 0.01), problem.weights)
    block = TaskBlock(X, y, problem.block.offsets)
    with pytest.raises(InformationError, match=r"eigenvalue -?\d.*in components 1 \("):
        covariances(information_of(block, plain_frame(2), mixture))


def test_no_task_is_an_error():
    mixture = random_mixture(0, 2, 2)
    with pytest.raises(InformationError, match="less than one of the 0 tasks"):
        covariances(information_of(empty_block(2), plain_frame(2), mixture))
