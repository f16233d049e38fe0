"""A model in sentences: what its components are, what speaks for their number."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from daskmlr.describe import largest
from daskmlr.markup import listed, number

if TYPE_CHECKING:
    from daskmlr.model import Model

# Effects that a sentence names: so many, and not those this much smaller than the largest.
NAMED = 5
MINOR = 0.05


def component_words(model: Model, component: int) -> str:
    """Say what a component is; effects in the order of what they move for a feature's spread.

    Parameters
    ----------
    model : Model
    component : int
    """
    coef, target = model.coef[component], model.target_name
    effects = np.abs(coef * model.feature_scale)
    order = largest(effects, NAMED)
    named = [j for j in order.tolist() if effects[j] > MINOR * effects[order[0]]]
    moved = listed([_effect(model, j, float(coef[j])) for j in named]) or "does not move"
    said = [f"{100 * model.weights[component]:.3g} % of the tasks: {target} {moved}"]
    if 0 < len(named) < model.n_features:
        least = float(np.delete(effects, named).max())
        rest = model.n_features - len(named)
        others = "the other feature moves" if rest == 1 else f"the other {rest:,} features move"
        theirs = "its" if rest == 1 else "their"
        said.append(f"{others} it by at most {number(least)} for {theirs} standard deviation")
    noise = math.sqrt(model.noise_variance[component])
    said.append(f"around that it scatters with a standard deviation of {number(noise)}")
    return f"{'; '.join(said)}."


def _effect(model: Model, feature: int, coef: float) -> str:
    """Say what a feature does to the target."""
    name, by = model.feature_names[feature], number(abs(coef))
    for column, levels in (model.encoding or {}).get("categories", {}).items():
        if name in [f"{column}={level}" for level in levels[1:]]:
            way = "higher" if coef > 0 else "lower"
            level = name.removeprefix(f"{column}=")
            return f"is {by} {way} where {column} is {level} than where it is {levels[0]}"
    return f"{'rises' if coef > 0 else 'falls'} by {by} for each unit of {name}"


def evidence_words(model: Model) -> list[str]:
    """Say what speaks for the number of components."""
    facts, k = model.diagnostics, model.n_components
    said = []
    if trials := facts.get("selection"):
        tried = listed(trial["n_components"] for trial in trials)
        unbounded = [trial["n_components"] for trial in trials if not trial["bounded"]]
        among = (
            f" among those of which no component explains its tasks exactly, as one of "
            f"{listed(unbounded)} does"
            if unbounded
            else ""
        )
        said.append(f"Of {tried} components, which were tried, {k} had the smallest BIC{among}.")
    else:
        asked = "components were" if k > 1 else "component was"
        said.append(f"{k} {asked} asked for; no other number was tried.")
    above = facts.get("directions_above_noise")
    if above is not None:
        said.append(
            f"{above} of the {len(model.eigenvalues)} directions looked along rise above "
            f"{number(model.noise_edge)}, the most that noise alone gives."
            + (
                f" {k} regressions that differ in kind fill {k - 1} directions, or fewer where "
                "some of them lie in a line or a plane."
                if k > 1
                else ""
            )
            + (
                " More of them rise where tasks differ by degrees, or where features hardly vary "
                "within a task."
                if above >= max(k, 2)
                else ""
            )
        )
    if k > 1 and {"bic", "bic_of_one"} <= facts.keys():
        gain = facts["bic_of_one"] - facts["bic"]
        said.append(
            f"One regression for all tasks has a BIC of {facts['bic_of_one']:.6g}, {k} have "
            f"{facts['bic']:.6g}, which is {number(abs(gain))} {'better' if gain > 0 else 'worse'} "
            "(above 10 counts as very strong evidence)."
        )
    return said
