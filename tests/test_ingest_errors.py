"""Tables that cannot be ingested: what the error says, and that nothing is left behind."""

import shutil
from collections import namedtuple

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from daskmlr.errors import InputError, NoSpaceError, PathExistsError, PlanError, StoreError
from daskmlr.ingestion import ingest, ingest_arrays

OPTIONS = {"task": "who", "target": "y"}


def table(**columns):
    n = 6
    frame = {"who": [1, 2] * 3, "x": np.arange(n) + 0.5, "c": list("abcabc"), "y": np.arange(n)}
    return pd.DataFrame(frame | columns)


def refused(tmp_path, inputs, message, error=InputError, **options):
    """The error is as said, and the folder holds what it held."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=message):
        ingest(inputs, tmp_path / "out", **(OPTIONS | options))
    assert sorted(tmp_path.rglob("*")) == before


def as_csv(tmp_path, frame, name="in.csv"):
    frame.to_csv(tmp_path / name, index=False)
    return tmp_path / name


def as_parquet(tmp_path, frame, name="in.parquet"):
    frame.to_parquet(tmp_path / name, index=False)
    return tmp_path / name


KINDS = {"csv": as_csv, "parquet": as_parquet, "pandas": lambda tmp_path, frame: frame}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("frame", "options", "message"),
    [
        (table(), {"target": "Y"}, "column 'Y' is not in .*did you mean 'y'"),
        (table(), {"task": "whom"}, "column 'whom' is not in .*did you mean 'who'"),
        (table(), {"features": ["zzz"]}, "column 'zzz' is not in .*there are 'who', 'x', 'c', 'y'"),
        (table(), {"categorical": ["x", "d"]}, "column 'd' is not in the features"),
        (table(), {"features": ["x", "y"]}, "column 'y' is the target: take it out"),
        (table(), {"features": ["x", "who"]}, "column 'who' is the task: take it out"),
        (table(), {"features": ["x", "x"]}, "name a column twice"),
        (table(), {"features": []}, "no feature"),
        (table(), {"categorical": ["y"]}, "'y' is the target: only features"),
        (table(), {"task": "y"}, "'y' cannot be both task and target"),
        (table(), {"missing": "fill"}, "missing must be 'error' or 'drop', got 'fill'"),
        (table(), {"dtype": "int8"}, r"dtype must be one of .*float32.*got 'int8'"),
        (table(), {"block_bytes": 0}, "block_bytes must be at least 1, got 0"),
        (table(), {"memory_limit": "much"}, "memory_limit must be a size .*'much'"),
        (table(c="a"), {}, r"column 'c' has one category only \('a'\)"),
        (
            table(),
            {"categorical": ["x"]},
            "column 'x' has 6 numbers that are not whole.* 0.5 in row 1",
        ),
        (table(who=np.arange(6) / 2), {}, "'who' has 3 numbers that are not whole.* 0.5 in row 2"),
        (
            table(y=list("abcabc")),
            {},
            "'y' holds text where numbers are wanted, in 6 of 6.*'a' in row 1",
        ),
        (table(x=pd.Timestamp("2020-01-01 10:00")), {}, "column 'x' holds times: .*weekday"),
        (table(y=[0, 1, np.inf, 2, -np.inf, 3]), {}, "'y' has 2 values .*inf of task 1 in row 3"),
        (
            table(x=[0, 1, None, 2, np.inf, 3]),
            {"missing": "drop"},
            "'x' has 1 values .* infinite in float64.* of task 1 in row 5",
        ),
        (table(x=1e39), {"dtype": "float32"}, "'x' has 6 values that are infinite in float32"),
        (
            table(x=[0, 1, None, None, 2, 3], who=[1, None, 2, None, 1, 1]),
            {},
            "missing in 3 of 6 rows .'who' 2, 'x' 2.*, the first of 'who' in row 2.*: "
            "fill them, leave the column out of the features, or drop.*missing='drop'",
        ),
        (
            table(y=[0, 1, 2, None, 2, 3]),
            {},
            "missing in 1 of 6 rows .'y' 1., the first of 'y' in row 4.*: fill them, or drop these",
        ),
        (table(x=np.nan, c=None), {"missing": "drop"}, "no row is complete: .* 6 of 6 rows"),
        (table().iloc[:0], {}, "the input is empty"),
        (
            table(who=1),
            {"block_bytes": 80, "features": ["x"]},
            "task 1 has 6 examples, a block has room for 5: set block_bytes to at least 96",
        ),
    ],
)
def test_any_kind_of_input(tmp_path, kind, frame, options, message):
    refused(tmp_path, KINDS[kind](tmp_path, frame), message, **options)


def test_categories_without_end(tmp_path):
    frame = pd.DataFrame({"who": 1, "c": [f"c{i}" for i in range(1001)], "y": 0})
    refused(tmp_path, frame, "column 'c' has more than 1,000 categories")
    many = pd.concat([frame.assign(c=frame["c"] + str(i)) for i in range(5)])
    refused(tmp_path, many, r"column 'c' has more than 1,000 categories \(about \d,\d{3}\)")
    assert ingest(frame.iloc[1:], tmp_path / "out", **OPTIONS).n_features == 999


def test_a_rare_decimal_comma_among_numbers_is_said_to_be_one(tmp_path):
    path = as_csv(tmp_path, table(x=["1", "2", "3.5", "4", "5", "12,5"]))
    refused(tmp_path, path, r"the first '12,5' in .*: write it with a decimal point, or declare")
    many = as_csv(tmp_path, pd.concat([table()] * 5 + [table(x=["1", "2", "3", "4", "5", "1,5"])]))
    refused(tmp_path, many, r"the first '1,5' in .*: write it with a decimal point$")


@pytest.mark.parametrize("name", ["x", "y"])
def test_text_among_numbers_of_csv_names_its_line(tmp_path, name):
    path = as_csv(tmp_path, table(**{name: ["1", "2", "3", "oops", "5", "6.5"]}))
    refused(
        tmp_path,
        path,
        rf"column '{name}' holds text where numbers are wanted, in 1 of 6 rows, the first 'oops' "
        r"in row 4 \(line 5\) of .*in.csv",
    )


def test_text_in_a_later_file_names_that_file(tmp_path):
    as_csv(tmp_path, table(), "1.csv")
    as_csv(tmp_path, table(x=["1", "2", "?", "4", "5", "6"]), "2.csv")
    refused(tmp_path, tmp_path / "*.csv", r"'x' .*in 1 of 12 rows.*'\?' in row 3 .*2\.csv")


def test_text_among_objects_of_a_data_frame(tmp_path):
    refused(tmp_path, table(x=[1, 2, "three", 4, 5, 6]), "'x' mixes .*'three' in row 3")
    refused(tmp_path, table(x=[1.5, 2, "three", 4, 5, 6]), "'x' mixes .*'three' in row 3")
    refused(tmp_path, table(x=["a", "b", 3, "d", "e", "f"]), "'x' mixes .*3 in row 3")


def test_numbers_stored_as_text_must_be_declared(tmp_path):
    path = as_parquet(tmp_path, table(x=list("121212")))
    refused(tmp_path, path, "'x' holds numbers stored as text: convert it, or declare")
    tasks = ingest(path, tmp_path / "out", categorical=["x"], **OPTIONS)
    assert tasks.feature_names == ("x=2", "c=b", "c=c")


def test_dates_in_csv(tmp_path):
    refused(tmp_path, as_csv(tmp_path, table(x="2013-01-01 05:00:00")), "'x' holds times")


@pytest.mark.parametrize("values", [[[1]] * 6, [b"x"] * 6, [{"a": 1}] * 6])
def test_columns_of_other_types(tmp_path, values):
    refused(tmp_path, table(x=values), "column 'x' holds (list|binary|struct).*numbers, text")


def test_paths(tmp_path):
    path = as_csv(tmp_path, table())
    refused(tmp_path, "s3://bucket/rows.csv", "s3://bucket/rows.csv is a URL: tables are read from")
    refused(tmp_path, tmp_path / "nothing.csv", "there is no file or folder .*nothing.csv")
    refused(tmp_path, tmp_path / "no*.parquet", r"no file matches .*no\*.parquet")
    refused(tmp_path, [], "no input was given")
    refused(tmp_path, [path, tmp_path / "*.csv"], "named more than once .*in.csv")
    (tmp_path / "empty").mkdir()
    refused(tmp_path, tmp_path / "empty", "holds no file that ends in .parquet")
    (tmp_path / "notes.txt").write_text("a")
    refused(tmp_path, tmp_path / "notes.txt", "neither Parquet nor CSV by its name")
    as_parquet(tmp_path, table())
    refused(tmp_path, tmp_path, "both Parquet and CSV")
    refused(
        tmp_path, path, "temporary_directory .*gone is not a folder", temporary_directory="gone"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty: a first line"),
        ("who,x,y\n", "the input is empty"),
        ("who,x,y\n1,2,3\n1,2,3,4\n", "cannot be read: .*(?i:line: 3|expected number of columns)"),
        ("who,x,X,y\n1,2,3,4\n", r"columns \['x', 'X'\] that differ in case at most"),
        ("who,x,x,y\n1,2,3,4\n", r"columns \['x', 'x'\] that differ in case at most"),
    ],
)
def test_broken_csv(tmp_path, text, message):
    (tmp_path / "in.csv").write_text(text)
    refused(tmp_path, tmp_path / "in.csv", message)


def test_csv_in_another_encoding(tmp_path):
    (tmp_path / "in.csv").write_bytes("who,c,y\n1,é,2\n".encode("latin-1"))
    refused(tmp_path, tmp_path / "in.csv", "is not text in UTF-8: convert it, as by iconv")


def test_broken_parquet(tmp_path):
    path = as_parquet(tmp_path, table())
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    refused(tmp_path, path, "in.parquet cannot be read as Parquet")
    path.write_bytes(whole[:4] + bytes(100) + whole[104:])
    refused(tmp_path, path, "the input cannot be read: ")


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (table(x=list("abcdef")), "column 'x' is text in .*b.parquet but number in .*a.parquet"),
        (table(who=list("abcdef")), "column 'who' is text in .*b.parquet but number in"),
        (table(x=pd.Timestamp("2020-01-01")), "column 'x' is time in .*b.parquet but number"),
        (table().rename(columns={"x": "X"}), "b.parquet has a column 'X' that .*a.parquet lacks"),
        (table().drop(columns="x"), "column 'x' is not in .*b.parquet: there are"),
        (
            table(extra=1),
            "b.parquet has a column 'extra' that .*a.parquet lacks: name the features",
        ),
    ],
)
def test_files_that_do_not_agree(tmp_path, second, message):
    as_parquet(tmp_path, table(), "a.parquet")
    as_parquet(tmp_path, second, "b.parquet")
    refused(tmp_path, tmp_path, message)


def test_csv_files_that_do_not_agree(tmp_path):
    as_csv(tmp_path, table(), "a.csv")
    as_csv(tmp_path, table().rename(columns={"x": "xx"}), "b.csv")
    refused(tmp_path, tmp_path, "a column 'xx' that .*a.csv lacks")
    refused(tmp_path, tmp_path, "column 'x' is not in .*b.csv: did you mean 'xx'", features=["x"])


def test_columns_that_differ_in_case(tmp_path):
    pq.write_table(pa.table({"who": [1], "x": [1], "X": [2], "y": [1]}), tmp_path / "in.parquet")
    refused(tmp_path, tmp_path / "in.parquet", r"\['x', 'X'\] that differ in case at most")


def test_data_frames_with_odd_columns(tmp_path):
    refused(tmp_path, table().set_index("who"), r"its index is named 'who': call reset_index\(\)")
    twice = pd.concat([table(), table()[["x"]]], axis=1)
    refused(tmp_path, twice, "several columns named 'x'")
    lazy = dd.from_pandas(table(), npartitions=2)
    refused(tmp_path, lazy, "'z' is not in the data frame", features=["z"])
    refused(tmp_path, da.ones(3), "a DataFrame is wanted, got Array")


def test_the_output_is_checked_before_any_work(tmp_path):
    (tmp_path / "out").mkdir()
    refused(tmp_path, "no such input", "out exists", PathExistsError)
    with pytest.raises(StoreError, match="nowhere of the output does not exist"):
        ingest("no such input", tmp_path / "nowhere" / "out", **OPTIONS)


def test_memory_that_cannot_do(tmp_path):
    refused(
        tmp_path,
        table(),
        r"memory_limit is 200.00 MiB, of which .* Raise",
        PlanError,
        memory_limit="200MiB",
    )


def test_a_disk_that_is_too_small(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10))
    message = r"192 B of disk .*192 B for the store\), 10 B are free: free some"
    path = as_parquet(tmp_path, table())
    refused(tmp_path, path, message, NoSpaceError)
    refused(
        tmp_path, as_csv(tmp_path, table()), r"for the CSV files as Parquet\), 10 B", NoSpaceError
    )
    refused(tmp_path, table(), r"for the data frame as Parquet\), 10 B", NoSpaceError)


def test_a_disk_that_is_too_small_to_sort_on(tmp_path, monkeypatch):
    frame = pd.DataFrame(np.ones((200_000, 60))).assign(who=1, y=0.0)
    path = as_parquet(tmp_path, frame.rename(columns=str))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 150 * 10**6))
    refused(
        tmp_path,
        path,
        r"for the store \+ .* for sorting 200,000 rows of \d+ bytes",
        NoSpaceError,
        memory_limit="800MB",
        block_bytes=10**8,
    )


def test_a_failure_while_writing_leaves_nothing(tmp_path):
    def fail(at):
        if at.stage == "write":
            raise KeyboardInterrupt

    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(KeyboardInterrupt):
        ingest(table(), tmp_path / "out", progress=fail, **OPTIONS)
    assert sorted(tmp_path.rglob("*")) == before


def test_success_leaves_the_store_alone(tmp_path):
    (tmp_path / "scratch").mkdir()
    path = as_csv(tmp_path, table())
    ingest(path, tmp_path / "out", temporary_directory=tmp_path / "scratch", **OPTIONS)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["in.csv", "out", "scratch"]
    assert list((tmp_path / "scratch").iterdir()) == []


def test_arrays_are_sorted_by_task_and_stable(tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((50, 3)), np.arange(50.0)
    groups = rng.integers(-3, 4, 50)
    tasks = ingest_arrays(X, y, groups, tmp_path / "out")
    order = np.lexsort((y, groups))
    block = tasks.read_block(0)
    np.testing.assert_array_equal(block.X, X[order])
    np.testing.assert_array_equal(block.y, y[order])
    assert tasks.task_ids().tolist() == np.unique(groups).tolist()
    assert tasks.feature_names == ("x0", "x1", "x2")


@pytest.mark.parametrize(
    ("groups", "ids"),
    [
        (np.array([2.0, 1.0]), [1, 2]),
        (np.array([2, 1], dtype="uint8"), [1, 2]),
        (np.array([2, 1], dtype=object), [1, 2]),
        (["b", "a"], ["a", "b"]),
        (pd.Series(["b", "a"], dtype="category"), ["a", "b"]),
        (pd.Series(["b", "a"]), ["a", "b"]),
        (np.array(["2020-01-02", "2020-01-01"], dtype="M8[D]"), ["2020-01-01", "2020-01-02"]),
    ],
)
def test_groups_of_arrays(tmp_path, groups, ids):
    tasks = ingest_arrays([[1.0], [2.0]], [1, 2], groups, tmp_path / "out", feature_names=["a"])
    assert tasks.task_ids().tolist() == ids
    assert tasks.read_block(0).X.tolist() == [[2], [1]]


@pytest.mark.parametrize(
    ("X", "y", "groups", "message"),
    [
        ([[1.0], [2.0]], [1, 2], [1, None], "groups has 1 missing values, the first in row 1"),
        ([[1.0], [2.0]], [1, 2], [np.nan, 1], "groups has 1 missing values, the first in row 0"),
        ([[1.0], [2.0]], [1, 2], ["a", ""], "groups has 1 missing values, the first in row 1"),
        (
            [[1.0], [2.0]],
            [1, 2],
            [1, 1.5],
            "groups has 1 numbers that are not whole.* 1.5 in row 1",
        ),
        ([[1.0], [2.0]], [1, 2], [[1], [2]], r"groups must have one dimension, got shape \(2, 1\)"),
        ([[1.0], [2.0]], [1, 2, 3], [1, 2], "of one length, got 2, 3 and 2"),
        ([1.0, 2.0], [1, 2], [1, 2], r"X must have two dimensions.*got shapes? \(2,\)"),
        ([[1.0], [np.inf]], [1, 2], [1, 2], "'x0' is inf in .*task 2"),
        ([[1.0], [2.0]], [np.nan, 2], [1, 2], "'y' is nan in .*task 1"),
        ([["a"], ["b"]], [1, 2], [1, 2], "X must be numeric"),
        (np.ones((0, 1)), [], [], "the input is empty"),
    ],
)
def test_arrays_that_cannot_be_ingested(tmp_path, X, y, groups, message):
    with pytest.raises(InputError, match=message):
        ingest_arrays(X, y, groups, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
