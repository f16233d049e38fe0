"""p-values of tasks, and the list of those too small for chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from daskmlr.errors import InputError
from daskmlr.kernels.assignment import Mixture, block_log_likelihood, posterior
from daskmlr.kernels.outliers import odd_tasks, tail_probability, worst_explained
from tests.kernels.drawing import laws, plain_frame, planted, seeds


def scored(problem, **changed):
    """p-values of a planted problem at its true parameters."""
    frame = plain_frame(problem.block.n_features)
    mixture = Mixture(problem.coef, problem.noise_variance, problem.weights)
    log_likelihood = posterior(block_log_likelihood(problem.block, frame, mixture))[1]
    return tail_probability(log_likelihood, problem.block.sizes, mixture)


def one_regression(variance=0.25):
    return Mixture(np.zeros((1, 1)), np.array([variance]), np.ones(1))


@laws
@given(seed=seeds, k=st.integers(1, 3))
def test_p_value_is_the_sum_over_components(seed, k):
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(k))
    mixture = Mixture(np.zeros((k, 1)), rng.uniform(0.1, 3, k), weights)
    sizes, log_likelihood = np.array([1, 2, 7]), rng.normal(-6, 4, 3)
    found = tail_probability(log_likelihood, sizes, mixture)
    for i, t in enumerate(sizes):
        total = 0.0
        for weight, s2 in zip(weights, mixture.noise_variance, strict=True):
            radius = 2 * np.log(weight) - 2 * log_likelihood[i] - t * np.log(2 * np.pi * s2)
            total += weight * (chi2.sf(radius, t) if radius > 0 else 1)
        assert found[i] == pytest.approx(min(total, 1), rel=1e-9)


@pytest.mark.parametrize("t", [1, 2, 3, 10])
def test_one_component_has_the_exact_chi_squared_tail(t):
    rss = np.array([0.01, 1.0, 4.0, 30.0])
    log_likelihood = -rss / (2 * 0.25) - t / 2 * np.log(2 * np.pi * 0.25)
    found = tail_probability(log_likelihood, np.full(4, t), one_regression())
    np.testing.assert_allclose(found, chi2.sf(rss / 0.25, t), rtol=1e-9)


def test_a_task_without_examples_is_not_odd_and_an_empty_component_explains_nothing():
    assert tail_probability(np.zeros(1), np.zeros(1, dtype=np.int64), one_regression())[0] == 1
    both = Mixture(np.zeros((2, 1)), np.array([0.25, 1e9]), np.array([1.0, 0.0]))
    log_likelihood, sizes = np.array([-40.0]), np.array([4])
    np.testing.assert_array_equal(
        tail_probability(log_likelihood, sizes, both),
        tail_probability(log_likelihood, sizes, one_regression()),
    )


@pytest.mark.parametrize("t", [1, 2, 3, 8])
@pytest.mark.parametrize("separation", [0.3, 1.0, 20.0])
def test_false_alarms_are_held_at_every_level_and_size(t, separation):
    """20,000 tasks of the mixture itself: five standard deviations above the level at most."""
    n = 20_000
    p = scored(planted(t, np.full(n, t), 6, 3, separation=separation))
    for level in (0.001, 0.01, 0.1, 0.5):
        assert (p <= level).mean() <= level + 5 * np.sqrt(level / n)


def test_false_alarms_are_exact_where_components_do_not_overlap():
    n = 20_000
    p = scored(planted(0, np.full(n, 8), 4, 8, separation=30.0))
    for level in (0.01, 0.1, 0.5, 0.9):
        assert abs((p <= level).mean() - level) < 5 * np.sqrt(level / n)


def test_a_rare_wide_component_does_not_explain_everything():
    """Noise of 10 holds one task in a hundred; twenty tasks at 8 would be far too many."""
    mixture = Mixture(np.zeros((2, 1)), np.array([1.0, 100.0]), np.array([0.99, 0.01]))
    rss, sizes = np.array([[9 * 64.0, 9 * 64.0]]), np.array([9])
    joint = np.log(mixture.weights) - rss / (2 * mixture.noise_variance)
    joint -= sizes[:, None] / 2 * np.log(2 * np.pi * mixture.noise_variance)
    p = tail_probability(posterior(joint)[1], sizes, mixture)
    assert p[0] == pytest.approx(0.01 * chi2.sf(9 * 0.64, 9), rel=0.05)


def test_units_of_the_target_make_no_difference():
    problem = planted(3, [1, 2, 5, 9], 3, 2)
    mixture = Mixture(problem.coef, problem.noise_variance, problem.weights)
    larger = Mixture(1000 * problem.coef, 1e6 * problem.noise_variance, problem.weights)
    sizes, frame = problem.block.sizes, plain_frame(2)
    log_likelihood = posterior(block_log_likelihood(problem.block, frame, mixture))[1]
    np.testing.assert_allclose(
        tail_probability(log_likelihood - sizes * np.log(1000), sizes, larger),
        tail_probability(log_likelihood, sizes, mixture),
        rtol=1e-9,
    )


def test_the_worst_explained_are_furthest_in_the_chi_squared_tail():
    rng = np.random.default_rng(0)
    sizes = rng.integers(3, 40, 50)
    rss = 0.25 * rng.chisquare(sizes) * rng.uniform(0.5, 3, 50)
    order = worst_explained(rss[:, None], sizes, one_regression())
    tail = chi2.logsf(rss / 0.25, sizes)[order]
    assert tail[0] == tail.min()
    assert np.all(np.diff(tail) > -0.05 * np.abs(tail[1:]) - 0.05)  # but for the approximation


def listed_by_loop(p, rate, n):
    """Step up from the largest: the first rank whose p-value is under its line, and all below."""
    ranked = sorted(p)
    for rank in range(len(ranked), 0, -1):
        if ranked[rank - 1] <= rate * rank / n:
            return [value <= ranked[rank - 1] for value in p]
    return [False] * len(p)


@laws
@given(
    p=st.lists(st.floats(0, 1) | st.floats(0, 0.01), max_size=12),
    rate=st.sampled_from([0.01, 0.05, 0.5]),
    others=st.integers(0, 20),
)
def test_list_is_benjamini_and_hochbergs(p, rate, others):
    n = len(p) + others
    found = odd_tasks(np.array(p), false_discovery_rate=rate, n_tests=n)
    assert found.tolist() == listed_by_loop(p, rate, n)


def test_larger_p_values_may_be_left_away():
    p = np.random.default_rng(0).uniform(size=500) ** 3
    small = p[p <= 0.05]
    listed = p[odd_tasks(p, false_discovery_rate=0.05)]
    few = small[odd_tasks(small, false_discovery_rate=0.05, n_tests=500)]
    assert listed.size
    np.testing.assert_array_equal(np.sort(few), np.sort(listed))


def test_of_the_listed_few_are_sound():
    """500 odd tasks among 20,000: at most twice the stated rate of those listed are sound."""
    n, odd = 20_000, np.arange(20_000) < 500
    problem = planted(1, np.full(n, 8), 4, 4)
    problem.block.y[problem.block.offsets[0] : problem.block.offsets[500]] += 3
    listed = odd_tasks(scored(problem), false_discovery_rate=0.05)
    assert (listed & odd).sum() > 400
    assert (listed & ~odd).sum() <= 2 * 0.05 * listed.sum()


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match=r"false_discovery_rate .* got 1\.5"):
        odd_tasks([0.5], false_discovery_rate=1.5)
    with pytest.raises(InputError, match=r"between 0 and 1, got -0\.25"):
        odd_tasks([0.5, -0.25])
    with pytest.raises(InputError, match="got nan"):
        odd_tasks([np.nan])
    with pytest.raises(InputError, match="at least the 2 p-values given, got 1"):
        odd_tasks([0.5, 0.5], n_tests=1)
