"""What a writer refuses, with the number or the name in the message; nothing is left behind."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest

from daskmlr.errors import (
    DamagedStoreError,
    FeatureMismatchError,
    InputError,
    PathExistsError,
    StoreError,
)
from daskmlr.storage import layout, returning
from daskmlr.storage.arrays import write_arrays
from daskmlr.storage.tasks import open_tasks
from daskmlr.storage.writing import append_tasks, create_tasks


def refused(tmp_path, *arguments, match, **options):
    options = {"feature_names": ["height", "weight"], "target_name": "price", **options}
    with (  # noqa: PT012 - one good call, then one that is refused
        pytest.raises(InputError, match=match),
        create_tasks(tmp_path / "t", **options) as writer,
    ):
        writer.write([[1.0, 2.0]], [3.0], [1])
        writer.write(*arguments)
    assert list(tmp_path.iterdir()) == []


def rows(n, d=2):
    return np.ones((n, d)), np.ones(n)


@pytest.mark.parametrize(
    ("shape", "n_y", "sizes", "match"),
    [
        ((3, 3), 3, [3], r"X must be \(n_rows, 2\).*got \(3, 3\), \(3,\)"),
        ((3,), 3, [3], r"got \(3,\), \(3,\)"),
        ((3, 2), 4, [3], r"got \(3, 2\), \(4,\)"),
        ((3, 2), (3, 1), [3], r"got \(3, 2\), \(3, 1\)"),
        ((3, 2), 3, [1, 1], r"got \(3, 2\), \(3,\), and 2 rows in 2 tasks"),
        ((3, 2), 3, [], r"and 0 rows in 0 tasks"),
        ((0, 2), 0, [1], r"and 1 rows in 1 tasks"),
    ],
)
def test_shapes(tmp_path, shape, n_y, sizes, match):
    refused(tmp_path, np.ones(shape), np.ones(n_y), sizes, match=match)


@pytest.mark.parametrize(
    ("sizes", "match"),
    [
        ([1.5, 1.5], r"whole numbers, one per task, got float64 of shape \(2,\)"),
        ([[3]], r"got int64 of shape \(1, 1\)"),
        (3, r"got int64 of shape \(\)"),
        (["3"], "whole numbers"),
        ([True, True, True], "whole numbers, one per task, got bool"),
    ],
)
def test_sizes_that_are_not_whole_numbers(tmp_path, sizes, match):
    refused(tmp_path, *rows(3), sizes, match=match)


@pytest.mark.parametrize("size", [0, -2])
def test_an_empty_task(tmp_path, size):
    refused(
        tmp_path, *rows(3), [3 - size, size], [4, 5], match=f"task 5 has {size} examples: leave it"
    )


def test_a_task_larger_than_a_block_names_the_setting_that_lets_it_pass(tmp_path):
    X, y = rows(12)
    sizes, ids = [3, 9], [7, 8]
    match = "task 8 has 9 examples, more than the 5 rows of a block: set block_bytes=216 or more"
    refused(tmp_path, X, y, sizes, ids, match=match, block_bytes=5 * 24)
    with create_tasks(tmp_path / "t", feature_names=["a", "b"], block_bytes=216) as writer:
        writer.write(X, y, sizes, ids)
    assert open_tasks(tmp_path / "t").task_sizes().tolist() == [3, 9]
    match = "task 9 has 10 examples.*9 rows.*write the store again with block_bytes=240 or more"
    with pytest.raises(InputError, match=match), append_tasks(tmp_path / "t") as writer:
        writer.write(*rows(10), [10], [9])
    with create_tasks(tmp_path / "u", feature_names=["a", "b"], block_bytes=240) as writer:
        writer.write(X, y, sizes, ids)
    with append_tasks(tmp_path / "u") as writer:
        writer.write(*rows(10), [10], [9])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("column", "name"), [(0, "height"), (1, "weight"), (2, "price")])
def test_a_value_that_is_not_finite(tmp_path, dtype, value, column, name):
    values = np.ones((9, 3))
    values[[5, 8], column] = value
    match = f"'{name}' is {value} in row 2 of task 12, and 1 more such values: drop or fill"
    arguments = values[:, :2], values[:, 2], [3, 4, 2], [11, 12, 13]
    refused(tmp_path, *arguments, match=match, dtype=dtype)


def test_infinities_of_both_signs_do_not_cancel(tmp_path):
    X, y = rows(4)
    X[1:3, 0] = np.inf, -np.inf
    refused(tmp_path, X, y, [4], match="'height' is inf in row 1 of task 1, and 1 more")


@pytest.mark.parametrize("value", [1e300, -3.5e38])
def test_a_value_beyond_float32(tmp_path, value):
    X, y = rows(3)
    y[1] = value
    match = f"'price' is {re.escape(str(value))} in row 0 of task 3: float32 is used up to 3.4e.38"
    refused(tmp_path, X, y, [1, 1, 1], [2, 3, 4], match=match, dtype="float32")
    y[1] = np.finfo(np.float32).max
    with create_tasks(tmp_path / "t", feature_names=["a", "b"], dtype="float32") as writer:
        writer.write(X, y, [1, 1, 1])
    assert open_tasks(tmp_path / "t").read_block(0).y[1] == np.finfo(np.float32).max


def test_a_value_whose_square_overflows(tmp_path):
    X, y = rows(3)
    X[2, 1] = -1e200
    refused(tmp_path, X, y, [3], match=r"'weight' is -1e\+200 .* float64 is used up to 1e\+140")
    X[2, 1] = -1e140
    with create_tasks(tmp_path / "t", feature_names=["a", "b"]) as writer:
        writer.write(X, y, [3])
    assert np.isfinite(open_tasks(tmp_path / "t").feature_scale).all()


@pytest.mark.parametrize("values", [["1", "2"], [1j, 2j], [object(), None]])
def test_values_that_are_not_numbers(tmp_path, values):
    X, y = rows(2)
    refused(tmp_path, X, np.array(values), [2], match="y must be numeric, got dtype")
    refused(tmp_path, np.array([values, values]).T, y, [2], match="X must be numeric, got dtype")


@pytest.mark.parametrize(
    ("ids", "match"),
    [
        ([1.5, 2.0], r"got 1\.5 \(float"),
        ([np.inf, 2.0], r"got inf \(float"),
        ([2.0**53, 2.0], r"got 9007199254740992\.0 \(float"),
        ([1, "a"], r"all alike, got 1 \(int\)"),
        (np.array(["a", 2], dtype=object), r"got 2 \(int\)"),
        (["a", ""], r"got '' \(str\)"),
        (["a", None], r"got None \(NoneType\)"),
        (np.array(["a", np.nan], dtype=object), r"got nan \(float\)"),
        ([b"a", b"b"], r"got b'a' \(bytes\)"),
        ([True, False], r"got True \(bool\)"),
        (np.array(["2020-01-01", "2021-01-01"], dtype="M8[D]"), "integers or non-empty strings"),
        ([[1, 2]], r"one per task, got shape \(1, 2\)"),
        ([1], r"ids must be one per task: got 1 ids, 2 sizes"),
        ([1, 2, 3], r"got 3 ids, 2 sizes"),
        (np.array([1, 2**63], dtype=np.uint64), "task id 9223372036854775808 does not fit int64"),
        ([2, -(2**63)], "task id -9223372036854775808 is reserved"),
        (["a", "\ud800"], "valid Unicode"),
    ],
)
def test_ids_that_cannot_be_stored(tmp_path, ids, match):
    refused(tmp_path, *rows(2), [1, 1], ids, match=match)


@pytest.mark.parametrize("kind", [int, str])
def test_neighbours_of_one_id(tmp_path, kind):
    names = {"feature_names": ["a", "b"]}
    one, two = kind(1), kind(2)
    match = f"task id {two!r} is given twice in a row"
    with pytest.raises(InputError, match=match), create_tasks(tmp_path / "t", **names) as writer:
        writer.write(*rows(3), [1, 1, 1], [one, two, two])
    with create_tasks(tmp_path / "t", **names) as writer:
        writer.write(*rows(2), [1, 1], [one, two])
        writer.write(*rows(0), [], [])
        with pytest.raises(InputError, match=match):
            writer.write(*rows(1), [1], [two])
    with pytest.raises(InputError, match=match), append_tasks(tmp_path / "t") as writer:
        writer.write(*rows(1), [1], [two])
    assert open_tasks(tmp_path / "t").n_tasks == 2


def test_ids_of_another_kind_than_before(tmp_path):
    refused(tmp_path, *rows(1), [1], ["a"], match="all integers or all strings: 0 came before 'a'")
    with create_tasks(tmp_path / "t", feature_names=["a", "b"]) as writer:
        writer.write(*rows(1), [1], ["ann"])
    match = "all integers or all strings: 'ann' came before 1"
    with pytest.raises(InputError, match=match), append_tasks(tmp_path / "t") as writer:
        writer.write(*rows(1), [1])


@pytest.mark.parametrize("kind", [int, str])
def test_tasks_that_the_store_has_are_not_appended(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(returning, "IDS_AT_ONCE", 4)
    old = np.arange(10).astype(kind).tolist()
    with create_tasks(tmp_path / "t", feature_names=["a", "b"]) as writer:
        writer.write(*rows(10), [1] * 10, old)
    before = open_tasks(tmp_path / "t").facts
    for new, said in (
        ([20, 9], f"1 of the tasks to append is in {tmp_path / 't'} already, the first {old[9]!r}"),
        ([*range(20, 29), 3, 0], f"2 of .* are in .* already, the first {old[0]!r}, {old[3]!r}: "),
        ([*range(8)], r"8 of .*, \.\.\.: a task in two places .* write a new store of all rows"),
    ):
        ids = np.array(new).astype(kind).tolist()
        with pytest.raises(InputError, match=said), append_tasks(tmp_path / "t") as writer:  # noqa: PT012
            for i in ids:
                writer.write(*rows(1), [1], [i])
        assert open_tasks(tmp_path / "t").facts == before
        open_tasks(tmp_path / "t").validate(deep=True)
    with append_tasks(tmp_path / "t") as writer:
        writer.write(*rows(2), [1, 1], np.array([10, 11]).astype(kind).tolist())
    assert open_tasks(tmp_path / "t").n_tasks == 12


def test_only_the_ids_are_read_of_the_store_that_is_appended_to(tmp_path):
    with create_tasks(tmp_path / "t", feature_names=["a", "b"]) as writer:
        writer.write(*rows(10), [1] * 10)
    for name in ("x", "y"):
        shutil.rmtree(tmp_path / "t" / name / "c")
    with pytest.raises(InputError, match="first 3: "), append_tasks(tmp_path / "t") as writer:
        writer.write(*rows(1), [1], [3])
    with append_tasks(tmp_path / "t") as writer:
        writer.write(*rows(1), [1], [10])
    shutil.rmtree(tmp_path / "t" / "task_id" / "c")
    with pytest.raises(DamagedStoreError, match="task_id"), append_tasks(tmp_path / "t"):
        pass


def test_the_columns_of_a_data_frame_are_the_features_in_their_order(tmp_path):
    X = pd.DataFrame({"a": [1.0], "b": [2.0]})
    new = {"b": "z"}
    with create_tasks(tmp_path / "t", feature_names=["a", "b"]) as writer:
        writer.write(X, [0.0], [1])
        for other, said in ((X[["b", "a"]], "in another order"), (X.rename(columns=new), "'z'")):
            with pytest.raises(FeatureMismatchError, match=f"the store has 2 features, X .*{said}"):
                writer.write(other, [0.0], [1])
    for other, said in ((X[["b", "a"]], "in another order"), (X.rename(columns=new), "'z'")):
        with (
            pytest.raises(FeatureMismatchError, match=f"the store has 2 features, X .*{said}"),
            append_tasks(tmp_path / "t") as writer,
        ):
            writer.write(other, [0.0], [1])
    with append_tasks(tmp_path / "t") as writer:
        writer.write(X + 1, [0.0], [1])
        writer.write(X.rename(columns={"a": 0, "b": 1}), [0.0], [1])  # without names
    assert open_tasks(tmp_path / "t").feature_mean.tolist() == pytest.approx([4 / 3, 7 / 3])


def test_a_call_without_tasks_settles_nothing(tmp_path):
    with create_tasks(tmp_path / "t", feature_names=["a", "b"]) as writer:
        writer.write(*rows(0), [])
        writer.write(*rows(0), [], [])
        writer.write(*rows(1), [1], ["ann"])
    assert open_tasks(tmp_path / "t").task_ids().tolist() == ["ann"]


def test_no_tasks_at_all(tmp_path):
    match = f"no task was written to {tmp_path / 't'}: the input is empty"
    with pytest.raises(InputError, match=match), create_tasks(tmp_path / "t", feature_names=["a"]):
        pass
    assert list(tmp_path.iterdir()) == []
    with create_tasks(tmp_path / "t", feature_names=["a"]) as writer:
        writer.write([[1.0]], [1.0], [1])
    with pytest.raises(InputError, match=match), append_tasks(tmp_path / "t"):
        pass
    assert len(open_tasks(tmp_path / "t").provenance) == 1


def test_writing_outside_of_with(tmp_path):
    writer = create_tasks(tmp_path / "t", feature_names=["a"])
    with pytest.raises(InputError, match="inside `with"):
        writer.write([[1.0]], [1.0], [1])
    with writer:
        writer.write([[1.0]], [1.0], [1])
    with pytest.raises(InputError, match="inside `with"):
        writer.write([[1.0]], [1.0], [1])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"feature_names": []}, r"given, not empty, and distinct, got \[\]"),
        ({"feature_names": ["a", "b", "a"]}, r"\['a'\] more than once"),
        ({"feature_names": ["a", ""]}, "not empty"),
        ({"feature_names": "abc"}, "a list of str, got the str 'abc'"),
        ({"dtype": "float16"}, r"one of \('float32', 'float64'\), got 'float16'"),
        ({"dtype": "double precision"}, "got 'double precision'"),
        ({"dtype": int}, "got <class 'int'>"),
        ({"block_bytes": 0}, "whole number from 1 to 1,073,741,824, got 0"),
        ({"block_bytes": -5}, "got -5"),
        ({"block_bytes": 1e6}, r"got 1000000\.0"),
        ({"block_bytes": layout.LARGEST_BLOCK_BYTES + 1}, "got 1073741825"),
        ({"encoding": {"a": {1, 2}}}, "encoding must be JSON-able: .*set"),
        ({"provenance": {"when": np.int64(3)}}, "provenance must be JSON-able: .*int64"),
    ],
)
def test_options(tmp_path, options, match):
    with pytest.raises(InputError, match=match):
        create_tasks(tmp_path / "t", **{"feature_names": ["a"], **options})
    assert list(tmp_path.iterdir()) == []


def test_provenance_of_an_append(tasks, tmp_path):
    path = tasks.write(tmp_path / "t", tasks.table([1]))
    with pytest.raises(InputError, match="provenance must be JSON-able"):
        append_tasks(path, provenance={"when": object()})


@pytest.mark.parametrize("dtype", ["float32", np.float32, np.dtype(">f4")])
def test_dtypes_by_any_name(tmp_path, dtype):
    with create_tasks(tmp_path / "t", feature_names=["a"], dtype=dtype) as writer:
        writer.write([[1.0]], [1.0], [1])
    assert open_tasks(tmp_path / "t").read_block(0).X.dtype == np.dtype("float32")


@pytest.mark.parametrize("kind", ["store", "file", "folder", "broken link"])
def test_an_existing_path(tasks, tmp_path, kind):
    path = tmp_path / "t"
    if kind == "store":
        tasks.write(path, tasks.table([1]))
    elif kind == "file":
        path.write_text("")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(PathExistsError, match=f"{path} exists and is a .*: choose another path"):
        create_tasks(path, feature_names=["a"])


def test_a_folder_that_is_missing(tmp_path):
    with pytest.raises(StoreError, match=f"the folder {tmp_path / 'no'} of the output does not"):
        create_tasks(tmp_path / "no" / "t", feature_names=["a"])


def test_an_append_to_nothing(tmp_path):
    with pytest.raises(StoreError, match="no task store at"):
        append_tasks(tmp_path / "t")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (([[1.0]], [1.0, 2.0], [1]), "1, 2 and 1"),
        (([[1.0]], [1.0], [1, 2]), "1, 1 and 2"),
        (([1.0], [1.0], [1]), r"X must have two dimensions.*got shapes \(1,\)"),
        ((1.0, [1.0], [1]), r"X must have two dimensions.*got shapes \(\)"),
        (([[1.0]], 1.0, [1]), r"y one dimension, got shapes \(1, 1\) and \(\)"),
        (([[1.0]], [1.0], [1.5]), "integers or non-empty strings"),
        (([[1.0], [2.0]], [1.0, 2.0], ["a", 2]), "integers or non-empty strings"),
        (([[1.0], [2.0]], [1.0, 2.0], np.array(["a", None], dtype=object)), "got None"),
        (([[1.0], [np.nan]], [1.0, 2.0], ["a", "b"]), "'x0' is nan in row 0 of task 'b'"),
        ((np.ones((0, 2)), [], []), "the input is empty"),
    ],
)
def test_arrays(tmp_path, arguments, match):
    with pytest.raises(InputError, match=match):
        write_arrays(tmp_path / "t", *arguments)
    assert list(tmp_path.iterdir()) == []
