"""First components, from the largest tasks projected onto the subspace.

Expectation-maximisation from k-means++ seeds ends, as a rule, with a few of many components lost:
two truths share one component while another holds what is left over. A local search mends that:
the component that the likelihood misses least is taken out, a new one is grown where tasks are
explained worst, and what raises the likelihood stays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from daskmlr.errors import InputError
from daskmlr.kernels.assignment import Mixture, joint_log_likelihood, log_add
from daskmlr.kernels.metrics import coefficient_error
from daskmlr.kernels.projected import expectation, maximise, projected_rss, ridge_estimates, run_em

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskmlr.kernels.projected import Expectation, ProjectedTasks

# Three restarts that agree may all have missed the best: a search is begun twice as often where a
# step of it, of about n k r^2 operations, is cheap.
MIN_RESTARTS, CHEAP_STEP = 3, 10e6
# Restarts agree when an example's likelihoods differ by less than so many tolerances.
AGREEMENT = 10
# Corrupted tasks may be more frequent among the largest: so many times their share is left out.
TRIM = 2.0
MAX_TRIM = 0.25
# Components are the same when they are closer than this share of the noise's deviation.
SAME_COMPONENT = 0.1
# A search is run this much coarser than the fit it ends with.
COARSE = 10
# The local search gives up when so many replacements in a row gained nothing.
MAX_FAILURES = 4
# New components are grown from so many tasks at once, by so many steps.
N_SPROUTS = 64
GROWTH_STEPS = 10
# Of the residuals' variance over Gaussian noise's, which came to 0.97-1.03 in all cases of
# docs/accuracy.md but Student's noise, and there to 3-10.
HEAVY_TAILS = 1.2


@dataclass(frozen=True)
class Clustering:
    """First components in the subspace.

    Attributes
    ----------
    mixture : Mixture
        `coef` is of shape (k, r), on ``v``.
    log_likelihoods : ndarray of shape (n_restarts,), float64
        Projected log-likelihood each restart ended at, best first; empty for the linkage.
    agreed : bool
        Whether the two best restarts ended at the same components; True for the linkage.
    rival : Mixture, optional
        Other components to begin from: where `mixture` ends if its noises are made equal. All
        the tasks may tell otherwise which is better than the largest do.
    """

    mixture: Mixture
    log_likelihoods: NDArray[np.float64]
    agreed: bool
    rival: Mixture | None = None


@dataclass(frozen=True)
class _Trust:
    """What a search does against corrupted tasks; nothing if there are none.

    Attributes
    ----------
    trim : float
        Share of the tasks, the worst explained, that do not count.
    least : float
        A component of less weight could be made of corrupted tasks alone.
    """

    trim: float
    least: float

    @classmethod
    def against(cls, corrupted: float, n_tasks: int) -> _Trust:
        """Trust what holds more than the bound, up to two standard deviations."""
        trim = min(TRIM * corrupted, MAX_TRIM)
        return cls(trim, corrupted / (1 - trim) + 2 * float(np.sqrt(corrupted / n_tasks)))

    def holds(self, mixture: Mixture) -> bool:
        """Whether every component can be trusted."""
        return bool(mixture.weights.min() >= self.least)


def cluster_by_em(
    tasks: ProjectedTasks,
    n_components: int,
    prior_variance: NDArray[np.float64],
    *,
    n_restarts: int,
    rng: np.random.Generator,
    corrupted: float = 0.0,
    max_iter: int = 100,
    tol: float = 1e-6,
) -> Clustering:
    """Fit the mixture of regressions to the projected tasks, from several seedings.

    Each restart seeds by k-means++ on the tasks' ridge estimates, runs expectation-maximisation
    on the projected likelihood, and then replaces components as long as that raises it; the
    likeliest restart is kept. There are at least `MIN_RESTARTS`, of a small search twice as many,
    then more until the best components have been found twice.

    Parameters
    ----------
    tasks : ProjectedTasks
    n_components : int
        At most the number of tasks.
    prior_variance : ndarray of shape (r,)
        Variance of the coefficients along each direction (the eigenvalues of the subspace),
        which shrinks the tasks' ridge estimates.
    n_restarts : int
        At most.
    rng : numpy Generator
    corrupted : float
        Bound of the share of corrupted tasks. If not zero, the worst explained tasks count in no
        step and no likelihood, and restarts whose every component holds more than corrupted
        tasks alone could come first.
    max_iter : int
    tol : float
        Stops when the mean log-likelihood of an example gains less.

    Raises
    ------
    InputError
        If there are fewer tasks than components, or less than one restart.
    """
    if n_restarts < 1:
        raise InputError(f"n_restarts must be at least 1, got {n_restarts}")
    n = len(tasks.size)
    if n < n_components:
        raise InputError(
            f"{n_components} components need at least as many tasks with two examples or more, "
            f"got {n}"
        )
    trust = _Trust.against(corrupted, n)
    estimates = ridge_estimates(tasks, prior_variance)
    results: list[tuple[Mixture, float]] = []
    agreement = AGREEMENT * tol * tasks.size.sum()
    is_cheap = n * n_components * estimates.shape[1] ** 2 <= CHEAP_STEP
    least = MIN_RESTARTS * (2 if is_cheap else 1)
    while len(results) < n_restarts and not (
        len(results) >= least and _agree(results, agreement) and trust.holds(results[0][0])
    ):
        seeds = _seed(estimates, tasks.size, n_components, trust.trim, rng)
        mixture = _start_from(tasks, estimates[seeds])
        mixture = _search(tasks, mixture, estimates, trust, rng, max_iter, COARSE * tol)
        results.append(run_em(tasks, mixture, max_iter=max_iter, tol=tol, trim=trust.trim))
        results.sort(key=lambda result: (not trust.holds(result[0]), -result[1]))
    best = results[0][0]
    common = np.full(n_components, best.weights @ best.noise_variance)
    level = replace(best, noise_variance=common)
    rival = run_em(tasks, level, max_iter=max_iter, tol=tol, trim=trust.trim)
    if _agree([results[0], rival], agreement):
        # with heavy tails they may well end apart when all tasks are asked
        heavy_tails = _overdispersion(tasks, best, trust.trim) > HEAVY_TAILS
        other = level if heavy_tails else None
    else:
        other = rival[0] if trust.holds(rival[0]) else None
    return Clustering(
        best, np.array([value for _, value in results]), _agree(results, agreement), rival=other
    )


def _overdispersion(tasks: ProjectedTasks, mixture: Mixture, trim: float) -> float:
    """Variance of the tasks' residual sums of squares over that of Gaussian noise.

    A sum of ``t`` squares has the variance ``2 t sigma^4`` then.
    """
    now = expectation(tasks, mixture, trim=trim)
    off = now.rss / mixture.noise_variance - tasks.size[:, None]
    ratios = (now.posterior * off**2).sum(axis=1) / (2 * np.maximum(tasks.size, 1))
    return float(ratios.sum() / now.counted.sum())


def absorption_loss(
    posterior: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Log-likelihood lost when one component's weight goes to another and it is gone.

    With posteriors ``g``, the density of a task without component ``j``, its weight given to
    ``l``, is ``1 - g_j + p_j g_l / p_l`` times the old one.

    Parameters
    ----------
    posterior : ndarray of shape (n, k)
    weights : ndarray of shape (k,)

    Returns
    -------
    ndarray of shape (k, k)
        Row ``j`` leaves, column ``l`` takes its weight; infinite on the diagonal. Cost: ``n k^2``.
    """
    k = len(weights)
    loss = np.full((k, k), np.inf)
    held = posterior / np.maximum(weights, np.finfo(float).tiny)
    for j in range(k):
        ratio = weights[j] * held
        ratio += 1 - posterior[:, [j]]
        loss[j] = -np.log(np.maximum(ratio, np.finfo(float).tiny)).sum(axis=0)
        loss[j, j] = np.inf
    return loss


