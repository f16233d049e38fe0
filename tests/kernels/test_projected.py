from __future__ import annotations

from dataclasses import fields, replace
from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daskmlr.errors import InputError
from daskmlr.kernels.projected import (
    ProjectedTasks,
    combine_projected,
    select_largest,
    unpack,
)
from tests.kernels.drawing import (
    cut,
    cut_tasks,
    dimensions,
    dtypes,
    empty_block,
    laws,
    random_block,
    random_frame,
    rows_by_loop,
    seeds,
    small_sizes,
)
from tests.kernels.projecting import basis_of, project

batches = st.integers(0, 3)


def assert_same(found: ProjectedTasks, expected: ProjectedTasks, atol=1e-9) -> None:
    for field in fields(ProjectedTasks):
        values, wanted = getattr(found, field.name), getattr(expected, field.name)
        assert values.shape == wanted.shape
        np.testing.assert_allclose(values, wanted, atol=atol, err_msg=field.name)


@laws
@given(
    sizes=st.lists(st.integers(0, 4), max_size=12),
    cuts=st.lists(st.integers(0, 12), max_size=3),
    least=st.integers(0, 3),
    data=st.data(),
)
def test_the_largest_tasks_are_chosen_and_ties_spread_however_cut(sizes, cuts, least, data):
    count = data.draw(st.integers(0, len(sizes) + 2))
    whole = np.array(sizes, dtype=np.int32)
    chosen = select_largest(lambda: np.split(whole, sorted(cuts)), count, least=least)
    np.testing.assert_array_equal(chosen, select_largest(lambda: [whole], count, least=least))
    enough = [i for i, t in enumerate(sizes) if t >= least]
    assert len(chosen) == len(set(chosen.tolist())) == min(count, len(enough))
    assert set(chosen.tolist()) <= set(enough)
    assert np.all(np.diff(chosen) > 0)
    left_out = [sizes[i] for i in enough if i not in chosen]
    assert max(left_out, default=0) <= min((sizes[i] for i in chosen), default=9)


def test_ties_are_spread_over_the_store():
    chosen = select_largest(lambda: [np.full(1000, 5)], 10)
    np.testing.assert_array_equal(chosen // 100, np.arange(10))


@pytest.mark.parametrize("n_kinds", [2, 3, 8])
@pytest.mark.parametrize("stride", [1, 2, 3, 8, 12])
def test_ties_are_of_all_kinds_where_these_follow_each_other_in_turn(n_kinds, stride):
    chosen = select_largest(lambda: [np.full(600 * stride, 5)], 600)
    counts = np.bincount(chosen % n_kinds, minlength=n_kinds)
    np.testing.assert_allclose(counts, 600 / n_kinds, atol=5 * np.sqrt(600 / n_kinds))


@laws
@given(seed=seeds, sizes=small_sizes, d=dimensions, n_batches=batches, data=st.data(), dtype=dtypes)
def test_projected_moments_are_those_of_the_formula(seed, sizes, d, n_batches, data, dtype):
    r = data.draw(st.integers(1, d + 1))
    block = random_block(seed, sizes, d, dtype=dtype, first_task=4)
    frame, basis = random_frame(seed, d), basis_of(seed, d, r)
    expected = []
    for rows in rows_by_loop(block, frame):
        gram, cross, square = np.zeros((r, r)), np.zeros(r), 0.0
        for a, target in rows:
            v = np.array([sum(basis[f, c] * a[f] for f in range(d + 1)) for c in range(r)])
            gram += np.outer(v, v)
            cross += target * v
            square += target**2
        # 2 n_batches runs of rows, the first ones longer by one if the rows do not divide
        halves, start, n_runs = np.zeros((n_batches, 2, r)), 0, 2 * n_batches
        for run in range(n_runs):
            length = len(rows) // n_runs + (run < len(rows) % n_runs)
            for a, target in rows[start : start + length]:
                halves[run // 2, run % 2] += target * (a @ basis) / length
            start += length
        expected.append((gram[np.triu_indices(r)], cross, square, len(rows), halves))
    found = project(block, frame, basis, n_batches=n_batches)
    assert found.gram.dtype == found.cross.dtype == np.float64
    assert found.halves.shape == (len(sizes), n_batches, 2, r)
    for i, moments in enumerate(expected):
        for field, wanted in zip(fields(ProjectedTasks), moments, strict=True):
            atol = 1e-9 if dtype == np.float64 else 1e-3
            np.testing.assert_allclose(getattr(found, field.name)[i], wanted, atol=atol)


@laws
@given(seed=seeds, drawn=cut_tasks(), d=dimensions, n_batches=batches, data=st.data())
def test_any_cut_gives_the_same_tasks_in_the_same_order(seed, drawn, d, n_batches, data):
    sizes, places = drawn
    block, frame = random_block(seed, sizes, d, first_task=4), random_frame(seed, d)
    chosen = data.draw(st.sets(st.integers(0, len(sizes) + 8)))  # some before, some after
    positions = np.array(sorted(chosen), dtype=np.int64)
    inside = positions[(positions >= 4) & (positions < 4 + len(sizes))] - 4
    whole = project(block, frame, positions=positions, n_batches=n_batches)
    assert whole.size.tolist() == [sizes[i] for i in inside]
    pieces = [
        project(piece, frame, positions=positions, n_batches=n_batches)
        for piece in cut(block, places)
    ]
    assert_same(reduce(combine_projected, pieces), whole)
    from_right = reduce(lambda right, left: combine_projected(left, right), reversed(pieces))
    assert_same(from_right, whole)
    nothing = project(empty_block(d), frame, n_batches=n_batches)
    assert_same(combine_projected(nothing, combine_projected(whole, nothing)), whole, atol=0)


@laws
@given(seed=seeds, sizes=small_sizes, d=dimensions, c=st.sampled_from([-2.0, 0.5]))
def test_projections_scale_with_the_target_and_turn_with_the_basis(seed, sizes, d, c):
    block, frame = random_block(seed, sizes, d), random_frame(seed, d)
    basis, turn = basis_of(seed, d, d), np.eye(d)[::-1]
    expected = project(block, frame, basis, n_batches=2)
    found = project(
        replace(block, y=c * block.y),
        frame.with_offset(c * frame.offset),
        basis @ turn,
        n_batches=2,
    )
    upper = np.triu_indices(d)
    turned = ProjectedTasks(
        (turn.T @ unpack(expected.gram, d) @ turn)[:, *upper],
        c * expected.cross @ turn,
        c**2 * expected.square,
        expected.size,
        c * expected.halves @ turn,
    )
    assert_same(found, turned)


@pytest.mark.parametrize("count", [-1, -4])
def test_a_negative_number_of_largest_tasks_is_refused(count):
    with pytest.raises(InputError, match=f"must not be negative, got {count}"):
        select_largest(lambda: [np.array([1, 2])], count)
