"""Whether confidence intervals, label posteriors and predictive intervals hold what they promise.

    python -m tests.benchmarks.coverage --replications 200
    python -m tests.benchmarks.coverage --large

Each replication draws 1,500 tasks of 3 to 8 examples from three components, fits them, and asks
which nominal 95 % intervals hold the truth; 1,500 new tasks say whether posteriors are calibrated
and how many targets fall within the predictive intervals, given three examples of their task.

In *heteroscedastic* cases the variance of the noise grows with the square of the first feature,
its average kept. Where labels are all but certain, maximum likelihood is still unbiased, and only
its standard errors suffer. Where components overlap, a wrong model of the noise also moves the
estimates: they aim at the *least false* parameters (White 1982), found here by a fit of 300,000
tasks, and that is what any interval around them can be asked to hold.

``--large`` says instead what the uncertainty of larger fits costs, and how many standard errors
short of the maximum a fit stops.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from daskmlr import MixedLinearRegression
from daskmlr.errors import ComponentWarning, InformationError
from daskmlr.kernels.metrics import calibration_error, match_components
from daskmlr.synthetic import make_truth, simulate, simulate_arrays
from tests.benchmarks import accuracy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from daskmlr import Model
    from daskmlr.synthetic import MixtureTruth
    from daskmlr.uncertainty import Parameters

N_TASKS, SIZES, N_SUPPORT, N_LARGE = 1500, (3, 8), 3, 300_000
LEVEL, KINDS = 0.95, ("observed", "sandwich")
# Targets of the project: coverage, calibration error.
COVERAGE, CALIBRATION = (0.93, 0.97), 0.02
GROUPS = ("slopes of x0", "other slopes", "intercepts", "noise variances", "weights")


@dataclass(frozen=True)
class Case:
    """How far the components are apart, and whether the noise depends on the first feature."""

    name: str
    separation: float
    heteroscedastic: bool

    def truth(self) -> MixtureTruth:
        """Three components of different weight and noise, the same in every replication."""
        return make_truth(
            n_components=3,
            n_features=4,
            noise=[0.6, 0.7, 0.8],
            weights=[0.45, 0.3, 0.25],
            intercept_scale=0.5,
            coef_scale=self.separation,
            correlation=0.3,
            random_state=4,
        )

    def draw(self, n_tasks: int, seed: int) -> tuple[np.ndarray, ...]:
        """Tasks in memory: X, y, groups, labels."""
        truth = self.truth()
        X, y, groups, labels = simulate_arrays(
            truth=truth, task_groups=[(n_tasks, SIZES)], random_state=seed, dtype="float64"
        )
        if self.heteroscedastic:
            z = labels[groups]
            mean = truth.intercept[z] + np.sum(truth.coef[z] * X, axis=1)
            y = mean + (y - mean) * np.sqrt((0.25 + X[:, 0] ** 2) / 1.25)
        return X, y, groups, labels

    def planted(self) -> list[np.ndarray]:
        """True parameters, in groups."""
        return grouped(self.truth(), np.arange(3))

    def least_false(self) -> list[np.ndarray]:
        """Where the estimates go as the tasks become many: the truth, if the model holds."""
        if not self.heteroscedastic:
            return self.planted()
        X, y, groups, _ = self.draw(N_LARGE, 10**6)
        model = MixedLinearRegression(3, random_state=0, tol=1e-4).fit(X, y, groups=groups).model_
        return grouped(model, match_components(model.coef, self.truth().coef))


CASES = (
    Case("homoscedastic, overlapping", 0.8, heteroscedastic=False),
    Case("heteroscedastic, apart", 4.0, heteroscedastic=True),
    Case("heteroscedastic, overlapping", 1.2, heteroscedastic=True),
)


def grouped(values: Parameters | Model | MixtureTruth, match: np.ndarray) -> list[np.ndarray]:
    """Parameters of the matched components, in the order of `GROUPS`."""
    coef = values.coef[match]
    rest = (values.intercept, values.noise_variance, values.weights)
    return [coef[:, 0], coef[:, 1:].ravel(), *(value[match] for value in rest)]


@dataclass
class Tally:
    """What the replications of one case found: a list entry each, parameters by group."""

    case: Case
    truth: list[np.ndarray]
    least_false: list[np.ndarray]
    estimates: list[list[np.ndarray]] = field(default_factory=list)
    errors: dict[str, list[list[np.ndarray]]] = field(
        default_factory=lambda: {k: [] for k in KINDS}
    )
    bounds: dict[str, list[tuple[list[np.ndarray], ...]]] = field(
        default_factory=lambda: {k: [] for k in KINDS}
    )
    posteriors: list[np.ndarray] = field(default_factory=list)
    labels: list[np.ndarray] = field(default_factory=list)
    within: list[np.ndarray] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def replicate(self, seed: int) -> None:
        """Fit the tasks of one seed; judge by the truth and by new tasks."""
        X, y, groups, _ = self.case.draw(N_TASKS, 2 * seed)
        estimator = MixedLinearRegression(3, random_state=seed)
        estimator.fit(X, y, groups=groups, client="sync")
        match = match_components(estimator.coef_, self.case.truth().coef)
        try:
            found = estimator.uncertainty(X, y, groups=groups, client="sync")
        except InformationError as error:
            self.remarks.append(f"seed {seed}: {error}")
            return
        self.estimates.append(grouped(found.estimate, match))
        for kind in KINDS:
            self.errors[kind].append(grouped(found.standard_errors(kind), match))
            low, high = found.intervals(LEVEL, kind=kind)
            self.bounds[kind].append((grouped(low, match), grouped(high, match)))
        self.judge_new_tasks(estimator, match, 2 * seed + 1)

    def judge_new_tasks(
        self, estimator: MixedLinearRegression, match: np.ndarray, seed: int
    ) -> None:
        """Posteriors of new tasks beside their labels; the last targets of each beside bounds."""
        X, y, groups, labels = self.case.draw(N_TASKS, seed)
        found = estimator.assign(X, y, groups=groups)
        assert found is not None
        self.posteriors.append(found["posterior"][:, match])
        self.labels.append(labels)
        place = np.arange(len(y)) - np.searchsorted(groups, groups)
        known, new = place < N_SUPPORT, place >= N_SUPPORT
        low, high = estimator.predict_interval(
            X[new], support=(X[known], y[known], groups[known]), groups=groups[new], level=LEVEL
        )
        self.within.append((low <= y[new]) & (y[new] <= high))

    def coverage(self, kind: str, groups: Iterable[int], target: list[np.ndarray]) -> float:
        """Share of the intervals of some groups that hold the target."""
        return float(
            np.concatenate(
                [
                    (low[g] <= target[g]) & (target[g] <= high[g])
                    for low, high in self.bounds[kind]
                    for g in groups
                ]
            ).mean()
        )

    def width(self, kind: str, group: int) -> float:
        """Mean standard error over the deviation of the estimates between replications."""
        deviation = np.std([estimate[group] for estimate in self.estimates], axis=0)
        return float(np.mean(np.mean([e[group] for e in self.errors[kind]], axis=0) / deviation))

    def rows(self) -> list[str]:
        """Lines of the table of coverages."""
        lines = []
        for group, name in [*enumerate(GROUPS), (range(3), "all coefficients")]:
            groups = [group] if isinstance(group, int) else group
            cells = []
            for kind in KINDS:
                cells += [
                    f"{100 * self.coverage(kind, groups, target):.1f}"
                    for target in (self.truth, self.least_false)
                ]
                cells.append(f"{self.width(kind, group):.2f}" if isinstance(group, int) else "")
            lines.append(f"| {self.case.name} | {name} | {' | '.join(cells)} |")
        return lines

    def calibration(self) -> tuple[float, float]:
        """Expected calibration error, and share of right labels."""
        shares, labels = np.concatenate(self.posteriors), np.concatenate(self.labels)
        right = float((shares.argmax(axis=1) == labels).mean())
        return calibration_error(shares, labels), right

    def verdicts(self) -> list[str]:
        """Hold the figures against the targets, where the case has any."""
        low, high = COVERAGE
        if self.case.heteroscedastic:
            claims = [
                (f"sandwich, {name}", self.coverage("sandwich", range(3), target), low, high)
                for name, target in (("truth", self.truth), ("least false", self.least_false))
            ]
        else:
            within = float(np.concatenate(self.within).mean())
            claims = [
                *((kind, self.coverage(kind, range(3), self.truth), low, high) for kind in KINDS),
                ("calibration error", self.calibration()[0], 0.0, CALIBRATION),
                ("predictive intervals", within, low, high),
            ]
        return [
            f"{self.case.name}: {what} {value:.4f} ({least} to {most}): "
            f"{'met' if least <= value <= most else 'MISSED'}"
            for what, value, least, most in claims
        ]


def print_large() -> None:
    """Processor seconds, and distance from the maximum, of fits to larger stores."""
    print("| tasks | k | d | tol | passes | fit, s | uncertainty, s | shortfall |")
    print("|---" * 8 + "|")
    small = {"n_components": 3, "n_features": 4, "noise": 0.9, "task_groups": [(200_000, SIZES)]}
    wide = [
        {"n_components": c.n_components, "n_features": c.n_features, "noise": c.noise}
        | {"task_groups": [c.light, c.heavy]}
        for c in (accuracy.CASES["A"], accuracy.CASES["C"])
    ]
    for parameters, tols in [(small, (0.1, 0.01, 0.001)), *((case, (0.01,)) for case in wide)]:
        with tempfile.TemporaryDirectory() as folder:
            tasks = simulate(f"{folder}/tasks", random_state=0, **parameters)
            for tol in tols:
                k, start = parameters["n_components"], time.process_time()
                estimator = MixedLinearRegression(k, random_state=0, tol=tol)
                model = estimator.fit(tasks, client="threads").model_
                fitted = time.process_time()
                with warnings.catch_warnings(action="ignore", category=ComponentWarning):
                    shortfall = model.uncertainty(tasks, client="threads").shortfall
                seconds = fitted - start, time.process_time() - fitted
                print(
                    f"| {tasks.n_tasks:,} | {k} | {tasks.n_features} | {tol:g} | {model.n_iter} | "
                    f"{' | '.join(f'{s:.1f}' for s in seconds)} | {shortfall:.2f} |",
                    flush=True,
                )


def main(arguments: Iterable[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replications", type=int, default=200)
    parser.add_argument("--cases", default="012", help="digits, in the order of the tables")
    parser.add_argument("--large", action="store_true", help="cost and distance of larger fits")
    asked = parser.parse_args(None if arguments is None else list(arguments))
    if asked.large:
        print_large()
        return
    cases = [CASES[int(digit)] for digit in asked.cases]
    tallies = [Tally(case, case.planted(), case.least_false()) for case in cases]
    for tally in tallies:
        for seed in range(asked.replications):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                tally.replicate(seed)
            tally.remarks += [f"seed {seed}: {warning.message}" for warning in caught]
    print("| case | parameters |" + "".join(f" {k}: truth | least false | se/sd |" for k in KINDS))
    print("|---" * 8 + "|")
    print(*(line for tally in tallies for line in tally.rows()), sep="\n")
    print("\n| case | labels right | calibration error | predictive coverage | fits | remarks |")
    print("|---" * 6 + "|")
    for tally in tallies:
        error, right = tally.calibration()
        within = 100 * np.concatenate(tally.within).mean()
        print(
            f"| {tally.case.name} | {right:.3f} | {error:.4f} | {within:.1f} "
            f"| {len(tally.estimates)} of {asked.replications} | {len(tally.remarks)} |"
        )
    print("", *(line for tally in tallies for line in tally.verdicts()), sep="\n")
    print(*(f"{tally.case.name}, {line}" for tally in tallies for line in tally.remarks), sep="\n")


if __name__ == "__main__":
    main()
