from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from daskmlr.kernels.predictive import mixture_quantile
from tests.kernels.drawing import laws, seeds

levels = st.sampled_from([1e-6, 0.025, 0.1, 0.5, 0.9, 0.975, 1 - 1e-6])


def random_rows(seed, n, k, spread):
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(k, 0.3), size=n)
    shares /= shares.sum(axis=1, keepdims=True)
    return shares, spread * rng.normal(size=(n, k)), rng.uniform(0.1, 3, k)


@laws
@given(seed=seeds, k=st.integers(1, 5), spread=st.sampled_from([0.0, 1.0, 1e3, 1e8]), level=levels)
def test_quantile_is_the_root_of_the_distribution_function(seed, k, spread, level):
    shares, means, deviations = random_rows(seed, 6, k, spread)
    found = mixture_quantile(level, shares, means, deviations)
    for i in range(6):

        def excess(q, i=i):
            return float(shares[i] @ norm.cdf((q - means[i]) / deviations) - level)

        low, high = means[i].min() - 9 * deviations.max(), means[i].max() + 9 * deviations.max()
        root = brentq(excess, low, high, xtol=1e-12 * max(1.0, spread), rtol=1e-14)
        # flat between far components: any root there is a root
        assert excess(found[i]) == pytest.approx(0, abs=1e-9) or found[i] == pytest.approx(root)


@laws
@given(seed=seeds, level=levels)
def test_quantiles_move_with_the_units(seed, level):
    shares, means, deviations = random_rows(seed, 5, 3, 2.0)
    found = mixture_quantile(level, shares, means, deviations)
    moved = mixture_quantile(level, shares, 10 * means + 7, 10 * deviations)
    np.testing.assert_allclose(moved, 10 * found + 7, rtol=1e-8, atol=1e-8)
    mirrored = mixture_quantile(1 - level, shares, -means, deviations)
    np.testing.assert_allclose(-mirrored, found, rtol=1e-6, atol=1e-6)


def test_one_component_with_all_the_share_is_the_normal_quantile():
    shares = np.array([[0.0, 1.0, 0.0]])
    found = mixture_quantile(0.9, shares, np.array([[-50.0, 2.0, 99.0]]), np.array([1.0, 3.0, 1.0]))
    assert found[0] == pytest.approx(norm.ppf(0.9, 2, 3), rel=1e-12)


def test_a_far_component_of_more_than_the_tail_holds_the_quantile():
    shares, means = np.array([[0.96, 0.04], [0.98, 0.02]]), np.array([[0.0, 1000.0]] * 2)
    found = mixture_quantile(0.975, shares, means, np.ones(2))
    assert found[0] == pytest.approx(norm.ppf((0.975 - 0.96) / 0.04, 1000, 1))
    assert found[1] == pytest.approx(norm.ppf(0.975 / 0.98))


def test_no_row_gives_none():
    assert mixture_quantile(0.5, np.ones((0, 2)), np.ones((0, 2)), np.ones(2)).shape == (0,)
