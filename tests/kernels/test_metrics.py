from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daskmlr.errors import InputError
from daskmlr.kernels.metrics import (
    UNMATCHED,
    calibration_error,
    coefficient_error,
    label_accuracy,
    match_components,
    prediction_risk,
    subspace_error,
)

seeds = st.integers(0, 2**32 - 1)


def total_distance(estimate, truth, pairs) -> float:
    return sum(np.sum((estimate[e] - truth[t]) ** 2) for t, e in pairs)


@given(seed=seeds, k=st.integers(1, 5), k_true=st.integers(1, 5), p=st.integers(1, 3))
def test_match_is_the_cheapest_of_all_pairings(seed, k, k_true, p):
    rng = np.random.default_rng(seed)
    estimate, truth = rng.normal(size=(k, p)), rng.normal(size=(k_true, p))
    match = match_components(estimate, truth)
    found = [(t, e) for t, e in enumerate(match) if e != UNMATCHED]
    assert len(found) == len({e for _, e in found}) == min(k, k_true)
    if k_true <= k:
        every = [list(enumerate(chosen)) for chosen in itertools.permutations(range(k), k_true)]
    else:
        chosen_truths = itertools.permutations(range(k_true), k)
        every = [[(t, e) for e, t in enumerate(chosen)] for chosen in chosen_truths]
    best = min(total_distance(estimate, truth, pairs) for pairs in every)
    assert total_distance(estimate, truth, found) == pytest.approx(best)


@given(seed=seeds, k=st.integers(1, 8))
def test_a_shuffled_truth_is_found_again(seed, k):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(k, 4))
    order = rng.permutation(k)
    match = match_components(truth[order], truth)
    np.testing.assert_array_equal(order[match], np.arange(k))
    np.testing.assert_array_equal(coefficient_error(truth[order], truth), np.zeros(k))


def test_coefficient_error_is_the_norm_after_matching():
    truth = np.array([[0.0, 0.0], [10.0, 0.0]])
    estimate = np.array([[10.0, 4.0], [3.0, 0.0]])
    np.testing.assert_allclose(coefficient_error(estimate, truth), [3.0, 4.0])
    np.testing.assert_allclose(
        coefficient_error(estimate, truth, match=[0, 1]), [np.hypot(10, 4), 7.0]
    )


def test_a_lost_component_is_infinitely_wrong_and_a_spare_one_costs_nothing():
    truth = np.array([[0.0], [5.0]])
    np.testing.assert_array_equal(coefficient_error([[5.5]], truth), [np.inf, 0.5])
    np.testing.assert_array_equal(coefficient_error([[0.0], [9.0], [5.0]], truth), [0.0, 0.0])


@given(seed=seeds, k=st.integers(1, 5), n=st.integers(1, 40))
def test_accuracy_is_the_best_over_all_renamings(seed, k, n):
    rng = np.random.default_rng(seed)
    labels, truth = rng.integers(k, size=n), rng.integers(k, size=n)
    renamings = (np.array(names) for names in itertools.permutations(range(k)))
    best = max(float(np.mean(names[truth] == labels)) for names in renamings)
    assert label_accuracy(labels, truth, n_components=k) == pytest.approx(best)


def test_accuracy_under_a_given_match_counts_the_unmatched_as_wrong():
    labels, truth = np.array([0, 0, 1, 1], np.int16), np.array([1, 1, 0, 2], np.int16)
    assert label_accuracy(labels, truth, n_components=3, match=[1, 0, 2]) == 0.75
    assert label_accuracy(labels, truth, n_components=3, match=[1, UNMATCHED, 2]) == 0.25


@given(seed=seeds, r=st.integers(1, 3), r_true=st.integers(1, 3))
def test_subspace_error_is_the_sine_of_the_largest_principal_angle(seed, r, r_true):
    rng = np.random.default_rng(seed)
    estimate, truth = rng.normal(size=(5, r)), rng.normal(size=(5, r_true))
    U, V = np.linalg.qr(estimate)[0], np.linalg.qr(truth)[0]
    cosines = np.zeros(r_true)
    cosines[: min(r, r_true)] = np.linalg.svd(U.T @ V, compute_uv=False)
    sines = np.sqrt(1 - np.minimum(cosines, 1) ** 2)
    assert subspace_error(estimate, truth) == pytest.approx(sines.max(), abs=1e-6)
    root_mean_square = np.sqrt(np.mean(sines**2))
    assert subspace_error(estimate, truth, norm="frobenius") == pytest.approx(
        root_mean_square, abs=1e-6
    )
    # any basis of the same span, and any rotation of the space, changes nothing
    Q = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    mixed = estimate @ (rng.normal(size=(r, r)) + 5 * np.eye(r))
    assert subspace_error(Q @ mixed, Q @ truth) == pytest.approx(sines.max(), abs=1e-6)


