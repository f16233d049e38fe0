"""The comparison with other programs, at a small size: its yardstick, its baselines, its splits."""

import shutil

import numpy as np
import pytest
from scipy.stats import norm

from tests.benchmarks.peers.__main__ import all_found
from tests.benchmarks.peers.methods import (
    TaskSums,
    fit_daskmlr,
    fit_em,
    fit_flexmix,
    fit_kmeans,
    fit_oracle,
)
from tests.benchmarks.peers.mixtures import Mixture, log_likelihood, posterior
from tests.benchmarks.peers.tables import Planted, Table, planted
from tests.benchmarks.real_tables import split_tasks


@pytest.fixture(scope="module")
def drawn() -> Planted:
    """The first 300 tasks of a planted table, moved away from zero."""
    whole = planted("k=4, d=8", 0)
    few = whole.table.where(whole.table.groups < 300)
    return Planted(Table(few.X + 0.5, few.y, few.groups), whole.truth, whole.labels[:300])


def test_likelihood_is_the_density_of_whole_tasks(drawn):
    table, k = drawn.table.where(drawn.table.groups < 5), 3
    rng = np.random.default_rng(0)
    mixture = Mixture(rng.normal(size=(k, 9)), rng.uniform(1, 2, k), np.array([0.2, 0.3, 0.5]))
    total = 0.0
    for task in range(5):
        rows = table.groups == task
        density = 0.0
        for p, w, variance in zip(
            mixture.weights, mixture.coef, mixture.noise_variance, strict=True
        ):
            centre = w[0] + table.X[rows] @ w[1:]
            density += p * np.prod(norm.pdf(table.y[rows], centre, np.sqrt(variance)))
        total += np.log(density)
    assert log_likelihood(table, mixture) == pytest.approx(total, rel=1e-12)


def test_a_step_of_em_from_gram_matrices_raises_the_common_likelihood(drawn):
    table, sums = drawn.table, TaskSums.of(drawn.table)
    shares = np.eye(4)[np.random.default_rng(0).integers(4, size=table.n_tasks)]
    values = []
    for _ in range(5):
        mixture = sums.maximise(shares)
        values.append(log_likelihood(table, sums.to_user(mixture)))
        shares, _ = sums.expect(mixture)
        assert shares == pytest.approx(posterior(table, sums.to_user(mixture)), abs=1e-8)
    assert (np.diff(values) > 0).all()


def test_every_baseline_on_a_planted_table(drawn):
    table = drawn.table
    ours, em = fit_daskmlr(table, 4, 0), fit_em(table, 4, 0)
    assert log_likelihood(table, ours) >= log_likelihood(table, em) - 1e-5 * len(table.y)
    oracle = fit_oracle(table, drawn.labels, 4)
    assert log_likelihood(table, oracle) < log_likelihood(table, em)
    assert log_likelihood(table, fit_kmeans(table, 4, 0)) < log_likelihood(table, em)
    doubled = Mixture(em.coef[[0, 0, 1, 2]], em.noise_variance, em.weights)
    moved = Planted(Table(table.X - 0.5, table.y, table.groups), drawn.truth, drawn.labels)
    assert all_found(fit_em(moved.table, 4, 0), moved)
    assert not all_found(doubled, moved)


@pytest.mark.skipif(shutil.which("Rscript") is None, reason="needs R with flexmix")
def test_flexmix_gives_back_its_parameters_and_keeps_its_limit(drawn, tmp_path):
    drawn.table.save(tmp_path)
    run = fit_flexmix(tmp_path, 4, 0, limit=30, starts=3)
    assert (run.finished, run.failed) == (3, 0)
    values = [float(line.split()[2]) for line in (tmp_path / "starts.txt").read_text().splitlines()]
    assert log_likelihood(drawn.table, run.mixture) == pytest.approx(max(values), rel=1e-6)
    stopped = fit_flexmix(tmp_path, 4, 0, limit=2, starts=10_000)
    assert stopped.seconds == 2
    assert stopped.finished < 10_000


def test_a_split_keeps_tasks_apart_and_halves_each(drawn):
    sizes = np.random.default_rng(0).integers(1, 9, size=300)
    keep = np.concatenate([np.arange(8) < size for size in sizes])
    table = drawn.table.where(keep)
    split = split_tasks(table, np.random.default_rng(1))
    parts = (split.train, split.support, split.query)
    assert split.train.n_tasks == 240
    targets = [set(part.y) for part in parts]
    assert not targets[0] & targets[1]
    assert not targets[0] & targets[2]
    assert not targets[1] & targets[2]
    support, query = np.bincount(split.support.groups), np.bincount(split.query.groups)
    assert ((support == query) | (support == query + 1)).all()
