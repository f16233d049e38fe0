"""Long tables into task stores: the rows arrive, in one order, whatever the input looks like."""

import datetime as dt
import decimal
import gzip
import json

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daskmlr import ingest, open_tasks
from daskmlr.encoding import FeatureEncoding
from daskmlr.ingestion import sorting
from tests.benchmarks.ingest_memory import same_files

OPTIONS = {"task": "who", "target": "y"}


def table(n=500, n_tasks=40, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "who": [f"N{i:03d}" for i in rng.integers(0, n_tasks, n)],
            "x": rng.standard_normal(n),
            "carrier": np.array(["AA", "DL", "UA"])[rng.integers(0, 3, n)],
            "hour": rng.integers(0, 24, n),
            "y": rng.standard_normal(n),
        }
    )


def content(tasks):
    """Rows of each task, in order: {id: [[features..., target], ...]}."""
    out = {}
    for index in range(tasks.n_blocks):
        block = tasks.read_block(index)
        rows = np.column_stack([block.X, block.y])
        ids = tasks.task_ids(block.first_task, block.first_task + block.n_tasks)
        for task, start, stop in zip(ids, block.offsets[:-1], block.offsets[1:], strict=True):
            out[task] = rows[start:stop].tolist()
    return out


def by_hand(frame, columns=("carrier=DL", "carrier=UA", "hour", "x"), task="who"):
    """What `content` must give, by pandas."""
    values = frame.copy()
    for name in columns:
        column, _, level = name.partition("=")
        if level:
            values[name] = (values[column].astype(str) == level).astype(float)
    return {
        key: rows[[*columns, "y"]].astype(float).to_numpy().tolist()
        for key, rows in sorted(values.groupby(task, sort=True), key=lambda item: item[0])
    }


def in_files(frame, folder, suffix, n_files=3):
    folder.mkdir()
    for index, rows in enumerate(np.array_split(np.arange(len(frame)), n_files)):
        part = frame.iloc[rows]
        path = folder / f"part-{index}.{suffix}"
        if suffix == "parquet":
            part.to_parquet(path, index=False)
        else:
            part.to_csv(path, index=False)
    return folder


COLUMNS = ("x", "carrier=DL", "carrier=UA", "hour")


@pytest.mark.parametrize("kind", ["parquet", "csv", "csv.gz", "pandas", "dask", "glob", "several"])
def test_all_inputs_give_the_same_store(tmp_path, kind):
    frame = table()
    if kind == "pandas":
        inputs = frame
    elif kind == "dask":
        inputs = dd.from_pandas(frame, npartitions=3, sort=False)
    elif kind == "glob":
        inputs = str(in_files(frame, tmp_path / "in", "parquet") / "part-*.parquet")
    elif kind == "several":
        folder = in_files(frame, tmp_path / "in", "csv")
        inputs = [folder / "part-0.csv", str(folder / "part-[12].csv")]
    else:
        inputs = in_files(frame, tmp_path / "in", kind)
    tasks = ingest(inputs, tmp_path / "out", **OPTIONS)
    assert tasks.feature_names == COLUMNS
    assert (tasks.target_name, tasks.task_name, tasks.dtype) == ("y", "who", np.float64)
    assert content(tasks) == by_hand(frame, COLUMNS)
    assert list(content(tasks)) == sorted(frame["who"].unique())
    tasks.validate(deep=True)
    reference = ingest(frame, tmp_path / "reference", **OPTIONS)
    same_files(tmp_path / "out", tmp_path / "reference")
    assert tasks.provenance == reference.provenance


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_sorted_or_not_the_store_is_the_same(tmp_path_factory, data):
    keys = st.integers(-3, 6) if data.draw(st.booleans()) else st.sampled_from(["é", "a", "B", "ß"])
    ids = data.draw(st.lists(keys, min_size=1, max_size=40))
    n_files = data.draw(st.integers(1, 4))
    frame = pd.DataFrame({"who": ids, "x": np.arange(len(ids)), "y": 0.5})
    folder = tmp_path_factory.mktemp("order")
    options = OPTIONS | {"block_bytes": 16 * max(len(ids) // 2, frame["who"].value_counts().max())}
    ingest(in_files(frame, folder / "in", "parquet", n_files), folder / "one", **options)
    ingest(frame.sort_values("who", kind="stable"), folder / "two", **options)
    same_files(folder / "one", folder / "two")
    got = content(open_tasks(folder / "one"))
    assert list(got) == sorted(set(ids))
    for task, rows in got.items():
        assert [row[0] for row in rows] == [i for i, key in enumerate(ids) if key == task]


def test_many_small_batches(tmp_path, monkeypatch):
    """Tasks go on from one batch of the sort to the next, and from one block to the next."""
    monkeypatch.setattr(sorting, "BATCH_BYTES", 1)
    frame = pd.DataFrame({"who": np.arange(20_000) % 7, "y": np.arange(20_000.0)})
    frame["x"] = -frame["y"]
    tasks = ingest(frame, tmp_path / "out", block_bytes=16 * 6_000, **OPTIONS)
    assert tasks.n_blocks == 4
    assert content(tasks) == by_hand(frame, ["x"])


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([3, 1, 3], [1, 3]),
        ([3.0, -1.0, 3.0], [-1, 3]),
        (["b", "a", "b"], ["a", "b"]),
        (["007", "7", "7"], ["007", "7"]),
        ([dt.date(2024, 5, 2), dt.date(2024, 5, 1)], ["2024-05-01", "2024-05-02"]),
        (["x", "2", "10"], ["10", "2", "x"]),
        ([2**62 + 1, 2**62], [2**62, 2**62 + 1]),
        (["Zürich", "aa", "Zürich"], ["Zürich", "aa"]),
    ],
)
def test_task_ids(tmp_path, given, expected, suffix):
    frame = pd.DataFrame({"who": given, "x": 1.0, "y": 2.0})
    tasks = ingest(in_files(frame, tmp_path / "in", suffix, 1), tmp_path / "out", **OPTIONS)
    ids = tasks.task_ids()
    assert ids.tolist() == expected
    assert (ids.dtype == np.int64) == isinstance(expected[0], int)


