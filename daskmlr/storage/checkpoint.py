"""Results of a run that is under way, each in a file of its own, taken up again on resume.

A result is known by what it was computed from: its key is a digest of the inputs. So a resumed run
goes the way of the first one again, finds what was computed, and computes the rest.
"""

from __future__ import annotations

import errno
import hashlib
import json
import tempfile
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from daskmlr.errors import AccessError, CheckpointError
from daskmlr.storage.location import Folder, locate
from daskmlr.storage.publish import no_space_named, refuse_existing, refuse_huge

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

    from daskmlr.storage.place import Location

FORMAT_VERSION = 1
IDENTITY = "run.json"
SUFFIX = ".npz"
# Stands between the key of a pass and the number of a part of it.
PART = ".part-"


class Checkpoint:
    """A place of results; made by `open_checkpoint`.

    Parameters
    ----------
    place : Location
    identity : dict
        What tells the run from others, JSON-able; written with the first result.
    classes : iterable of type
        Dataclasses that results may hold, besides arrays, numbers, strings, lists, tuples, dicts.
    """

    def __init__(self, place: Location, identity: Mapping[str, Any], classes: Iterable[type]):
        self.place = place
        self._identity = identity
        self._classes = {cls.__name__: cls for cls in classes}

    def get(self, key: str) -> Any:
        """Return the result of that key; None if there is none, or its file is damaged."""
        try:
            with self.place.open(f"{key}{SUFFIX}") as file:
                return decode(file, self._classes)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.EINVAL:  # a damaged offset leads before the file's begin
                return None
            raise  # of the machine, not of the file
        except MemoryError:
            raise
        except Exception:  # readers of zip files raise many kinds
            return None  # it was cut short by a crash of the machine: compute it again

    def keep(self, key: str, result: Any) -> None:
        """Save a whole result; parts of passes are of no more use then."""
        self._write(key, result)
        for name in self.place.names():
            if PART in name:
                self.place.remove(name)

    def parts(self, key: str) -> CheckpointParts:
        """Return the parts of the pass of that key."""
        return CheckpointParts(self, key)

    def remove(self) -> None:
        """Remove everything: the run is complete."""
        self.place.remove()

    def _write(self, key: str, result: Any) -> None:
        with no_space_named(self.place):
            if not self.place.exists(IDENTITY):
                text = json.dumps({"format_version": FORMAT_VERSION, **self._identity}, indent=1)
                self.place.write(IDENTITY, text.encode())
            # a file, since results may be large; beside the others, to be renamed
            beside = Path(self.place) if isinstance(self.place, Folder) else None
            with tempfile.TemporaryDirectory(dir=beside, prefix=".") as aside:
                with Path(aside, "result").open("wb") as file:
                    encode(result, file)
                self.place.upload(f"{key}{SUFFIX}", Path(aside, "result"))


class CheckpointParts:
    """Sums of parts of one pass, by their number; a mapping, as far as a pass needs one."""

    def __init__(self, checkpoint: Checkpoint, key: str):
        self._checkpoint, self._key = checkpoint, key

    def __contains__(self, part: int) -> bool:
        return self[part] is not None

    def __getitem__(self, part: int) -> Any:
        return self._checkpoint.get(self._name(part))

    def __setitem__(self, part: int, result: Any) -> None:
        self._checkpoint._write(self._name(part), result)

    def _name(self, part: int) -> str:
        return f"{self._key}{PART}{part:04d}"