def _search(
    tasks: ProjectedTasks,
    mixture: Mixture,
    estimates: NDArray[np.float64],
    trust: _Trust,
    rng: np.random.Generator,
    max_iter: int,
    tol: float,
) -> Mixture:
    """Replace components one by one while that raises the likelihood, or makes them trusted.

    The swap of Lattanzi and Sohler (2019, "A better k-means++ algorithm via local search"), with
    likelihoods for distances.
    """
    n_rows = tasks.size.sum()
    trim = trust.trim
    mixture, value = run_em(tasks, mixture, max_iter=max_iter, tol=tol, trim=trim)
    if mixture.n_components == 1:
        return mixture
    failures = 0
    while failures < MAX_FAILURES:
        now = expectation(tasks, mixture, trim=trim)
        loss = absorption_loss(now.posterior[now.counted], mixture.weights)
        untrusted = mixture.weights < trust.least
        order = np.lexsort((loss.min(axis=1), ~untrusted))
        cheapest = order[: MAX_FAILURES - failures]
        for leaving in cheapest:
            rest = _without(mixture, leaving, int(loss[leaving].argmin()))
            trial = _with_sprout(tasks, rest, estimates, trim, rng)
            found, reached = run_em(tasks, trial, max_iter=max_iter, tol=tol, trim=trim)
            gained = trust.holds(found) - trust.holds(mixture)
            if gained > 0 or (gained == 0 and reached > value + tol * n_rows):
                mixture, value, failures = found, reached, 0
                break
            failures += 1
    return mixture


