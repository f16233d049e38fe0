from __future__ import annotations

import shutil

import numpy as np
import pytest
import zarr

from daskmlr.errors import DamagedStoreError, InputError, PathExistsError, StoreError
from daskmlr.kernels.blocks import TaskBlock
from daskmlr.storage.tasks import open_tasks
from daskmlr.synthetic import (
    MixtureTruth,
    load_truth,
    make_truth,
    oracle_assign,
    oracle_coefficients,
    simulate,
    simulate_arrays,
    truth_path,
    truth_sums_from_block,
)
from daskmlr.synthetic.draw import CHUNK_TASKS, CHUNK_VALUES, checked_draw

MIXTURE = {"n_components": 3, "n_features": 4, "noise": [0.3, 0.5, 1.0], "mean": 2.0}
RAGGED = [(1500, (1, 12)), (20, 40)]


def as_block(X, y, groups) -> TaskBlock:
    starts = np.flatnonzero(np.append(True, groups[1:] != groups[:-1]))
    return TaskBlock(X, y, np.append(starts, len(y)).astype(np.int64))


def decoded(store) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All rows of a store, and the sizes, whatever its blocks."""
    blocks = [store.read_block(i) for i in range(store.n_blocks)]
    return (
        np.concatenate([block.X for block in blocks]),
        np.concatenate([block.y for block in blocks]),
        np.concatenate([block.sizes for block in blocks]),
    )


@pytest.fixture(scope="module")
def arrays():
    return simulate_arrays(
        task_groups=RAGGED, random_state=7, correlation=0.6, intercept_scale=2.0, **MIXTURE
    )


@pytest.mark.parametrize("block_bytes", [2_000, 30_000, None])
def test_the_blocks_of_a_store_change_no_bit(tmp_path, arrays, block_bytes):
    store = simulate(
        tmp_path / "tasks.zarr",
        task_groups=RAGGED,
        random_state=7,
        block_bytes=block_bytes,
        correlation=0.6,
        intercept_scale=2.0,
        **MIXTURE,
    )
    X, y, groups, labels = arrays
    stored_X, stored_y, sizes = decoded(store)
    assert (store.n_blocks > 1) == (block_bytes is not None)
    assert stored_X.dtype == np.float32
    np.testing.assert_array_equal(stored_X, X)
    np.testing.assert_array_equal(stored_y, y)
    np.testing.assert_array_equal(sizes, np.bincount(groups))
    np.testing.assert_array_equal(load_truth(store.path)[1], labels)


def test_chunks_drawn_in_any_order_are_the_same():
    draw = checked_draw(None, {**MIXTURE, "correlation": 0.5}, RAGGED, 3, "float32", None)
    places = [(0, 0), (0, 1), (1, 0)]
    forward = list(draw.chunks())
    assert len(forward) == len(places)
    for place, chunk in reversed(list(zip(places, forward, strict=True))):
        for drawn, expected in zip(draw.chunk(*place), chunk, strict=True):
            np.testing.assert_array_equal(drawn, expected)


@pytest.mark.parametrize("options", [{}, {"correlation": 0.9}, {"noise_dof": 4.0}])
def test_a_longer_run_begins_with_the_shorter(options):
    few, many = CHUNK_TASKS + 10, 3 * CHUNK_TASKS
    short = simulate_arrays(task_groups=[(few, (1, 9))], random_state=1, **MIXTURE, **options)
    long = simulate_arrays(task_groups=[(many, (1, 9))], random_state=1, **MIXTURE, **options)
    for some, more in zip(short, long, strict=True):
        np.testing.assert_array_equal(more[: len(some)], some)


def test_a_chunk_is_bounded_by_its_largest_task():
    draw = checked_draw(None, MIXTURE, [(10, (1, 50_000)), (5, 10**6)], 0, "float32", None)
    assert draw.chunk_tasks(0) == CHUNK_VALUES // (50_000 * 5)
    assert draw.chunk_tasks(1) == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_seed_decides_every_bit(dtype):
    def draw(seed):
        return simulate_arrays(task_groups=RAGGED, random_state=seed, dtype=dtype, **MIXTURE)

    first, again, other = draw(5), draw(5), draw(6)
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert first[0].dtype == first[1].dtype == np.dtype(dtype)
    n = min(len(first[1]), len(other[1]))
    assert not np.any(first[0][:n] == other[0][:n])
    assert not np.any(first[1][:n] == other[1][:n])
    assert np.mean(first[3] == other[3]) < 0.5


def test_no_two_chunks_or_groups_share_numbers():
    X, *_ = simulate_arrays(
        task_groups=[(2 * CHUNK_TASKS, 2), (CHUNK_TASKS, 2)],
        random_state=0,
        dtype="float64",
        n_components=1,
        n_features=2,
    )
    assert len(np.unique(X)) == X.size


def test_the_draw_has_the_moments_of_the_truth():
    truth = make_truth(
        n_components=3,
        n_features=4,
        random_state=11,
        noise=[0.3, 0.5, 1.0],
        weights=[0.2, 0.3, 0.5],
        intercept_scale=1.0,
        mean=[0.0, 1.0, -2.0, 100.0],
        correlation=0.9,
    )
    n = 20_000
    X, y, groups, labels = simulate_arrays(
        truth=truth, task_groups=[(n, 8)], random_state=12, dtype="float64"
    )
    shares = np.bincount(labels, minlength=3) / n
    assert np.all(np.abs(shares - truth.weights) < 4 * np.sqrt(truth.weights / n))
    centred = X - truth.feature_mean
    assert np.all(np.abs(centred.mean(axis=0)) < 4 / np.sqrt(len(X)))
    # the variance of a product of two unit Gaussians of correlation r is 1 + r^2
    spread = np.sqrt((1 + truth.feature_covariance**2) / len(X))
    covariance = centred.T @ centred / len(X)
    assert np.all(np.abs(covariance - truth.feature_covariance) < 4 * spread)
    z = labels[groups]
    residual = y - truth.intercept[z] - np.sum(X * truth.coef[z], axis=1)
    for component, variance in enumerate(truth.noise_variance):
        own = residual[z == component]
        assert abs(own.mean()) < 4 * np.sqrt(variance / len(own))
        assert np.mean(own**2) == pytest.approx(variance, abs=4 * variance * np.sqrt(2 / len(own)))


def test_the_second_moment_is_the_covariance_moved_by_the_mean():
    truth = make_truth(
        n_components=1, n_features=3, random_state=0, mean=[1.0, -2.0, 100.0], correlation=0.9
    )
    np.testing.assert_allclose(
        truth.feature_covariance, [[1.0, 0.9, 0.81], [0.9, 1.0, 0.9], [0.81, 0.9, 1.0]]
    )
    centre = np.eye(4)
    centre[1:, 0] = -truth.feature_mean
    expected = np.eye(4)
    expected[1:, 1:] = truth.feature_covariance
    np.testing.assert_allclose(centre @ truth.second_moment @ centre.T, expected, atol=1e-9)


def test_ragged_sizes_are_log_uniform_and_cover_their_bounds():
    low, high, n = 2, 6, 40_000
    *_, groups, _ = simulate_arrays(
        task_groups=[(n, (low, high))], random_state=2, n_components=1, n_features=1
    )
    sizes = np.arange(low, high + 1)
    found = np.bincount(np.bincount(groups), minlength=high + 2)
    expected = np.log((sizes + 1) / sizes) / np.log((high + 1) / low)
    assert found[:low].sum() == found[high + 1 :].sum() == 0
    np.testing.assert_allclose(found[low : high + 1] / n, expected, atol=4 * 0.5 / np.sqrt(n))


def test_student_noise_has_the_variance_asked_for_and_heavy_tails():
    truth = make_truth(n_components=1, n_features=1, random_state=0, noise=2.0, coef_scale=0.0)
    options = {"truth": truth, "task_groups": [(20_000, 10)], "random_state": 0}
    *_, gaussian, _, _ = simulate_arrays(**options)
    *_, student, _, _ = simulate_arrays(noise_dof=5.0, **options)
    assert np.var(student) == pytest.approx(4.0, rel=0.05)
    assert np.mean(student**4) / 16 > 5 > 3.2 > np.mean(gaussian**4) / 16


def test_orthonormal_and_scaled_coefficients():
    truth = make_truth(
        n_components=4, n_features=6, random_state=0, orthonormal=True, coef_scale=3.0
    )
    np.testing.assert_allclose(truth.coef @ truth.coef.T, 9 * np.eye(4), atol=1e-12)
    free = make_truth(n_components=400, n_features=20, random_state=0, coef_scale=3.0)
    norms = np.sum(free.coef**2, axis=1)
    assert norms.mean() == pytest.approx(9, abs=4 * norms.std() / np.sqrt(400))


def test_the_seed_alone_is_the_seed_of_the_truth_too():
    direct = simulate_arrays(task_groups=RAGGED, random_state=4, **MIXTURE)
    truth = make_truth(random_state=4, **MIXTURE)
    given = simulate_arrays(truth=truth, task_groups=RAGGED, random_state=4)
    for one, two in zip(direct, given, strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_truth_comes_back_as_it_was(tmp_path):
    truth = make_truth(random_state=4, correlation=0.5, intercept_scale=1.0, **MIXTURE)
    path = tmp_path / "tasks.zarr"
    seen = []
    store = simulate(
        path,
        truth=truth,
        task_groups=RAGGED,
        random_state=9,
        ids="str",
        progress=lambda at: seen.append((at.done, at.total)),
    )
    loaded, labels = load_truth(path)
    for name in ("coef", "intercept", "noise_variance", "weights", "feature_mean", "correlation"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(truth, name))
    assert (labels.dtype, len(labels)) == (np.int16, store.n_tasks)
    assert seen == [(1024, 1520), (1500, 1520), (1520, 1520)]
    assert list(store.task_ids(0, 2)) == ["task-0", "task-1"]
    assert store.feature_names == ("x0", "x1", "x2", "x3")
    kept = zarr.open_group(truth_path(path), mode="r").attrs["daskmlr"]["parameters"]
    assert kept["task_groups"] == [[1500, [1, 12]], [20, [40, 40]]]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tasks.truth.zarr", "tasks.zarr"]


def test_the_oracle_of_labels_is_the_largest_posterior():
    truth = make_truth(
        random_state=3, n_components=3, n_features=2, noise=[0.3, 0.6, 0.9], weights=[0.2, 0.3, 0.5]
    )
    X, y, groups, labels = simulate_arrays(truth=truth, task_groups=[(200, (1, 6))], random_state=0)
    found = oracle_assign(as_block(X, y, groups), truth)
    for task in range(200):
        own = groups == task
        scores = []
        for w, b, v, p in zip(
            truth.coef, truth.intercept, truth.noise_variance, truth.weights, strict=True
        ):
            density = np.exp(-((y[own] - b - X[own] @ w) ** 2) / (2 * v)) / np.sqrt(2 * np.pi * v)
            scores.append(np.log(p) + np.sum(np.log(density)))
        assert found[task] == np.argmax(scores)
    assert np.mean(found == labels) > 0.6
    empty = TaskBlock(X[:0], y[:0], np.zeros(3, np.int64))
    assert oracle_assign(empty, truth).tolist() == [2, 2]


def test_the_oracle_of_coefficients_is_least_squares_and_its_sums_add():
    truth = make_truth(
        random_state=3, n_components=3, n_features=3, mean=100.0, correlation=0.9, intercept_scale=1
    )
    X, y, groups, labels = simulate_arrays(
        truth=truth, task_groups=[(300, (1, 9))], random_state=0, dtype="float64"
    )
    block = as_block(X, y, groups)
    sums = truth_sums_from_block(block, labels, n_components=4)
    parts = [block.tasks(a, b) for a, b in [(0, 7), (7, 7), (7, 8), (8, 300)]]
    np.testing.assert_allclose(
        sum(truth_sums_from_block(part, labels, n_components=4) for part in parts), sums, rtol=1e-13
    )
    coef, intercept, noise = oracle_coefficients(sums)
    for component in range(3):
        own = labels[groups] == component
        rows = np.column_stack([np.ones(own.sum()), X[own]])
        solution, rss, *_ = np.linalg.lstsq(rows, y[own], rcond=None)
        np.testing.assert_allclose(coef[component], solution[1:], rtol=1e-6)
        assert intercept[component] == pytest.approx(solution[0], rel=1e-6, abs=1e-6)
        assert noise[component] == pytest.approx(rss[0] / own.sum(), rel=1e-6)
    assert np.isnan(coef[3]).all()
    assert np.isnan(intercept[3])


def test_an_existing_store_or_truth_is_left_alone(tmp_path):
    path = tmp_path / "tasks.zarr"
    simulate(path, task_groups=[(5, 2)], random_state=0, **MIXTURE)
    before = load_truth(path)[1]
    with pytest.raises(PathExistsError, match=r"tasks\.truth\.zarr exists"):
        simulate(path, task_groups=[(6, 2)], random_state=1, **MIXTURE)
    np.testing.assert_array_equal(load_truth(path)[1], before)
    shutil.rmtree(truth_path(path))
    with pytest.raises(PathExistsError, match=r"tasks\.zarr"):
        simulate(path, task_groups=[(6, 2)], random_state=1, **MIXTURE)
    assert open_tasks(path).n_tasks == 5
    assert [p.name for p in tmp_path.iterdir()] == ["tasks.zarr"]


def test_a_run_that_fails_leaves_neither_store_nor_truth(tmp_path):
    def stop(at):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(
            tmp_path / "tasks.zarr",
            task_groups=RAGGED,
            random_state=0,
            progress=stop,
            **MIXTURE,
        )
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_published_takes_its_truth_away(tmp_path):
    path = tmp_path / "tasks.zarr"

    def somebody_else_was_faster(at):
        path.mkdir(exist_ok=True)

    with pytest.raises(PathExistsError, match=r"tasks\.zarr exists"):
        simulate(
            path,
            task_groups=RAGGED,
            random_state=0,
            progress=somebody_else_was_faster,
            **MIXTURE,
        )
    assert list(tmp_path.iterdir()) == [path]
    assert list(path.iterdir()) == []


def test_a_truth_that_is_missing_or_damaged_is_named(tmp_path):
    path = tmp_path / "tasks.zarr"
    with pytest.raises(StoreError, match=r"no truth of simulated tasks at .*tasks\.truth\.zarr"):
        load_truth(path)
    simulate(path, task_groups=[(5000, 2)], random_state=0, **MIXTURE)
    chunk = truth_path(path) / "labels" / "c" / "0"
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(DamagedStoreError, match=r"tasks\.truth\.zarr/labels"):
        load_truth(path)
    chunk.unlink()
    with pytest.raises(DamagedStoreError, match=r"chunk of .*\.truth\.zarr/labels is missing"):
        load_truth(path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_components": 0}, "n_components must be an integer of at least 1, not 0"),
        ({"n_components": 2.0}, r"n_components must be an integer .*, not 2\.0"),
        ({"n_components": 40_000}, "at most 32767 components, not 40000"),
        ({"n_features": -1}, "n_features must be .*, not -1"),
        ({"noise": 0.0}, "noise must be a positive deviation, not 0"),
        ({"noise": [0.5, 0.5]}, r"noise must be one number or 3, not of shape \(2,\)"),
        ({"weights": [0.5, 0.6, 0.1]}, r"weights must sum to 1, but sum to 1\.2"),
        ({"weights": [0.5, 0.5]}, r"weights must have shape \(3,\), not \(2,\)"),
        ({"weights": [0.5, 0.5, 0.0]}, r"weights must be positive, not \[0\.5, 0\.5, 0\.0\]"),
        ({"n_features": 2, "orthonormal": True}, "need at least 3 features, not 2"),
        ({"intercept_scale": -1.0}, r"intercept_scale must be .* not negative, not -1\.0"),
        ({"coef_scale": np.nan}, "coef_scale must be finite and not negative, not nan"),
        ({"mean": [1.0, 2.0]}, r"mean must be one number or 4, not of shape \(2,\)"),
        ({"mean": np.inf}, "feature_mean must be finite, but holds inf"),
        ({"correlation": 1.0}, r"correlation must lie between -1 and 1, not be 1\.0"),
        ({"random_state": -3}, "random_state must be an integer of at least 0, not -3"),
        ({"task_groups": []}, "at least 1 group"),
        ({"task_groups": [(10, 2), (0, 3)]}, r"number of tasks of task_groups\[1\] .* not 0"),
        ({"task_groups": [(10, 0)]}, r"task size of task_groups\[0\] .* not 0"),
        ({"task_groups": [(10, (5, 2))]}, r"task_groups\[0\] must be \(low, high\), but 5 > 2"),
        ({"task_groups": [(10, (1, 2, 3))]}, r"must be a number or \(low, high\), not \(1, 2, 3\)"),
        ({"task_groups": [10]}, r"task_groups\[0\] must be a pair \(n_tasks, size\), not 10"),
        ({"dtype": "int8"}, "dtype must be 'float32' or 'float64', not 'int8'"),
        ({"noise_dof": 2.0}, r"noise_dof must be .* more than 2, not 2\.0"),
        ({"ids": "uuid"}, "ids must be 'int' or 'str', not 'uuid'"),
    ],
)
def test_an_impossible_parameter_is_named(tmp_path, changed, message):
    parameters = {"task_groups": [(10, 2)], "random_state": 0, **MIXTURE, **changed}
    if "n_features" in changed or "n_components" in changed:
        parameters["noise"] = changed.get("noise", 0.5)
    with pytest.raises(InputError, match=message):
        simulate(tmp_path / "tasks.zarr", **parameters)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match=message):
        simulate_arrays(**parameters)


def test_the_truth_is_given_once():
    truth = make_truth(random_state=0, n_components=1, n_features=1)
    with pytest.raises(InputError, match="remove n_features, or the truth"):
        simulate_arrays(truth=truth, n_features=2, task_groups=[(1, 1)], random_state=0)
    with pytest.raises(InputError, match="else also n_components"):
        simulate_arrays(n_features=2, task_groups=[(1, 1)], random_state=0)


def test_a_truth_of_other_shapes_is_refused():
    one = np.ones(1)
    with pytest.raises(InputError, match=r"coef must have shape \(k, d\), not \(2,\)"):
        MixtureTruth(np.ones(2), one, one, one, one)
    with pytest.raises(InputError, match=r"noise_variance must be positive, not \[-1\.0\]"):
        MixtureTruth(np.ones((1, 1)), one, -one, one, one)
    with pytest.raises(InputError, match=r"intercept must have shape \(1,\), not \(2,\)"):
        MixtureTruth(np.ones((1, 1)), np.ones(2), one, one, one)


def test_the_oracles_refuse_what_does_not_fit():
    truth = make_truth(random_state=0, n_components=2, n_features=3)
    X, y, groups, labels = simulate_arrays(truth=truth, task_groups=[(6, 2)], random_state=0)
    block = as_block(X, y, groups)
    with pytest.raises(InputError, match="have 2 features, but the truth has 3"):
        oracle_assign(TaskBlock(X[:, :2], y, block.offsets), truth)
    with pytest.raises(InputError, match="ends at task 6, but there are 5 labels"):
        truth_sums_from_block(block, labels[:5], n_components=2)
    with pytest.raises(InputError, match=r"0 \.\. 1, but lie in 2 \.\. 3"):
        truth_sums_from_block(block, np.array([2, 3, 2, 2, 2, 2]), n_components=2)
