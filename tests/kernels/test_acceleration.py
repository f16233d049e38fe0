from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daskmlr.kernels import acceleration
from daskmlr.kernels.acceleration import MAX_LOG_STEP, MAX_STEP, Ascent, extrapolate
from daskmlr.kernels.assignment import Mixture
from daskmlr.kernels.standardise import Standardiser
from tests.kernels.drawing import laws, seeds


def white(p) -> Standardiser:
    return Standardiser(np.eye(p), np.eye(p))


def draw(rng, k, p) -> Mixture:
    return Mixture(rng.normal(size=(k, p)), rng.uniform(0.1, 3, k), rng.dirichlet(np.ones(k)))


def assert_same(found, expected):
    for name in ("coef", "noise_variance", "weights"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-8)


@pytest.mark.parametrize("rate", [0.1, 0.6, 0.9])
def test_steps_that_shrink_by_one_rate_end_at_their_limit(rate):
    rng = np.random.default_rng(0)
    limit, away = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    noise, weights = rng.uniform(0.1, 1, 3), rng.dirichlet(np.ones(3))
    path = [Mixture(limit + rate**n * away, noise, weights) for n in range(3)]
    np.testing.assert_allclose(extrapolate(path, white(4)).coef, limit, atol=1e-8)


def test_a_path_that_turns_back_ends_at_the_last():
    path = [Mixture(np.array([[x]]), np.ones(1), np.ones(1)) for x in (0.0, 1.0, -1.0)]
    assert_same(extrapolate(path, white(1)), path[2])


def test_a_straight_path_is_followed_so_far():
    path = [Mixture(np.array([[x]]), np.ones(1), np.ones(1)) for x in (0.0, 1.0, 2.0)]
    assert extrapolate(path, white(1)).coef.item() == pytest.approx(2 * MAX_STEP)


def test_a_path_that_stands_still_is_left_where_it_is():
    point = draw(np.random.default_rng(0), 2, 3)
    assert_same(extrapolate([point] * 3, white(3)), point)


@laws
@given(seed=seeds, k=st.integers(1, 4), p=st.integers(1, 4))
def test_the_result_is_a_mixture(seed, k, p):
    rng = np.random.default_rng(seed)
    path = [draw(rng, k, p) for _ in range(3)]
    found = extrapolate(path, white(p))
    assert found.weights.sum() == pytest.approx(1)
    assert found.weights.min() > 0
    reach = np.abs(np.log(found.noise_variance / path[2].noise_variance))
    assert reach.max() <= MAX_LOG_STEP * (1 + 1e-9)


@laws
@given(seed=seeds)
def test_it_does_not_know_the_units_nor_the_order_of_components(seed):
    rng = np.random.default_rng(seed)
    path = [draw(rng, 3, 2) for _ in range(3)]
    A = np.array([[1.0, 0.0], [rng.normal(), rng.uniform(0.5, 2)]])
    order, c = rng.permutation(3), rng.uniform(0.1, 10)
    other = [Mixture(c * m.coef @ A, c**2 * m.noise_variance, m.weights).take(order) for m in path]
    found = extrapolate(other, Standardiser(A, np.linalg.inv(A)))
    plain = extrapolate(path, white(2))
    expected = Mixture(c * plain.coef @ A, c**2 * plain.noise_variance, plain.weights).take(order)
    assert_same(found, expected)


def test_a_component_that_has_died_stays_so():
    rng = np.random.default_rng(0)
    path = [draw(rng, 2, 2) for _ in range(3)]
    path = [Mixture(m.coef, m.noise_variance, np.array([1.0, 0.0])) for m in path]
    assert extrapolate(path, white(2)).weights[1] < 1e-300


@pytest.mark.parametrize(
    ("heights", "ends_at"),
    [
        ([0.0, 5.0, 5.001], 2),  # gains less than the tolerance
        ([0.0, 5.0, 4.999], 2),  # falls by less
        ([0.0, 5.0, 3.0, 5.0], 1),  # a step that falls is taken back
        ([-3e9, -2e9, -2e9 - 100], 2),  # it fell by rounding
    ],
)
def test_passes_end_at_the_highest_likelihood(monkeypatch, heights, ends_at):
    rng = np.random.default_rng(0)
    steps = [draw(rng, 2, 2) for _ in heights]
    ascent, path = Ascent(steps[0]), iter(steps[1:])
    monkeypatch.setattr(acceleration, "finalise_sums", lambda *_: next(path))
    for height in heights:
        assert not ascent.converged
        sums = SimpleNamespace(log_likelihood=height)
        ascent = ascent.after(sums, white(2), np.eye(2), tol=0.01, accelerate=False)
    assert ascent.converged
    assert ascent.n_passes == len(heights)
    assert ascent.at is steps[ends_at]
