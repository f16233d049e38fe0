from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from daskmlr.errors import InputError
from daskmlr.kernels.blocks import Frame, TaskBlock
from daskmlr.kernels.metrics import subspace_error
from daskmlr.kernels.moments import finalise_moments, moments_from_block
from daskmlr.kernels.standardise import standardiser_from_gram
from daskmlr.kernels.subspace import rank_above, top_eigenspace
from tests.kernels.drawing import laws, offsets_of, seeds


def symmetric_with(values, seed) -> np.ndarray:
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(len(values), len(values))))[0]
    return (axes * values) @ axes.T


def wigner(seed, p) -> np.ndarray:
    """Noise of which the eigenvalues fill -1 to 1 without a gap."""
    half = np.random.default_rng(seed).normal(size=(p, p))
    return (half + half.T) / np.sqrt(8 * p)


def assert_eigenspace(matrix, values, vectors) -> None:
    k = len(values)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(k), atol=1e-9)
    np.testing.assert_allclose(matrix @ vectors, vectors * values, atol=1e-8)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(matrix)[::-1][:k], atol=1e-9)


@laws
@given(seed=seeds, p=st.integers(1, 8), data=st.data(), dense=st.booleans())
def test_largest_eigenvalues_descend_and_belong_to_their_vectors(seed, p, data, dense):
    n_directions = data.draw(st.integers(1, p))
    half = np.random.default_rng(seed).normal(size=(p, p))
    matrix = half + half.T
    found = top_eigenspace(
        matrix,
        n_directions,
        rng=np.random.default_rng(seed),
        dense_order=p if dense else 0,
    )
    assert found[1].shape == (p, n_directions)
    assert_eigenspace(matrix, *found)


@pytest.mark.parametrize("seed", range(3))
def test_iterative_and_dense_agree_where_signal_stands_out_of_noise(seed):
    p, k = 300, 5
    signal = np.linalg.qr(np.random.default_rng(seed).normal(size=(p, k)))[0]
    matrix = wigner(seed, p) + 1.5 * signal @ signal.T
    dense = top_eigenspace(matrix, k, rng=np.random.default_rng(1))
    iterative = top_eigenspace(matrix, k, rng=np.random.default_rng(1), dense_order=100)
    np.testing.assert_allclose(iterative[0], dense[0], rtol=1e-9)
    assert subspace_error(iterative[1], dense[1]) < 1e-6


@pytest.mark.parametrize("seed", range(3))
def test_iterative_finds_the_edge_of_noise_that_has_no_gap(seed):
    """An edge found too low would count noise as signal."""
    matrix = wigner(seed, 400)
    edge = top_eigenspace(matrix, 1, rng=np.random.default_rng(2), dense_order=100)[0][0]
    assert edge == pytest.approx(scipy.linalg.eigvalsh(matrix)[-1], rel=1e-9)
    assert edge == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("dense_order", [100, 1000])
def test_large_negative_eigenvalues_are_noise(dense_order):
    """Forty of them, all larger in magnitude than the signal."""
    values = np.concatenate([np.linspace(-5, -4, 40), [3, 2.5, 2], np.linspace(-1, 1, 157)])
    matrix = symmetric_with(values, 0)
    found = top_eigenspace(matrix, 3, rng=np.random.default_rng(0), dense_order=dense_order)
    np.testing.assert_allclose(found[0], [3, 2.5, 2])
    assert_eigenspace(matrix, *found)


@pytest.mark.parametrize("dense_order", [10, 1000])
@pytest.mark.parametrize("values", [np.zeros(40), np.repeat([0.0, 2.0], [37, 3])])
def test_repeated_eigenvalues_give_an_orthonormal_basis(dense_order, values):
    matrix = symmetric_with(values, 1)
    assert_eigenspace(
        matrix, *top_eigenspace(matrix, 5, rng=np.random.default_rng(0), dense_order=dense_order)
    )


def test_the_same_generator_gives_the_same_bits():
    matrix = wigner(0, 300)
    first, second = (
        top_eigenspace(matrix, 4, rng=np.random.default_rng(5), dense_order=100) for _ in range(2)
    )
    np.testing.assert_array_equal(first[1], second[1])


