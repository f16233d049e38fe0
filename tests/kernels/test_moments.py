from __future__ import annotations

import itertools
from dataclasses import fields, replace
from functools import reduce
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daskmlr.errors import InputError
from daskmlr.kernels import blocks
from daskmlr.kernels.blocks import Frame, Part, TaskBlock, hash64
from daskmlr.kernels.moments import (
    ALL_PAIRS,
    SPLIT,
    Moments,
    combine_moments,
    example_signs,
    finalise_moments,
    moments_from_block,
    random_signs,
    task_weight,
)
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

all_groups = st.sampled_from([ALL_PAIRS, SPLIT, 3])
shares = st.sampled_from([0.0, 0.25, 1.0])
excluding = Part(0, 1, 0, np.arange(0, 120, 3))
parts = st.sampled_from([None, Part(0, 2, 11), Part(2, 3, 5), excluding])


def moments(block, frame, groups=ALL_PAIRS, signal_share=0.25, seed=0, **options) -> Moments:
    return moments_from_block(
        block, frame, groups=groups, signal_share=signal_share, seed=seed, **options
    )


def assert_same(found: Moments, expected: Moments, rtol=1e-10) -> None:
    size = max(1.0, float(np.abs(expected.gram).max()))
    for field in fields(Moments):
        np.testing.assert_allclose(
            getattr(found, field.name),
            getattr(expected, field.name),
            rtol=rtol,
            atol=rtol * size,
            err_msg=field.name,
        )


def weight_by_formula(t: int, signal_share: float) -> float:
    """``1/c ~ 2 rho^4 + 4 rho^2 v (t - 1) + v^2 t (t - 1)`` with ``rho = 1``."""
    if t < 2:
        return 0.0
    v = signal_share
    return 1 / (2 + 4 * v * (t - 1) + v**2 * t * (t - 1))


