"""Results on disk: what goes in comes out, and nothing else is taken for it."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, scalar_dtypes

from daskmlr.errors import CheckpointError, StoreError
from daskmlr.storage.checkpoint import decode, encode, key_of, open_checkpoint


@dataclass(frozen=True)
class Pair:
    left: np.ndarray
    right: object = None


@dataclass(frozen=True)
class Stranger:
    left: int = 0


def written(result):
    file = io.BytesIO()
    encode(result, file)
    return file.getvalue()


def read(data):
    return decode(io.BytesIO(data), {"Pair": Pair})


IDENTITY = {"store": {"n_tasks": 3}, "parameter": {"seed": 1}}

numbers = arrays(scalar_dtypes(), array_shapes(min_dims=0, max_side=3))
plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
results = st.recursive(
    plain | numbers,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.builds(Pair, numbers, inner)
    ),
    max_leaves=8,
)


def same(a, b):
    """Equal in type and to the bit, NaN and the sign of zero included."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, Pair):
        return same(a.left, b.left) and same(a.right, b.right)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return repr(a) == repr(b)


@given(results)
def test_what_is_written_is_read(result):
    assert same(result, read(written(result)))


@given(results, results)
def test_keys_tell_inputs_apart(left, right):
    assert (key_of("s", left) == key_of("s", right)) == same(left, right)
    assert key_of("s", left) != key_of("t", left)


@given(st.data())
def test_bytes_that_are_damaged_are_an_error_or_another_value(tmp_path_factory, data):
    """Never anything that runs: no pickle, no class but the known ones."""
    whole = bytearray(written(Pair(np.arange(5.0))))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    checkpoint = open_checkpoint(
        tmp_path_factory.mktemp("damaged") / "c", IDENTITY, [Pair], resume=False
    )
    checkpoint.keep("a", 1)
    Path(checkpoint.place, "a.npz").write_bytes(bytes(whole))
    found = checkpoint.get("a")
    assert found is None or same(found, Pair(np.arange(5.0)))


def test_an_offset_before_the_file_is_damage(tmp_path):
    """Of the directory, at the end of a zip file."""
    checkpoint = open_checkpoint(tmp_path / "c", IDENTITY, [], resume=False)
    checkpoint.keep("a", np.ones(3))
    file = Path(checkpoint.place, "a.npz")
    whole = bytearray(file.read_bytes())
    whole[-4] ^= 64
    file.write_bytes(bytes(whole))
    assert checkpoint.get("a") is None


def test_other_classes_are_neither_read_nor_objects_written(tmp_path):
    with pytest.raises(KeyError, match="Stranger"):
        read(written(Stranger()))
    with pytest.raises(TypeError, match="cannot hold a set"):
        written({1, 2})


def test_nothing_is_written_before_the_first_result(tmp_path):
    checkpoint = open_checkpoint(tmp_path / "c", IDENTITY, [], resume=True)
    assert checkpoint.get("a") is None
    assert checkpoint.place.is_missing()


def test_a_whole_result_makes_parts_superfluous(tmp_path):
    checkpoint = open_checkpoint(tmp_path / "c", IDENTITY, [], resume=False)
    parts = checkpoint.parts("sum")
    parts[2] = np.ones(3)
    again = open_checkpoint(tmp_path / "c", IDENTITY, [], resume=True).parts("sum")
    assert 2 in again
    assert 1 not in again
    assert again[2].tolist() == [1, 1, 1]
    checkpoint.keep("sum", np.ones(3))
    assert 2 not in parts
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == []


def test_one_of_another_run_is_refused_with_the_difference(tmp_path):
    path = tmp_path / "c"
    open_checkpoint(path, IDENTITY, [], resume=False).keep("a", 1)
    with pytest.raises(CheckpointError, match=r"resume it \(--resume, resume=True\), or remove it"):
        open_checkpoint(path, IDENTITY, [], resume=False)
    other = {"store": {"n_tasks": 3}, "parameter": {"seed": 2}}
    with pytest.raises(CheckpointError, match="parameter seed was 1 and is 2") as caught:
        open_checkpoint(path, other, [], resume=True)
    assert "n_tasks" not in str(caught.value)
    assert open_checkpoint(path, IDENTITY, [], resume=True).get("a") == 1


def test_what_is_no_checkpoint_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    for resume in (False, True):
        with pytest.raises(CheckpointError, match="no checkpoint"):
            open_checkpoint(tmp_path, IDENTITY, [], resume=resume)
    assert (tmp_path / "mine.txt").read_text() == "precious"
    with pytest.raises(StoreError, match="does not exist"):
        open_checkpoint(tmp_path / "no" / "c", IDENTITY, [], resume=False)
