"""What the stages of a run did, and what they found, kept so that the run can be resumed."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from daskmlr.errors import DamagedStoreError, InputError
from daskmlr.graph.environment import DECISIVE, environment
from daskmlr.graph.faults import skips_damage
from daskmlr.graph.reduce import reduce_tasks
from daskmlr.graph.telling import Telling
from daskmlr.kernels.acceleration import Ascent
from daskmlr.kernels.assignment import Mixture
from daskmlr.kernels.clustering import Clustering
from daskmlr.kernels.diagnosis import DiagnosisSums
from daskmlr.kernels.moments import Moments
from daskmlr.kernels.projected import ProjectedTasks
from daskmlr.kernels.regression import ComponentSums
from daskmlr.kernels.robust import Extremes
from daskmlr.kernels.thin import ThinMoments
from daskmlr.storage.checkpoint import Checkpoint, key_of, open_checkpoint
from daskmlr.storage.sources import source_of

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from daskmlr.graph.execute import Runner
    from daskmlr.storage.tasks import TaskStore

    Step = TypeVar("Step")

# Key of the numbers of the damaged blocks that a run leaves out.
LEFT_OUT = "left-out"

logger = logging.getLogger(__name__)

# What stages return, and so what a checkpoint may hold.
RESULTS = (
    Ascent,
    Clustering,
    ComponentSums,
    DiagnosisSums,
    Extremes,
    Mixture,
    Moments,
    ProjectedTasks,
    ThinMoments,
)


@contextmanager
def checkpointing(
    path: str | os.PathLike[str] | Checkpoint | None,
    tasks: TaskStore,
    parameters: Mapping[str, Any],
    *,
    resume: bool,
) -> Iterator[Checkpoint | None]:
    """Give the checkpoint of a fit; it goes when the block ends well, or the input was at fault.

    Parameters
    ----------
    path : path, Checkpoint or None
        A folder; with `resume`, what an interrupted fit has left there is taken up. A checkpoint
        that somebody else has opened, and looks after, is passed through.
    tasks : TaskStore
    parameters : dict
        Of the estimator. The fit must be reproducible: ``random_state`` an int.
    resume : bool

    Raises
    ------
    InputError
        If ``random_state`` is not an int.
    CheckpointError
        As `open_checkpoint`: of another store, other parameters, or other code.
    """
    if path is None or isinstance(path, Checkpoint):
        yield path
        return
    seed = parameters["random_state"]
    if not isinstance(seed, int):
        raise InputError(f"a fit that can be resumed needs an int as random_state, got {seed!r}")
    skips = {"skip_damaged": True} if skips_damage() else {}
    identity = {
        "store": {**_source(tasks), "facts": key_of("facts", asdict(tasks.facts))},
        "parameter": {name: _plain(value) for name, value in parameters.items()} | skips,
        "code": {name: environment()[name] for name in DECISIVE},
    }
    checkpoint = open_checkpoint(path, identity, RESULTS, resume=resume)
    try:
        yield checkpoint
    except InputError:
        checkpoint.remove()
        raise
    checkpoint.remove()


def _source(tasks: TaskStore) -> dict[str, Any]:
    try:
        return source_of(tasks)
    except DamagedStoreError:  # the first pass says which blocks are
        return {"n_tasks": tasks.n_tasks, "fingerprint": "damaged"}


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _nothing(_: Any) -> dict[str, Any]:
    return {}


@dataclass
class RunRecord:
    """What the stages of one fit did, in order.

    Attributes
    ----------
    entries : list of dict
        One for each stage or pass: its ``stage``, ``seconds``, the time ``at`` its end (UTC), of a
        pass the fields of `Work`, and what it says of itself.
    checkpoint : Checkpoint, optional
        Where results are kept, and found again.
    telling : Telling
        Hears what stages do, and what they have found.
    """

    entries: list[dict[str, Any]] = field(default_factory=list)
    checkpoint: Checkpoint | None = None
    telling: Telling = field(default_factory=Telling)
    _repeating: bool = False

    def timed(
        self,
        stage: str,
        function: Callable[[], Any],
        *,
        inputs: Sequence[Any],
        facts: Callable[[Any], dict[str, Any]] = _nothing,
    ) -> Any:
        """Run `function`, and record the stage with its seconds and the `facts` of its result.

        What was computed from the same `inputs` before the run was interrupted is not computed
        again.
        """

        def told() -> Any:
            self.telling.begin(stage)
            result = function()
            self.telling.over()
            return result

        return self._once(stage, self._key(stage, *inputs), told, facts)

    def reduce(
        self,
        stage: str,
        tasks: TaskStore,
        from_block: Callable[..., Any],
        combine: Callable[[Any, Any], Any],
        *,
        args: Sequence[Any],
        runner: Runner,
        in_place: bool = False,
        first_block: int = 0,
        facts: Callable[[Any], dict[str, Any]] = _nothing,
    ) -> Any:
        """`reduce_tasks`, recorded as a stage with its work; a long pass keeps its parts too."""
        key = self._key(stage, first_block, *args)
        # parts of a first pass would not know of the damage in others
        parts = self.checkpoint.parts(key) if self.checkpoint and not skips_damage() else None
        self._leave_out_as_before(tasks, runner)

        def function() -> Any:
            result = reduce_tasks(
                tasks,
                from_block,
                combine,
                args=args,
                in_place=in_place,
                first_block=first_block,
                client=runner,
                name=stage,
                parts=parts,
            )
            if self.checkpoint and skips_damage() and self.checkpoint.get(LEFT_OUT) is None:
                self.checkpoint.keep(LEFT_OUT, list(runner.left_out(tasks).blocks))
            return result

        def with_work(result: Any) -> dict[str, Any]:
            return {**asdict(runner.work), **facts(result)}

        return self._once(stage, key, function, with_work)

    def _leave_out_as_before(self, tasks: TaskStore, runner: Runner) -> None:
        """Leave out the damaged blocks that were so before the run was interrupted."""
        blocks = self.checkpoint.get(LEFT_OUT) if self.checkpoint and skips_damage() else None
        if blocks is not None:
            runner.leave_out(tasks, blocks)

    def repeat(
        self,
        stage: str,
        start: Step,
        advance: Callable[[Step], Step],
        ended: Callable[[Step], bool],
        *,
        inputs: Sequence[Any],
    ) -> Step:
        """Advance until the end, a pass or more at each step; the last step is kept, and it alone.

        Parameters
        ----------
        stage : str
        start : dataclass
        advance : callable
            ``advance(step) -> step``; records what it does.
        ended : callable
            ``ended(step) -> bool``.
        inputs : sequence
            All that the steps depend on.
        """
        key, before = self._key(stage, start, *inputs), len(self.entries)
        kept = self._kept(stage, key)
        step = start if kept is None else kept
        while not ended(step):
            self._repeating = True
            try:
                step = advance(step)
            finally:
                self._repeating = False
            if self.checkpoint:
                self.checkpoint.keep(key, {"result": step, "entries": self.entries[before:]})
        return step

    def _key(self, stage: str, *inputs: Any) -> str:
        return key_of(stage, *inputs) if self.checkpoint else ""

    def _kept(self, stage: str, key: str) -> Any:
        """Return the result of that key with its entries taken over; None if it was not kept."""
        kept = self.checkpoint.get(key) if self.checkpoint else None
        if kept is None:
            return None
        self.entries += kept["entries"]
        for entry in kept["entries"]:
            self.telling.found(entry, kept=True)
        logger.info("%s was kept", stage, extra={"facts": {"event": "kept", "stage": stage}})
        return kept["result"]

    def _once(
        self,
        stage: str,
        key: str,
        function: Callable[[], Any],
        facts: Callable[[Any], dict[str, Any]],
    ) -> Any:
        kept = self._kept(stage, key)
        if kept is not None:
            return kept
        start = time.perf_counter()
        result = function()
        seconds, at = time.perf_counter() - start, datetime.now(UTC).isoformat(timespec="seconds")
        entry = {"stage": stage, "seconds": seconds, "at": at, **facts(result)}
        self.entries.append(entry)
        self.telling.found(entry)
        logger.info("%s done", stage, extra={"facts": {"event": "stage", **entry}})
        if self.checkpoint and not self._repeating:
            self.checkpoint.keep(key, {"result": result, "entries": [entry]})
        return result
