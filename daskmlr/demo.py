"""The demonstration: draw tasks with a known truth, fit them from disk, hold the two together."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from daskmlr.estimator import MixedLinearRegression
from daskmlr.graph.reduce import map_tasks
from daskmlr.kernels.metrics import coefficient_error, label_accuracy, match_components
from daskmlr.synthetic import load_truth, oracle_assign, simulate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from daskmlr.graph.execute import Runner
    from daskmlr.kernels.blocks import TaskBlock
    from daskmlr.model import Model
    from daskmlr.progress import Show
    from daskmlr.synthetic import MixtureTruth

N_COMPONENTS, N_FEATURES = 8, 32
TASK_GROUPS = ((100_000, 8), (1_000, 24))


@dataclass(frozen=True)
class Demo:
    """What the demonstration found.

    Attributes
    ----------
    model : Model
    truth : MixtureTruth
    match : ndarray of shape (k,)
        Estimated component of each true one.
    accuracy, oracle_accuracy : float
        Share of tasks with the right label: by the model, and by the true parameters.
    largest_error : float
        ``max_l |w_l - w^hat_l|``.
    seconds : dict of str to float
        Of each stage.
    """

    model: Model
    truth: MixtureTruth
    match: NDArray[np.int64]
    accuracy: float
    oracle_accuracy: float
    largest_error: float
    seconds: dict[str, float]


def run_demo(
    folder: Path,
    *,
    random_state: int,
    runner: Runner,
    progress: bool | Show = False,
) -> Demo:
    """Simulate, fit and assign about 100,000 tasks in `folder`."""
    seconds: dict[str, float] = {}

    def timed(stage: str, function: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = function()
        seconds[stage] = time.perf_counter() - start
        return result

    store = folder / "demo.daskmlr"
    tasks = timed(
        "simulate",
        lambda: simulate(
            store,
            n_components=N_COMPONENTS,
            n_features=N_FEATURES,
            intercept_scale=1.0,
            noise=0.5,
            mean=10.0,
            correlation=0.5,
            task_groups=TASK_GROUPS,
            random_state=random_state,
            progress=progress,
        ),
    )
    estimator = MixedLinearRegression(N_COMPONENTS, random_state=random_state)
    model = timed("fit", lambda: estimator.fit(tasks, client=runner)).model_
    assigned = timed("assign", lambda: model.assign(tasks, client=runner))
    truth, labels = load_truth(store)
    oracle = map_tasks(tasks, _oracle, None, args=(truth,), client=runner, name="oracle")
    assert oracle is not None  # noqa: S101 - no output path was given
    match = match_components(model.coef, truth.coef)
    return Demo(
        model,
        truth,
        match,
        label_accuracy(assigned["label"], labels, n_components=N_COMPONENTS, match=match),
        float((oracle["label"] == labels).mean()),
        float(np.max(coefficient_error(model.coef, truth.coef))),
        seconds,
    )


def demo_facts(demo: Demo) -> dict[str, Any]:
    """Return the result of the demonstration, JSON-able."""
    return {
        "tasks": demo.model.n_tasks,
        "examples": demo.model.n_rows,
        "accuracy": demo.accuracy,
        "oracle_accuracy": demo.oracle_accuracy,
        "largest_coefficient_error": demo.largest_error,
        "passes": demo.model.n_iter,
        "seconds": demo.seconds,
        "stages": [dict(entry) for entry in demo.model.history],
    }


def demo_tables(demo: Demo) -> list[Table]:
    """Truth beside estimate, and the time of each stage."""
    components = Table(
        "component", "share", "noise std", "intercept", "first three slopes", "error |w - ŵ|",
        title="Truth beside estimate",
    )  # fmt: skip
    for true, found in enumerate(demo.match.tolist()):
        components.add_row(
            str(true),
            _pair(demo.truth.weights[true], demo.model.weights[found]),
            _pair(*np.sqrt([demo.truth.noise_variance[true], demo.model.noise_variance[found]])),
            _pair(demo.truth.intercept[true], demo.model.intercept[found]),
            " ".join(
                _pair(demo.truth.coef[true, j], demo.model.coef[found, j], digits=2)
                for j in range(3)
            ),
            f"{np.linalg.norm(demo.truth.coef[true] - demo.model.coef[found]):.4f}",
        )
    times = Table("stage", "seconds", title="Time")
    for stage, seconds in demo.seconds.items():
        times.add_row(stage, f"{seconds:.1f}")
        if stage == "fit":
            for entry in ("moments", "project", "cluster", "refine"):
                spent = [e["seconds"] for e in demo.model.history if e["stage"] == entry]
                times.add_row(f"  {entry} x {len(spent)}", f"{sum(spent):.1f}")
    return [components, times]


def _oracle(block: TaskBlock, truth: MixtureTruth) -> dict[str, NDArray[Any]]:
    return {"label": oracle_assign(block, truth)}


def _pair(truth: float, estimate: float, digits: int = 3) -> str:
    return f"{truth:.{digits}f}|{estimate:.{digits}f}"
