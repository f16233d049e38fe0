"""The refinement: where it ends, how it gets there, and what it starts from."""

from dataclasses import replace
from unittest import mock

import numpy as np
import pytest

from daskmlr import simulate, stages
from daskmlr.graph.execute import connect
from daskmlr.kernels import acceleration
from daskmlr.kernels.assignment import Mixture
from daskmlr.kernels.projected import select_largest
from daskmlr.record import RunRecord
from daskmlr.spectral import find_subspace
from daskmlr.synthetic import load_truth


@pytest.fixture(scope="module")
def runner():
    with connect("sync") as runner:
        yield runner


def refine(tasks, spectrum, start, runner, **options):
    record = RunRecord()
    options = stages.FitOptions(3, **options)
    return (*stages.refine(tasks, options, spectrum, start, runner, record), record)


@pytest.fixture(scope="module")
def spectrum(easy_tasks, runner):
    options, rng = stages.FitOptions(3), np.random.default_rng(0)
    return find_subspace(easy_tasks, options, runner, RunRecord(), rng)


@pytest.fixture(scope="module")
def good(easy_tasks, spectrum):
    truth, _ = load_truth(easy_tasks.path)
    coef = spectrum.frame.from_user(truth.coef, truth.intercept)
    return Mixture(coef, truth.noise_variance, truth.weights)


@pytest.fixture(scope="module")
def bad(good):
    """Two components that are one, and between the truths."""
    coef = good.coef.copy()
    coef[1] = coef[0] = coef[:2].mean(axis=0)
    return Mixture(coef, np.full(3, 4.0), np.full(3, 1 / 3))


@pytest.fixture(scope="module")
def overlapping(tmp_path_factory, runner):
    """A table whose labels are doubtful, its spectrum, and a start at some distance."""
    tasks = simulate(
        tmp_path_factory.mktemp("overlapping") / "tasks.daskmlr",
        n_components=3,
        n_features=3,
        noise=1.0,
        task_groups=[(2000, 5)],
        random_state=0,
        dtype="float64",
    )
    truth, _ = load_truth(tasks.path)
    options, rng = stages.FitOptions(3), np.random.default_rng(0)
    spectrum = find_subspace(tasks, options, runner, RunRecord(), rng)
    coef = spectrum.frame.from_user(truth.coef, truth.intercept)
    return tasks, spectrum, Mixture(0.7 * coef, np.full(3, 2.0), np.full(3, 1 / 3))


def test_it_ends_where_plain_steps_end_in_half_the_passes(overlapping, runner):
    found, sums, converged, record = refine(*overlapping, runner, tol=1e-4)
    with mock.patch.object(acceleration, "extrapolate", lambda trail, _: trail[2]):
        plain, at, _, steps = refine(*overlapping, runner, tol=1e-7, max_iter=1000)
    assert converged
    assert len(record.entries) < len(steps.entries) / 2
    assert sums.log_likelihood == pytest.approx(at.log_likelihood, abs=1e-3)
    np.testing.assert_allclose(found.coef, plain.coef, atol=2e-3)


def test_a_step_that_overshot_is_taken_back(overlapping, runner):
    def overshoot(trail, _):
        return replace(trail[2], coef=3 * trail[2].coef)

    with mock.patch.object(acceleration, "extrapolate", overshoot):
        _, sums, converged, record = refine(*overlapping, runner)
    values = [entry["log_likelihood"] for entry in record.entries]
    assert converged
    assert np.count_nonzero(np.diff(values) < -100) >= 2
    assert sums.log_likelihood == max(values)
    expected = refine(*overlapping, runner)[1]
    assert sums.log_likelihood == pytest.approx(expected.log_likelihood, abs=0.1)


def test_a_pass_that_gains_less_than_tol_is_the_last(overlapping, runner):
    for tol in (100.0, 1.0, 1e-4):
        *_, converged, record = refine(*overlapping, runner, tol=tol)
        values = np.array([entry["log_likelihood"] for entry in record.entries])
        assert converged
        gains = np.diff(values)
        assert 0 <= gains[-1] < tol


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_all_tasks_choose_among_the_starts(easy_tasks, spectrum, good, bad, runner, order):
    starts = [(good, bad)[i] for i in order]
    record = RunRecord()
    options = stages.FitOptions(3)
    chosen = stages._likeliest(starts, easy_tasks, options, spectrum, runner, record)
    assert len(record.entries) == 4
    np.testing.assert_allclose(chosen.coef, good.coef, atol=0.1)


def test_one_start_costs_no_pass(easy_tasks, spectrum, good, runner):
    record = RunRecord()
    options = stages.FitOptions(3)
    assert stages._likeliest([good], easy_tasks, options, spectrum, runner, record) is good
    assert record.entries == []


def test_directions_beyond_k_are_kept_where_they_rise_above_the_edge(easy_tasks, runner):
    """Asked for one of three components, the directions of all are kept."""
    rng = np.random.default_rng(0)
    found = find_subspace(easy_tasks, stages.FitOptions(1), runner, RunRecord(), rng)
    assert found.rank == 3
    assert found.directions.shape == (5, 3)


@pytest.mark.parametrize("options", [{}, {"sample_split": True}, {"excluded": np.arange(0, 90, 2)}])
@pytest.mark.parametrize("n_heavy", [0, 1, 17, 40, 60, 100, 1000])
def test_largest_tasks_are_found_piece_by_piece(tmp_path, monkeypatch, n_heavy, options):
    groups = [(50, 2), (30, 1), (15, 7), (5, 9)]
    tasks = simulate(
        tmp_path / "tasks", n_components=2, n_features=2, task_groups=groups, random_state=0
    )
    asked = stages.FitOptions(2, n_heavy=n_heavy, **options)
    sizes = tasks.task_sizes()
    if asked.part(1) is not None:
        sizes[~asked.part(1).holds(0, tasks.n_tasks)] = 0
    wanted = select_largest(lambda: [sizes], n_heavy, least=2)
    for at_once in (7, 33, 1000):
        monkeypatch.setattr("daskmlr.storage.tasks.SIZES_AT_ONCE", at_once)
        found = stages._heavy_positions(tasks, asked)
        np.testing.assert_array_equal(found, wanted)
        assert found.dtype == np.int64
