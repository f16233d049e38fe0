"""Progress as bars on a terminal."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import TaskID

    from daskmlr.ingestion.engine import Progress


@contextmanager
def shown(progress: bool | Progress) -> Iterator[Progress | None]:
    """Give the callable that shows progress: the user's, bars on a terminal, or none."""
    console = Console(stderr=True)
    if callable(progress):
        yield progress
    elif progress and console.is_terminal:
        columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()
        with Bars(*columns, TimeElapsedColumn(), console=console) as bars:
            stages: dict[str, TaskID] = {}

            def show(stage: str, done: int, total: int) -> None:
                if stage not in stages:
                    stages[stage] = bars.add_task(stage, total=total)
                bars.update(stages[stage], completed=done, total=total)

            yield show
    else:
        yield None
