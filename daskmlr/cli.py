"""The `daskmlr` command."""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from daskmlr import report
from daskmlr.errors import DaskmlrError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.table import Table

    ProgressFunction = Callable[[str, int, int], None]


class AutoOrNumber(click.ParamType):  # type: ignore[type-arg]
    """A number of components, or ``auto``."""

    name = "K|auto"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | Literal["auto"]:
        """Read what was typed."""
        return "auto" if value == "auto" else int(click.INT.convert(value, param, ctx))


EXISTING = click.Path(exists=False, path_type=Path)
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
scheduler = click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Address of a Dask scheduler, 'threads' or 'sync'. Default: a cluster in this process.",
)
seed_option = click.option("--seed", type=int, default=0, show_default=True)
blocks = click.option(
    "--block-bytes", type=click.IntRange(min=1), help="Size of a block. Default: 32 MiB."
)


class Command(click.Group):
    """A group whose commands print our errors as one message, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn what went wrong with the input into a message and status 1."""
        warnings.showwarning = _show_warning
        try:
            return super().invoke(ctx)
        except (DaskmlrError, OSError) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="daskmlr")
def main() -> None:
    """Mixed linear regression over millions of small tasks."""


@main.command()
@seed_option
@scheduler
@as_json
def demo(seed: int, scheduler: str | None, as_json: bool) -> None:
    """Simulate about 100,000 tasks on disk, fit them, and compare with the truth."""
    from daskmlr.demo import demo_facts, demo_tables, run_demo
    from daskmlr.graph.execute import connect

    with (
        tempfile.TemporaryDirectory(prefix="daskmlr-demo-") as folder,
        _progress() as show,
        connect(scheduler, show) as runner,
    ):
        result = run_demo(Path(folder), random_state=seed, runner=runner, progress=show)
    facts = demo_facts(result)
    _print(facts, as_json, demo_tables(result))
    if not as_json:
        click.echo(
            f"{facts['tasks']:,} tasks, {facts['examples']:,} examples. Labels right: "
            f"{facts['accuracy']:.4f} (oracle that knows the regressions: "
            f"{facts['oracle_accuracy']:.4f}). Largest coefficient error: "
            f"{facts['largest_coefficient_error']:.4f}."
        )


