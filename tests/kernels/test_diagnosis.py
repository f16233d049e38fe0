from __future__ import annotations

from dataclasses import fields, replace
from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from daskmlr.kernels.assignment import Mixture, block_log_likelihood, posterior
from daskmlr.kernels.blocks import Part
from daskmlr.kernels.diagnosis import (
    DiagnosisSums,
    combine_diagnosis,
    diagnosis_from_block,
    residual_signal,
)
from daskmlr.kernels.moments import example_signs, task_weight
from daskmlr.kernels.regression import NEGLIGIBLE
from tests.kernels.drawing import (
    cut,
    cut_tasks,
    dimensions,
    laws,
    plain_frame,
    planted,
    random_block,
    random_frame,
    rows_by_loop,
    seeds,
    small_sizes,
)
from tests.kernels.projecting import basis_of


def random_mixture(seed, k, d) -> Mixture:
    rng = np.random.default_rng([seed, 9])
    return Mixture(rng.normal(size=(k, d + 1)), rng.uniform(0.5, 2, k), rng.dirichlet(np.ones(k)))


def next_of(k) -> np.ndarray:
    return np.roll(np.arange(k), 1)


def merged_with(mixture, nearest) -> Mixture:
    """Some mixture of k components; the kernel takes whatever it is given."""
    other = mixture.take(nearest)
    return Mixture(
        (mixture.coef + other.coef) / 2,
        mixture.noise_variance + other.noise_variance,
        mixture.weights + other.weights,
    )


def diagnose(block, frame, mixture, basis, part=None) -> DiagnosisSums:
    nearest = next_of(mixture.n_components)
    return diagnosis_from_block(
        block, frame, mixture, basis, nearest, merged_with(mixture, nearest), seed=3, part=part
    )


def assert_same(found, expected, rtol=1e-8):
    for field in fields(DiagnosisSums):
        np.testing.assert_allclose(
            getattr(found, field.name), getattr(expected, field.name),
            rtol=rtol, atol=1e-8, err_msg=field.name,
        )  # fmt: skip


@laws
@given(seed=seeds, sizes=small_sizes, d=dimensions, k=st.integers(1, 3))
def test_sums_are_those_of_the_formulas(seed, sizes, d, k):
    block, frame, mixture = (
        random_block(seed, sizes, d),
        random_frame(seed, d),
        random_mixture(seed, k, d),
    )
    basis, nearest = basis_of(seed, d, min(2, d + 1)), next_of(k)
    signs = iter(example_signs(block, 3))
    r = basis.shape[1]
    joint = block_log_likelihood(block, frame, mixture)
    shares = posterior(joint)[0]
    in_one = block_log_likelihood(block, frame, merged_with(mixture, nearest))
    examples, entropy, loss = np.zeros(k), 0.0, np.zeros(k)
    cross, pairs, spread = np.zeros((k, r, r)), np.zeros(k), np.zeros(k)
    null = np.zeros((k, r, r))
    for i, rows in enumerate(rows_by_loop(block, frame)):
        size, sign = len(rows), [next(signs) for _ in rows]
        for j in range(k):
            share = shares[i, j]
            examples[j] += share * size
            entropy -= share * np.log(share) if share > 0 else 0
            if k > 1:
                others = [joint[i, m] for m in range(k) if m not in (j, nearest[j])]
                loss[j] += np.logaddexp.reduce(joint[i])
                loss[j] -= np.logaddexp.reduce([*others, in_one[i, j]])
            weight = task_weight(np.array([size]), 1 / k)[0] * (share if share >= NEGLIGIBLE else 0)
            terms = [(target - a @ mixture.coef[j]) * (a @ basis) for a, target in rows]
            for first, a in enumerate(terms):
                for second, b in enumerate(terms):
                    if first != second:
                        cross[j] += weight * np.outer(a, b)
                        null[j] += weight * sign[first] * sign[second] * np.outer(a, b)
                        pairs[j] += weight
                        spread[j] += weight**2 * (a @ a) * (b @ b)
    expected = DiagnosisSums(examples, entropy, loss, cross, null, pairs, spread, 0.0)
    assert_same(diagnose(block, frame, mixture, basis), expected, rtol=1e-6)