@pytest.mark.parametrize(
    "values",
    [
        pd.Series([1, 0, 2], dtype="int8"),
        pd.Series([1, 0, 2], dtype="uint64"),
        pd.Series([1, 0, 2], dtype="Int64"),
        pd.Series([1, 0, 2], dtype="float32"),
        pd.Series([1, 0, 2], dtype="int64[pyarrow]"),
        pd.Series([decimal.Decimal("1.00"), decimal.Decimal(0), decimal.Decimal(2)]),
    ],
    ids=lambda series: str(series.dtype),
)
def test_numeric_types(tmp_path, values):
    frame = pd.DataFrame({"who": [1, 1, 1], "x": values, "y": [True, False, True]})
    tasks = ingest(frame, tmp_path / "out", **OPTIONS)
    assert content(tasks) == {1: [[1, 1], [0, 0], [2, 1]]}


@pytest.mark.parametrize("dtype", ["object", "str", "string", "category", "string[pyarrow]"])
def test_text_is_one_hot_with_a_reference_level(tmp_path, dtype):
    frame = pd.DataFrame({"who": 1, "c": ["v", "u", "w"], "y": 0}).astype({"c": dtype})
    tasks = ingest(frame, tmp_path / "out", **OPTIONS)
    assert tasks.feature_names == ("c=v", "c=w")
    assert content(tasks) == {1: [[1, 0, 0], [0, 0, 0], [0, 1, 0]]}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_numbers_may_be_categories(tmp_path, suffix):
    frame = pd.DataFrame({"who": 1, "month": [11, 2, 3, 2], "y": 0})
    folder = in_files(frame, tmp_path / "in", suffix, 2)
    tasks = ingest(folder, tmp_path / "out", categorical=["month"], **OPTIONS)
    assert tasks.feature_names == ("month=3", "month=11")
    assert [row[:2] for row in content(tasks)[1]] == [[0, 1], [0, 0], [1, 0], [0, 0]]
    assert tasks.encoding["categories"] == {"month": [2, 3, 11]}


def test_new_rows_are_encoded_as_the_store_was(tmp_path):
    frame = table()
    tasks = ingest(frame, tmp_path / "out", features=["carrier", "x"], **OPTIONS)
    encoding = FeatureEncoding.from_dict(tasks.encoding)
    assert encoding.feature_names == tasks.feature_names == ("carrier=DL", "carrier=UA", "x")
    one = frame[frame["who"] == "N001"]
    X = encoding.encode(one)
    assert np.column_stack([X, one["y"]]).tolist() == content(tasks)["N001"]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_rows_with_missing_values_are_dropped_and_counted(tmp_path, suffix):
    frame = table(60)
    frame.loc[[3, 4], "x"] = np.nan
    frame.loc[[4, 5], "carrier"] = None
    frame.loc[50, "y"] = np.nan
    frame.loc[51, "who"] = None
    folder = in_files(frame, tmp_path / "in", suffix)
    tasks = ingest(folder, tmp_path / "out", missing="drop", **OPTIONS)
    assert content(tasks) == by_hand(frame.dropna(), COLUMNS)
    (facts,) = tasks.provenance
    assert (facts["rows_read"], facts["rows_dropped"]) == (60, 5)
    assert facts["missing"] == {"who": 1, "y": 1, "x": 2, "carrier": 2}


