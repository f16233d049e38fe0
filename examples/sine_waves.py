"""Eight sine waves, told apart by tasks of a few noisy points each, though no task shows its wave.

The setting of the sine waves that go with the papers (RaghavSomani/RobustMetaLearningMLR): eight
waves of frequencies 1 to 2 and spread phases on [-1, 1], noise of deviation 0.5, Chebyshev
polynomials of degree 0 to 15 as features, tasks of 4, 8 and 16 points. There the points are uniform
on [-1, 1]; with ``--law interval`` every task looks at an interval of its own.

Needs ``pip install 'daskmlr[plot]'``; run ``python examples/sine_waves.py waves.png``.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from numpy.polynomial.chebyshev import chebvander

from daskmlr import MixedLinearRegression
from daskmlr.kernels.metrics import coefficient_error, match_components

mpl.use("Agg")
import matplotlib.pyplot as plt

if TYPE_CHECKING:
    from daskmlr import Model

K, DEGREE, NOISE = 8, 15, 0.5
TASKS = {8: 8192, 4: 8192, 16: 128}  # so many tasks of 8, 4 and 16 points
GRID = np.linspace(-1, 1, 401)


@dataclass(frozen=True)
class Waves:
    """``sin(2 pi frequency x + phase)``."""

    frequency: np.ndarray
    phase: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Waves:
        return cls(np.linspace(1, 2, K), rng.permutation(np.linspace(0, 2 * np.pi, K)))

    def at(self, x: np.ndarray, label: np.ndarray) -> np.ndarray:
        return np.sin(2 * np.pi * self.frequency[label] * x + self.phase[label])

    @property
    def curves(self) -> np.ndarray:
        """All of them on the grid, shape (8, 401)."""
        return self.at(GRID, np.arange(K)[:, None])


def features(x: np.ndarray) -> np.ndarray:
    """Chebyshev polynomials; the one of degree 0 is the intercept, which a fit adds itself."""
    return chebvander(x, DEGREE)[:, 1:]


def draw_points(
    law: str, width: float, share: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """``x`` and task of every point."""
    sizes = np.concatenate([np.full(max(int(n * share), K), t) for t, n in TASKS.items()])
    groups = np.repeat(np.arange(len(sizes)), sizes)
    x = rng.uniform(-1, 1, size=len(groups))
    if law == "interval":
        centre = rng.uniform(-1 + width / 2, 1 - width / 2, size=len(sizes))
        x = centre[groups] + x * width / 2
    return x, groups


def curves_of(model: Model) -> np.ndarray:
    """Every component as a curve on the grid."""
    return model.coef @ features(GRID).T + model.intercept[:, None]


def root_mean_square(difference: np.ndarray) -> np.ndarray:
    return difference / np.sqrt(len(GRID))


def draw_picture(path: str, truth: np.ndarray, found: np.ndarray, error: np.ndarray) -> None:
    """Every wave, and the component matched to it."""
    figure, axes = plt.subplots(2, 4, figsize=(14, 6), sharex=True, sharey=True)
    for i, axis in enumerate(axes.flat):
        axis.plot(GRID, truth[i], color="0.6", linewidth=4, label="truth")
        axis.plot(GRID, found[i], color="C3", linewidth=1.5, label="found")
        axis.set(title=f"wave {i + 1}: error {error[i]:.3f}", ylim=(-1.6, 1.6))
    axes[0, 0].legend(loc="lower left")
    figure.supxlabel("x")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", help="where to save it: .png, .svg, .pdf")
    parser.add_argument("--law", choices=["uniform", "interval"], default="uniform")
    parser.add_argument("--width", type=float, default=1.0, help="of every task's own interval")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of the tasks, for a quick look")
    options = parser.parse_args()

    rng = np.random.default_rng(options.seed)
    waves = Waves.draw(rng)
    x, groups = draw_points(options.law, options.width, options.share, rng)
    labels = rng.integers(K, size=groups[-1] + 1)
    y = waves.at(x, labels[groups]) + rng.normal(0, NOISE, size=len(x))
    print(f"{len(labels):,} tasks, {len(x):,} points, {DEGREE} features")
    model = MixedLinearRegression(K, random_state=options.seed).fit(features(x), y, groups=groups)

    truth, found = waves.curves, curves_of(model.model_)
    match = match_components(found, truth)
    error = root_mean_square(coefficient_error(found, truth, match=match))
    apart = root_mean_square(np.linalg.norm(truth[:, None] - truth, axis=2))
    closest = (apart + np.diag(np.full(K, np.inf))).min(axis=1)
    print("wave  frequency  phase  error  to the nearest other wave")
    for i in range(K):
        print(
            f"{i + 1:4d}  {waves.frequency[i]:9.3f}  {waves.phase[i]:5.3f}  {error[i]:5.3f}"
            f"  {closest[i]:25.3f}"
        )
    n_found = int((error < closest / 3).sum())
    agree = (np.argsort(match)[model.labels_] == labels).mean()
    print(f"{n_found} of {K} found; label right for {agree:.3f} of the tasks")
    draw_picture(options.picture, truth, found[match], error)


if __name__ == "__main__":
    main()
