from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daskmlr.kernels.blocks import (
    Frame,
    Part,
    TaskBlock,
    add_joint_gram,
    cut_rows,
    hash64,
    rows_in_cache,
    rows_not_excluded,
    rows_of_tasks,
    segment_matrix,
    task_of_row,
    tasks_in,
)
from tests.kernels.drawing import (
    cut,
    cut_tasks,
    dimensions,
    dtypes,
    laws,
    offsets_of,
    plain_frame,
    ragged_sizes,
    random_block,
    random_frame,
    rows_by_loop,
    seeds,
    small_sizes,
)


@laws
@given(sizes=ragged_sizes, d=dimensions, max_rows=st.sampled_from([1, 2, 8, 300, 10_000]))
def test_pieces_are_the_block_in_order(sizes, d, max_rows):
    block = random_block(0, sizes, d, first_task=7)
    pieces = list(block.pieces(max_rows))
    at = block.first_task
    for piece in pieces:
        assert piece.first_task == at
        assert piece.offsets[0] == 0
        assert piece.offsets[-1] == piece.n_rows == len(piece.X)
        assert piece.n_rows <= max_rows or piece.n_tasks == 1
        at += piece.n_tasks
    assert at == block.first_task + block.n_tasks
    np.testing.assert_array_equal(np.concatenate([p.y for p in pieces] or [[]]), block.y)
    assert [s for p in pieces for s in p.sizes] == sizes


def test_a_piece_takes_every_task_that_still_fits():
    block = random_block(0, [2, 3, 0, 1, 0, 5, 0], 1)
    assert [p.sizes.tolist() for p in block.pieces(5)] == [[2, 3, 0], [1, 0], [5, 0]]


@laws
@given(drawn=cut_tasks(), d=dimensions)
def test_tasks_of_a_cut_are_views_of_their_rows(drawn, d):
    sizes, places = drawn
    block = random_block(1, sizes, d, first_task=3)
    for part in cut(block, places):
        assert part.X.base is block.X or part.n_rows == 0
        lo = part.first_task - block.first_task
        np.testing.assert_array_equal(part.sizes, block.sizes[lo : lo + part.n_tasks])
        start = block.offsets[lo]
        np.testing.assert_array_equal(part.X, block.X[start : start + part.n_rows])


@laws
@given(seed=seeds, sizes=small_sizes, d=dimensions)
def test_augment_follows_the_definition_of_a_frame(seed, sizes, d):
    block, frame = random_block(seed, sizes, d), random_frame(seed, d)
    expected = [np.append(a, r) for task in rows_by_loop(block, frame) for a, r in task]
    found = frame.augment(block)
    assert found.dtype == block.X.dtype
    np.testing.assert_allclose(found, np.reshape(expected, (-1, d + 2)), rtol=1e-12, atol=1e-12)


@laws
@given(seed=seeds, d=dimensions, k=st.integers(1, 3))
def test_coefficients_survive_the_way_to_the_user_and_back(seed, d, k):
    frame = random_frame(seed, d)
    coef = np.random.default_rng(seed).normal(size=(k, d + 1))
    np.testing.assert_allclose(frame.from_user(*frame.to_user(coef)), coef, atol=1e-10)


@laws
@given(seed=seeds, d=dimensions, k=st.integers(1, 3))
def test_a_frame_changes_no_residual(seed, d, k):
    """``y - b - w . x`` is ``r - coef . a`` in every frame."""
    block, frame = random_block(seed, [4, 0, 3], d), random_frame(seed, d)
    rng = np.random.default_rng(seed)
    slopes, intercepts = rng.normal(size=(k, d)), rng.normal(size=k)
    rows = frame.augment(block)
    residual = rows[:, -1:] - rows[:, :-1] @ frame.from_user(slopes, intercepts).T
    expected = block.y[:, None] - intercepts - block.X @ slopes.T
    np.testing.assert_allclose(residual, expected, atol=1e-10)


def test_with_offset_takes_another_regression_out():
    block, frame = random_block(2, [5], 2), random_frame(2, 2)
    moved = frame.with_offset(np.array([1.0, 2.0, 3.0]))
    a = frame.augment(block)[:, :-1]
    np.testing.assert_array_equal(moved.augment(block)[:, :-1], a)
    np.testing.assert_allclose(moved.augment(block)[:, -1], block.y - a @ [1.0, 2.0, 3.0])


