"""Commands that make and show task stores."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from daskmlr import report
from daskmlr.cli.base import (
    PATH_OR_URL,
    Place,
    as_json,
    computes,
    main,
    print_facts,
    seed_option,
)
from daskmlr.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

blocks = click.option(
    "--block-bytes", type=click.IntRange(min=1), help="Size of a block. Default: 32 MiB."
)


READING = (
    click.option(
        "--missing", type=click.Choice(["error", "drop"]), default="error", show_default=True
    ),
    click.option("--memory-limit", metavar="SIZE", help="For grouping rows by task, such as 1GB."),
    click.option(
        "--temporary-directory",
        type=click.Path(file_okay=False),
        help="Default: beside the store.",
    ),
)


def reading(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of reading tables."""
    for option in reversed(READING):
        command = option(command)
    return command


@main.command()
@seed_option
@computes
@as_json
def demo(seed: int, place: Place, as_json: bool) -> None:
    """Simulate about 100,000 tasks on disk, fit them, and compare with the truth."""
    from daskmlr.demo import demo_facts, demo_tables, run_demo
    from daskmlr.graph.execute import connect
    from daskmlr.progress import shown

    with (
        tempfile.TemporaryDirectory(prefix="daskmlr-demo-") as folder,
        place as client,
        shown(True) as show,
        connect(client, show) as runner,
    ):
        result = run_demo(Path(folder), random_state=seed, runner=runner, progress=show)
    facts = demo_facts(result)
    print_facts(facts, as_json, demo_tables(result))
    if not as_json:
        click.echo(
            f"{facts['tasks']:,} tasks, {facts['examples']:,} examples. Labels right: "
            f"{facts['accuracy']:.4f} (oracle that knows the regressions: "
            f"{facts['oracle_accuracy']:.4f}). Largest coefficient error: "
            f"{facts['largest_coefficient_error']:.4f}."
        )


@main.command()
@click.argument("out", type=PATH_OR_URL)
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
    out: str,
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
    tasks = draw(out, task_groups=groups, random_state=seed, progress=True, **parameters)
    _print_store(tasks, as_json, first=True)


@main.command()
@click.argument("inputs", nargs=-1, required=True)
@click.argument("out", type=PATH_OR_URL)
@click.option("--task", metavar="COL", help="Column that names the task of a row.")
@click.option("--target", metavar="COL", help="Column to predict.")
@click.option("--features", metavar="A,B,...", help="Default: all other columns.")
@click.option("--categorical", metavar="A,B,...", help="Numeric columns to take as categories.")
@click.option(
    "--like",
    type=PATH_OR_URL,
    metavar="STORE_OR_MODEL",
    help="Take features, categories and dtype as there, and --task and --target unless given: "
    "then a model can use OUT.",
)
@click.option("--dtype", type=click.Choice(["float32", "float64"]), help="Default: float64.")
@reading
@blocks
@as_json
def ingest(
    inputs: Sequence[str],
    out: str,
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
        progress=True,
        **options,
    )
    _print_store(tasks, as_json, first=True)


@main.command()
@click.argument("store", type=PATH_OR_URL)
@click.argument("inputs", nargs=-1, required=True)
@click.option("--task", metavar="COL", help="Default: as in STORE.")
@click.option("--target", metavar="COL", help="Default: as in STORE.")
@reading
@as_json
def append(store: str, inputs: Sequence[str], as_json: bool, **options: Any) -> None:
    """Append the tasks of Parquet or CSV INPUTS, read as STORE was, to STORE."""
    from daskmlr.ingestion import append_tables
    from daskmlr.storage.tasks import open_tasks

    before = open_tasks(store).n_tasks
    tasks = append_tables(list(inputs), store, progress=True, **options)
    _print_store(tasks, as_json, first=True)
    if not as_json:
        click.echo(f"{tasks.n_tasks - before:,} tasks appended.")


@main.command()
@click.argument("store", type=PATH_OR_URL)
@click.option("--validate", is_flag=True, help="Read every chunk and check it.")
@as_json
def info(store: str, validate: bool, as_json: bool) -> None:
    """Say what STORE holds and how many components its tasks can carry."""
    from daskmlr.storage.tasks import open_tasks

    tasks = open_tasks(store)
    if validate:
        tasks.validate(deep=True)
    _print_store(tasks, as_json)


def _size(text: str) -> int | tuple[int, int]:
    """``"8"`` or ``"2:200"``."""
    try:
        low, *high = (int(part) for part in text.split(":"))
    except ValueError:
        raise InputError(f"a task size is a number or LOW:HIGH, got {text!r}") from None
    return (low, *high) if high else low  # type: ignore[return-value]


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _print_store(tasks: Any, as_json: bool, *, first: bool = False) -> None:
    """Print what a store holds; `first`, without what its tasks could carry."""
    facts = report.store_facts(tasks)
    tables = report.store_tables(facts)
    print_facts(facts, as_json, tables[:1] if first else tables)
