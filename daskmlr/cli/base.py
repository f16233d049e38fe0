"""The group of commands, and what they share: options and printing."""

from __future__ import annotations

import json
import logging
import sys
import uuid
import warnings
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from functools import wraps
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click
from rich.console import Console

from daskmlr.errors import AccessError, DaskmlrError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.table import Table

    from daskmlr.graph.execute import ClientLike

logger = logging.getLogger(__name__)
Place: TypeAlias = "AbstractContextManager[ClientLike]"

# Kept as it is typed: a path, or a URL, in which a path would merge the slashes.
PATH_OR_URL = click.Path(path_type=str)
LOCAL_FILE = click.Path(dir_okay=False, path_type=Path)
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
skip_damaged = click.option(
    "--skip-damaged",
    is_flag=True,
    expose_value=False,
    callback=lambda context, _, asked: leave_out_damage(context) if asked else None,
    help="Leave damaged blocks out, and say which.",
)
seed_option = click.option("--seed", type=int, default=0, show_default=True)


class Duration(click.ParamType):  # type: ignore[type-arg]
    """A time such as ``90s`` or ``2h``, in seconds."""

    name = "TIME"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read what was typed."""
        from dask.utils import parse_timedelta

        try:
            seconds = float(parse_timedelta(value))
        except (KeyError, ValueError):
            self.fail(f"{value!r} is no time: write a number and a unit, such as 90s", param, ctx)
        if seconds <= 0:
            self.fail(f"must be above 0, got {value}", param, ctx)
        return seconds


WHERE = (
    click.option(
        "--scheduler",
        metavar="ADDRESS",
        help="Compute on the Dask cluster of this scheduler; or 'threads' or 'sync', without one. "
        "Default: threads of this process.",
    ),
    click.option(
        "--scheduler-file",
        type=PATH_OR_URL,
        help="The same, its address read from the file it wrote.",
    ),
    click.option(
        "--cluster",
        type=click.Choice(["local", "slurm", "ssh", "kubernetes", "gateway"]),
        help="Start a Dask cluster for this command and end it afterwards.",
    ),
    click.option("--workers", type=click.IntRange(min=1), help="Worker processes of --cluster."),
    click.option(
        "--cluster-options",
        type=LOCAL_FILE,
        metavar="YAML",
        help="Keyword arguments of the class that starts it, such as dask_jobqueue.SLURMCluster.",
    ),
    click.option(
        "--wait",
        type=Duration(),
        default="10m",
        show_default=True,
        help="Longest wait for a scheduler file, or for the first worker of --cluster.",
    ),
)


def computes(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say where to compute.

    It gets them as one argument, `place`: a context manager whose value `connect` takes.
    """

    @wraps(command)
    def with_place(
        *args: Any,
        scheduler: str | None,
        scheduler_file: Path | None,
        cluster: str | None,
        workers: int | None,
        cluster_options: Path | None,
        wait: float,
        **kwargs: Any,
    ) -> None:
        places = {
            "--scheduler": scheduler, "--scheduler-file": scheduler_file, "--cluster": cluster
        }  # fmt: skip
        given = [name for name, value in places.items() if value is not None]
        if len(given) > 1:
            raise click.UsageError(f"{' and '.join(given)} exclude each other: give one")
        for name, value in {"--workers": workers, "--cluster-options": cluster_options}.items():
            if cluster is None and value is not None:
                raise click.UsageError(f"{name} needs --cluster: it says how to start one")
        command(
            *args,
            place=_place(scheduler, scheduler_file, cluster, workers, cluster_options, wait),
            **kwargs,
        )

    for option in reversed(WHERE):
        with_place = option(with_place)
    return with_place


@contextmanager
def _place(
    scheduler: str | None,
    scheduler_file: Path | None,
    cluster: str | None,
    workers: int | None,
    options: Path | None,
    wait: float,
) -> Iterator[ClientLike]:
    from daskmlr.cluster import read_address, start_cluster

    if cluster is not None:
        with start_cluster(cluster, n_workers=workers, options=options, wait=wait) as client:
            if sys.stderr.isatty():
                click.echo(f"Dask's dashboard: {client.dashboard_link}", err=True)
            yield client
    else:
        yield read_address(scheduler_file, wait) if scheduler_file else scheduler


class Command(click.Group):
    """A group whose commands print our errors as one message, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn what went wrong with the input into a message and status 1."""
        warnings.showwarning = show_warning
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # click ends quietly when nobody reads on
        except (DaskmlrError, OSError) as error:
            facts = {"event": "error", "kind": type(error).__name__}
            logger.error("%s", error, extra={"facts": facts})  # noqa: TRY400 - said in one line
            raise click.ClickException(str(error)) from error


class JsonLines(logging.Formatter):
    """One JSON object a line: time, run, level, message, and the facts of the event."""

    def __init__(self) -> None:
        super().__init__()
        self._run = uuid.uuid4().hex[:12]

    def format(self, record: logging.LogRecord) -> str:
        """Write one line."""
        own = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "run": self._run,
            "level": record.levelname,
            "message": record.getMessage(),
        }
        return json.dumps(own | getattr(record, "facts", {}))


@click.group(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="daskmlr")
@click.option(
    "--log-json",
    type=LOCAL_FILE,
    help="Append a JSON line for each stage and pass to this file.",
)
@click.pass_context
def main(ctx: click.Context, log_json: Path | None) -> None:
    """Mixed linear regression over millions of small tasks."""
    if log_json is not None:
        ctx.with_resource(_logging_to(log_json))
        facts = {"event": "command", "command": ctx.invoked_subcommand}
        logger.info("daskmlr %s", version("daskmlr"), extra={"facts": facts})


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    ours, handler = logging.getLogger("daskmlr"), logging.FileHandler(path)
    handler.setFormatter(JsonLines())
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    try:
        yield
    finally:
        ours.removeHandler(handler)
        handler.close()


def leave_out_damage(context: click.Context) -> None:
    """Leave damaged blocks out of every pass of a command."""
    import dask

    context.with_resource(dask.config.set({"daskmlr.skip-damaged": True}))


def print_facts(facts: dict[str, Any], as_json: bool, tables: Sequence[Table]) -> None:
    """Print tables, or the facts as one JSON object."""
    if as_json:
        click.echo(json.dumps(facts))
        return
    console = Console(width=None if sys.stdout.isatty() else 120)
    for table in tables:
        console.print(table)


@contextmanager
def in_order(order: str, *others: str) -> Iterator[None]:
    """Where an input is not what it should be, say what lies at the other arguments."""
    from daskmlr.storage.publish import what_is

    try:
        yield
    except StoreError as error:
        there: list[str] = []
        with suppress(AccessError):
            there += [f"{path} is a {found}" for path in others if (found := what_is(path))]
        if not there:
            raise
        raise StoreError(f"{error}. {', '.join(there)}: the order is {order}") from error


def show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Print a warning as one line."""
    facts = {"event": "warning", "kind": category.__name__}
    logger.warning("%s", message, extra={"facts": facts})
    click.echo(f"Warning ({category.__name__}): {message}", err=True)