@main.command()
@click.argument("out", type=EXISTING)
@click.option("--tasks", "n_tasks", type=click.IntRange(min=1), default=100_000, show_default=True)
@click.option("--size", default="8", show_default=True, help="Examples of a task: N, or LOW:HIGH.")
@click.option("--heavy-tasks", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--heavy-size", default="32", show_default=True, help="Examples of a heavy task.")
@click.option("--n-components", type=int, default=8, show_default=True)
@click.option("--n-features", type=int, default=32, show_default=True)
@click.option("--noise", type=float, default=0.5, show_default=True, help="Standard deviation.")
@click.option("--intercept-scale", type=float, default=0.0, show_default=True)
@click.option("--mean", type=float, default=0.0, show_default=True, help="Of the covariates.")
@click.option("--correlation", type=float, default=0.0, show_default=True)
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32")
@click.option("--ids", type=click.Choice(["int", "str"]), default="int", show_default=True)
@blocks
@seed_option
@as_json
def simulate(
    out: Path,
    n_tasks: int,
    size: str,
    heavy_tasks: int,
    heavy_size: str,
    seed: int,
    as_json: bool,
    **parameters: Any,
) -> None:
    """Draw tasks with a known truth into the new store OUT."""
    from daskmlr.synthetic import simulate as draw

    groups = [(n_tasks, _size(size))]
    if heavy_tasks:
        groups.append((heavy_tasks, _size(heavy_size)))
    with _progress() as show:
        tasks = draw(
            out,
            task_groups=groups,
            random_state=seed,
            on_progress=show and (lambda done, total: show("simulate", done, total)),
            **parameters,
        )
    _print_store(tasks, as_json)


@main.command()
@click.argument("inputs", nargs=-1, required=True)
@click.argument("out", type=EXISTING)
@click.option("--task", required=True, metavar="COL", help="Column that names the task of a row.")
@click.option("--target", required=True, metavar="COL", help="Column to predict.")
@click.option("--features", metavar="A,B,...", help="Default: all other columns.")
@click.option("--categorical", metavar="A,B,...", help="Numeric columns to take as categories.")
@click.option("--missing", type=click.Choice(["error", "drop"]), default="error", show_default=True)
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float64")
@click.option("--memory-limit", metavar="SIZE", help="For grouping rows by task, such as 1GB.")
@click.option(
    "--temporary-directory", type=click.Path(file_okay=False), help="Default: beside OUT."
)
@blocks
@as_json
def ingest(
    inputs: Sequence[str],
    out: Path,
    features: str | None,
    categorical: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Read Parquet or CSV INPUTS (files, folders, globs; a row per example) into the store OUT."""
    from daskmlr.ingestion import ingest as read

    tasks = read(
        list(inputs),
        out,
        features=_names(features),
        categorical=_names(categorical),
        progress=sys.stderr.isatty(),
        **options,
    )
    _print_store(tasks, as_json)


@main.command()
@click.argument("store", type=EXISTING)
@click.option("--validate", is_flag=True, help="Read every chunk and check it.")
@as_json
def info(store: Path, validate: bool, as_json: bool) -> None:
    """Say what STORE holds and how many components its tasks can carry."""
    from daskmlr.storage.tasks import open_tasks

    tasks = open_tasks(store)
    if validate:
        tasks.validate(deep=True)
    _print_store(tasks, as_json)


@main.command()
@click.argument("store", type=EXISTING)
@click.argument("model", type=EXISTING)
@click.option(
    "--n-components", type=AutoOrNumber(), required=True, help="Regressions, k, or 'auto'."
)
@click.option("--pairs", default="all", show_default=True, help="'all', 'split' or a number.")
@click.option("--clustering", type=click.Choice(["em", "linkage"]), default="em")
@click.option("--n-heavy", type=click.IntRange(min=1), help="Tasks used for first components.")
@click.option("--n-batches", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--n-restarts", type=click.IntRange(min=1), default=12, show_default=True)
@click.option("--assignment", type=click.Choice(["soft", "hard"]), default="soft")
@click.option("--max-iter", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--tol", type=float, default=1e-6, show_default=True)
@click.option("--robust", type=float, metavar="SHARE", help="Most tasks that may be corrupted.")
@seed_option
@scheduler
@as_json
def fit(
    store: Path,
    model: Path,
    n_components: int | Literal["auto"],
    pairs: str,
    seed: int,
    scheduler: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Fit the regressions behind STORE and save them as MODEL."""
    from daskmlr.estimator import MixedLinearRegression
    from daskmlr.storage.publish import refuse_existing
    from daskmlr.storage.tasks import open_tasks

    refuse_existing(model)
    estimator = MixedLinearRegression(
        n_components,
        pairs=int(pairs) if pairs.isdigit() else pairs,
        random_state=seed,
        **options,
    )
    with _progress() as show:
        estimator.fit(open_tasks(store), client=scheduler, progress=show)
    fitted = estimator.model_
    fitted.save(model)
    _print(report.model_facts(fitted), as_json, report.model_tables(fitted))
    if not as_json:
        state = "converged" if fitted.converged else "not converged"
        click.echo(
            f"{fitted.n_iter} passes, {state}; log-likelihood {fitted.log_likelihood:.6g} "
            f"({fitted.log_likelihood / fitted.n_rows:.6f} per example). Saved as {model}."
        )


@main.command()
@click.argument("model", type=EXISTING)
@click.argument("store", type=EXISTING)
@click.argument("out", type=EXISTING)
@scheduler
@as_json
def update(model: Path, store: Path, out: Path, scheduler: str | None, as_json: bool) -> None:
    """Refine MODEL by the new tasks of STORE, without reading its old ones; save as OUT.

    Of the store that MODEL was fitted on, the tasks appended since count; of another, all.
    """
    from daskmlr.graph.execute import connect
    from daskmlr.model import Model
    from daskmlr.stages import FitOptions
    from daskmlr.storage.publish import refuse_existing
    from daskmlr.storage.tasks import open_tasks
    from daskmlr.updating import update_model

    refuse_existing(out)
    before, tasks = Model.load(model), open_tasks(store)
    options = FitOptions(before.n_components)
    with _progress() as show, connect(scheduler, show) as runner:
        after, diagnosis = update_model(before, tasks, options, runner)
    for category, message in diagnosis.warnings:
        warnings.warn(message, category, stacklevel=1)
    after.save(out)
    _print(report.model_facts(after), as_json, [report.model_table(after)])
    if not as_json:
        click.echo(
            f"{after.n_tasks - before.n_tasks:,} new tasks, {after.n_tasks:,} in all. "
            f"Saved as {out}."
        )


@main.command()
@click.argument("model", type=EXISTING)
@click.argument("store", type=EXISTING)
@click.argument("out", type=EXISTING)
@click.option(
    "--odd-rate",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.01,
    show_default=True,
    help="Most of the tasks called odd that may be sound (false discovery rate).",
)
@scheduler
@as_json
def assign(
    model: Path, store: Path, out: Path, odd_rate: float, scheduler: str | None, as_json: bool
) -> None:
    """Label every task of STORE by MODEL; write OUT (.parquet or .zarr)."""
    from daskmlr.graph.execute import connect
    from daskmlr.model import Model
    from daskmlr.storage.tasks import open_tasks

    tasks = open_tasks(store)
    fitted = Model.load(model)
    with _progress() as show, connect(scheduler, show) as runner:
        fitted.assign(tasks, out, client=runner)
    odd = report.odd_facts(out, odd_rate, tasks.n_tasks)
    _print({"out": str(out), "tasks": tasks.n_tasks, **odd}, as_json, [])
    if not as_json:
        click.echo(f"{tasks.n_tasks:,} tasks labelled in {out}.")
        click.echo(
            f"{odd['odd_tasks']:,} tasks are odd: no component explains them (false discovery "
            f"rate {odd_rate:g}"
            + (f"; p_value up to {odd['odd_p_value']:.3g})." if odd["odd_tasks"] else ").")
        )


@main.command()
@click.argument("model", type=EXISTING)
@click.option("--support", required=True, metavar="FILE", help="Examples of the new tasks.")
@click.option("--query", required=True, metavar="FILE", help="Rows to predict.")
@click.argument("out", type=EXISTING)
@click.option("--method", type=click.Choice(["bayes", "map"]), default="bayes", show_default=True)
@as_json
def predict(
    model: Path,
    support: str,
    query: str,
    out: Path,
    method: Literal["bayes", "map"],
    as_json: bool,
) -> None:
    """Predict the rows of a query FILE from the support examples of their tasks; write OUT."""
    from daskmlr.ingestion import predict_tables
    from daskmlr.model import Model

    n_rows = predict_tables(Model.load(model), support, query, out, method=method)
    _print({"out": str(out), "rows": n_rows}, as_json, [])
    if not as_json:
        click.echo(f"{n_rows:,} rows predicted in {out}.")


@main.command()
@click.argument("model", type=EXISTING)
@click.argument("store", type=EXISTING)
@click.option("--level", type=float, default=0.95, show_default=True)
@click.option(
    "--kind",
    type=click.Choice(["sandwich", "observed"]),
    default="sandwich",
    show_default=True,
    help="'observed' trusts the model's noise, 'sandwich' does not.",
)
@scheduler
@as_json
def intervals(
    model: Path,
    store: Path,
    level: float,
    kind: Literal["sandwich", "observed"],
    scheduler: str | None,
    as_json: bool,
) -> None:
    """Confidence intervals of the parameters of MODEL, from the STORE it was fitted to."""
    from daskmlr.graph.execute import connect
    from daskmlr.model import Model
    from daskmlr.storage.tasks import open_tasks
    from daskmlr.uncertainty import check_level

    check_level(level)
    fitted, tasks = Model.load(model), open_tasks(store)
    with _progress() as show, connect(scheduler, show) as runner:
        found = fitted.uncertainty(tasks, client=runner)
    facts = report.interval_facts(fitted, found, level=level, kind=kind)
    _print(facts, as_json, [] if as_json else [report.interval_table(facts)])


def _size(text: str) -> int | tuple[int, int]:
    """``"8"`` or ``"2:200"``."""
    try:
        low, *high = (int(part) for part in text.split(":"))
    except ValueError:
        raise InputError(f"a task size is a number or LOW:HIGH, got {text!r}") from None
    return (low, *high) if high else low  # type: ignore[return-value]


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _print_store(tasks: Any, as_json: bool) -> None:
    facts = report.store_facts(tasks)
    _print(facts, as_json, report.store_tables(facts))


def _print(facts: dict[str, Any], as_json: bool, tables: Sequence[Table]) -> None:
    if as_json:
        click.echo(json.dumps(facts))
        return
    console = Console(width=None if sys.stdout.isatty() else 120)
    for table in tables:
        console.print(table)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    click.echo(f"Warning ({category.__name__}): {message}", err=True)


@contextmanager
def _progress() -> Iterator[ProgressFunction | None]:
    """Bars on a terminal, one line per stage; None in a pipe."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        console=console,
    ) as bars:
        known: dict[str, Any] = {}

        def show(name: str, done: int, total: int) -> None:
            if name not in known:
                known[name] = bars.add_task(name, total=total)
            bars.update(known[name], completed=done, total=total)

        yield show
