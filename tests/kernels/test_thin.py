"""Thin products are those of the dense moments; frames of few directions; gradients."""

from __future__ import annotations

from dataclasses import fields
from functools import reduce

import numpy as np
import pytest
from hypothesis import given

from daskmlr.errors import InputError
from daskmlr.kernels.assignment import Mixture, posterior, rows_log_likelihood
from daskmlr.kernels.moments import moments_from_block
from daskmlr.kernels.thin import (
    SubspaceFrame,
    ThinMoments,
    centred_basis,
    combine_thin,
    finalise_thin,
    gradients_from_block,
    thin_from_block,
)
from tests.kernels.drawing import (
    cut,
    cut_tasks,
    dimensions,
    empty_block,
    laws,
    random_block,
    random_frame,
    rows_by_loop,
    seeds,
    small_sizes,
)
from tests.kernels.test_moments import all_groups, parts


def some_directions(seed, d, n):
    return np.random.default_rng([seed, 2]).standard_normal((d + 1, n))


def without_pooled(seed, d):
    """A frame whose offset is the target's mean alone."""
    frame = random_frame(seed, d)
    return frame.with_offset(np.append(frame.offset[0], np.zeros(d)))


def thin(block, frame, seed, groups=0, part=None, m=2, q=1) -> ThinMoments:
    d = block.n_features
    directions = some_directions(seed, d, m + q)
    return thin_from_block(
        block, frame, directions[:, :m], directions[:, m:],
        groups=groups, signal_share=0.25, seed=5, part=part,
    )  # fmt: skip


@laws
@given(seeds, small_sizes, dimensions, all_groups, parts)
def test_products_are_those_of_the_moments(seed, sizes, d, groups, part):
    block, frame = random_block(seed, sizes, d, first_task=40), without_pooled(seed, d)
    found = thin(block, frame, seed, groups, part)
    dense = moments_from_block(block, frame, groups=groups, signal_share=0.25, seed=5, part=part)
    directions = some_directions(seed, d, 3)
    gram = dense.gram[:-1, :-1]
    close = {"rtol": 1e-9, "atol": 1e-9 * max(1.0, np.abs(dense.gram).max())}
    np.testing.assert_allclose(found.gram, gram @ directions, **close)
    np.testing.assert_allclose(found.cross, dense.cross @ directions[:, :2], **close)
    np.testing.assert_allclose(found.null, dense.null @ directions[:, 2:], **close)
    np.testing.assert_allclose(found.total, gram[0], **close)
    for name in ("pairs", "n_paired", "n_tasks", "n_rows"):
        np.testing.assert_allclose(getattr(found, name), getattr(dense, name), rtol=1e-12)


@laws
@given(seeds, cut_tasks(), dimensions, all_groups)
def test_any_cut_gives_the_same_sums(seed, tasks, d, groups):
    sizes, places = tasks
    block, frame = random_block(seed, sizes, d), without_pooled(seed, d)
    whole = thin(block, frame, seed, groups)
    parts = [thin(part, frame, seed, groups) for part in cut(block, places)]
    combined = reduce(combine_thin, parts, thin(empty_block(d), frame, seed, groups))
    size = max(1.0, float(np.abs(whole.gram).max()), float(np.abs(whole.cross).max()))
    for field in fields(ThinMoments):
        np.testing.assert_allclose(
            getattr(combined, field.name), getattr(whole, field.name), rtol=1e-9, atol=1e-9 * size
        )


def test_single_precision_is_near_double():
    sizes = [7] * 200
    block = random_block(0, sizes, 5)
    single = random_block(0, sizes, 5, dtype=np.float32)
    frame = without_pooled(0, 5)
    exact, found = thin(block, frame, 0), thin(single, frame, 0)
    for name in ("gram", "cross", "null", "total"):
        wanted = getattr(exact, name)
        np.testing.assert_allclose(
            getattr(found, name), wanted, atol=2e-6 * np.abs(wanted).max() + 1e-3, rtol=0
        )


def test_finalise_divides_by_rows_and_pairs():
    block, frame = random_block(3, [3, 4], 2), without_pooled(3, 2)
    sums = thin(block, frame, 3)
    gram, cross, null, mean = finalise_thin(sums)
    assert mean[0] == 1
    np.testing.assert_allclose(gram, sums.gram / 7)
    np.testing.assert_allclose(cross, sums.cross / sums.pairs)
    np.testing.assert_allclose(null, sums.null / sums.pairs)


