"""The fit beside flexmix, plain NumPy and scikit-learn baselines, and the oracle.

    python -m tests.benchmarks.peers --seeds 0-4

Every method gets the same table and the number of components; the likelihood is computed from its
parameters by one function, and seconds are the processor's, so that other work on the machine does
not count. On planted tables *found* counts the seeds in which every true component has an estimate
nearer than half the smallest distance between true components.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.distance import pdist

from daskmlr.kernels.metrics import coefficient_error
from tests.benchmarks.accuracy import seeds_argument
from tests.benchmarks.peers.child import METHODS, run_child
from tests.benchmarks.peers.methods import STARTS, fit_flexmix, fit_oracle
from tests.benchmarks.peers.mixtures import Mixture, log_likelihood
from tests.benchmarks.peers.tables import PLANTED, REAL, planted, real

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.benchmarks.peers.tables import Planted, Table

# Programs stop at tolerances of their own: likelihoods as near as this, per example, are equal.
SAME = 1e-5
REAL_COMPONENTS = (2, 4, 8)


@dataclass(frozen=True)
class Outcome:
    """What one method did on one table; `found` is None where there is no truth."""

    log_likelihood: float
    found: bool | None
    seconds: float
    growth: float
    warned: int = 0
    starts: int | None = None


def all_found(mixture: Mixture, drawn: Planted) -> bool:
    """Whether every true component has an estimate of its own near it."""
    truth = np.column_stack([drawn.truth.intercept, drawn.truth.coef])
    return bool(coefficient_error(mixture.coef, truth).max() < pdist(truth).min() / 2)


def compare(
    table: Table, k: int, seed: int, limit: float, drawn: Planted | None = None
) -> dict[str, Outcome]:
    """Run every method on one table."""

    def outcome(
        mixture: Mixture, seconds: float, growth: float, warned: int = 0, starts: int | None = None
    ) -> Outcome:
        found = None if drawn is None else all_found(mixture, drawn)
        return Outcome(log_likelihood(table, mixture), found, seconds, growth, warned, starts)

    outcomes = {}
    if drawn is not None:
        outcomes["oracle"] = outcome(fit_oracle(table, drawn.labels, k), np.nan, np.nan)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table.save(folder)
        for method in METHODS:
            run = run_child(method, folder, k, seed)
            outcomes[method] = outcome(run.mixture, run.seconds, run.growth, run.warned)
        if limit and shutil.which("Rscript"):
            flexmix = fit_flexmix(folder, k, seed, limit=limit)
            if flexmix.mixture is not None:
                outcomes["flexmix"] = outcome(
                    flexmix.mixture, flexmix.seconds, flexmix.growth,
                    starts=flexmix.finished - flexmix.failed,
                )  # fmt: skip
    return outcomes


HEADER = (
    "| table | method | found | log-likelihood less daskmlr's | seconds | MiB | "
    "warned | starts |\n" + "|---" * 8 + "|"
)


def rows(name: str, runs: list[dict[str, Outcome]]) -> list[str]:
    """A line for each method: medians over the seeds, and the range of likelihoods."""
    lines = []
    for method in ("oracle", *METHODS, "flexmix"):
        pairs = [(run[method], run["daskmlr"]) for run in runs if method in run]
        if not pairs and method == "oracle":
            continue
        if not pairs:
            lines.append(f"| {name} | {method} | nothing finished |||||||")
            continue
        own = [outcome for outcome, _ in pairs]
        gaps = [outcome.log_likelihood - ours.log_likelihood for outcome, ours in pairs]
        found = sum(bool(outcome.found) for outcome in own)
        likelihood = (
            f"{np.median([outcome.log_likelihood for outcome in own]):.1f}"
            if method == "daskmlr"
            else f"{np.median(gaps):+.1f} ({min(gaps):+.1f} to {max(gaps):+.1f})"
        )
        starts = [outcome.starts for outcome in own if outcome.starts is not None]
        lines.append(
            f"| {name} | {method} | {'' if own[0].found is None else f'{found} of {len(own)}'} "
            f"| {likelihood} | {_middle([o.seconds for o in own])} "
            f"| {_middle([o.growth for o in own], '.0f')} "
            f"| {sum(o.warned > 0 for o in own) if method == 'daskmlr' else ''} "
            f"| {f'{sum(starts)} of {STARTS * len(starts)}' if starts else ''} |"
        )
    return lines


def _middle(values: list[float], form: str = ".1f") -> str:
    middle = float(np.median(values))
    return "" if np.isnan(middle) else format(middle, form)


def verdicts(name: str, runs: dict[int, dict[str, Outcome]], n_rows: int) -> list[str]:
    """Say of every seed in which a peer's likelihood is above ours, by how much."""
    return [
        f"MISSED: {name}, seed {seed}: {method} is {gap:+.2f} above"
        f"{' (and the fit warned)' if run['daskmlr'].warned else ', without a warning'}"
        for seed, run in runs.items()
        for method in ("em", "flexmix")
        if method in run
        and (gap := run[method].log_likelihood - run["daskmlr"].log_likelihood) > SAME * n_rows
    ]


def main(arguments: Iterable[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", nargs="+", choices=[*PLANTED, *REAL], default=[*PLANTED, *REAL])
    parser.add_argument("--seeds", type=seeds_argument, default=range(5))
    parser.add_argument("--limit", type=float, default=300, help="processor seconds of flexmix")
    parser.add_argument("--components", type=int, nargs="+", default=REAL_COMPONENTS)
    asked = parser.parse_args(None if arguments is None else list(arguments))
    if not shutil.which("Rscript"):
        print("flexmix is left out: there is no Rscript (Debian: r-cran-flexmix)")
    print(HEADER, flush=True)
    missed: list[str] = []
    for name in asked.tables:
        cases: dict[str, dict[int, dict[str, Outcome]]] = defaultdict(dict)
        if name in PLANTED:
            for seed in asked.seeds:
                drawn = planted(name, seed)
                k, table = drawn.truth.n_components, drawn.table
                cases[name][seed] = compare(table, k, seed, asked.limit, drawn)
        else:
            table = real(name)
            for k in asked.components:
                for seed in asked.seeds:
                    limit = asked.limit if seed == asked.seeds[0] else 0
                    cases[f"{name}, k={k}"][seed] = compare(table, k, seed, limit)
        for case, runs in cases.items():
            print(*rows(case, list(runs.values())), sep="\n", flush=True)
            missed += verdicts(case, runs, len(table.y))
    print("", *(missed or ["No peer is above daskmlr."]), sep="\n")


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    main()