def open_checkpoint(
    path: str | os.PathLike[str],
    identity: Mapping[str, Any],
    classes: Iterable[type],
    *,
    resume: bool,
) -> Checkpoint:
    """Begin a checkpoint, or continue that of the same run.

    Parameters
    ----------
    path : path or URL
        Of nothing, or with `resume` of what an interrupted run has left.
    identity : dict of dict
        What tells the run from others: by part (data, parameters, code), what must be equal.
    classes
        As for `Checkpoint`.
    resume : bool

    Raises
    ------
    CheckpointError
        If there is a checkpoint and `resume` is false; if it is of another run, naming the
        differences; if `path` is something else.
    """
    identity = json.loads(json.dumps(identity))
    place = locate(path)
    if place.is_missing():
        return Checkpoint(refuse_existing(place), identity, classes)  # its folder must be there
    try:
        refuse_huge(place, IDENTITY)
        found = json.loads(place.read(IDENTITY))
        found.items()
    except AccessError:
        raise
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is no checkpoint (it has no readable {IDENTITY}): give another path, or "
            "remove it"
        ) from error
    if not resume:
        raise CheckpointError(
            f"{path} holds what an interrupted run has computed: resume it (--resume, "
            "resume=True), or remove it to begin again"
        )
    differences = _differences(found, {"format_version": FORMAT_VERSION, **identity})
    if differences:
        raise CheckpointError(
            f"the checkpoint {path} is of another run: {'; '.join(differences)}. Resume with what "
            "it was begun with, or remove it to begin again"
        )
    return Checkpoint(place, identity, classes)


def key_of(stage: str, *inputs: Any) -> str:
    """Name what `stage` computes from `inputs`: the same name for inputs equal to the bit.

    Examples
    --------
    >>> key_of("moments", np.ones(2), 3) == key_of("moments", np.ones(2), 3)
    True
    >>> key_of("moments", np.ones(2), 3) == key_of("moments", np.ones(2), 4)
    False
    """
    arrays: list[np.ndarray] = []
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(_tree(inputs, arrays)).encode())
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return f"{stage}-{digest.hexdigest()}"


def encode(result: Any, file: BinaryIO) -> None:
    """Write a result as an ``npz`` file, without pickle."""
    arrays: list[np.ndarray] = []
    tree = json.dumps(_tree(result, arrays)).encode()
    named = {f"array_{i}": array for i, array in enumerate(arrays)}
    np.savez(file, allow_pickle=False, tree=np.frombuffer(tree, np.uint8), **named)


def decode(file: BinaryIO, classes: Mapping[str, type]) -> Any:
    """Read what `encode` wrote.

    Raises
    ------
    Exception
        Of many kinds, if it is damaged, or holds a class that is not among `classes`.
    """
    with np.load(file, allow_pickle=False) as held:
        tree = json.loads(held["tree"].tobytes())
        arrays = [held[f"array_{i}"] for i in range(len(held.files) - 1)]
    return _grown(tree, arrays, classes)


def _tree(value: Any, arrays: list[np.ndarray]) -> Any:
    """Return `value` as JSON, its arrays set aside."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {"array": len(arrays) - 1}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_tree(item, arrays) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[key, _tree(item, arrays)] for key, item in value.items()]}
    if is_dataclass(value):
        held = {f.name: _tree(getattr(value, f.name), arrays) for f in fields(value)}
        return {"class": type(value).__name__, "fields": held}
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def _grown(tree: Any, arrays: list[np.ndarray], classes: Mapping[str, type]) -> Any:
    """Inverse of `_tree`."""
    if not isinstance(tree, dict):
        return tree
    if "class" in tree:
        held = {name: _grown(item, arrays, classes) for name, item in tree["fields"].items()}
        return classes[tree["class"]](**held)
    ((kind, content),) = tree.items()
    if kind == "array":
        return arrays[content]
    if kind == "dict":
        return {key: _grown(item, arrays, classes) for key, item in content}
    items = [_grown(item, arrays, classes) for item in content]
    return tuple(items) if kind == "tuple" else items


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any], where: str = "") -> list[str]:
    """Say where two nested dicts differ."""
    said: list[str] = []
    for name in dict.fromkeys([*found, *wanted]):
        before, now = found.get(name), wanted.get(name)
        if isinstance(before, dict) and isinstance(now, dict):
            said += _differences(before, now, f"{where}{name} ")
        elif before != now:
            said.append(f"{where}{name} was {before!r} and is {now!r}")
    return said