def test_tasks_without_a_pair_are_refused():
    block = random_block(0, [1, 1, 1], 2)
    with pytest.raises(InputError, match="no task has two examples or more \\(3 tasks, 3 rows\\)"):
        finalise_thin(thin(block, without_pooled(0, 2), 0))


class TestSubspaceFrame:
    @laws
    @given(seeds, small_sizes, dimensions)
    def test_rows_are_those_of_the_wide_frame_along_the_basis(self, seed, sizes, d):
        block, wide = random_block(seed, sizes, d), random_frame(seed, d)
        basis = some_directions(seed, d, 2)
        covariates, targets = SubspaceFrame.of(wide, basis).rows(block)
        by_loop = [row for task in rows_by_loop(block, wide) for row in task]
        expected = np.array([a for a, _ in by_loop]).reshape(-1, d + 1) @ basis
        np.testing.assert_allclose(covariates, expected, atol=1e-10)
        np.testing.assert_allclose(targets, [r for _, r in by_loop], atol=1e-10)

    @laws
    @given(seeds, dimensions)
    def test_coefficients_go_to_the_user_and_back(self, seed, d):
        rng = np.random.default_rng(seed)
        frame = SubspaceFrame.of(without_pooled(seed, d), some_directions(seed, d, min(d, 2)))
        coef = rng.standard_normal((3, min(d, 2) + 1))
        slopes, intercepts = frame.to_user(coef)
        x = rng.standard_normal((4, d))
        block = random_block(seed, [4], d)
        block = type(block)(x, np.zeros(4), block.offsets)
        v, r = frame.rows(block)
        predicted = coef[:, :1] + coef[:, 1:] @ v.T
        np.testing.assert_allclose(x @ slopes.T + intercepts, (predicted - r).T, atol=1e-8)
        np.testing.assert_allclose(frame.from_user(slopes, intercepts), coef, atol=1e-6)


@pytest.mark.parametrize("with_intercept", [True, False])
def test_centred_basis_parts_the_intercept_from_the_rest(with_intercept):
    rng = np.random.default_rng(0)
    a = np.column_stack([np.ones(500), rng.normal(2, 3, (500, 4))])
    gram = a.T @ a / 500
    vectors = rng.standard_normal((5, 2))
    if with_intercept:
        vectors = np.column_stack([np.eye(5)[0], vectors])
    vectors = vectors @ np.linalg.inv(np.linalg.cholesky(vectors.T @ gram @ vectors)).T
    basis, mixing = centred_basis(vectors, a.mean(axis=0))
    u = a @ basis
    assert basis.shape[1] == 2
    np.testing.assert_allclose(u.mean(axis=0), 0, atol=1e-10)
    np.testing.assert_allclose(u.T @ u / 500, np.eye(2), atol=1e-10)
    np.testing.assert_allclose(np.column_stack([np.ones(500), u]) @ mixing, a @ vectors, atol=1e-9)
    np.testing.assert_allclose(mixing.T @ mixing, np.eye(len(mixing.T)), atol=1e-9)


@laws
@given(seeds, small_sizes, dimensions, parts)
def test_gradients_equal_a_loop(seed, sizes, d, part):
    rng = np.random.default_rng(seed)
    block, frame = random_block(seed, sizes, d, first_task=9), random_frame(seed, d)
    mixture = Mixture(rng.standard_normal((2, d + 1)), np.array([1.0, 2.0]), np.array([0.3, 0.7]))
    shares = posterior(rows_log_likelihood(*frame.rows(block), block, mixture))[0]
    expected = np.zeros((d + 1, 2))
    for i, task in enumerate(rows_by_loop(block, frame)):
        if part is not None and not part.holds(9 + i, 10 + i)[0]:
            continue
        for a, r in task:
            for component, coef in enumerate(mixture.coef):
                expected[:, component] += shares[i, component] * (r - a @ coef) * a
    found = gradients_from_block(block, frame, mixture, part=part)
    np.testing.assert_allclose(found, expected, atol=1e-9 * max(1, np.abs(expected).max()))
