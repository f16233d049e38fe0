from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daskmlr.errors import InputError
from daskmlr.kernels.standardise import Standardiser, standardiser_from_gram
from tests.kernels.drawing import dimensions, laws, seeds

FLOAT64, FLOAT32 = np.dtype(np.float64), np.dtype(np.float32)


def augmented(X) -> np.ndarray:
    return np.column_stack([np.ones(len(X)), X])


def standardise(a, *, names=None, dtype=FLOAT64) -> Standardiser:
    names = names or [f"f{i}" for i in range(a.shape[1] - 1)]
    a = a.astype(np.float64)
    return standardiser_from_gram(a.T @ a, names, dtype)


def correlated(seed, d, n=80) -> np.ndarray:
    """Standard deviations from 0.3 to 2 along random axes: a bounded condition number."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return rng.normal(size=(n, d)) @ (axes * rng.uniform(0.3, 2, d)) @ axes.T + rng.normal(size=d)


@laws
@given(seed=seeds, d=dimensions)
def test_map_is_the_inverse_root_of_the_covariance(seed, d):
    """``A = [[1, 0], [-S m, S]]`` with ``S`` symmetric and ``S Sigma S = I``."""
    X = correlated(seed, d)
    mean = [sum(x[i] for x in X) / len(X) for i in range(d)]
    sigma = np.array(
        [
            [sum((x[i] - mean[i]) * (x[j] - mean[j]) for x in X) / len(X) for j in range(d)]
            for i in range(d)
        ]
    )
    A = standardise(augmented(X)).A
    S = A[1:, 1:]
    np.testing.assert_allclose(A[0], np.eye(d + 1)[0])
    np.testing.assert_allclose(S, S.T, atol=1e-8)
    np.testing.assert_allclose(S @ sigma @ S, np.eye(d), atol=1e-7)
    np.testing.assert_allclose(A[1:, 0], -S @ mean, atol=1e-7)
    assert np.all(np.linalg.eigvalsh(S) > 0)


@laws
@given(seed=seeds, d=dimensions)
def test_standardised_covariates_are_white_and_come_back(seed, d):
    a = augmented(correlated(seed, d))
    s = standardise(a)
    u = a @ s.A.T
    np.testing.assert_allclose(u.T @ u / len(u), np.eye(d + 1), atol=1e-7)
    np.testing.assert_allclose(s.A @ s.A_inv, np.eye(d + 1), atol=1e-8)
    np.testing.assert_allclose(u @ s.A_inv.T, a, atol=1e-7)


@laws
@given(seed=seeds, d=dimensions, k=st.integers(1, 3))
def test_coefficients_predict_the_same_in_both_coordinates(seed, d, k):
    a = augmented(correlated(seed, d))
    s = standardise(a)
    coef = np.random.default_rng(seed).normal(size=(k, d + 1))
    on_u = s.coef_from_frame(coef)
    np.testing.assert_allclose((a @ s.A.T) @ on_u.T, a @ coef.T, atol=1e-7)
    np.testing.assert_allclose(s.coef_to_frame(on_u), coef, atol=1e-8)


@laws
@given(seed=seeds, d=dimensions)
def test_second_moments_of_products_whiten_to_those_of_coefficients(seed, d):
    """``E[y a] = E[a a^T] w``; whitened, it is the coefficient on ``u``: so is its square."""
    a = augmented(correlated(seed, d))
    s = standardise(a)
    coef = np.random.default_rng(seed).normal(size=d + 1)
    beta = a.T @ a @ coef / len(a)
    on_u = s.coef_from_frame(coef[None])[0]
    np.testing.assert_allclose(
        s.whiten(np.outer(beta, beta)), np.outer(on_u, on_u), atol=1e-6 * (1 + on_u @ on_u)
    )


@laws
@given(seed=seeds, d=dimensions)
def test_whitening_turns_with_the_covariates(seed, d):
    """A rotation of the covariates rotates ``u``; any invertible map leaves its geometry alone."""
    rng = np.random.default_rng(seed)
    X = correlated(seed, d)
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    a, turned = augmented(X), augmented(X @ turn)
    u, v = a @ standardise(a).A.T, turned @ standardise(turned).A.T
    np.testing.assert_allclose(v[:, 1:], u[:, 1:] @ turn, atol=1e-6)
    stretched = augmented(X @ (turn * rng.uniform(0.5, 2, d)) + rng.normal(size=d))
    w = stretched @ standardise(stretched).A.T
    np.testing.assert_allclose(w @ w.T, u @ u.T, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_correlation_of_almost_one_is_still_whitened(seed):
    rng = np.random.default_rng(seed)
    common, own = rng.normal(size=(500, 1)), rng.normal(size=(500, 3))
    a = augmented(common + 1e-3 * own)
    u = a @ standardise(a).A.T
    np.testing.assert_allclose(u.T @ u / len(u), np.eye(4), atol=1e-6)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_more_features_than_examples_are_refused(n):
    a = augmented(np.random.default_rng(0).normal(size=(n, 3)))
    with pytest.raises(InputError, match=f"3 features need more than 3 examples, got {n}"):
        standardise(a)


@pytest.mark.parametrize(("dtype", "jitter"), [(FLOAT64, 0.0), (FLOAT32, 1e-5)])
def test_constant_features_are_refused_by_name(dtype, jitter):
    X = np.random.default_rng(0).normal(size=(100, 4))
    X[:, [1, 3]] = 0.7 + jitter * X[:, [1, 3]]
    with pytest.raises(InputError, match="2 of 4 features never vary: 'height', 'age'"):
        standardise(augmented(X), names=["size", "height", "weight", "age"], dtype=dtype)


@pytest.mark.parametrize(("dtype", "jitter"), [(FLOAT64, 0.0), (FLOAT32, 1e-4)])
@pytest.mark.parametrize("seed", range(3))
def test_collinear_features_are_refused_by_name(seed, dtype, jitter):
    X = np.random.default_rng(seed).normal(size=(200, 4))
    X[:, 3] = X[:, 0] - 2 * X[:, 1] + jitter * X[:, 3]
    with pytest.raises(InputError, match="features 'a', 'b', 'd' are collinear"):
        standardise(augmented(X), names=["a", "b", "c", "d"], dtype=dtype)


def test_as_many_examples_as_features_and_one_are_enough():
    s = standardise(augmented(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])))
    np.testing.assert_allclose(s.A @ s.A_inv, np.eye(3), atol=1e-12)
