"""Commands that fit models and use them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

import click

from daskmlr import report
from daskmlr.cli.base import (
    PATH_OR_URL,
    Place,
    as_json,
    computes,
    in_order,
    main,
    print_facts,
    seed_option,
    skip_damaged,
)

level_option = click.option(
    "--level",
    type=float,
    default=0.95,
    show_default=True,
    help="Probability that what is bounded lies between low and high.",
)


class AutoOrNumber(click.ParamType):  # type: ignore[type-arg]
    """A number of components, or ``auto``."""

    name = "K|auto"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | Literal["auto"]:
        """Read what was typed."""
        if value == "auto":
            return "auto"
        try:
            return int(value)
        except ValueError:
            self.fail(f"wanted a number of components or auto, got {value!r}", param, ctx)


@main.command()
@click.argument("store", type=PATH_OR_URL)
@click.argument("model", type=PATH_OR_URL)
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
@click.option("--tol", type=float, default=0.01, show_default=True)
@click.option("--robust", type=float, metavar="SHARE", help="Most tasks that may be corrupted.")
@click.option(
    "--checkpoint",
    type=PATH_OR_URL,
    help="Place for what the passes find, until the fit is done. Default: MODEL.checkpoint.",
)
@click.option("--resume", is_flag=True, help="Go on from the checkpoint of an interrupted fit.")
@seed_option
@skip_damaged
@computes
@as_json
def fit(
    store: str,
    model: str,
    n_components: int | Literal["auto"],
    pairs: str,
    seed: int,
    checkpoint: str | None,
    resume: bool,
    place: Place,
    as_json: bool,
    **options: Any,
) -> None:
    """Fit the regressions behind STORE and save them as MODEL."""
    from daskmlr.estimator import MixedLinearRegression
    from daskmlr.record import checkpointing
    from daskmlr.storage.publish import refuse_existing
    from daskmlr.storage.tasks import open_tasks

    with in_order("STORE MODEL", model):
        tasks = open_tasks(store)
    refuse_existing(model)
    estimator = MixedLinearRegression(
        n_components,
        pairs=int(pairs) if pairs.isdigit() else pairs,
        random_state=seed,
        **options,
    )
    kept_at = checkpoint or f"{model.rstrip('/')}.checkpoint"
    with (
        checkpointing(kept_at, tasks, estimator.get_params(), resume=resume) as kept,
        place as client,
    ):
        try:
            estimator.fit(tasks, client=client, progress=True, checkpoint=kept)
        except KeyboardInterrupt:
            click.echo("\nThe same command with --resume goes on from here.", err=True)
            raise
        fitted = estimator.model_
        fitted.save(model)
    print_facts(report.model_facts(fitted), as_json, report.model_tables(fitted))
    if not as_json:
        facts = fitted.diagnostics
        if "tasks_left_out" in facts:
            click.echo(
                f"{facts['tasks_left_out']:,} odd tasks were left out: no component explains them "
                f"(false discovery rate {facts['odd_rate']:g})."
            )
        state = "converged" if fitted.converged else "not converged"
        click.echo(
            f"{fitted.n_iter} passes, {state}; log-likelihood {fitted.log_likelihood:.6g} "
            f"({fitted.log_likelihood / fitted.n_rows:.6f} per example). Saved as {model}."
        )


@main.command()
@click.argument("model", type=PATH_OR_URL)
@click.argument("store", type=PATH_OR_URL)
@click.argument("out", type=PATH_OR_URL)
@skip_damaged
@computes
@as_json
def update(model: str, store: str, out: str, place: Place, as_json: bool) -> None:
    """Refine MODEL by the new tasks of STORE, without reading its old ones; save as OUT.

    Of the store that MODEL was fitted on, the tasks appended since count; of another, all.
    """
    from daskmlr.graph.execute import connect
    from daskmlr.model import Model
    from daskmlr.stages import FitOptions
    from daskmlr.storage.publish import refuse_existing
    from daskmlr.storage.tasks import open_tasks
    from daskmlr.updating import update_model

    with in_order("MODEL STORE OUT", store, out):
        before, tasks = Model.load(model), open_tasks(store)
    refuse_existing(out)
    options = FitOptions(before.n_components)
    with place as client, connect(client, progress=True) as runner:
        after, diagnosis = update_model(before, tasks, options, runner)
        after.save(out)
    diagnosis.give_warnings(stacklevel=1)
    print_facts(report.model_facts(after), as_json, [report.model_table(after)])
    if not as_json:
        click.echo(
            f"{after.n_tasks - before.n_tasks:,} new tasks, {after.n_tasks:,} in all. "
            f"Saved as {out}."
        )


@main.command()
@click.argument("model", type=PATH_OR_URL)
@click.argument("store", type=PATH_OR_URL)
@click.argument("out", type=PATH_OR_URL)
@click.option(
    "--odd-rate",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.01,
    show_default=True,
    help="Most of the tasks called odd that may be sound (false discovery rate).",
)
@skip_damaged
@computes
@as_json
def assign(model: str, store: str, out: str, odd_rate: float, place: Place, as_json: bool) -> None:
    """Label every task of STORE by MODEL; write OUT (.parquet or .zarr)."""
    from daskmlr.graph.execute import connect
    from daskmlr.model import Model
    from daskmlr.storage.publish import refuse_existing
    from daskmlr.storage.tasks import open_tasks

    with in_order("MODEL STORE OUT", store, out):
        fitted, tasks = Model.load(model), open_tasks(store)
    refuse_existing(out)
    with place as client, connect(client, progress=True) as runner:
        fitted.assign(tasks, out=out, client=runner)
        left_out = runner.left_out(tasks)
    n_tasks = tasks.n_tasks - left_out.n_tasks
    odd = report.odd_facts(out, odd_rate, n_tasks)
    print_facts({"out": str(out), "tasks": n_tasks, **left_out.facts(), **odd}, as_json, [])
    if not as_json:
        click.echo(f"{n_tasks:,} tasks labelled in {out}.")
        n_odd, rate = odd["odd_tasks"], f"(false discovery rate {odd_rate:g}"
        if n_odd:
            click.echo(
                f"{n_odd:,} {'tasks are' if n_odd > 1 else 'task is'} odd, explained by no "
                f"component {rate}; p_value up to {odd['odd_p_value']:.3g})."
            )
        else:
            click.echo(f"No task is odd: each is explained by a component {rate}).")


@main.command()
@click.argument("model", type=PATH_OR_URL)
@click.argument("store", type=PATH_OR_URL)
@level_option
@click.option(
    "--kind",
    type=click.Choice(["sandwich", "observed"]),
    default="sandwich",
    show_default=True,
    help="'observed' trusts the model's noise, 'sandwich' does not.",
)
@skip_damaged
@computes
@as_json
def intervals(
    model: str,
    store: str,
    level: float,
    kind: Literal["sandwich", "observed"],
    place: Place,
    as_json: bool,
) -> None:
    """Confidence intervals of the parameters of MODEL, from the STORE it was fitted to."""
    from daskmlr.graph.execute import connect
    from daskmlr.model import Model
    from daskmlr.storage.tasks import open_tasks
    from daskmlr.uncertainty import check_level

    check_level(level)
    with in_order("MODEL STORE", store):
        fitted, tasks = Model.load(model), open_tasks(store)
    with place as client, connect(client, progress=True) as runner:
        found = fitted.uncertainty(tasks, client=runner)
    facts = report.interval_facts(fitted, found, level=level, kind=kind)
    print_facts(facts, as_json, [] if as_json else [report.interval_table(facts)])


@main.command()
@click.argument("model", type=PATH_OR_URL)
@click.option("--support", required=True, metavar="FILE", help="Examples of the new tasks.")
@click.option("--query", required=True, metavar="FILE", help="Rows to predict.")
@click.argument("out", type=PATH_OR_URL)
@click.option("--method", type=click.Choice(["bayes", "map"]), default="bayes", show_default=True)
@level_option
@click.option(
    "--missing",
    type=click.Choice(["error", "drop"]),
    default="error",
    show_default=True,
    help="'drop' leaves rows with missing values out; those of the query get no prediction.",
)
@as_json
def predict(
    model: str,
    support: str,
    query: str,
    out: str,
    method: Literal["bayes", "map"],
    level: float,
    missing: Literal["error", "drop"],
    as_json: bool,
) -> None:
    """Predict the rows of a query FILE from the support examples of their tasks; write OUT.

    OUT (.csv or .parquet) has the rows of the query with columns added: prediction, its standard
    deviation std, the bounds low and high, and of the row's task the likeliest component (label)
    and its probability.
    """
    from daskmlr.ingestion import predict_tables
    from daskmlr.model import Model

    with in_order("MODEL OUT", out):
        fitted = Model.load(model)
    done = predict_tables(fitted, support, query, out, method=method, missing=missing, level=level)
    print_facts({"out": str(out), **asdict(done)}, as_json, [])
    if not as_json:
        click.echo(
            f"{done.rows:,} rows of {done.tasks:,} tasks predicted in {out}; "
            f"{done.tasks_with_support:,} of the tasks had support."
        )
        if missing == "drop":
            click.echo(
                f"Left out for missing values: {done.rows_left_out:,} rows of the query, "
                f"{done.examples_left_out:,} of the support."
            )


@main.command("report")
@click.argument("model", type=PATH_OR_URL)
@click.argument("out", type=PATH_OR_URL)
@click.option(
    "--store",
    type=PATH_OR_URL,
    help="The store it was fitted to: intervals come of one more pass over it. Without, they are "
    "taken as if all labels were certain.",
)
@skip_damaged
@computes
def write_report(model: str, out: str, store: str | None, place: Place) -> None:
    """Write the page OUT (.html) about MODEL: what was fitted, how well, how long it took."""
    from daskmlr.graph.execute import connect
    from daskmlr.model import Model
    from daskmlr.storage.publish import refuse_existing
    from daskmlr.storage.tasks import open_tasks

    with in_order("MODEL OUT", out):
        fitted = Model.load(model)
    report.check_html(out)
    refuse_existing(out)
    uncertainty = None
    if store is not None:
        tasks = open_tasks(store)
        report.check_plots()
        with place as client, connect(client, progress=True) as runner:
            uncertainty = fitted.uncertainty(tasks, client=runner)
    report.write_report(fitted, out, uncertainty=uncertainty)
    click.echo(f"Report of {fitted.n_components} components in {out}.")