def moments_by_loop(block, frame, groups, signal_share, part):
    """``(gram, cross, pairs, n_paired)``, pair by pair."""
    d = block.n_features
    gram, cross, pairs, n_paired = np.zeros((d + 2, d + 2)), np.zeros((d + 1, d + 1)), 0.0, 0
    for i, rows in enumerate(rows_by_loop(block, frame)):
        place, t = block.first_task + i, len(rows)
        if part is None or place not in part.excluded:
            for a, r in rows:
                gram += np.outer(np.append(a, r), np.append(a, r))
        if t < 2 or (part is not None and not part.holds(place, place + 1)[0]):
            continue
        n_paired += 1
        c = weight_by_formula(t, signal_share)
        n_groups = t if groups == ALL_PAIRS else groups
        group = [next(g for g in range(n_groups) if j < (g + 1) * t // n_groups) for j in range(t)]
        for j, other in itertools.permutations(range(t), 2):
            if group[j] != group[other]:
                (a, r), (b, s) = rows[j], rows[other]
                cross += c * r * s * np.outer(a, b)
                pairs += c
    return gram, cross, pairs, n_paired


@laws
@given(seed=seeds, sizes=small_sizes, d=dimensions, groups=all_groups, share=shares, part=parts)
def test_sums_are_those_of_the_formula(seed, sizes, d, groups, share, part):
    block, frame = random_block(seed, sizes, d, first_task=seed % 97), random_frame(seed, d)
    found = moments(block, frame, groups, share, part=part)
    gram, cross, pairs, n_paired = moments_by_loop(block, frame, groups, share, part)
    expected = Moments(gram, cross, found.null, pairs, sum(sizes), len(sizes), n_paired)
    assert_same(found, expected)


@pytest.mark.parametrize("groups", [ALL_PAIRS, SPLIT, 3])
@pytest.mark.parametrize("seed", range(4))
def test_null_is_the_same_sum_with_a_sign_for_each_group(seed, groups):
    t = 6
    block, frame = random_block(seed, [t], 2, first_task=seed), random_frame(seed, 2)
    found = moments(block, frame, groups, seed=seed)
    rows = rows_by_loop(block, frame)[0]
    n_groups = groups or t
    sums = [
        sum(r * a for a, r in rows[g * t // n_groups : (g + 1) * t // n_groups])
        for g in range(n_groups)
    ]
    c = weight_by_formula(t, 0.25)
    candidates = [
        sum(
            c * signs[g] * signs[h] * np.outer(sums[g], sums[h])
            for g, h in itertools.permutations(range(n_groups), 2)
        )
        for signs in itertools.product([1, -1], repeat=n_groups)
    ]
    assert any(np.allclose(found.null, candidate) for candidate in candidates)


@laws
@given(seed=seeds, drawn=cut_tasks(), d=dimensions, groups=all_groups, part=parts)
def test_any_cut_gives_the_same_sums(seed, drawn, d, groups, part):
    """Null included: a sign belongs to a task's place and row, not to a block."""
    sizes, places = drawn
    block, frame = random_block(seed, sizes, d, first_task=5), random_frame(seed, d)
    whole = moments(block, frame, groups, part=part)
    with mock.patch.multiple(blocks, CACHE_BYTES=1, PIECE_BYTES=1):  # 256 rows within a block too
        sums = [moments(piece, frame, groups, part=part) for piece in cut(block, places)]
    assert_same(reduce(combine_moments, sums), whole)


@laws
@given(seed=seeds, drawn=cut_tasks(), d=dimensions, groups=all_groups)
def test_combining_is_associative_and_has_an_identity(seed, drawn, d, groups):
    sizes, places = drawn
    block, frame = random_block(seed, sizes, d), random_frame(seed, d)
    sums = [moments(piece, frame, groups) for piece in cut(block, places)]
    from_left = reduce(combine_moments, sums)
    from_right = reduce(lambda right, left: combine_moments(left, right), reversed(sums))
    assert_same(from_left, from_right)
    nothing = moments(empty_block(d), frame, groups)
    assert_same(combine_moments(nothing, from_left), from_left, rtol=0)
    assert_same(combine_moments(from_left, nothing), from_left, rtol=0)


@laws
@given(seed=seeds, drawn=cut_tasks(), d=dimensions, groups=all_groups, part=parts)
def test_adding_onto_a_sum_is_combining_with_it(seed, drawn, d, groups, part):
    sizes, places = drawn
    block, frame = random_block(seed, sizes, d), random_frame(seed, d)
    pieces = list(cut(block, places))
    sums = [moments(piece, frame, groups, part=part) for piece in pieces]
    onto = None
    for piece in pieces:
        onto = moments(piece, frame, groups, part=part, onto=onto)
    assert_same(onto, reduce(combine_moments, sums))


@laws
@given(seed=seeds, sizes=small_sizes, d=dimensions, groups=all_groups)
def test_tasks_without_a_pair_give_no_pairs(seed, sizes, d, groups):
    single = [min(t, 1) for t in sizes]
    found = moments(random_block(seed, single, d), random_frame(seed, d), groups)
    assert found.n_paired == found.pairs == 0
    assert not found.cross.any()
    assert not found.null.any()
    assert found.gram[0, 0] == sum(single) == found.n_rows


@laws
@given(seed=seeds, sizes=small_sizes, d=dimensions, groups=all_groups, c=st.sampled_from([-2, 0.5]))
def test_moments_scale_with_the_target(seed, sizes, d, groups, c):
    block, frame = random_block(seed, sizes, d), random_frame(seed, d)
    scaled_frame = frame.with_offset(c * frame.offset)
    found = moments(replace(block, y=c * block.y), scaled_frame, groups)
    expected = moments(block, frame, groups)
    by = np.append(np.ones(d + 1), c)
    np.testing.assert_allclose(found.gram, expected.gram * np.outer(by, by), atol=1e-9)
    np.testing.assert_allclose(found.cross, c**2 * expected.cross, atol=1e-9)
    np.testing.assert_allclose(found.null, c**2 * expected.null, atol=1e-9)


@laws
@given(seed=seeds, sizes=small_sizes, d=dimensions, groups=all_groups)
def test_moments_turn_with_the_covariates(seed, sizes, d, groups):
    """``a -> T a`` is a congruence of every sum, for any invertible linear map of covariates."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    block = random_block(seed, sizes, d)
    found = moments(replace(block, X=block.X @ turn.T), plain_frame(d), groups)
    expected = moments(block, plain_frame(d), groups)
    T, T_r = np.eye(d + 1), np.eye(d + 2)
    T[1:, 1:] = T_r[1:-1, 1:-1] = turn
    np.testing.assert_allclose(found.gram, T_r @ expected.gram @ T_r.T, atol=1e-9)
    np.testing.assert_allclose(found.cross, T @ expected.cross @ T.T, atol=1e-9)
    np.testing.assert_allclose(found.null, T @ expected.null @ T.T, atol=1e-9)


@laws
@given(seed=seeds, sizes=small_sizes, d=dimensions, groups=all_groups)
def test_the_order_of_tasks_does_not_matter(seed, sizes, d, groups):
    """But for the null, whose signs belong to places."""
    block, frame = random_block(seed, sizes, d), random_frame(seed, d)
    order = np.random.default_rng(seed).permutation(len(sizes))
    tasks = [block.tasks(i, i + 1) for i in order]
    nothing = moments(empty_block(d), frame, groups)
    shuffled = reduce(combine_moments, [moments(task, frame, groups) for task in tasks], nothing)
    whole = moments(block, frame, groups)
    assert_same(replace(shuffled, null=whole.null), whole)


@laws
@given(seed=seeds, drawn=cut_tasks(), d=dimensions, groups=all_groups)
def test_parts_add_up_to_the_whole(seed, drawn, d, groups):
    sizes, _ = drawn
    block, frame = random_block(seed, sizes, d), random_frame(seed, d)
    whole = moments(block, frame, groups)
    thirds = [moments(block, frame, groups, part=Part(i, 3, seed)) for i in range(3)]
    for name in ("cross", "null", "pairs", "n_paired"):
        total = sum(getattr(third, name) for third in thirds)
        np.testing.assert_allclose(
            total, getattr(whole, name), atol=1e-8 * whole.gram.max(initial=1)
        )
    for third in thirds:  # the covariates of every task say how to whiten
        np.testing.assert_array_equal(third.gram, whole.gram)


def second_moment(problem) -> np.ndarray:
    """``sum_l p_l w_l w_l^T``."""
    return np.einsum("k,ki,kj->ij", problem.weights, problem.coef, problem.coef)


@pytest.mark.parametrize("groups", [ALL_PAIRS, SPLIT, 3])
@pytest.mark.parametrize("seed", range(3))
def test_second_moment_is_unbiased_and_its_null_has_mean_zero(seed, groups):
    """Over 400 batches of tasks, each entry's mean is within 4 standard errors of the truth."""
    n_batches, per_batch = 400, 60
    sizes = np.random.default_rng(seed).integers(0, 9, per_batch).tolist() * n_batches
    problem = planted(seed, sizes, 3, 2, noise=0.7)
    estimates = [
        finalise_moments(moments(batch, plain_frame(2), groups, signal_share=0.3))
        for batch in cut(problem.block, range(per_batch, per_batch * n_batches, per_batch))
    ]
    for found, truth in zip(
        np.transpose(estimates, (1, 0, 2, 3)),
        [second_moment(problem), np.zeros((3, 3))],
        strict=True,
    ):
        error = found.std(axis=0, ddof=1) / np.sqrt(n_batches)
        assert np.all(error < 0.2)  # the test can tell: entries of the truth are of order 1
        np.testing.assert_array_less(np.abs(found.mean(axis=0) - truth), 4 * error)


def test_all_pairs_are_less_noisy_than_two_halves():
    """A U-statistic over all pairs against the paper's split: half as many pairs, more variance."""
    problem = planted(0, [6] * 60_000, 3, 2, noise=0.7)
    pieces = cut(problem.block, range(60, 60_000, 60))
    spread = {
        groups: np.var(
            [finalise_moments(moments(p, plain_frame(2), groups))[0] for p in pieces], axis=0
        ).sum()
        for groups in (ALL_PAIRS, 3, SPLIT)
    }
    assert spread[ALL_PAIRS] < spread[3] < spread[SPLIT]


def test_null_fluctuates_like_the_noise_of_the_second_moment():
    """With no signal, the two have the same spread: the null's edge is the noise's edge."""
    rng = np.random.default_rng(3)
    sizes = rng.integers(2, 7, 40_000)
    X, y = rng.normal(size=(sizes.sum(), 2)), rng.normal(size=sizes.sum())
    block = TaskBlock(X, y, np.concatenate([[0], np.cumsum(sizes)]))
    both = [finalise_moments(moments(p, plain_frame(2))) for p in cut(block, range(40, 40_000, 40))]
    cross, null = np.var(both, axis=0)
    np.testing.assert_allclose(null, cross, rtol=0.25)


@pytest.mark.parametrize("share", [0.05, 0.2])
@pytest.mark.parametrize("seed", range(2))
def test_weight_is_the_inverse_of_a_monte_carlo_variance(seed, share):
    """Along one direction with ``E w^2 = v``, ``Var w^2 = v^2`` and ``Var r = 1``.

    ``c_i t (t - 1)`` is the inverse of the variance of a task's sum but for one constant; what the
    formula leaves out is of order v.
    """
    rng = np.random.default_rng(seed)
    sizes, n = np.array([2, 3, 8, 32, 128]), 20_000
    ratio = []
    for t, weight in zip(sizes.tolist(), task_weight(sizes, share).tolist(), strict=True):
        w = np.sqrt(2 * share * rng.integers(0, 2, n)) * rng.choice([-1, 1], n)
        u = rng.normal(size=(n, t))
        z = u * (w[:, None] * u + np.sqrt(1 - w[:, None] ** 2) * rng.normal(size=(n, t)))
        total = z.sum(axis=1) ** 2 - (z**2).sum(axis=1)
        ratio.append(total.var() / (t * (t - 1)) * weight)
    np.testing.assert_allclose(ratio, np.mean(ratio), rtol=0.1 + share)
    assert 1 <= np.mean(ratio) < 1 + 6 * share


def test_weight_saturates_and_is_zero_without_a_pair():
    sizes = np.array([0, 1, 2, 10**3, 10**6])
    weight = task_weight(sizes, 0.25)
    np.testing.assert_array_equal(weight[:2], 0)
    influence = weight[2:] * sizes[2:] * (sizes[2:] - 1.0)
    np.testing.assert_allclose(influence[-1], 1 / 0.25**2, rtol=1e-4)
    assert np.all(np.diff(influence) > 0)
    np.testing.assert_allclose(weight, [weight_by_formula(int(t), 0.25) for t in sizes])


def test_signs_are_fair_and_belong_to_keys():
    keys = np.arange(100_000)
    signs = random_signs(keys, 3)
    assert set(signs) == {-1.0, 1.0}
    assert abs(signs.mean()) < 5 / np.sqrt(len(keys))
    assert abs((signs * random_signs(keys, 4)).mean()) < 5 / np.sqrt(len(keys))
    assert abs((signs[1:] * signs[:-1]).mean()) < 5 / np.sqrt(len(keys))
    np.testing.assert_array_equal(random_signs(keys[::-1], 3), signs[::-1])


@laws
@given(
    seed=seeds,
    sizes=st.lists(st.sampled_from([0, 1, 2, 8, 63, 64, 65, 130]), max_size=8),
    first=st.integers(0, 2**30),
    at_once=st.sampled_from([1, 3, 1 << 14]),
)
def test_signs_of_examples_are_the_bits_of_their_tasks_hashes(seed, sizes, first, at_once):
    block = replace(random_block(0, sizes, 1), first_task=first)
    expected = [
        1 - 2 * (int(hash64(np.array([(task << 24) + (j >> 6)]), seed)[0]) >> (j & 63) & 1)
        for task, size in enumerate(sizes, first)
        for j in range(size)
    ]
    with mock.patch("daskmlr.kernels.moments.WORDS_AT_ONCE", at_once):
        assert example_signs(block, seed).tolist() == expected


@pytest.mark.parametrize("groups", [ALL_PAIRS, SPLIT])
@pytest.mark.parametrize("seed", range(3))
def test_single_precision_moments_stay_close(seed, groups):
    """Covariates of mean 100 through a frame, tasks from 2 rows to 3,000."""
    problem = planted(seed, [2, 1, 8, 0] * 400 + [3000], 3, 5, mean=100.0)
    block = problem.block
    single = replace(block, X=block.X.astype(np.float32), y=block.y.astype(np.float32))
    offset = np.append(block.y.mean(), np.zeros(5))
    frame = Frame(block.X.mean(axis=0), block.X.std(axis=0), offset)
    exact, found = moments(block, frame, groups), moments(single, frame, groups)
    assert found.gram.dtype == found.cross.dtype == np.float64
    np.testing.assert_allclose(found.gram, exact.gram, atol=2e-5 * exact.n_rows)
    for name in ("cross", "null"):
        np.testing.assert_allclose(
            getattr(found, name) / found.pairs, getattr(exact, name) / exact.pairs, atol=1e-4
        )


@pytest.mark.parametrize("groups", [1, -1, -3])
def test_too_few_groups_are_refused(groups):
    with pytest.raises(InputError, match=rf"groups must be .* got {groups}: "):
        moments(random_block(0, [3], 1), plain_frame(1), groups)


@pytest.mark.parametrize("groups", [ALL_PAIRS, SPLIT])
def test_a_second_moment_needs_a_task_with_a_pair(groups):
    sums = moments(random_block(0, [1, 0, 1], 2), plain_frame(2), groups)
    with pytest.raises(InputError, match=r"two examples or more \(3 tasks, 2 rows\)"):
        finalise_moments(sums)
