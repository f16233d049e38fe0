"""What a store holds and what a model found, as facts and as tables for a terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from dask.utils import format_time
from rich.table import Table

from daskmlr.describe import components_of, reference_levels
from daskmlr.kernels.outliers import odd_tasks
from daskmlr.markup import size, some
from daskmlr.plan import BOUNDS
from daskmlr.sizes import size_counts, sufficiency, tasks_at_least
from daskmlr.storage.rows import read_column

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from daskmlr.forecast import StageForecast
    from daskmlr.model import Model
    from daskmlr.storage.tasks import TaskStore
    from daskmlr.uncertainty import Kind, Uncertainty

QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
BAR_WIDTH = 40
# A component's parameters beside its coefficients, and what a table calls them.
OWN = {"weights": "share of tasks", "noise_variance": "noise variance", "intercept": "intercept"}


def store_facts(tasks: TaskStore) -> dict[str, Any]:
    """Everything `daskmlr info` says of a store, JSON-able."""
    counts = size_counts(tasks)
    cumulated = np.cumsum(counts)
    quantiles = np.searchsorted(cumulated, [q * tasks.n_tasks for q in QUANTILES])
    powers = [2**i for i in range(1, 11)]
    return {
        "path": tasks.path,
        "tasks": tasks.n_tasks,
        "examples": tasks.n_rows,
        "features": list(tasks.feature_names),
        "reference_levels": reference_levels(tasks.encoding),
        "target": tasks.target_name,
        "task": tasks.task_name,
        "dtype": str(tasks.dtype),
        "blocks": tasks.n_blocks,
        "block_rows": tasks.block_rows,
        "bytes": tasks.nbytes,
        "bytes_stored": tasks.nbytes_stored,
        "codec": tasks.codec,
        "tasks_with_one_example": int(counts[1]) if len(counts) > 1 else 0,
        "task_size": {
            "min": int(np.flatnonzero(counts)[0]),
            **{f"q{round(100 * q)}": int(v) for q, v in zip(QUANTILES, quantiles, strict=True)},
            "max": len(counts) - 1,
            "mean": tasks.n_rows / tasks.n_tasks,
        },
        "tasks_at_least": {
            t: int(tasks_at_least(counts)[t]) for t in [1, *powers] if t < len(counts)
        },
        "sufficiency": [
            vars(sufficiency(counts, tasks.n_features, k)) for k in powers[:7] if k <= tasks.n_tasks
        ],
        "provenance": tasks.provenance,
    }


def store_tables(facts: dict[str, Any]) -> list[Table]:
    """Lay the facts of a store out as tables for a terminal."""
    what = Table(title=facts["path"], show_header=False)
    sizes = facts["task_size"]
    dropped = sum(entry.get("rows_dropped", 0) for entry in facts["provenance"])
    against = facts["reference_levels"]
    decoded, stored = size(facts["bytes"]), size(facts["bytes_stored"])
    for name, value in (
        ("tasks", f"{facts['tasks']:,}"),
        ("examples", f"{facts['examples']:,}"),
        ("features", f"{len(facts['features'])}: {some(facts['features'])}"),
        *([("reference levels", some(against))] if against else []),
        ("target", facts["target"]),
        ("task key", facts["task"]),
        ("values", f"{facts['dtype']}, {decoded}; {stored} on disk"),
        ("codec", facts["codec"]),
        ("blocks", f"{facts['blocks']:,} of up to {facts['block_rows']:,} rows"),
        (
            "task size",
            f"min {sizes['min']}, median {sizes['q50']}, mean {sizes['mean']:.1f}, "
            f"99 % {sizes['q99']}, max {sizes['max']}",
        ),
        (
            "of one example",
            f"{facts['tasks_with_one_example']:,} (labelled, but of no use to the subspace)",
        ),
    ):
        what.add_row(name, value)
    if dropped:
        what.add_row("rows left out", f"{dropped:,} with missing values")
    picture = Table("t", "tasks", "", title="Tasks with at least t examples (bars: log scale)")
    most = max(facts["tasks"], 2)
    for t, n in facts["tasks_at_least"].items():
        bar = round(BAR_WIDTH * math.log(max(n, 1)) / math.log(most))
        picture.add_row(str(t), f"{n:,}", "█" * max(bar, 1))
    enough = Table(
        "components",
        "subspace (t >= log k, n t >= d k²)",
        "first components (t >= √k, n >= k^1.5, n t >= k²)",
        title="Orders of magnitude that k components need",
        caption="n tasks of at least t examples, d features. Necessary, by the method's "
        "theory; how many there are is another question: fit --n-components auto answers it",
    )
    for row in facts["sufficiency"]:
        enough.add_row(str(row["n_components"]), *(_verdict(row[w]) for w in ("light", "heavy")))
    return [what, picture, enough]


def model_facts(model: Model) -> dict[str, Any]:
    """Everything `daskmlr fit` says of a model, JSON-able."""
    return {
        "components": [
            {
                "weight": float(model.weights[i]),
                "noise_std": float(np.sqrt(model.noise_variance[i])),
                "intercept": float(model.intercept[i]),
                "coef": dict(zip(model.feature_names, model.coef[i].tolist(), strict=True)),
            }
            for i in range(model.n_components)
        ],
        "reference_levels": reference_levels(model.encoding),
        "log_likelihood": model.log_likelihood,
        "tasks": model.n_tasks,
        "examples": model.n_rows,
        "passes": model.n_iter,
        "converged": model.converged,
        "eigenvalues": model.eigenvalues.tolist(),
        "noise_edge": model.noise_edge,
        "stages": [dict(entry) for entry in model.history],
        "notes": list(model.notes),
        "diagnostics": model.diagnostics,
    }


def model_tables(model: Model) -> list[Table]:
    """Show the components, the spectrum beside its noise edge, and the trials of an automatic k."""
    tables = [model_table(model), spectrum_table(model)]
    trials = model.diagnostics.get("selection")
    return [selection_table(trials), *tables] if trials else tables


def spectrum_table(model: Model, *, most: int = 16) -> Table:
    """Draw the eigenvalues; those above the noise edge are structure."""
    table = Table(
        "direction", "eigenvalue", f"noise alone: {model.noise_edge:.3g}", title="Spectrum"
    )
    scale = BAR_WIDTH / max(float(model.eigenvalues.max(initial=0.0)), model.noise_edge)
    edge = round(scale * model.noise_edge)
    for i, value in enumerate(model.eigenvalues[:most].tolist()):
        bar = "█" * max(round(scale * value), 0)
        table.add_row(str(i + 1), f"{value:.4g}", bar[:edge].ljust(edge) + "│" + bar[edge:])
    if len(model.eigenvalues) > most:
        table.add_row("…", f"{len(model.eigenvalues) - most} more", "")
    return table


def selection_table(trials: list[dict[str, Any]]) -> Table:
    """Show the trials of an automatic number of components, the one that was kept marked."""
    table = Table(
        "components",
        "log-likelihood",
        "BIC",
        "ICL",
        "",
        title="Number of components",
        caption="BIC and ICL charge the likelihood for parameters, ICL also for tasks whose "
        "component is in doubt (twice the entropy of the labels); the smaller the better.",
    )
    best = next(trial for trial in trials if trial["kept"])
    for trial in trials:
        beside = "smallest BIC" if trial is best else f"{trial['bic'] - best['bic']:+.4g}"
        if not trial["bounded"]:
            beside += ", a component explains its tasks exactly"
        table.add_row(
            str(trial["n_components"]),
            f"{trial['log_likelihood']:.6g}",
            f"{trial['bic']:.6g}",
            f"{trial['icl']:.6g}",
            beside,
        )
    return table


def model_table(model: Model, *, most: int = 6) -> Table:
    """Show the components, with the coefficients that move the target most per feature spread."""
    against = reference_levels(model.encoding)
    table = Table(
        "component",
        "weight",
        "noise std",
        "intercept",
        "largest effects (coefficient)",
        caption=f"The intercept is that of {some(against)}." if against else None,
    )
    for i, component in enumerate(components_of(model, most=most)):
        table.add_row(
            str(i),
            f"{component.weight:.4f}",
            f"{component.noise_std:.4g}",
            f"{component.intercept:.4g}",
            ", ".join(f"{name} {value:+.4g}" for name, value in component.effects),
        )
    return table


def interval_facts(
    model: Model, uncertainty: Uncertainty, *, level: float, kind: Kind
) -> dict[str, Any]:
    """Everything `daskmlr intervals` says of a model, JSON-able."""
    low, high = uncertainty.intervals(level, kind=kind)
    errors, at = uncertainty.standard_errors(kind), uncertainty.estimate

    def entry(name: str, *place: int) -> dict[str, float]:
        return {
            what: float(getattr(values, name)[place])
            for what, values in (("value", at), ("error", errors), ("low", low), ("high", high))
        }

    return {
        "level": level,
        "kind": kind,
        "tasks": uncertainty.n_tasks,
        "shortfall": uncertainty.shortfall,
        "components": [
            {
                **{name: entry(name, i) for name in OWN},
                "coef": {name: entry("coef", i, j) for j, name in enumerate(model.feature_names)},
            }
            for i in range(model.n_components)
        ],
    }


def interval_table(facts: dict[str, Any]) -> Table:
    """Lay the intervals out, a row for each parameter of each component."""
    level = f"{100 * facts['level']:g} %"
    table = Table(title=f"{level} confidence intervals ({facts['kind']})")
    table.add_column("component")
    table.add_column("parameter")
    for name in ("estimate", "std error", "low", "high"):
        table.add_column(name, justify="right")
    for i, component in enumerate(facts["components"]):
        rows = [(shown, component[name]) for name, shown in OWN.items()]
        for row, (name, entry) in enumerate([*rows, *component["coef"].items()]):
            figures = (entry[what] for what in ("value", "error", "low", "high"))
            table.add_row(str(i) if row == 0 else "", name, *(f"{v:.4g}" for v in figures))
        table.add_section()
    return table


def forecast_facts(stages: Sequence[StageForecast]) -> dict[str, Any]:
    """Everything `daskmlr plan` says, JSON-able."""
    return {
        "stages": [
            {
                "stage": stage.stage,
                "passes": stage.n_passes,
                "graph_tasks": stage.cost.n_graph_tasks,
                "depth": stage.cost.depth,
                "bytes_read": stage.cost.bytes_read,
                "memory": stage.memory,
                **{name: getattr(stage, name) for name in BOUNDS},
                "bound": stage.bound,
                "seconds": stage.seconds,
            }
            for stage in stages
        ],
        "seconds": sum(stage.seconds for stage in stages),
    }


def forecast_table(facts: dict[str, Any]) -> Table:
    """Show the stages of a fit to come: seconds of a pass by what they go to, and of all."""
    table = Table(
        title="Fit to come: seconds of each pass",
        caption="A pass takes the longest of reading, products and scheduling, and combining.",
    )
    table.add_column("stage")
    for name in ("passes", "graph tasks", "memory", *BOUNDS):
        table.add_column(name, justify="right")
    table.add_column("bound by")
    table.add_column("all passes", justify="right")
    for row in facts["stages"]:
        table.add_row(
            row["stage"], str(row["passes"]), f"{row['graph_tasks']:,}", size(row["memory"]),
            *(_seconds(row[name]) for name in BOUNDS), row["bound"],
            format_time(row["seconds"]),
        )  # fmt: skip
    table.add_section()
    table.add_row("fit", *[""] * (len(BOUNDS) + 4), format_time(facts["seconds"]))
    return table


def odd_facts(out: str | os.PathLike[str], rate: float, n_tasks: int) -> dict[str, Any]:
    """Say how many tasks of an assignment are odd at a false discovery rate, and up to which p."""
    small = np.concatenate([p[p <= rate] for p in read_column(out, "p_value")])
    odd = small[odd_tasks(small, false_discovery_rate=rate, n_tests=n_tasks)]
    return {"odd_tasks": len(odd), "odd_p_value": float(odd.max()) if len(odd) else None}


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f}" if seconds >= 100 else f"{seconds:.3g}"


def _verdict(at: int | None) -> str:
    return "too few" if at is None else f"met by tasks of {at} or more"
