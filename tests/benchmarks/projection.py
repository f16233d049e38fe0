"""What the projection onto the subspace is worth to the paper's clustering.

    python -m tests.benchmarks.projection

Heavy tasks are clustered by linkage of the paper's distances (Kong et al. 2020, Algorithm 3, one
batch), taken in the subspace that the light tasks give by its half-split, or among all covariates.
Sixteen orthonormal regressions on 128 covariates; 16384 light tasks of 8 + 8 examples; 256 heavy
tasks. Medians over the seeds of the accuracy of the heavy tasks' labels, 0 where fewer than
sixteen groups are found: cutting the tree at sixteen groups makes some of them single stray tasks,
so a group counts from a quarter of its fair share of the tasks.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Literal

import numpy as np

from daskmlr.graph.leaf import one_blas_thread
from daskmlr.kernels.blocks import Frame, TaskBlock
from daskmlr.kernels.linkage import linkage_labels
from daskmlr.kernels.metrics import label_accuracy, subspace_error
from daskmlr.kernels.moments import ALL_PAIRS, SPLIT, finalise_moments, moments_from_block
from daskmlr.kernels.projected import projected_from_block
from daskmlr.kernels.standardise import Standardiser, standardiser_from_gram
from daskmlr.kernels.subspace import top_eigenspace
from daskmlr.synthetic import make_truth, simulate_arrays
from tests.benchmarks.accuracy import seeds_argument

if TYPE_CHECKING:
    from collections.abc import Iterable

    from daskmlr.synthetic import MixtureTruth

N_COMPONENTS, N_FEATURES = 16, 128
N_LIGHT, LIGHT_SIZE = 16384, 16
N_HEAVY = 256
HEAVY_SIZES = (32, 64, 128, 256, 512)
NOISES = (0.1, 1.0)
FOUND = N_HEAVY // N_COMPONENTS // 4
# Heavy tasks are drawn apart from the light ones: seeds this far apart do not meet.
HEAVY_SEED = 1000

Method = Literal["average", "single"]
METHODS: tuple[Method, ...] = ("average", "single")


def draw(truth: MixtureTruth, n_tasks: int, size: int, seed: int) -> tuple[TaskBlock, np.ndarray]:
    """Tasks of one size as a block, and their labels."""
    X, y, _, labels = simulate_arrays(truth=truth, task_groups=[(n_tasks, size)], random_state=seed)
    return TaskBlock(X, y, np.arange(n_tasks + 1) * size), labels


def frame_of(truth: MixtureTruth) -> Frame:
    """The covariates as they are: they have mean 0 and variance 1."""
    d = truth.n_features
    return Frame(np.zeros(d), np.ones(d), np.zeros(d + 1))


def find_subspace(
    light: TaskBlock, truth: MixtureTruth, *, groups: int
) -> tuple[Standardiser, np.ndarray, float]:
    """Standardiser, directions, and how far they are from the planted ones."""
    sums = moments_from_block(light, frame_of(truth), groups=groups, signal_share=0.0, seed=0)
    names = [f"x{j}" for j in range(truth.n_features)]
    standardiser = standardiser_from_gram(sums.gram[:-1, :-1], names, light.X.dtype)
    second = standardiser.whiten(finalise_moments(sums)[0])
    rng = np.random.default_rng(0)
    _, directions = top_eigenspace(second, truth.n_components, rng=rng)
    planted = np.column_stack([truth.intercept, truth.coef]).T
    return standardiser, directions, subspace_error(directions, planted)


def clustering_accuracy(
    heavy: TaskBlock,
    labels: np.ndarray,
    truth: MixtureTruth,
    basis: np.ndarray,
    method: Method,
) -> float:
    """Accuracy of the linkage of the heavy tasks on ``basis^T a``, 0 if groups are missing."""
    everything = np.arange(heavy.n_tasks)
    tasks = projected_from_block(heavy, frame_of(truth), basis, everything, n_batches=1)
    k = truth.n_components
    found = linkage_labels(tasks.halves, k, method=method)
    if np.count_nonzero(np.bincount(found) >= FOUND) < k:
        return 0.0
    return label_accuracy(found, labels, n_components=k)


@one_blas_thread()
def measure(
    noise: float, seed: int, heavy_sizes: Iterable[int], methods: Iterable[Method]
) -> tuple[dict[tuple[Method, str, int], float], dict[str, float]]:
    """Accuracy by method, projection and size; subspace error by the split and by all pairs."""
    truth = make_truth(
        n_components=N_COMPONENTS,
        n_features=N_FEATURES,
        noise=noise,
        orthonormal=True,
        random_state=seed,
    )
    light, _ = draw(truth, N_LIGHT, LIGHT_SIZE, seed)
    standardiser, directions, error = find_subspace(light, truth, groups=SPLIT)
    errors = {"split": error, "all": find_subspace(light, truth, groups=ALL_PAIRS)[2]}
    bases = {
        "projected": standardiser.A.T @ directions,
        "not projected": standardiser.A.T[:, 1:],
    }
    accuracies = {}
    for size in heavy_sizes:
        heavy, labels = draw(truth, N_HEAVY, size, HEAVY_SEED + seed)
        for method in methods:
            for name, basis in bases.items():
                accuracies[method, name, size] = clustering_accuracy(
                    heavy, labels, truth, basis, method
                )
    return accuracies, errors


def main(arguments: Iterable[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=seeds_argument, default=range(5))
    asked = parser.parse_args(None if arguments is None else list(arguments))
    print("| linkage | noise | | " + " | ".join(f"t_H = {size}" for size in HEAVY_SIZES) + " |")
    print("|---" * (3 + len(HEAVY_SIZES)) + "|")
    measured = {
        noise: [measure(noise, seed, HEAVY_SIZES, METHODS) for seed in asked.seeds]
        for noise in NOISES
    }
    for method in METHODS:
        for noise, runs in measured.items():
            for name in ("projected", "not projected"):
                cells = [
                    np.median([accuracies[method, name, size] for accuracies, _ in runs])
                    for size in HEAVY_SIZES
                ]
                print(f"| {method} | {noise} | {name} | {' | '.join(f'{c:.3f}' for c in cells)} |")
    for noise, runs in measured.items():
        split, every = (np.median([errors[how] for _, errors in runs]) for how in ("split", "all"))
        print(f"\nnoise {noise}: subspace error {split:.3f} by the split, {every:.3f} by all pairs")


if __name__ == "__main__":
    main()
