from __future__ import annotations

from dataclasses import fields, replace
from functools import reduce
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daskmlr.errors import InputError
from daskmlr.kernels import blocks, regression
from daskmlr.kernels.assignment import Mixture, block_log_likelihood, posterior
from daskmlr.kernels.blocks import Frame, Part, TaskBlock
from daskmlr.kernels.moments import finalise_moments, moments_from_block
from daskmlr.kernels.regression import (
    NEGLIGIBLE,
    NOISE_FLOOR,
    ComponentSums,
    combine_sums,
    finalise_sums,
    sums_from_block,
    without_negligible,
)
from daskmlr.kernels.standardise import Standardiser, standardiser_from_gram
from daskmlr.kernels.subspace import top_eigenspace
from tests.kernels.drawing import (
    cut,
    cut_tasks,
    dimensions,
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
ways = st.sampled_from(["soft", "hard"])
parts = st.sampled_from([None, Part(0, 2, 11), Part(2, 3, 5)])


def random_mixture(seed, k, d) -> Mixture:
    """Noise variances of 2 to 9, so that most posteriors are neither 0 nor 1."""
    rng = np.random.default_rng([seed, 4])
    return Mixture(
        rng.normal(size=(k, d + 1)), rng.uniform(2, 9, k), rng.dirichlet(np.full(k, 5.0))
    )


def assert_same(found: ComponentSums, expected: ComponentSums, rtol=1e-9) -> None:
    atol = rtol * max(1.0, float(np.abs(expected.gram).max(initial=0)))
    for field in fields(ComponentSums):
        np.testing.assert_allclose(
            getattr(found, field.name),
            getattr(expected, field.name),
            rtol=rtol,
            atol=atol,
            err_msg=field.name,
        )


def sums_by_loop(block, frame, mixture, assign, part) -> ComponentSums:
    """Bayes' rule for each task, then row by row; shares under 0.001 add to no gram."""
    k, d = mixture.n_components, block.n_features
    gram, mass, total, n_rows, n_tasks = np.zeros((k, d + 2, d + 2)), np.zeros(k), 0.0, 0, 0
    for i, rows in enumerate(rows_by_loop(block, frame)):
        place = block.first_task + i
        if part is not None and not part.holds(place, place + 1)[0]:
            continue
        joint = np.log(mixture.weights)
        for a, r in rows:
            error = r - mixture.coef @ a
            joint = joint - error**2 / (2 * mixture.noise_variance)
            joint = joint - np.log(2 * np.pi * mixture.noise_variance) / 2
        density = np.exp(joint - joint.max())
        share = density / density.sum()
        if assign == "hard":
            share = np.array([float(c == np.argmax(joint)) for c in range(k)])
        total += joint.max() + np.log(density.sum())
        mass += share
        n_rows += len(rows)
        n_tasks += 1
        kept = [share[c] if share[c] >= NEGLIGIBLE else 0.0 for c in range(k)]
        for a, r in rows:
            both = np.append(a, r)
            for c in range(k):
                gram[c] += kept[c] / sum(kept) * np.outer(both, both)
    return ComponentSums(gram, mass, total, n_rows, n_tasks)


def test_negligible_posteriors_go_to_the_others():
    shares = np.array([[0.5, 0.5 - NEGLIGIBLE / 2, NEGLIGIBLE / 2], [0.0, 0.0, 0.0], [0, 1, 0]])
    kept = without_negligible(shares)
    assert kept[0, 2] == 0
    np.testing.assert_allclose(kept[0, :2], shares[0, :2] / (1 - NEGLIGIBLE / 2))
    np.testing.assert_array_equal(kept[1:], shares[1:])


@laws
@given(seed=seeds, sizes=small_sizes, d=dimensions, k=components, assign=ways, part=parts)
def test_sums_are_those_of_the_formula(seed, sizes, d, k, assign, part):
    block, frame = random_block(seed, sizes, d, first_task=seed % 97), random_frame(seed, d)
    mixture = random_mixture(seed, k, d)
    found = sums_from_block(block, frame, mixture, assign=assign, part=part)
    assert_same(found, sums_by_loop(block, frame, mixture, assign, part))


@laws
@given(seed=seeds, drawn=cut_tasks(), d=dimensions, k=components, assign=ways, part=parts)
def test_any_cut_gives_the_same_sums(seed, drawn, d, k, assign, part):
    sizes, places = drawn
    block, frame = random_block(seed, sizes, d, first_task=5), random_frame(seed, d)
    mixture = random_mixture(seed, k, d)
    whole = sums_from_block(block, frame, mixture, assign=assign, part=part)
    with (  # small pieces
        mock.patch.object(blocks, "PIECE_BYTES", 1),
        mock.patch.object(regression, "ROWS_PER_COMPONENT", 64),
    ):
        sums = [
            sums_from_block(piece, frame, mixture, assign=assign, part=part)
            for piece in cut(block, places)
        ]
    assert_same(reduce(combine_sums, sums), whole)


@laws
@given(seed=seeds, drawn=cut_tasks(), d=dimensions, k=components, assign=ways)
def test_combining_is_associative_and_has_an_identity(seed, drawn, d, k, assign):
    sizes, places = drawn
    block, frame = random_block(seed, sizes, d), random_frame(seed, d)
    mixture = random_mixture(seed, k, d)
    sums = [sums_from_block(piece, frame, mixture, assign=assign) for piece in cut(block, places)]
    from_left = reduce(combine_sums, sums)
    assert_same(reduce(lambda right, left: combine_sums(left, right), reversed(sums)), from_left)
    nothing = sums_from_block(empty_block(d), frame, mixture, assign=assign)
    assert_same(combine_sums(nothing, from_left), from_left, rtol=0)
    assert_same(combine_sums(from_left, nothing), from_left, rtol=0)


@laws
@given(seed=seeds, drawn=cut_tasks(), d=dimensions, k=components, assign=ways, part=parts)
def test_adding_onto_a_sum_is_combining_with_it(seed, drawn, d, k, assign, part):
    sizes, places = drawn
    block, frame = random_block(seed, sizes, d), random_frame(seed, d)
    mixture = random_mixture(seed, k, d)
    options = {"assign": assign, "part": part}
    pieces = list(cut(block, places))
    sums = [sums_from_block(piece, frame, mixture, **options) for piece in pieces]
    onto = None
    for piece in pieces:
        onto = sums_from_block(piece, frame, mixture, **options, onto=onto)
    assert_same(onto, reduce(combine_sums, sums))


@laws
@given(seed=seeds, drawn=cut_tasks(), d=dimensions, k=components, assign=ways)
def test_parts_add_up_to_the_whole(seed, drawn, d, k, assign):
    sizes, _ = drawn
    block, frame = random_block(seed, sizes, d), random_frame(seed, d)
    mixture = random_mixture(seed, k, d)
    whole = sums_from_block(block, frame, mixture, assign=assign)
    thirds = [
        sums_from_block(block, frame, mixture, assign=assign, part=Part(i, 3, seed))
        for i in range(3)
    ]
    assert_same(reduce(combine_sums, thirds), whole)


def white(block, frame) -> Standardiser:
    a = frame.augment(block)[:, :-1].astype(np.float64)
    names = [f"f{i}" for i in range(block.n_features)]
    return standardiser_from_gram(a.T @ a, names, block.X.dtype)


def one_pass(block, frame, mixture, *, assign="soft", basis=None, part=None):
    """The next mixture and the log-likelihood of this one; solved in all directions by default."""
    if basis is None:
        basis = np.eye(block.n_features + 1)
    sums = sums_from_block(block, frame, mixture, assign=assign, part=part)
    return finalise_sums(sums, mixture, white(block, frame), basis), sums.log_likelihood


def in_frame(problem, frame) -> Mixture:
    coef = frame.from_user(problem.slopes, problem.intercepts)
    return Mixture(coef, problem.noise_variance, problem.weights)


@pytest.mark.parametrize("assign", ["soft", "hard"])
@pytest.mark.parametrize("seed", range(3))
def test_a_pass_is_weighted_least_squares_of_every_component(seed, assign):
    problem = planted(seed, [3] * 200, 3, 2, noise=1.5)
    block, frame = problem.block, random_frame(seed, 2)
    start = in_frame(problem, frame)
    found, _ = one_pass(block, frame, start, assign=assign)
    shares, _ = posterior(block_log_likelihood(block, frame, start))
    if assign == "hard":
        shares = (shares == shares.max(axis=1, keepdims=True)).astype(float)
    np.testing.assert_allclose(found.weights, shares.mean(axis=0))
    rows = frame.augment(block)
    for c in range(3):
        share = np.repeat(without_negligible(shares)[:, c], 3)
        root = np.sqrt(share)[:, None]
        coef = np.linalg.lstsq(root * rows[:, :-1], root[:, 0] * rows[:, -1], rcond=None)[0]
        np.testing.assert_allclose(found.coef[c], coef, atol=1e-8)
        noise = (share * (rows[:, -1] - rows[:, :-1] @ coef) ** 2).sum() / share.sum()
        np.testing.assert_allclose(found.noise_variance[c], noise, rtol=1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_a_pass_in_any_frame_gives_the_same_regressions_in_the_users_units(seed):
    problem = planted(seed, [4] * 300, 3, 3, noise=1.0, mean=10.0)
    fits = []
    for frame in (plain_frame(3), random_frame(seed, 3), random_frame(seed + 100, 3)):
        mixture = in_frame(problem, frame)
        for _ in range(3):
            mixture, log_likelihood = one_pass(problem.block, frame, mixture)
        slopes, intercepts = frame.to_user(mixture.coef)
        fits.append((slopes, intercepts, mixture.noise_variance, log_likelihood))
    for fit in fits[1:]:
        for found, expected in zip(fit, fits[0], strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("c", [-2.0, 1e-3])
@pytest.mark.parametrize("seed", range(2))
def test_a_pass_scales_with_the_target_and_turns_with_the_covariates(seed, c):
    problem = planted(seed, [4] * 300, 3, 3, noise=1.0)
    start, frame = in_frame(problem, plain_frame(3)), plain_frame(3)
    expected, log_likelihood = one_pass(problem.block, frame, start)
    turn = np.eye(4)
    turn[1:, 1:] = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    block = replace(problem.block, X=problem.block.X @ turn[1:, 1:], y=c * problem.block.y)
    scaled = Mixture(c * start.coef @ turn, c**2 * start.noise_variance, start.weights)
    found, scaled_likelihood = one_pass(block, frame, scaled)
    np.testing.assert_allclose(found.coef, c * expected.coef @ turn, atol=1e-8 * abs(c))
    np.testing.assert_allclose(found.noise_variance, c**2 * expected.noise_variance, rtol=1e-8)
    np.testing.assert_allclose(found.weights, expected.weights, atol=1e-10)
    moved = -block.n_rows * np.log(abs(c))
    assert scaled_likelihood == pytest.approx(log_likelihood + moved, rel=1e-10)


@pytest.mark.parametrize("seed", range(2))
def test_the_order_of_tasks_and_of_components_does_not_matter(seed):
    problem = planted(seed, [4, 1, 0, 2] * 80, 3, 2, noise=1.0)
    frame = plain_frame(2)
    rng = np.random.default_rng(seed)
    start = in_frame(problem, frame)
    expected, _ = one_pass(problem.block, frame, start)
    tasks = [problem.block.tasks(i, i + 1) for i in rng.permutation(problem.block.n_tasks)]
    shuffled = TaskBlock(
        np.concatenate([task.X for task in tasks]),
        np.concatenate([task.y for task in tasks]),
        offsets_of([task.n_rows for task in tasks]),
    )
    order = rng.permutation(3)
    found, _ = one_pass(
        shuffled,
        frame,
        Mixture(start.coef[order], start.noise_variance[order], start.weights[order]),
    )
    np.testing.assert_allclose(found.coef, expected.coef[order], atol=1e-8)
    np.testing.assert_allclose(found.noise_variance, expected.noise_variance[order])
    np.testing.assert_allclose(found.weights, expected.weights[order])


@pytest.mark.parametrize("assign", ["soft", "hard"])
@pytest.mark.parametrize("seed", range(4))
def test_passes_from_the_truth_stay_at_it(seed, assign):
    """Well separated, so hard labels have no bias: within 5 standard errors after 3 passes."""
    problem = planted(seed, [12] * 1500, 3, 3, noise=0.3, separation=2.0)
    frame = random_frame(seed, 3)
    mixture = in_frame(problem, frame)
    for _ in range(3):
        mixture, _ = one_pass(problem.block, frame, mixture, assign=assign)
    slopes, intercepts = frame.to_user(mixture.coef)
    n = 12 * 1500 * problem.weights[:, None]
    error = np.column_stack([intercepts, slopes]) - problem.coef
    assert np.all(np.abs(error) < 5 * 0.3 / np.sqrt(n))
    np.testing.assert_allclose(mixture.noise_variance, 0.09, rtol=0.1)
    np.testing.assert_allclose(mixture.weights, problem.weights, atol=5 * 0.5 / np.sqrt(1500))


@pytest.mark.parametrize("noise", [0.5, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_likelihood_does_not_fall_over_soft_passes(seed, noise):
    """From a random start, to what the posteriors that are left out may move."""
    problem = planted(seed, [1, 2, 4, 8] * 150, 4, 3, noise=noise)
    frame = plain_frame(3)
    mixture, reached = random_mixture(seed, 4, 3), []
    for _ in range(25):
        mixture, log_likelihood = one_pass(problem.block, frame, mixture)
        reached.append(log_likelihood / problem.block.n_rows)
    gains = np.diff(reached)
    assert gains[0] > 0.01
    assert gains.min() > -1e-4


@pytest.mark.parametrize("seed", range(3))
def test_with_nothing_left_out_expectation_maximisation_is_exact(seed):
    problem = planted(seed, [1, 2, 4, 8] * 100, 4, 3, noise=2.0)
    mixture, before = random_mixture(seed, 4, 3), -np.inf
    with mock.patch.object(regression, "NEGLIGIBLE", 0.0):
        for _ in range(25):
            mixture, log_likelihood = one_pass(problem.block, plain_frame(3), mixture)
            assert log_likelihood >= before - 1e-9 * abs(log_likelihood)
            before = log_likelihood


def noiseless(dtype):
    problem = planted(0, [6] * 100, 2, 2, noise=0.0, dtype=dtype)
    start = in_frame(replace(problem, noise_variance=np.ones(2)), plain_frame(2))
    return problem, one_pass(problem.block, plain_frame(2), start, assign="hard")[0]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_component_that_fits_exactly_has_the_noise_of_the_floor(dtype):
    problem, found = noiseless(dtype)
    floor = NOISE_FLOOR * np.mean(problem.block.y.astype(float) ** 2)
    assert np.all(found.noise_variance >= floor * (1 - 1e-6))
    assert np.all(found.noise_variance < 1e-5)
    if dtype == np.float64:
        np.testing.assert_allclose(found.noise_variance, floor)


def test_a_component_without_a_task_keeps_its_regression_and_weighs_nothing():
    problem = planted(0, [6] * 50, 2, 2)
    start = in_frame(problem, plain_frame(2))
    start = Mixture(
        np.vstack([start.coef, [9.0, 9.0, 9.0]]), np.full(3, 0.25), np.array([0.5, 0.5, 0.0])
    )
    found, _ = one_pass(problem.block, plain_frame(2), start)
    np.testing.assert_array_equal(found.coef[2], start.coef[2])
    assert found.noise_variance[2] == 0.25
    assert found.weights[2] == 0
    assert posterior(block_log_likelihood(problem.block, plain_frame(2), found))[0][:, 2].max() == 0


def one_task_far_from_the_rest(seed, size):
    """Eight features; the last task alone belongs to the second of two components."""
    problem = planted(seed, [size] * 41, 1, 8, noise=0.1)
    coef = in_frame(problem, plain_frame(8)).coef[0]
    mixture = Mixture(np.array([coef, coef + 50]), np.ones(2), np.array([0.5, 0.5]))
    y = problem.block.y.copy()
    y[-size:] = plain_frame(8).augment(problem.block)[-size:, :-1] @ mixture.coef[1]
    return replace(problem.block, y=y), mixture


@pytest.mark.parametrize("size", [8, 17])
@pytest.mark.parametrize("seed", range(2))
def test_a_component_of_few_examples_is_solved_within_the_subspace(seed, size):
    """Fewer than twice as many as coefficients: least squares along two directions, not nine."""
    block, mixture = one_task_far_from_the_rest(seed, size)
    frame = plain_frame(8)
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(9, 2)))[0]
    found, _ = one_pass(block, frame, mixture, basis=basis)
    directions = basis.T @ white(block, frame).A
    a, r = frame.augment(block)[-size:, :-1], block.y[-size:]
    solution = np.linalg.lstsq(a @ directions.T, r, rcond=None)[0]
    np.testing.assert_allclose(found.coef[1], solution @ directions, rtol=1e-6)


def test_a_component_of_fewer_examples_than_directions_stays_as_it_was():
    block, mixture = one_task_far_from_the_rest(0, 8)
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(9, 8)))[0]
    found, _ = one_pass(block, plain_frame(8), mixture, basis=basis)
    np.testing.assert_array_equal(found.coef[1], mixture.coef[1])


def test_a_component_of_twice_as_many_examples_as_coefficients_is_solved_along_all():
    block, mixture = one_task_far_from_the_rest(0, 18)
    found, _ = one_pass(block, plain_frame(8), mixture, basis=np.eye(9)[:, :2])
    np.testing.assert_allclose(found.coef[1], mixture.coef[1], rtol=1e-6)


@pytest.mark.parametrize("seed", range(2))
def test_the_subspace_solution_does_not_know_shift_and_scale(seed):
    """The directions come from the moments of the same frame: they turn with it."""
    problem = planted(seed, [7] * 60, 3, 9, noise=0.5, mean=3.0)
    shared = (np.ones(9), 2.0)  # the pooled regression taken out, in the user's units
    fits = []
    for frame in (plain_frame(9), random_frame(seed, 9)):
        frame = frame.with_offset(np.zeros(10))
        frame = frame.with_offset(frame.from_user(shared[0][None], np.array([shared[1]]))[0])
        sums = moments_from_block(problem.block, frame, groups=0, signal_share=0.3, seed=0)
        standardiser = white(problem.block, frame)
        second = standardiser.whiten(finalise_moments(sums)[0])
        _, basis = top_eigenspace(second, 3, rng=np.random.default_rng(0))
        start = in_frame(problem, frame)
        few = replace(start, weights=np.array([1 - 2e-9, 1e-9, 1e-9]))
        part = Part(0, 25, seed + 1)  # two or three tasks: too few for ten coefficients
        found, _ = one_pass(problem.block, frame, few, basis=basis, part=part)
        fits.append(np.column_stack(frame.to_user(found.coef)))
        assert not np.allclose(found.coef, start.coef)
    np.testing.assert_allclose(fits[1], fits[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("k", [6, 9])
def test_more_components_than_dimensions(k):
    """d = 1: the regressions share a plane, and are told apart by slope and intercept."""
    problem = planted(3, [20] * 600, k, 1, noise=0.05, separation=3.0)
    frame = plain_frame(1)
    mixture = in_frame(problem, frame)
    for _ in range(3):
        mixture, _ = one_pass(problem.block, frame, mixture)
    np.testing.assert_allclose(mixture.coef, problem.coef, atol=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_single_precision_passes_stay_close(seed):
    """Covariates and target of mean 100 through a frame: three passes, in the user's units."""
    problem = planted(seed, [2, 5, 9] * 300 + [2000], 3, 4, noise=0.5, mean=100.0)
    X, y = problem.block.X, problem.block.y
    frame = Frame(X.mean(axis=0), X.std(axis=0), np.append(y.mean(), np.zeros(4)))
    fits = []
    for dtype in (np.float64, np.float32):
        block = replace(problem.block, X=X.astype(dtype), y=y.astype(dtype))
        mixture = in_frame(problem, frame)
        for _ in range(3):
            mixture, _ = one_pass(block, frame, mixture)
        fits.append((*frame.to_user(mixture.coef), mixture.noise_variance))
    (slopes, intercepts, noise), single = fits
    np.testing.assert_allclose(single[0], slopes, atol=1e-4)
    np.testing.assert_allclose(single[1], intercepts, atol=1e-2)  # a slope's error times 100
    np.testing.assert_allclose(single[2], noise, rtol=1e-4)


@pytest.mark.parametrize("mean", [100.0, 20_000.0])
def test_single_precision_leaves_no_bias_that_examples_cannot_average_out(mean):
    """The fit goes through the means of the stored numbers, to a tenth of a standard error."""
    n = 100_000
    rng = np.random.default_rng(0)
    X = (mean + rng.normal(size=(n, 2))).astype(np.float32)
    y = (mean + (X - mean).sum(axis=1) + rng.normal(size=n)).astype(np.float32)
    x_bar, y_bar = X.mean(axis=0, dtype=float), y.mean(dtype=float)
    frame = Frame(x_bar, np.ones(2), np.array([y_bar, 0, 0]))
    start = Mixture(np.zeros((1, 3)), np.ones(1), np.ones(1))
    found, _ = one_pass(TaskBlock(X, y, offsets_of([10] * (n // 10))), frame, start)
    slopes, intercepts = frame.to_user(found.coef)
    assert intercepts[0] + slopes[0] @ x_bar == pytest.approx(y_bar, abs=0.1 / np.sqrt(n))


def test_components_without_any_task_are_refused():
    mixture = random_mixture(0, 2, 1)
    nothing = sums_from_block(empty_block(1), plain_frame(1), mixture, assign="soft")
    a = random_block(0, [9], 1)
    with pytest.raises(InputError, match="need tasks to be fitted to, got 0"):
        finalise_sums(nothing, mixture, white(a, plain_frame(1)), np.eye(2))
