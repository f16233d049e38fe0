"""Further tables of the same columns: read as the first was, and never silently as another."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from daskmlr import MixedLinearRegression, Model, create_tasks, ingest, open_tasks
from daskmlr.encoding import FeatureEncoding
from daskmlr.errors import CheckpointError, FeatureMismatchError, InputError, StoreError
from daskmlr.ingestion import append_tables, sorting
from daskmlr.record import checkpointing
from tests.benchmarks.ingest_memory import same_files
from tests.test_cli import refuse, succeed

COLUMNS = ("--task", "patient", "--target", "score")


def visits(first, n_patients, *, seed=0, n_visits=6):
    """Rows of patients of two kinds, who differ in what dose, sex and clinic do."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(first, first + n_patients), n_visits)
    kind, n = patient % 2, len(patient)
    sex, clinic = rng.choice(["F", "M"], n), rng.choice(["A", "B", "C"], n)
    dose = rng.normal(size=n)
    score = np.array([2.0, -1.0])[kind] * dose + np.array([1.0, 3.0])[kind] * (sex == "M")
    score += (clinic == "B") - 2.0 * (clinic == "C") + 0.3 * rng.normal(size=n)
    return pd.DataFrame(
        {"patient": patient, "dose": dose, "sex": sex, "clinic": clinic, "score": score}
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The first month: its table, its store, its model."""
    folder = tmp_path_factory.mktemp("months")
    visits(0, 300).to_parquet(folder / "first.parquet")
    succeed("ingest", folder / "first.parquet", folder / "first", *COLUMNS)
    succeed("fit", folder / "first", folder / "model", "--n-components", 2)
    return folder


def test_another_reference_level_is_refused_by_all_that_read_a_store(folder, tmp_path):
    visits(1000, 50).replace({"sex": {"F": "E"}}).to_parquet(tmp_path / "new.parquet")
    succeed("ingest", tmp_path / "new.parquet", tmp_path / "new", *COLUMNS)
    assert open_tasks(tmp_path / "new").feature_names == open_tasks(folder / "first").feature_names
    model, new, out = folder / "model", tmp_path / "new", tmp_path / "out.parquet"
    for command in (
        ("update", model, new, tmp_path / "after"),
        ("assign", model, new, out),
        ("intervals", model, new),
        ("report", model, tmp_path / "page.html", "--store", new),
    ):
        said = " ".join(refuse(*command).split())
        assert "column 'sex' has the levels 'F' (the reference), 'M' in the model" in said
        assert "the levels 'E' (the reference), 'M' in the store" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "new.parquet"]
    fitted = MixedLinearRegression(2, random_state=0).fit(folder / "first")
    for use in (fitted.partial_fit, fitted.assign, fitted.uncertainty, fitted.model_.assign):
        with pytest.raises(FeatureMismatchError, match=r"'sex' has the levels 'F' .*'E'"):
            use(open_tasks(new))


def test_a_fit_is_not_resumed_with_another_reference_level(folder, tmp_path):
    table = visits(0, 300).replace({"sex": {"F": "E"}})
    other = ingest(table, tmp_path / "other", task="patient", target="score")
    parameters = MixedLinearRegression(2, random_state=0).get_params()

    def begun(tasks, *, resume):
        with checkpointing(tmp_path / "kept", tasks, parameters, resume=resume) as kept:
            kept.keep("stage", np.ones(1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        begun(open_tasks(folder / "first"), resume=False)
    with pytest.raises(CheckpointError, match=r"is of another run: .*store facts"):
        begun(other, resume=True)


def test_a_store_without_an_encoding_is_taken_by_its_names(folder, tmp_path):
    first = open_tasks(folder / "first")
    block = first.read_block(0)
    with create_tasks(tmp_path / "plain", feature_names=first.feature_names) as writer:
        writer.write(block.X, block.y, block.sizes)
    labels = Model.load(folder / "model").assign(open_tasks(tmp_path / "plain"))["label"]
    assert len(labels) == 300


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("source", ["first", "model"])
def test_a_table_of_some_categories_is_ingested_like_the_first(folder, tmp_path, source, suffix):
    table = visits(1000, 60).query("sex == 'M' and clinic != 'C'")
    table = table.assign(note="k")[["clinic", "note", "score", "sex", "dose", "patient"]]
    new = tmp_path / f"new.{suffix}"
    table.to_csv(new, index=False) if suffix == "csv" else table.to_parquet(new)
    assert "one category only" in refuse("ingest", new, tmp_path / "t", *COLUMNS)
    succeed("ingest", new, tmp_path / "t", "--like", folder / source)
    tasks, first = open_tasks(tmp_path / "t"), open_tasks(folder / "first")
    for name in ("feature_names", "encoding", "dtype", "task_name", "target_name"):
        assert getattr(tasks, name) == getattr(first, name)
    expected = table.sort_values("patient", kind="stable")
    block = tasks.read_block(0)
    wanted = np.column_stack(
        [expected["dose"], expected["sex"] == "M", expected["clinic"] == "B", 0 * expected["dose"]]
    )
    np.testing.assert_array_equal(block.X, wanted)
    assert "new tasks" in succeed("update", folder / "model", tmp_path / "t", tmp_path / "m").output
    succeed("assign", folder / "model", tmp_path / "t", tmp_path / "labels.parquet")


def test_the_same_table_like_its_own_store_gives_the_same_store(folder, tmp_path):
    ingest(folder / "first.parquet", tmp_path / "again", like=folder / "first")
    assert same_files(folder / "first", tmp_path / "again")


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        (pd.Series([2, 1, 2, 2]), (1, 2, 3)),
        (pd.Series([2.0, 1.0, 2.0, 2.0]), (1, 2, 3)),
        (pd.Series(["2", "1.0", "2", "2"]), (1, 2, 3)),
        (pd.Series([2, 1, 2, 2]), ("1", "2", "x")),
        (pd.Series(["2", "1", "2", "2"]), ("1", "2", "x")),
        (pd.Series(["2", "1", "2", "2"], dtype="category"), ("1", "2", "x")),
        (pd.Series([2, 1, 2, 2], dtype="category"), (1, 2, 3)),
        (pd.Series([True, False, True, True]), (0, 1)),
    ],
    ids=str,
)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_levels_are_those_known_whatever_the_values_look_like(tmp_path, values, levels, suffix):
    if values.dtype == bool and suffix == "csv":
        values = values.astype(int)
    encoding = {"columns": ["c", "x"], "categories": {"c": list(levels)}}
    names = FeatureEncoding.from_dict(encoding).feature_names
    with create_tasks(tmp_path / "first", feature_names=names, encoding=encoding) as writer:
        writer.write(np.zeros((2, len(names))), np.zeros(2), [2])
    table = pd.DataFrame({"task": [1, 1, 2, 2], "c": values, "x": 5, "y": [1.0, 2, 3, 4]})
    new = tmp_path / f"new.{suffix}"
    table.to_csv(new, index=False) if suffix == "csv" else table.to_parquet(new)
    tasks = ingest(new, tmp_path / "t", like=tmp_path / "first")
    assert tasks.encoding == encoding
    one_hot = np.zeros((4, len(levels)))
    one_hot[[0, 1, 2, 3], [1, 0, 1, 1]] = 1
    np.testing.assert_array_equal(tasks.read_block(0).X, np.c_[one_hot[:, 1:], np.full(4, 5)])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"clinic": ["A", "D", "B", "D"]},
            InputError,
            r"'clinic' has 2 values that are no known category \(known are 'A', 'B', 'C'\); the "
            r"first is 'D' in row 2 .line 3. of .*new.csv",
        ),
        (
            {"sex": None},
            FeatureMismatchError,
            r"'sex' is not in .*new.csv.*as in the store .*first",
        ),
        ({"score": None}, FeatureMismatchError, r"'score' is not in .*as in the store"),
        ({"dose": ["low", "high", "low", "low"]}, InputError, r"'dose' holds text.*'low' in row 1"),
        ({"dose": [1, None, 2, 3]}, InputError, r"missing in 1 of 4 rows \('dose' 1\)"),
    ],
)
def test_tables_that_are_not_like_the_first(folder, tmp_path, change, error, message):
    table = visits(1000, 1, n_visits=4).assign(**change).dropna(axis=1, how="all")
    table.to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(error, match=message):
        ingest(tmp_path / "new.csv", tmp_path / "t", like=folder / "first")
    said = refuse("ingest", tmp_path / "new.csv", tmp_path / "t", "--like", folder / "first")
    assert "Error: " in said
    assert [path.name for path in tmp_path.iterdir()] == ["new.csv"]


def test_an_unknown_level_in_a_row_that_is_dropped_is_no_error(folder, tmp_path):
    table = visits(1000, 1, n_visits=4).assign(clinic=["A", "D", "B", "A"], dose=[1, None, 2, 3])
    tasks = ingest(table, tmp_path / "t", like=folder / "first", missing="drop")
    assert tasks.n_rows == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--features", "dose"), "features and like exclude each other: they are those of the sto"),
        (("--categorical", "sex"), "categorical and like exclude each other"),
        (("--dtype", "float32"), "dtype is float32, and float64 in the store"),
        (("--target", "dose"), "the target is 'dose', and 'score' in the store"),
        (("--task", "dose"), "'dose' is the task: take it out of the features"),
    ],
)
def test_wishes_that_contradict_like(folder, tmp_path, options, message):
    inputs = (folder / "first.parquet", tmp_path / "t")
    said = refuse("ingest", *inputs, "--like", folder / "first", *options)
    assert message in " ".join(said.split())


def test_what_like_can_be(folder, tmp_path):
    table = visits(1000, 5)
    model, first = Model.load(folder / "model"), open_tasks(folder / "first")
    for index, like in enumerate((model, first, str(folder / "model"))):
        tasks = ingest(table, tmp_path / f"t{index}", like=like, dtype="float64")
        assert tasks.feature_names == model.feature_names
    half = ingest(table, tmp_path / "half", like=model, dtype="float32")
    assert half.dtype == np.float32
    assert ingest(table, tmp_path / "half2", like=half).dtype == np.float32
    renamed = table.rename(columns={"patient": "person"})
    assert ingest(renamed, tmp_path / "p", like=model, task="person").task_name == "person"
    estimator = MixedLinearRegression(2)
    with pytest.raises(InputError, match=r"got MixedLinearRegression; .* give its model_"):
        ingest(table, tmp_path / "no", like=estimator)
    with pytest.raises(StoreError, match=r"no task store at .*nowhere"):
        ingest(table, tmp_path / "no", like=tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"--task, --target.*--like"):
        ingest(table, tmp_path / "no", task="patient")


def test_a_store_of_arrays_is_a_pattern_by_the_names_of_its_features(tmp_path):
    with create_tasks(tmp_path / "plain", feature_names=["dose", "age"]) as writer:
        writer.write(np.zeros((2, 2)), np.zeros(2), [2])
    table = visits(0, 3).assign(age=40)
    tasks = ingest(table, tmp_path / "t", like=tmp_path / "plain", task="patient", target="score")
    assert tasks.feature_names == ("dose", "age")
    with pytest.raises(FeatureMismatchError, match="'task' is not in the data frame"):
        ingest(table, tmp_path / "u", like=tmp_path / "plain", target="score")


@pytest.fixture
def growing(folder, tmp_path):
    """A copy of the first store, to append to."""
    return shutil.copytree(folder / "first", tmp_path / "growing")


def test_a_table_is_appended_and_the_model_updated_by_it(folder, growing, tmp_path):
    n_blocks = open_tasks(growing).n_blocks
    tables = [tmp_path / f"{month}.csv" for month in "ab"]
    months = visits(1000, 40).assign(sex="M"), visits(2000, 20)
    for table, month in zip(tables, months, strict=True):
        month.to_csv(table, index=False)
    said = succeed("append", growing, *tables).output
    assert "60 tasks appended." in said
    assert json.loads(succeed("info", growing, "--json").output)["tasks"] == 360
    tasks, alone = open_tasks(growing), ingest(tables, tmp_path / "alone", like=folder / "first")
    tasks.validate(deep=True)
    assert tasks.task_ids(300).tolist() == alone.task_ids().tolist()
    new, same = tasks.read_block(n_blocks), alone.read_block(0)
    np.testing.assert_array_equal(new.X, same.X)
    np.testing.assert_array_equal(new.y, same.y)
    assert [entry["command"] for entry in tasks.provenance] == ["ingest", "append"]
    said = succeed("update", folder / "model", growing, tmp_path / "after").output
    assert "60 new tasks, 360 in all" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.csv", "after", "alone", "b.csv", "growing",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda table: pd.concat([table, visits(40, 7)]),
            "7 of the tasks to append are in .*growing already, the first 40, 41, 42, 43, 44, ...: "
            "a task in two places .* write a new store of all rows",
        ),
        (lambda table: table.assign(clinic="D"), "'clinic' has 60 values that are no known categ"),
        (lambda table: table.drop(columns="sex"), "'sex' is not in .*as in the store"),
        (lambda table: table.assign(patient=table["patient"].map("N{}".format)), "holds text, the"),
        (lambda table: table.assign(dose=None), "values are missing in 60 of 60 rows"),
    ],
)
def test_an_append_that_is_refused_leaves_the_store_as_it_was(growing, tmp_path, change, message):
    untouched = shutil.copytree(growing, tmp_path / "untouched")
    change(visits(1000, 10)).to_parquet(tmp_path / "new.parquet")
    said = " ".join(refuse("append", growing, tmp_path / "new.parquet").split())
    assert re.search(message, said), said
    assert same_files(growing, untouched)
    with pytest.raises(InputError, match=message):
        append_tables(tmp_path / "new.parquet", growing)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "growing", "new.parquet", "untouched",
    ]  # fmt: skip


def test_a_store_of_text_ids_is_given_text_ids(tmp_path):
    table = pd.DataFrame({"who": ["007", "7"], "x": [1.0, 2.0], "y": [0.0, 1.0]})
    tasks = ingest(table, tmp_path / "t", task="who", target="y")
    more = pd.DataFrame({"who": [12, 8, 12], "x": [1, 2, 3], "y": [0, 1, 0]})
    assert append_tables(more, tasks.path).task_ids().tolist() == ["007", "7", "12", "8"]
    assert ingest(more, tmp_path / "u", like=tasks).task_ids().tolist() == ["12", "8"]
    more.to_csv(tmp_path / "more.csv", index=False)
    with pytest.raises(InputError, match=r"2 of the tasks to append are .* the first '12', '8': "):
        append_tables(tmp_path / "more.csv", tasks.path)


def test_a_task_larger_than_the_blocks_of_the_store(tmp_path):
    options = {"task": "patient", "target": "score", "features": ["dose"]}
    ingest(visits(0, 5), tmp_path / "t", block_bytes=160, **options)
    with pytest.raises(InputError, match=r"11 examples, .* for 10: write the store again with"):
        append_tables(visits(10, 1, n_visits=11), tmp_path / "t")
    assert append_tables(visits(10, 2, n_visits=10), tmp_path / "t").n_tasks == 7


def test_an_append_that_is_stopped_while_it_writes(growing, tmp_path, monkeypatch):
    untouched = shutil.copytree(growing, tmp_path / "untouched")
    monkeypatch.setattr(sorting, "BATCH_BYTES", 1)

    def stop(progress):
        if progress.stage == "write":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        append_tables(visits(1000, 3000), growing, progress=stop)
    assert same_files(growing, untouched)
    assert append_tables(visits(1000, 30), growing).n_tasks == 330
