"""How far a stage is, and bars that show it in a terminal or a notebook."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from dask.utils import format_bytes
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType
    from rich.progress import TaskID


@dataclass(frozen=True)
class Progress:
    """How far a stage is.

    Attributes
    ----------
    stage : str
    done, total : int
        Graph tasks of a pass; of what is no pass over a store, rows, files, tasks or per cent.
    number : int
        Which pass of that name it is, from 1.
    n_bytes : int
        Decoded bytes of the blocks read so far; 0 if no store is read.
    seconds : float
        Since the stage began.
    n_components : int, optional
        Of the fit that the stage is of.
    page : str
        Address of the live page on the dashboard of the Dask cluster, once there is one, and the
        ``ssh`` line that leads there where one is needed.

    Examples
    --------
    >>> half = Progress("refine", 16, 32, number=3, n_bytes=1_000_000, seconds=2.0)
    >>> half.bytes_per_second, half.seconds_left
    (500000.0, 2.0)
    """

    stage: str
    done: int
    total: int
    number: int = 1
    n_bytes: int = 0
    seconds: float = 0.0
    n_components: int | None = None
    page: str = ""

    @property
    def bytes_per_second(self) -> float:
        """Decoded bytes per second since the stage began."""
        return self.n_bytes / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At the pace since the stage began; None if nothing is done yet."""
        return self.seconds * (self.total - self.done) / self.done if self.done else None


Show: TypeAlias = Callable[[Progress], None]


@contextmanager
def shown(progress: bool | Show) -> Iterator[bool | Show]:
    """Give the callable that shows progress: the user's, or bars where they can be seen.

    Parameters
    ----------
    progress : bool or callable
        True shows bars in a terminal or a notebook, a line for each stage; a callable is called
        with a `Progress`.

    Yields
    ------
    callable, or False where nothing is to be shown
    """
    console = Console(stderr=True)
    if callable(progress):
        yield progress
    elif progress and (console.is_terminal or console.is_jupyter):
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        with _Bars(*columns, console=console) as bars:
            yield _lines(bars)
            bars.refresh()  # in a notebook rich would leave the last of it unseen
    else:
        yield False


class _Bars(Bars):
    """A line for each stage, and above them the address of the page."""

    page = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        if self.page:
            yield Text.assemble("Live page: ", (self.page, f"link {self.page.split()[0]}"))
        yield self.make_tasks_table(self.tasks)


def _lines(bars: _Bars) -> Show:
    """Show each stage on a line of its own, that of its latest pass."""
    lines: dict[str, tuple[TaskID, tuple[int, int | None]]] = {}

    def show(at: Progress) -> None:
        bars.page = at.page or bars.page
        name = at.stage if at.number == 1 else f"{at.stage} {at.number}"
        if at.n_components is not None:
            name += f" (k = {at.n_components})"
        line, which = lines.get(at.stage, (None, (0, None)))
        if line is None:
            line = bars.add_task(name, total=at.total, rate="")
        elif which != (at.number, at.n_components):
            bars.reset(line, total=at.total)
        lines[at.stage] = line, (at.number, at.n_components)
        rate = f"{format_bytes(int(at.bytes_per_second))}/s" if at.n_bytes else ""
        bars.update(line, description=name, completed=at.done, total=at.total, rate=rate)

    return show