def test_subspace_error_of_a_containing_subspace_is_zero():
    rng = np.random.default_rng(0)
    estimate = rng.normal(size=(20, 6))
    dependent = estimate @ rng.normal(size=(6, 2)) @ rng.normal(size=(2, 4))
    assert subspace_error(estimate, dependent) < 1e-12
    assert subspace_error(dependent, estimate) == pytest.approx(1.0)


def test_prediction_risk_is_the_mean_squared_error_of_new_examples():
    rng = np.random.default_rng(1)
    truth, estimate = rng.normal(size=(2, 3)), rng.normal(size=(2, 3))
    noise = np.array([0.3, 2.0])
    rows = np.column_stack([np.ones(400_000), rng.normal([2, -1], size=(400_000, 2))])
    second_moment = rows.T @ rows / len(rows)
    risk = prediction_risk(estimate, truth, noise_variance=noise, second_moment=second_moment)
    for component in range(2):
        y = rows @ truth[component] + np.sqrt(noise[component]) * rng.normal(size=len(rows))
        squared = (y - rows @ estimate[component]) ** 2
        error = 5 * squared.std() / np.sqrt(len(rows))
        assert risk[component] == pytest.approx(squared.mean(), abs=error)
    np.testing.assert_allclose(
        prediction_risk(estimate, truth), prediction_risk(estimate, truth, second_moment=np.eye(3))
    )


def test_calibration_error_is_the_formula():
    rng = np.random.default_rng(2)
    shares = rng.dirichlet(np.ones(3), size=500)
    labels = rng.integers(3, size=500)
    expected = 0.0
    for b in range(10):
        inside = [i for i in range(500) if b / 10 <= shares[i].max() < (b + 1) / 10]
        right = sum(shares[i].argmax() == labels[i] for i in inside)
        expected += abs(right - sum(shares[i].max() for i in inside)) / 500
    assert calibration_error(shares, labels, n_bins=10) == pytest.approx(expected)


def test_calibration_error_tells_honest_posteriors_from_confident_ones():
    rng = np.random.default_rng(3)
    shares = rng.dirichlet(np.ones(4), size=100_000)
    labels = (rng.random((100_000, 1)) > shares.cumsum(axis=1)).sum(axis=1).clip(0, 3)
    assert calibration_error(shares, labels) < 0.01
    sharp = shares**2 / (shares**2).sum(axis=1, keepdims=True)
    assert calibration_error(sharp, labels) > 0.08
    certain = np.eye(4)[labels]
    assert calibration_error(certain, labels) == 0
    assert calibration_error(certain, (labels + 1) % 4) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: calibration_error([[0.5, 0.5]], [0, 1]), "have 1 and 2"),
        (lambda: calibration_error([[0.5, 0.5]], [2]), "task 0 has 2"),
        (lambda: calibration_error([[0.5, 0.5]], [1], n_bins=0), "at least 1, got 0"),
        (
            lambda: match_components(np.ones((2, 3)), np.ones((2, 4))),
            r"\(2, 3\) and truth \(2, 4\)",
        ),
        (lambda: match_components(np.ones(3), np.ones((2, 3))), r"estimate .* shape \(3,\)"),
        (lambda: match_components(np.ones((1, 2)), [[0, np.nan]]), "nan in row 0, column 1"),
        (lambda: coefficient_error([[1.0]], [[1.0]], match=[3]), r"1 estimates, but is \[3\]"),
        (
            lambda: coefficient_error([[1.0], [2.0]], [[1.0], [2.0]], match=[1, 1]),
            r"at most once, but is \[1, 1\]",
        ),
        (lambda: coefficient_error([[1.0]], [[1.0]], match=[0, 1]), r"1 integers.*\(2,\)"),
        (lambda: label_accuracy([0, 1], [0], n_components=2), "there are 2 and 1"),
        (lambda: label_accuracy([], [], n_components=2), "at least 1 task"),
        (lambda: label_accuracy([0, 2], [0, 0], n_components=2), "task 1 has 2"),
        (lambda: label_accuracy([0, 1], [0, -1], n_components=2), "task 1 has -1"),
        (lambda: label_accuracy([0.5], [0], n_components=2), "dtype float64"),
        (lambda: subspace_error(np.ones((3, 1)), np.ones((4, 1))), "3 and 4 rows"),
        (lambda: subspace_error(np.ones((3, 1)), np.zeros((3, 2))), "at least 1 direction"),
        (lambda: subspace_error(np.eye(2), np.eye(2), norm="max"), "not 'max'"),
        (lambda: prediction_risk(np.ones((2, 3)), np.ones((1, 3))), r"\(2, 3\) and \(1, 3\)"),
        (
            lambda: prediction_risk(np.ones((2, 3)), np.ones((2, 3)), second_moment=np.eye(2)),
            r"shape \(3, 3\), but has \(2, 2\)",
        ),
        (
            lambda: prediction_risk([[1.0]], [[1.0]], noise_variance=[0.1, 0.2]),
            r"1, one for each regression, but is \[0.1, 0.2\]",
        ),
    ],
)
def test_errors_name_the_number(call, message):
    with pytest.raises(InputError, match=message):
        call()