def _without(mixture: Mixture, leaving: int, heir: int) -> Mixture:
    """Leave a component out; its weight goes to `heir`."""
    weights = mixture.weights.copy()
    weights[heir] += weights[leaving]
    return replace(mixture, weights=weights).take(np.delete(np.arange(len(weights)), leaving))


def _with_sprout(
    tasks: ProjectedTasks,
    mixture: Mixture,
    estimates: NDArray[np.float64],
    trim: float,
    rng: np.random.Generator,
) -> Mixture:
    """One component more, grown where the mixture explains the tasks worst.

    Many are grown at once, each against the mixture as it stands, from the ridge estimates of
    tasks drawn by how much they are off; the one that raises the likelihood most is taken.
    """
    now = expectation(tasks, mixture, trim=trim)
    sprouts = Mixture(
        estimates[_worst_explained(tasks, mixture, now, rng)],
        np.full(N_SPROUTS, np.median(mixture.noise_variance)),
        np.full(N_SPROUTS, 1 / (mixture.n_components + 1)),
    )
    for _ in range(GROWTH_STEPS):
        # a sprout after another in memory
        joint = joint_log_likelihood(projected_rss(tasks, sprouts.coef), tasks.size, sprouts).T
        both = log_add(np.log1p(-sprouts.weights)[:, None] + now.log_likelihood, joint)
        grown = maximise(tasks, (np.exp(joint - both) * now.counted).T)
        best = int((both @ now.counted).argmax())
        sprouts = Mixture(grown.coef, grown.noise_variance, np.clip(grown.weights, 1e-6, 0.5))
    share = sprouts.weights[best]
    return Mixture(
        np.vstack([mixture.coef, sprouts.coef[best]]),
        np.append(mixture.noise_variance, sprouts.noise_variance[best]),
        np.append(mixture.weights * (1 - share), share),
    )


def _worst_explained(
    tasks: ProjectedTasks, mixture: Mixture, now: Expectation, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw tasks, large ones and those with too large residuals more often."""
    expected = (now.posterior * (now.rss / mixture.noise_variance)).sum(axis=1)
    odds = np.maximum(expected - tasks.size, 0) * tasks.size * now.counted
    total = odds.sum()
    chances = odds / total if total > 0 else None
    drawn: NDArray[np.int64] = rng.choice(len(odds), size=N_SPROUTS, p=chances)
    return drawn


def _agree(results: list[tuple[Mixture, float]], tolerance: float) -> bool:
    """Whether the first two ended at the same likelihood and the same components.

    Likelihoods alone do not tell: two optima may lie closer than the tolerance.
    """
    if len(results) < 2 or abs(results[0][1] - results[1][1]) > tolerance:
        return False
    best, second = results[0][0], results[1][0]
    apart = coefficient_error(second.coef, best.coef).max()
    return bool(apart <= SAME_COMPONENT * np.sqrt(best.noise_variance.max()))


def _seed(
    estimates: NDArray[np.float64],
    sizes: NDArray[np.int64],
    n_components: int,
    trim: float,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """k-means++ (Arthur and Vassilvitskii 2007), tasks weighted by their number of examples."""
    n = len(estimates)
    chosen = [int(rng.choice(n, p=sizes / sizes.sum()))]
    closest = np.full(n, np.inf)
    for _ in range(n_components - 1):
        latest = ((estimates - estimates[chosen[-1]]) ** 2).sum(axis=1)
        closest = np.minimum(closest, latest)
        if trim:  # an outlier is far, and a useless seed: none is likelier than the bulk's farthest
            closest = np.minimum(closest, np.quantile(closest, 1 - trim))
        odds = closest * sizes
        total = odds.sum()
        odds = odds / total if total > 0 else np.full(n, 1 / n)
        chosen.append(int(rng.choice(n, p=odds)))
    return np.array(chosen)


def _start_from(tasks: ProjectedTasks, coef: NDArray[np.float64]) -> Mixture:
    k = len(coef)
    rss = projected_rss(tasks, coef)
    noise = max(rss.min(axis=1).sum() / tasks.size.sum(), np.finfo(float).tiny)
    return Mixture(coef, np.full(k, noise), np.full(k, 1 / k))