def test_categories_of_dropped_rows_are_no_features(tmp_path):
    frame = pd.DataFrame({"who": 1, "c": list("abz"), "x": [1, 2, None], "y": 0})
    tasks = ingest(frame, tmp_path / "out", missing="drop", **OPTIONS)
    assert tasks.feature_names == ("c=b", "x")


def test_float32(tmp_path):
    frame = table()
    tasks = ingest(frame, tmp_path / "out", dtype="float32", features=["x"], **OPTIONS)
    assert tasks.dtype == np.float32
    expected = by_hand(frame.astype({"x": "float32", "y": "float32"}), ["x"])
    assert content(tasks) == expected


def test_files_may_differ_in_width_order_and_other_columns(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    first = {"who": pa.array([1, 2], pa.int32()), "x": pa.array([1, 2], pa.int8()), "y": [0, 0]}
    second = {"y": [0.5, 0.5], "note": ["a", "b"], "x": [0.5, None], "who": [1, 1]}
    pq.write_table(pa.table(first), folder / "a.parquet")
    pq.write_table(pa.table(second), folder / "b.parquet")
    tasks = ingest(folder, tmp_path / "out", features=["x"], missing="drop", **OPTIONS)
    assert content(tasks) == {1: [[1, 0], [0.5, 0.5]], 2: [[2, 0]]}


def test_csv_as_people_write_it(tmp_path):
    text = '\ufeff"who";"the x";"c";y\n"a;b";1.5;"say ""hi""";1e1\n\'q;-2;"two\nlines";NA\n'
    (tmp_path / "in.csv").write_text(text, encoding="utf-8")
    (tmp_path / "more.csv.gz").write_bytes(gzip.compress(b"who,the x,c,y\nz,3,plain,7\n"))
    inputs = [tmp_path / "in.csv", tmp_path / "more.csv.gz"]
    tasks = ingest(inputs, tmp_path / "out", missing="drop", **OPTIONS)
    assert tasks.feature_names == ("the x", 'c=say "hi"')
    assert content(tasks) == {"a;b": [[1.5, 1, 10]], "z": [[3, 0, 7]]}


def test_odd_names_of_columns(tmp_path):
    frame = pd.DataFrame({'a "b"': [1, 2], "select": [1, 2], "it's": list("uv"), 3: [5.0, 6]})
    tasks = ingest(frame, tmp_path / "out", task='a "b"', target="3")
    assert tasks.feature_names == ("select", "it's=v")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_row_numbers_that_pandas_wrote_are_no_feature(tmp_path, suffix):
    frame = table(60)
    frame = frame[frame["x"] > 0]
    path = tmp_path / f"in.{suffix}"
    frame.to_csv(path) if suffix == "csv" else frame.to_parquet(path)
    tasks = ingest(path, tmp_path / "out", **OPTIONS)
    assert content(tasks) == by_hand(frame, COLUMNS)


def test_a_data_frame_is_left_as_it_was(tmp_path):
    frame = table(20).set_index(np.arange(20)[::-1])
    before = frame.copy()
    ingest(frame, tmp_path / "out", **OPTIONS)
    pd.testing.assert_frame_equal(frame, before)


def test_the_store_says_nothing_of_where_it_was_made(tmp_path):
    folder = in_files(table(20), tmp_path / "in", "csv")
    ingest(folder, tmp_path / "out", **OPTIONS)
    assert str(tmp_path) not in json.dumps(json.loads((tmp_path / "out/zarr.json").read_text()))


def test_progress_counts_to_the_end(tmp_path, capsys):
    seen = {}
    ingest(
        in_files(table(), tmp_path / "in", "csv"),
        tmp_path / "out",
        progress=lambda at: seen.setdefault(at.stage, []).append((at.done, at.total)),
        **OPTIONS,
    )
    assert list(seen)[-1] == "write"
    for counts in seen.values():
        assert counts[-1][0] == counts[-1][1]
        assert counts == sorted(counts)
    assert seen["write"][-1] == (500, 500)
    ingest(table(), tmp_path / "two", progress=True, **OPTIONS)
    captured = capsys.readouterr()
    assert captured.err == captured.out == ""  # not a terminal


def test_a_small_table_makes_a_small_store(tmp_path):
    frame = pd.DataFrame({"id": [1, 1, 2], "x": [1.0, 2.0, 4.0], "y": [0.0, 1.0, 2.0]})
    tasks = ingest(frame, tmp_path / "t", task="id", target="y")
    assert tasks.nbytes_stored < 2 << 20
