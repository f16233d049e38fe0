"""Small groups of arrays and facts: models and truths."""

import json
import os

import numpy as np
import pytest
import zarr

from daskmlr.errors import DamagedStoreError, InputError, PathExistsError, StoreError
from daskmlr.storage.groups import load_group, save_group
from daskmlr.storage.tasks import open_tasks

ARRAYS = {
    "coef": np.arange(6.0).reshape(2, 3),
    "labels": np.array([1, 2, 2], dtype=np.int16),
    "single": np.float32(2.5) * np.ones(()),
    "none": np.empty((0, 4)),
    "flags": np.array([True, False]),
    "odd": np.array([np.nan, np.inf, -0.0]),
    "zeros": np.zeros(5),  # equal to the fill value, and written all the same
}
FACTS = {"names": ["a", "Größe"], "n": 3, "deep": {"x": [1.5, None]}, "rate": 0.1}


@pytest.fixture
def path(tmp_path):
    save_group(tmp_path / "m", kind="model", version=2, arrays=ARRAYS, facts=FACTS)
    return tmp_path / "m"


def test_round_trip(path):
    content = load_group(path, kind="model", version=2)
    assert content.keys() == ARRAYS.keys() | FACTS.keys()
    for name, values in ARRAYS.items():
        assert content[name].dtype == values.dtype
        assert content[name].shape == values.shape
        np.testing.assert_array_equal(content[name], values)
    assert {name: content[name] for name in FACTS} == FACTS


def test_plain_zarr_reads_it(path):
    group = zarr.open_group(path, mode="r")
    np.testing.assert_array_equal(group["coef"][:], ARRAYS["coef"])
    assert group.attrs["daskmlr"]["kind"] == "model"


def test_existing_path(path):
    with pytest.raises(PathExistsError, match=f"{path} exists"):
        save_group(path, kind="model", version=2, arrays={}, facts={})


@pytest.mark.parametrize("facts", [{"coef": 1}, {"kind": "x"}, {"arrays": []}])
def test_a_name_given_twice(tmp_path, facts):
    with pytest.raises(InputError, match=f"taken: .*{next(iter(facts))}"):
        save_group(tmp_path / "m", kind="model", version=1, arrays=ARRAYS, facts=facts)
    assert list(tmp_path.iterdir()) == []


def test_facts_that_are_not_json_leave_nothing(tmp_path):
    with pytest.raises(TypeError, match="JSON"):
        save_group(tmp_path / "m", kind="model", version=1, arrays=ARRAYS, facts={"a": object()})
    assert list(tmp_path.iterdir()) == []


def test_wrong_kind(path, tasks, tmp_path):
    with pytest.raises(StoreError, match=f"{path} is a model, a truth is wanted"):
        load_group(path, kind="truth", version=2)
    store = tasks.write(tmp_path / "t", tasks.table([1]))
    with pytest.raises(StoreError, match="is a task store, a model is wanted"):
        load_group(store, kind="model", version=2)
    with pytest.raises(StoreError, match="is a model, a task store is wanted"):
        open_tasks(path)


def test_other_things(tmp_path):
    with pytest.raises(StoreError, match=f"there is no model at {tmp_path / 'no'}"):
        load_group(tmp_path / "no", kind="model", version=1)
    (tmp_path / "file").write_text("x")
    zarr.create_group(tmp_path / "plain")
    zarr.create_array(tmp_path / "array", shape=(2,), dtype="f8")
    (tmp_path / "folder").mkdir()
    other = {"file": "is a file,", "plain": "is some other Zarr group,", "folder": "is a folder,"}
    for name, said in {**other, "array": "is not a model"}.items():
        with pytest.raises(StoreError, match=f"{tmp_path / name} {said}"):
            load_group(tmp_path / name, kind="model", version=1)


@pytest.mark.parametrize("version", [1, 3])
def test_wrong_version(path, version):
    with pytest.raises(StoreError, match=f"has format version 2, this daskmlr reads {version}"):
        load_group(path, kind="model", version=version)


@pytest.mark.parametrize("damage", ["chunk gone", "flipped", "cut", "array gone", "garbage"])
@pytest.mark.parametrize("name", ["coef", "labels", "single", "zeros"])
def test_damage_names_the_array(path, name, damage):
    chunk = path / name / "c"
    while chunk.is_dir():
        chunk /= "0"
    data = bytearray(chunk.read_bytes())
    if damage == "flipped":
        data[0] ^= 4
        chunk.write_bytes(data)
    elif damage == "cut":
        chunk.write_bytes(data[:-3])
    elif damage == "chunk gone":
        chunk.unlink()
    elif damage == "garbage":
        (path / name / "zarr.json").write_text('{"shape": [')
    else:
        (path / name).rename(path.parent / "away")
    with pytest.raises(DamagedStoreError, match=f"{path}/{name} (is missing|cannot be read)"):
        load_group(path, kind="model", version=2)


@pytest.mark.parametrize("text", ["", "{", "[]", "7"])
def test_metadata_that_is_garbage(path, text):
    (path / "zarr.json").write_text(text)
    with pytest.raises(StoreError, match=f"{path} is not a model"):
        load_group(path, kind="model", version=2)


def test_entries_that_nobody_knows_are_kept_or_left_alone(path):
    document = json.loads((path / "zarr.json").read_text())
    document["attributes"]["daskmlr"]["later"] = 5
    document["attributes"]["other"] = {"tool": 1}
    (path / "zarr.json").write_text(json.dumps(document))
    zarr.open_group(path, mode="r+").create_array("extra", shape=(2,), dtype="f8")
    (path / "note.txt").write_text("hello")
    content = load_group(path, kind="model", version=2)
    assert content["later"] == 5
    assert content.keys() == ARRAYS.keys() | FACTS.keys() | {"later"}


@pytest.mark.skipif(os.name == "nt", reason="permissions of files are of POSIX")
def test_permissions_are_those_of_any_new_folder(path, tmp_path):
    (tmp_path / "plain").mkdir()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
