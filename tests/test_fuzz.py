"""Readers on damaged and hostile input: an answer or one of our errors, never anything else."""

import json
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daskmlr import (
    DaskmlrError,
    InputError,
    MixedLinearRegression,
    Model,
    create_tasks,
    map_tasks,
    open_tasks,
    simulate,
)
from daskmlr.storage.rows import read_column

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([-1, 0, 2**31, 2**63, 1e308, "../../etc", "/etc/passwd", "x\x00", "<script>"])
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A store, a model, and label tables of both kinds."""
    folder = tmp_path_factory.mktemp("fuzz")
    tasks = simulate(
        folder / "store",
        n_components=2,
        n_features=3,
        task_groups=[(200, 5)],
        noise=0.3,
        random_state=0,
        ids="str",
        block_bytes=1 << 12,
    )
    model = MixedLinearRegression(2, random_state=0).fit(tasks, client="sync").model_
    model.save(folder / "model")
    model.assign(tasks, out=folder / "labels.zarr", client="sync")
    model.assign(tasks, out=folder / "labels.parquet", client="sync")
    return folder


def read_store(path):
    tasks = open_tasks(path)
    repr(tasks)
    for block in range(min(tasks.n_blocks, 50)):
        tasks.read_block(block)
    tasks.task_ids(0, min(tasks.n_tasks, 1000))
    tasks.task_sizes(0, min(tasks.n_tasks, 1000))


def read_model(path):
    model = Model.load(path)
    model.predict(np.zeros((1, model.n_features)))


def read_labels(path):
    for column in ("label", "p_value"):
        for _ in read_column(path, column):
            pass


READERS = {
    "store": read_store,
    "model": read_model,
    "labels.zarr": read_labels,
    "labels.parquet": read_labels,
}


def nodes(tree, at=()):
    """Ways to every node of a JSON value."""
    yield at
    if isinstance(tree, dict | list):
        children = tree.items() if isinstance(tree, dict) else enumerate(tree)
    else:
        children = ()
    for key, child in children:
        yield from nodes(child, (*at, key))


def replaced(tree, at, value):
    if not at:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[at[0]] = replaced(copy[at[0]], at[1:], value)
    return copy


def copied(originals, kind, tmp_path_factory):
    path = tmp_path_factory.mktemp("damaged") / kind
    shutil.copytree(originals / kind, path)
    return path


def files(path):
    return sorted(file for file in path.rglob("*") if file.is_file())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["store", "model", "labels.zarr"])
@FUZZ
@given(data=st.data())
def test_any_metadata(originals, tmp_path_factory, kind, data):
    """One node of one JSON file replaced by another value."""
    path = copied(originals, kind, tmp_path_factory)
    file = data.draw(st.sampled_from([f for f in files(path) if f.suffix == ".json"]))
    tree = json.loads(file.read_text())
    at = data.draw(st.sampled_from(list(nodes(tree))))
    file.write_text(json.dumps(replaced(tree, at, data.draw(values))))
    with suppress(DaskmlrError):
        READERS[kind](path)
    shutil.rmtree(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["store", "model", "labels.zarr"])
@pytest.mark.parametrize("value", [0, -1, 2**31, 2**63, 1e308, [], [2**31], {}], ids=str)
def test_every_node_of_the_metadata(originals, tmp_path, kind, value):
    """Neither another kind of error, nor memory or time for what a number only claims."""
    path = tmp_path / kind
    shutil.copytree(originals / kind, path)
    for file in [f for f in files(path) if f.suffix == ".json"]:
        whole = file.read_text()
        for at in nodes(json.loads(whole)):
            file.write_text(json.dumps(replaced(json.loads(whole), at, value)))
            with suppress(DaskmlrError):
                READERS[kind](path)
        file.write_text(whole)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", READERS)
@FUZZ
@given(data=st.data())
def test_any_bytes(originals, tmp_path_factory, kind, data):
    """One file cut short, changed, lengthened, or gone."""
    path = copied(originals, kind, tmp_path_factory)
    file = data.draw(st.sampled_from(files(path)))
    content = bytearray(file.read_bytes())
    how = data.draw(st.sampled_from(["cut", "flip", "longer", "gone", "folder"]))
    if how == "cut":
        content = content[: data.draw(st.integers(0, len(content)))]
    elif how == "flip" and content:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    elif how == "longer":
        content += data.draw(st.binary(min_size=1, max_size=20))
    file.unlink()
    if how == "folder":
        file.mkdir()
    elif how != "gone":
        file.write_bytes(content)
    with suppress(DaskmlrError):
        READERS[kind](path)
    shutil.rmtree(path)


def test_the_readers_read_what_is_whole(originals):
    for kind, read in READERS.items():
        read(Path(originals, kind))


@pytest.mark.parametrize("kind", ["store", "model"])
def test_metadata_of_absurd_size_are_not_parsed(originals, tmp_path, kind):
    path = tmp_path / kind
    shutil.copytree(originals / kind, path)
    with (path / "zarr.json").open("r+b") as file:
        file.truncate(1 << 34)
    with pytest.raises(DaskmlrError, match="17,179,869,184 bytes"):
        READERS[kind](path)


@pytest.mark.parametrize("name", ["../evil", "/abs", "a/b", "..", "zarr.json", "x\x00"])
def test_a_name_from_a_store_is_no_path(tmp_path, name):
    with create_tasks(tmp_path / "store", feature_names=["x"], task_name=name) as writer:
        writer.write([[1.0], [2.0]], [0.0, 1.0], [1, 1])
    tasks = open_tasks(tmp_path / "store")
    with pytest.raises(InputError, match="cannot be called"):
        map_tasks(tasks, lambda block: {"size": block.sizes}, tmp_path / "out.zarr", client="sync")
    map_tasks(tasks, lambda block: {"size": block.sizes}, tmp_path / "out.parquet", client="sync")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out.parquet", "store"]
