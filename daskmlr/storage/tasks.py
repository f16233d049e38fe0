"""Reading a task store."""

from __future__ import annotations

from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from daskmlr.errors import AccessError, DamagedStoreError, IncompleteStoreError, StoreError
from daskmlr.kernels.blocks import TaskBlock
from daskmlr.storage import layout
from daskmlr.storage.chunks import Buffers, read_chunk, will_need
from daskmlr.storage.clients import GROUP
from daskmlr.storage.location import Folder, locate
from daskmlr.storage.publish import refuse_huge, refuse_unfinished
from daskmlr.storage.showing import store_card

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

# Decoded chunks of per-task arrays that a store keeps: blocks in a row find their tasks there.
CHUNKS_KEPT = 8
SIZES_AT_ONCE = 1 << 22
# Blocks that are asked for before they are read.
BLOCKS_AHEAD = 4


class TaskStore:
    """A task store on disk or on an object store; open one with `open_tasks`.

    Cheap to pickle (by its path or URL) and to open, and read-only: it sees the tasks that were
    published when it was opened. Any number of threads may read it.

    Attributes
    ----------
    path : str
        Absolute path, or URL.
    n_tasks, n_rows, n_features, n_blocks, block_rows : int
        Tasks, examples, covariates, blocks, and rows that a block has room for.
    dtype : numpy dtype
        float32 or float64.
    feature_names : tuple of n_features str
    target_name, task_name : str
    feature_mean, feature_scale : ndarray of shape (n_features,), float64
        Mean and standard deviation over all examples, in the feature's units.
    target_mean, target_scale : float
        Likewise, in the target's units.
    encoding : dict or None
        How the features were made of a table's columns.
    provenance : list of dict
        Who wrote and appended what.
    facts : Facts
        The attributes as they stand in the store.

    Examples
    --------
    >>> import tempfile
    >>> from daskmlr import create_tasks, open_tasks
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with create_tasks(f"{folder}/tasks", feature_names=["age"]) as writer:
    ...         writer.write([[30.0], [31.0], [50.0]], [0.0, 1.0, 0.0], [2, 1], ["ann", "bob"])
    ...     tasks = open_tasks(f"{folder}/tasks")
    ...     tasks.task_ids().tolist(), tasks.task_sizes().tolist(), tasks.read_block(0).n_rows
    (['ann', 'bob'], [2, 1], 3)
    """

    def __init__(self, path: str, group: zarr.Group, facts: layout.Facts):
        self.path = path
        self.facts = facts
        self._place = locate(path)
        self._folder = self._place.path if isinstance(self._place, Folder) else None
        self._group = group
        self._arrays: dict[str, zarr.Array] = {}
        self._kept_chunk = lru_cache(CHUNKS_KEPT)(self._chunk)
        self.n_tasks, self.n_rows = facts.n_tasks, facts.n_rows
        self.n_blocks, self.block_rows = facts.n_blocks, facts.block_rows
        self.dtype = np.dtype(facts.dtype)
        self.feature_names = tuple(facts.feature_names)
        self.n_features = len(self.feature_names)
        self.target_name, self.task_name = facts.target_name, facts.task_name
        self.feature_mean = np.array(facts.feature_mean, dtype=np.float64)
        self.feature_scale = np.array(facts.feature_scale, dtype=np.float64)
        self.target_mean, self.target_scale = facts.target_mean, facts.target_scale
        self.encoding, self.provenance = facts.encoding, facts.provenance

    def __reduce__(self) -> tuple[Callable[[str], TaskStore], tuple[str]]:
        return open_tasks, (self.path,)

    def __repr__(self) -> str:
        return (
            f"<TaskStore {self.path!r}: {self.n_tasks:,} tasks, {self.n_rows:,} examples, "
            f"{self.n_features} features, {self.dtype}, {self.n_blocks:,} blocks>"
        )

    def _repr_html_(self) -> str:
        return store_card(self)

    @property
    def itemsize(self) -> int:
        """Bytes of one value."""
        return self.dtype.itemsize

    @property
    def codec(self) -> str:
        """How the chunks of examples are encoded, in words."""
        return layout.describe_codec(self.facts.codec)

    @property
    def nbytes(self) -> int:
        """Bytes of all examples, decoded."""
        return self.n_rows * (self.n_features + 1) * self.itemsize

    @property
    def nbytes_stored(self) -> int:
        """Bytes on disk of all arrays."""
        return sum(int(self._array(name).nbytes_stored()) for name in layout.DIMENSIONS)

    @cached_property
    def block_tasks(self) -> NDArray[np.int64]:
        """First task of each block, and their number: shape (n_blocks + 1,)."""
        first = self._entries("block_tasks", 0, self.n_blocks + 1)
        if first[0] != 0 or first[-1] != self.n_tasks or (np.diff(first) < 1).any():
            raise DamagedStoreError(
                f"{self.path}/block_tasks does not cut {self.n_tasks} tasks into blocks: restore "
                "it, or write the store again"
            )
        return first

    def task_sizes(self, start: int = 0, stop: int | None = None) -> NDArray[np.int32]:
        """Examples of tasks ``start:stop`` (as in a slice), int32.

        Raises
        ------
        DamagedStoreError
            If a chunk is missing, cut short, or does not match its checksum.
        """
        return self._entries("task_size", *slice(start, stop).indices(self.n_tasks)[:2])

    def sizes_in_pieces(self, n_tasks: int | None = None) -> Iterator[NDArray[np.int32]]:
        """Yield the sizes of the first `n_tasks`, all by default, a bounded number at a time."""
        stop = self.n_tasks if n_tasks is None else n_tasks
        for start in range(0, stop, SIZES_AT_ONCE):
            yield self.task_sizes(start, min(start + SIZES_AT_ONCE, stop))

    def task_ids(self, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Keys of tasks ``start:stop`` (as in a slice): int64, or str objects.

        Raises
        ------
        DamagedStoreError
            If a chunk is missing, cut short, or does not match its checksum.
        """
        return self._entries("task_id", *slice(start, stop).indices(self.n_tasks)[:2])

    def read_block(self, index: int, buffers: Buffers | None = None) -> TaskBlock:
        """Read one block; its arrays belong to the caller.

        Parameters
        ----------
        index : int
        buffers : Buffers, optional
            Memory to use again, for reading many blocks.

        Raises
        ------
        IndexError
            If there is no such block.
        DamagedStoreError
            If one of its chunks is missing, cut short, or does not match its checksum.
        """
        offsets = self._offsets(index)
        n_rows = int(offsets[-1])
        X, y = (self._chunk(name, index, buffers)[:n_rows] for name in ("x", "y"))
        return TaskBlock(X, y, offsets, int(self.block_tasks[index]))

    @property
    def on_disk(self) -> bool:
        """Whether it is a folder, whose files the system may keep in its page cache."""
        return self._folder is not None

    @property
    def blocks_ahead(self) -> int:
        """Blocks that a reader holds ahead, at most."""
        return 1 if self.on_disk else BLOCKS_AHEAD

    @cached_property
    def nbytes_on_disk(self) -> int:
        """Bytes that all blocks take if each is as large as the first: listing them takes long."""
        folder = Path(self.path)
        try:
            files = [folder / self._chunk_key(name, 0) for name in ("x", "y")]
            return self.n_blocks * sum(file.stat().st_size for file in files)
        except OSError:
            return self.nbytes

    def will_need(self, index: int, buffers: Buffers) -> None:
        """Say that a block, if there is one, will be read into `buffers` soon."""
        if index < self.n_blocks:
            for name in ("x", "y"):
                key = self._chunk_key(name, index)
                if self._folder is None:
                    buffers.begin(key, partial(self._place.view, key))
                elif buffers.past_cache:
                    buffers.begin_file(key, self._folder / key)
                else:
                    will_need(self._folder / key)

    def validate(self, *, deep: bool = False) -> None:
        """Check that the arrays agree with each other; `deep` reads every chunk too.

        Raises
        ------
        DamagedStoreError
            Naming what is wrong.
        """
        for name in layout.DIMENSIONS:
            self._array(name)
        total = 0
        for index in range(self.n_blocks):
            total += int(self._offsets(index)[-1])
            if deep:
                block = self.read_block(index)
                self.task_ids(block.first_task, block.first_task + block.n_tasks)
        if total != self.n_rows:
            raise DamagedStoreError(f"{self.path}/task_size adds up to {total}, not {self.n_rows}")

    def _offsets(self, index: int) -> NDArray[np.int64]:
        """First row of each task of a block, and the number of rows."""
        if not 0 <= index < self.n_blocks:
            raise IndexError(f"there is no block {index} among the {self.n_blocks} of {self.path}")
        sizes = self.task_sizes(*(int(task) for task in self.block_tasks[index : index + 2]))
        offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        if sizes.min() < 1 or offsets[-1] > self.block_rows:
            raise DamagedStoreError(
                f"{self.path}/task_size gives block {index} {offsets[-1]} rows in tasks of "
                f"{sizes.min()} and more, it has room for {self.block_rows}: restore it, or write "
                "the store again"
            )
        return offsets

    def _entries(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Copy entries ``start:stop`` of a per-task array out of its chunks."""
        if stop <= start:
            return self._kept_chunk(name, 0)[:0]
        length = self.facts.chunks(name)[0]
        parts = [
            self._kept_chunk(name, chunk)[max(start - chunk * length, 0) : stop - chunk * length]
            for chunk in range(start // length, (stop - 1) // length + 1)
        ]
        return np.concatenate(parts)

    def read_targets(self, block: int) -> NDArray[np.floating]:
        """Return the targets of a block as they are stored, the padding after them too."""
        return self._chunk("y", block)

    def _chunk(self, name: str, index: int, buffers: Buffers | None = None) -> NDArray[Any]:
        """Read one chunk of an array, cut along its first axis."""
        array = self._array(name)
        try:
            if array.dtype.kind in "OTU":
                return self._text_chunk(array, index)
            key = self._chunk_key(name, index)
            source: Path | memoryview | NDArray[np.uint8] | None
            source = None if buffers is None else buffers.finish(key)
            if source is None:
                source = self._place.view(key) if self._folder is None else self._folder / key
            codec = self.facts.codec if name in ("x", "y") else "none"
            return read_chunk(source, array.chunks, array.dtype, codec, buffers)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            reason: object = "it is missing"
        except (MemoryError, OSError):
            raise  # of the machine, not of the store
        except Exception as error:  # codecs raise many kinds
            reason = error
        what = "block" if name in ("x", "y") else "chunk"
        raise DamagedStoreError(
            f"{what} {index} of {self.path}/{name} is damaged: {reason}. Restore the file, or "
            "write the store again"
        )

    def _chunk_key(self, name: str, index: int) -> str:
        array = self._array(name)
        return f"{name}/{array.metadata.encode_chunk_key((index, 0)[: array.ndim])}"

    def _text_chunk(self, array: zarr.Array, index: int) -> NDArray[Any]:
        length = array.chunks[0]
        texts = np.asarray(array[index * length : (index + 1) * length]).astype(object)
        if texts[0] == layout.missing_value("task_id", text=True):
            raise FileNotFoundError
        return texts

    def _array(self, name: str) -> zarr.Array:
        """Open an array once, and check that it is the one that the attributes speak of."""
        if name in self._arrays:
            return self._arrays[name]
        try:
            array = self._group[name]
            shape, chunks = array.shape, array.chunks
            kind = "text" if array.dtype.kind in "OTU" else array.dtype.name
        except KeyError:
            raise DamagedStoreError(
                f"{self.path}/{name} is missing: restore it, or write the store again"
            ) from None
        except AccessError:
            raise
        except Exception as error:
            raise DamagedStoreError(
                f"{self.path}/{name} has metadata that cannot be read ({error}): restore its "
                "zarr.json, or write the store again"
            ) from error
        wanted, pieces = self.facts.shape(name), self.facts.chunks(name)
        kinds = {"task_size": ("int32",), "task_id": ("int64", "text"), "block_tasks": ("int64",)}
        if (
            shape[0] < wanted[0]
            or (shape[1:], chunks) != (wanted[1:], pieces)
            or kind not in kinds.get(name, (self.dtype.name,))
        ):
            raise DamagedStoreError(
                f"{self.path}/{name} is a {kind} array of shape {shape} in chunks of {chunks}, the "
                f"store's attributes ask for {wanted} in chunks of {pieces}: restore its "
                "zarr.json, or write the store again"
            )
        self._arrays[name] = array
        return array


def open_tasks(path: str | os.PathLike[str]) -> TaskStore:
    """Open a complete task store for reading.

    A process opens a store once, and again when something was appended to it.

    Parameters
    ----------
    path : path or URL

    Raises
    ------
    StoreError
        If there is no task store at `path`, or one of another format.
    IncompleteStoreError
        If its writer was stopped before it published.

    Examples
    --------
    >>> import tempfile
    >>> from daskmlr.storage.writing import create_tasks
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with create_tasks(f"{folder}/tasks", feature_names=["x"]) as writer:
    ...         writer.write([[1.0], [2.0], [3.0]], [0.0, 1.0, 0.0], [2, 1])
    ...     tasks = open_tasks(f"{folder}/tasks")
    ...     tasks.n_tasks, tasks.read_block(0).y.tolist()
    (2, [0.0, 1.0, 0.0])
    """
    place = locate(path)
    try:
        version = place.version(GROUP)
    except FileNotFoundError:
        refuse_unfinished(place, "task store")
        what = "does not exist" if place.is_missing() else "is not a Zarr v3 group"
        raise StoreError(
            f"there is no task store at {path}: it {what}. Write one with ingest or simulate"
        ) from None
    except NotADirectoryError:
        raise StoreError(
            f"{path} is a file, not a task store: write one from it with ingest"
        ) from None
    return _open(str(place), version)


@lru_cache(maxsize=64)
def _open(path: str, version: tuple[Any, ...]) -> TaskStore:  # noqa: ARG001 - keys the cache
    place = locate(path)
    try:
        refuse_huge(place)
        group = zarr.open_group(place.zarr_store(), mode="r", zarr_format=3)
        attrs = dict(group.attrs)
    except StoreError:
        raise
    except Exception as error:
        raise StoreError(f"{path} is not a task store: {error}") from error
    if not attrs and set(place.names()) <= {GROUP, *layout.DIMENSIONS}:
        raise IncompleteStoreError(
            f"{path} is not a complete task store: its writer was stopped before it published. "
            "Delete it and write it again"
        )
    return TaskStore(path, group, layout.Facts.from_attrs(attrs, path))
