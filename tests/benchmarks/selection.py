"""How often ``n_components="auto"`` finds the planted number of components.

    python -m tests.benchmarks.selection

*easy*: labels nearly certain. *moderate*: labels that the true coefficients themselves get wrong
for a fifth of the tasks, where a component more or less shows only in the sum of many doubtful
tasks. *one regression* and *pure noise* have no structure: 1 is right, with a warning that says so.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from daskmlr import MixedLinearRegression, StructureWarning, simulate
from daskmlr.graph.reduce import map_tasks
from daskmlr.kernels.metrics import label_accuracy
from daskmlr.synthetic import load_truth, oracle_assign
from tests.benchmarks.accuracy import seeds_argument

if TYPE_CHECKING:
    from collections.abc import Iterable

    from daskmlr.kernels.blocks import TaskBlock
    from daskmlr.synthetic import MixtureTruth


@dataclass(frozen=True)
class Planted:
    """A planted problem, and in how many of 20 seeds its number must be found."""

    n_components: int
    n_features: int
    noise: float
    task_groups: tuple[tuple[int, int], ...]
    coef_scale: float = 1.0
    right_in_twenty: int = 20


PROBLEMS = {
    "easy": Planted(4, 8, 0.3, ((4000, 6), (200, 16)), right_in_twenty=18),
    "moderate": Planted(6, 16, 1.0, ((8000, 6), (200, 16)), right_in_twenty=15),
    "one regression": Planted(1, 8, 0.5, ((4000, 6),)),
    "pure noise": Planted(1, 8, 1.0, ((4000, 6),), coef_scale=0.0),
}


@dataclass(frozen=True)
class Choice:
    """What was chosen for one seed."""

    n_components: int
    said_no_structure: bool
    oracle_accuracy: float


def choose(problem: Planted, seed: int, folder: Path) -> Choice:
    """Simulate, and let the fit choose."""
    tasks = simulate(
        folder / "tasks.daskmlr",
        n_components=problem.n_components,
        n_features=problem.n_features,
        noise=problem.noise,
        coef_scale=problem.coef_scale,
        task_groups=problem.task_groups,
        random_state=seed,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = MixedLinearRegression("auto", random_state=seed).fit(tasks, client="threads")
    truth, labels = load_truth(tasks.path)
    best = map_tasks(tasks, _oracle_labels, None, args=(truth,), client="threads")["label"]
    k = problem.n_components
    return Choice(
        len(fitted.coef_),
        any(issubclass(warning.category, StructureWarning) for warning in caught),
        label_accuracy(best, labels, n_components=k, match=range(k)),
    )


def right(problem: Planted, choice: Choice) -> bool:
    """Whether the number is the planted one; without structure, whether that was said too."""
    found = choice.n_components == problem.n_components
    return found and choice.said_no_structure == (problem.n_components == 1)


def _oracle_labels(block: TaskBlock, truth: MixtureTruth) -> dict[str, np.ndarray]:
    return {"label": oracle_assign(block, truth)}


def main(arguments: Iterable[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=seeds_argument, default=range(20))
    asked = parser.parse_args(None if arguments is None else list(arguments))
    print("| problem | k | oracle's label accuracy | chosen (times) | right | at least |")
    print("|---|---|---|---|---|---|")
    for name, problem in PROBLEMS.items():
        choices = []
        for seed in asked.seeds:
            with tempfile.TemporaryDirectory() as folder:
                choices.append(choose(problem, seed, Path(folder)))
        counts = sorted(Counter(choice.n_components for choice in choices).items())
        n_right = sum(right(problem, choice) for choice in choices)
        oracle = np.median([choice.oracle_accuracy for choice in choices])
        print(
            f"| {name} | {problem.n_components} | {oracle:.3f} "
            f"| {', '.join(f'{k} ({n})' for k, n in counts)} | {n_right} of {len(choices)} "
            f"| {problem.right_in_twenty} of 20 |",
            flush=True,
        )


if __name__ == "__main__":
    main()