@laws
@given(seed=seeds, p=st.integers(1, 6), scale=st.sampled_from([1e-6, 3.0, 1e6]))
def test_eigenspace_turns_and_scales_with_the_matrix(seed, p, scale):
    rng = np.random.default_rng(seed)
    matrix = symmetric_with(np.arange(p, dtype=float), seed)
    turn = np.linalg.qr(rng.normal(size=(p, p)))[0]
    values, vectors = top_eigenspace(matrix, 1, rng=rng)
    turned_values, turned = top_eigenspace(scale * turn @ matrix @ turn.T, 1, rng=rng)
    np.testing.assert_allclose(turned_values, scale * values, atol=1e-9 * scale * p)
    assert abs(turned[:, 0] @ turn @ vectors[:, 0]) == pytest.approx(1)


def spectrum_of_tasks(seed, k, d, *, mean=0.0):
    """Moments of 6,000 tasks of 6 examples, white; the planted coefficients on ``u``; the edge."""
    rng = np.random.default_rng(seed)
    mix = np.eye(d) + 0.2 * rng.normal(size=(d, d))
    coef = rng.normal(size=(k, d + 1))
    labels = np.repeat(rng.integers(0, k, 6000), 6)
    X = rng.normal(size=(len(labels), d))
    y = coef[labels, 0] + (coef[labels, 1:] * X).sum(axis=1) + 0.5 * rng.normal(size=len(labels))
    block = TaskBlock(X @ mix + mean, y, offsets_of([6] * 6000))
    frame = Frame(block.X.mean(axis=0), block.X.std(axis=0), np.zeros(d + 1))
    sums = moments_from_block(block, frame, groups=0, signal_share=1 / k, seed=seed)
    standardiser = standardiser_from_gram(sums.gram[:-1, :-1], [""] * d, np.dtype(float))
    second, null = (standardiser.whiten(m) for m in finalise_moments(sums))
    slopes = coef[:, 1:] @ np.linalg.inv(mix).T
    in_frame = frame.from_user(slopes, coef[:, 0] - slopes.sum(axis=1) * mean)
    on_u = standardiser.coef_from_frame(in_frame)
    edge = top_eigenspace(null, 1, rng=rng)[0][0]
    return second, on_u, edge


@pytest.mark.parametrize("mean", [0.0, 100.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_span_of_planted_coefficients_is_found(seed, mean):
    """Correlated covariates far from zero: whitening is a congruence after the pass."""
    k, d = 3, 12
    second, on_u, _ = spectrum_of_tasks(seed, k, d, mean=mean)
    _, U = top_eigenspace(second, k, rng=np.random.default_rng(0))
    assert subspace_error(U, on_u.T) < 0.2


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_rank_is_the_number_of_components(seed, k):
    second, _, edge = spectrum_of_tasks(seed, k, 12)
    values, _ = top_eigenspace(second, 13, rng=np.random.default_rng(0))
    # the null has an edge of its own draw: one value may stand just above it
    assert rank_above(values, 1.5 * edge) == k
    assert k <= rank_above(values, edge) <= k + 1


@pytest.mark.parametrize("seed", range(3))
def test_more_components_than_dimensions_fill_the_space(seed):
    """k = 8, d = 2: the three directions of slopes and intercept all stand above the edge."""
    second, _, edge = spectrum_of_tasks(seed, 8, 2)
    values, U = top_eigenspace(second, 3, rng=np.random.default_rng(0))
    assert rank_above(values, edge) == 3
    np.testing.assert_allclose(U @ U.T, np.eye(3), atol=1e-9)


def test_rank_counts_only_what_is_above():
    assert rank_above(np.array([3.0, 2.0, 1.0]), 2.0) == 1
    assert rank_above(np.array([3.0, 2.0, 1.0]), 5.0) == 0


@pytest.mark.parametrize("n_directions", [0, -1, 5])
def test_an_impossible_number_of_directions_is_refused(n_directions):
    with pytest.raises(InputError, match=f"between 1 and 4, got {n_directions}"):
        top_eigenspace(np.eye(4), n_directions, rng=np.random.default_rng(0))