@pytest.mark.parametrize("seed", range(3))
def test_single_precision_covariates_far_from_zero_lose_little_in_a_frame(seed):
    """What is lost is the rounding of the stored number, 100 eps, not of products of it."""
    rng = np.random.default_rng(seed)
    X = 100 + rng.normal(size=(2000, 3))
    y = 100 + X @ [1.0, -1.0, 0.5] + rng.normal(size=2000)
    frame = Frame(X.mean(axis=0), X.std(axis=0), np.append(y.mean(), [1.0, -1.0, 0.5]))
    offsets = np.array([0, 2000])
    exact = frame.augment(TaskBlock(X, y, offsets))
    single = frame.augment(TaskBlock(X.astype(np.float32), y.astype(np.float32), offsets))
    assert single.dtype == np.float32
    eps = float(np.finfo(np.float32).eps)
    np.testing.assert_allclose(single, exact, atol=4 * 150 * eps)


@laws
@given(seed=seeds, sizes=small_sizes, d=dimensions, dtype=dtypes)
def test_segment_matrix_sums_each_segment(seed, sizes, d, dtype):
    block = random_block(seed, sizes, d, dtype=dtype)
    values = block.y
    found = segment_matrix(block.offsets, values) @ block.X
    assert found.shape == (len(sizes), d)
    assert found.dtype == dtype
    for i in range(block.n_tasks):
        expected = np.zeros(d)
        for j in range(block.offsets[i], block.offsets[i + 1]):
            expected += float(values[j]) * block.X[j].astype(float)
        np.testing.assert_allclose(found[i], expected, atol=1e-5 if dtype == np.float32 else 1e-12)


@laws
@given(sizes=ragged_sizes)
def test_task_of_row_names_the_owner(sizes):
    block = random_block(0, sizes, 1)
    assert task_of_row(block).tolist() == [i for i, t in enumerate(sizes) for _ in range(t)]


@laws
@given(sizes=ragged_sizes, seed=seeds)
def test_rows_of_tasks_are_theirs_in_order(sizes, seed):
    rng = np.random.default_rng(seed)
    tasks = rng.integers(len(sizes), size=4) if sizes else np.zeros(0, dtype=np.int64)
    index, offsets = rows_of_tasks(np.array(sizes, dtype=np.int64), tasks)
    starts = np.cumsum([0, *sizes])
    expected = [list(range(starts[i], starts[i] + sizes[i])) for i in tasks]
    assert [index[a:b].tolist() for a, b in itertools.pairwise(offsets)] == expected


def splitmix64(key: int, seed: int) -> int:
    """The reference of Steele, Lea and Flood in Python's integers."""
    wrap = 2**64
    z = (key + (seed + 1) * 0x9E3779B97F4A7C15) % wrap
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % wrap
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % wrap
    return z ^ (z >> 31)


@laws
@given(keys=st.lists(st.integers(0, 2**62), max_size=5), seed=st.integers(0, 2**64))
def test_hash_is_splitmix64(keys, seed):
    found = hash64(np.array(keys, dtype=np.int64), seed)
    assert found.tolist() == [splitmix64(key, seed) for key in keys]


@laws
@given(start=st.integers(0, 10**9), n=st.integers(0, 50), parts=st.integers(1, 5), seed=seeds)
def test_parts_are_disjoint_and_cover(start, n, parts, seed):
    held = [Part(i, parts, seed).holds(start, start + n) for i in range(parts)]
    np.testing.assert_array_equal(np.sum(held, axis=0), np.ones(n))


@laws
@given(drawn=cut_tasks(), seed=seeds, first_task=st.integers(0, 10**9))
def test_a_task_keeps_its_part_however_blocks_are_cut(drawn, seed, first_task):
    sizes, places = drawn
    block = random_block(0, sizes, 1, first_task=first_task)
    part = Part(1, 3, seed)
    pieces = [tasks_in(part, piece) for piece in cut(block, places)]
    np.testing.assert_array_equal(np.concatenate(pieces), tasks_in(part, block))


@pytest.mark.parametrize("seed", range(5))
def test_parts_are_of_equal_size_and_independent_between_seeds(seed):
    """30,000 tasks in thirds: within five standard deviations of what is fair."""
    n = 30_000
    first, second = Part(0, 3, seed).holds(0, n), Part(0, 3, seed + 1).holds(0, n)
    assert abs(first.sum() - n / 3) < 5 * np.sqrt(n * 2 / 9)
    assert abs((first & second).sum() - n / 9) < 5 * np.sqrt(n * 8 / 81)