@laws
@given(seed=seeds, drawn=cut_tasks(), d=dimensions)
def test_any_cut_gives_the_same_sums(seed, drawn, d):
    sizes, places = drawn
    block, frame, mixture = (
        random_block(seed, sizes, d),
        random_frame(seed, d),
        random_mixture(seed, 2, d),
    )
    basis = basis_of(seed, d, 1)
    pieces = [diagnose(piece, frame, mixture, basis) for piece in cut(block, places)]
    assert_same(reduce(combine_diagnosis, pieces), diagnose(block, frame, mixture, basis))


def test_only_the_tasks_of_the_part_count():
    block, frame, mixture = random_block(0, [3, 4] * 30, 2), plain_frame(2), random_mixture(0, 2, 2)
    parts = [diagnose(block, frame, mixture, np.eye(3), Part(i, 3, 7)) for i in range(3)]
    assert_same(reduce(combine_diagnosis, parts), diagnose(block, frame, mixture, np.eye(3)))
    assert all(p.examples.sum() < block.n_rows for p in parts)


def test_excluded_tasks_have_a_noise_of_their_own():
    block, frame, mixture = random_block(0, [3, 4] * 30, 2), plain_frame(2), random_mixture(0, 2, 2)
    excluded, wanted = np.array([1, 7, 30]), 0.0
    for i in excluded:
        y = block.tasks(i, i + 1).y.astype(np.float64)
        deviation = np.sqrt(max(np.mean(y**2), mixture.noise_variance.min()))
        wanted += norm.logpdf(y, scale=deviation).sum()
    part = Part(0, 1, 0, excluded)
    assert diagnose(block, frame, mixture, np.eye(3), part).left_out == pytest.approx(wanted)
    pieces = [diagnose(piece, frame, mixture, np.eye(3), part) for piece in cut(block, [5, 8, 40])]
    assert reduce(combine_diagnosis, pieces).left_out == pytest.approx(wanted)


def truth_of(problem) -> Mixture:
    return Mixture(problem.coef, problem.noise_variance, problem.weights)


@pytest.mark.parametrize("seed", range(8))
def test_a_component_of_two_regressions_stands_out_and_no_other(seed):
    d = 5
    problem = planted(seed, [6] * 1500, 4, d, noise=1.0)
    truth = truth_of(problem)
    signal, edge = residual_signal(diagnose(problem.block, plain_frame(d), truth, np.eye(d + 1)))
    assert np.all(signal < 1.5 * edge)
    apart = problem.coef[0] - problem.coef[1]
    merged = Mixture(
        np.vstack([problem.coef[:2].mean(axis=0), problem.coef[2:]]),
        np.append(1 + apart @ apart / 4, np.ones(2)),
        np.append(truth.weights[:2].sum(), truth.weights[2:]),
    )
    signal, edge = residual_signal(diagnose(problem.block, plain_frame(d), merged, np.eye(d + 1)))
    assert signal[0] > 2 * edge[0]
    assert signal[0] == pytest.approx(apart @ apart / 4, rel=0.3)
    assert np.all(signal[1:] < 2 * edge[1:])


def test_twins_are_one_for_nothing():
    problem = planted(0, [6] * 400, 2, 3, noise=0.5)
    truth = truth_of(problem)
    twins = replace(
        truth,
        coef=truth.coef[[0, 0, 1]],
        noise_variance=truth.noise_variance[[0, 0, 1]],
        weights=truth.weights[[0, 0, 1]] / [2, 2, 1],
    )
    nearest = np.array([1, 0, 0])
    merged = Mixture(
        twins.coef[[0, 0, 0]], twins.noise_variance, twins.weights + twins.weights[nearest]
    )
    sums = diagnosis_from_block(
        problem.block, plain_frame(3), twins, np.eye(4), nearest, merged, seed=0
    )
    np.testing.assert_allclose(sums.merging_loss[:2], 0, atol=1e-9)
    assert sums.merging_loss[2] > 100


def test_noise_passes_the_edge_once_in_a_hundred_at_most():
    ratios = []
    for seed in range(300):
        problem = planted(seed, [4] * 100, 1, 2, noise=1.0)
        sums = diagnose(problem.block, plain_frame(2), truth_of(problem), np.eye(3))
        signal, edge = residual_signal(sums)
        ratios.append(signal[0] / edge[0])
    assert np.mean(np.array(ratios) > 1) < 0.01
    assert max(ratios) > 0.5  # or the edge would be no edge
