"""Pairs found from products alone are those of the dense solver."""

import numpy as np
import pytest
import scipy.linalg

from daskmlr.kernels.krylov import Krylov, orthonormal


def pair(p=60, seed=0, spread=4.0):
    """An indefinite matrix of three large values, and a metric, both symmetric."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((p, p)) / 20
    planted = rng.standard_normal((p, 3)) / np.sqrt(p)
    second = (noise + noise.T) / 2 + planted @ np.diag([9.0, 6.0, 4.0]) @ planted.T
    rotation = scipy.linalg.qr(rng.standard_normal((p, p)))[0]
    gram = (rotation * np.geomspace(1, spread, p)) @ rotation.T
    return second, gram


def search(second, gram, n_steps, m=5, seed=1):
    p = len(second)
    block = orthonormal(np.random.default_rng(seed).standard_normal((p, m)))
    found = Krylov.empty(p)
    for _ in range(n_steps):
        found = found.extend(block, second @ block, gram @ block)
        block = found.next_block(m, 1 / np.diag(gram))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_a_few_steps_find_the_leading_pairs(seed):
    second, gram = pair(seed=seed)
    found = search(second, gram, 7)
    values, mixing = found.ritz(3)
    expected = scipy.linalg.eigh(second, gram, eigvals_only=True)[::-1][:3]
    np.testing.assert_allclose(values, expected, rtol=1e-3)
    vectors = found.basis @ mixing
    np.testing.assert_allclose(vectors.T @ gram @ vectors, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(found.basis.T @ found.basis, np.eye(35), atol=1e-9)


def test_values_only_rise_and_never_above_the_truth():
    second, gram = pair()
    largest = [search(second, gram, n).ritz(1)[0][0] for n in range(1, 8)]
    assert (np.diff(largest) >= -1e-9).all()
    assert largest[-1] <= scipy.linalg.eigh(second, gram, eigvals_only=True)[-1] + 1e-9


def test_a_full_basis_is_exact_and_has_no_next_block():
    second, gram = pair(p=10)
    found = search(second, gram, 2)
    expected = scipy.linalg.eigh(second, gram, eigvals_only=True)[::-1]
    np.testing.assert_allclose(found.ritz(10)[0], expected, atol=1e-9)
    assert found.next_block(5, np.ones(10)).shape == (10, 0)
    assert found.n_steps == 2


def test_directions_without_energy_are_left_out():
    second, gram = pair(p=20)
    null = np.linalg.qr(np.random.default_rng(2).standard_normal((20, 1)))[0]
    project = np.eye(20) - null @ null.T
    second, gram = project @ second @ project, project @ gram @ project
    values, mixing = search(second, gram, 4).ritz(20)
    assert len(values) == 19
    assert np.isfinite(values).all()
    assert np.isfinite(mixing).all()


def test_orthonormal_drops_what_is_spanned():
    rng = np.random.default_rng(0)
    others = orthonormal(rng.standard_normal((8, 3)))
    columns = np.column_stack([others[:, 0], rng.standard_normal((8, 2)), np.zeros(8)])
    columns = np.column_stack([columns, columns[:, 1] + columns[:, 2]])
    found = orthonormal(columns, others)
    assert found.shape == (8, 2)
    np.testing.assert_allclose(found.T @ found, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(others.T @ found, 0, atol=1e-12)