@laws
@given(
    start=st.integers(0, 10**9),
    n=st.integers(0, 30),
    offsets=st.sets(st.integers(-5, 35)),
    parts=st.integers(1, 3),
    seed=seeds,
)
def test_excluded_tasks_are_in_no_part_and_others_stay(start, n, offsets, parts, seed):
    excluded = np.array(sorted(start + o for o in offsets), dtype=np.int64)
    for index in range(parts):
        part = Part(index, parts, seed, excluded)
        outside = np.isin(np.arange(start, start + n), excluded)
        np.testing.assert_array_equal(part.excludes(start, start + n), outside)
        before = Part(index, parts, seed).holds(start, start + n)
        np.testing.assert_array_equal(part.holds(start, start + n), before & ~outside)


def test_rows_of_excluded_tasks_are_found_in_any_part():
    block = random_block(0, [2, 0, 1, 3], 1, first_task=10)
    for part in (None, Part(1, 3, 0), Part(0, 1, 0, np.array([9, 14]))):
        assert rows_not_excluded(part, block) is None
    rows = rows_not_excluded(Part(1, 3, 0, np.array([10, 12])), block)
    assert rows.tolist() == [False, False, False, True, True, True]


def test_every_task_counts_without_a_part():
    np.testing.assert_array_equal(tasks_in(None, random_block(0, [0, 2], 1)), [True, True])


def test_plain_frame_is_the_raw_table():
    block = TaskBlock(np.array([[2.0], [3.0]]), np.array([5.0, 7.0]), offsets_of([2]))
    assert plain_frame(1).augment(block).tolist() == [[1, 2, 5], [1, 3, 7]]


@laws
@given(seed=seeds, d=dimensions, dtype=dtypes)
def test_covariates_near_zero_are_left_where_they_are(seed, d, dtype):
    block = random_block(seed, [3, 5], d, dtype=dtype)
    frame = Frame.near(np.full(d, 3.9), np.ones(d), 1.0, block.X.dtype)
    covariates, targets = frame.rows(block)
    assert np.shares_memory(covariates, block.X)
    np.testing.assert_allclose(targets, block.y - 1, rtol=1e-6)


@laws
@given(seed=seeds, d=dimensions, dtype=dtypes, mean=st.floats(5, 1e6), power=st.integers(-30, 30))
def test_a_frame_near_far_covariates_is_exact(seed, d, dtype, mean, power):
    """What is subtracted is a number of the dtype, what is divided by a power of two."""
    scale = 2.0**power
    frame = Frame.near(np.full(d, mean * scale), np.full(d, scale), 0.0, np.dtype(dtype))
    assert np.array_equal(frame.shift.astype(dtype), frame.shift)
    np.testing.assert_allclose(frame.shift, mean * scale, rtol=1e-7)
    assert (frame.scale == (scale if abs(power) > 4 else 1.0)).all()
    rng = np.random.default_rng(seed)
    X = (scale * (mean + rng.normal(size=(8, d)))).astype(dtype)
    block = TaskBlock(X, X[:, 0], offsets_of([8]))
    expected = ((X.astype(np.longdouble) - frame.shift) / frame.scale).astype(dtype)
    np.testing.assert_allclose(frame.rows(block)[0], expected, rtol=1e-6, atol=1e-30)


def test_a_frame_near_a_feature_that_never_varies_has_a_scale():
    frame = Frame.near(np.array([3.0]), np.zeros(1), 0.0, np.dtype(float))
    assert frame.scale.tolist() == [1.0]


@laws
@given(
    seed=seeds,
    cuts=st.lists(st.integers(0, 20), max_size=4),
    d=st.integers(1, 5),
    m=st.integers(1, 3),
    dtype=dtypes,
)
def test_joint_gram_is_that_of_the_joined_rows_however_cut(seed, cuts, d, m, dtype):
    rng = np.random.default_rng(seed)
    both = rng.normal(size=(sum(cuts), d + m)).astype(dtype)
    wide, thin = both[:, :d].copy(), both[:, d:].copy()
    total = np.ones((d + m, d + m))
    at = np.cumsum(cuts)[:-1]
    add_joint_gram(total, zip(np.split(wide, at), np.split(thin, at), strict=True))
    both = np.column_stack([thin[:, :1], wide, thin[:, 1:]])
    np.testing.assert_allclose(total, 1 + both.T @ both, rtol=1e-4, atol=1e-4)


@laws
@given(first=st.integers(0, 999), n=st.integers(0, 9999), d=st.sampled_from([1, 8, 2000]))
def test_rows_are_cut_once_each_in_order(first, n, d):
    wide = np.empty((0, d), dtype=np.float32)
    cuts = list(cut_rows(first, first + n, wide))
    assert [row for cut in cuts for row in range(cut.start, cut.stop)] == [*range(first, first + n)]
    assert max((cut.stop - cut.start for cut in cuts), default=0) <= rows_in_cache(wide)
