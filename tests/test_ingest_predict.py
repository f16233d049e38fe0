"""Predictions for the rows of one table from the examples in another."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from scipy.special import ndtr

from daskmlr import Model
from daskmlr.errors import FeatureMismatchError, InputError, PathExistsError, StoreError
from daskmlr.ingestion.predict import ADDED, Predicted, predict_tables

PARAMETERS = {
    "coef": np.array([[1.0, 2.0, 0.0], [-1.0, 0.0, 3.0]]),
    "intercept": np.array([0.0, 1.0]),
    "noise_variance": np.array([0.01, 0.04]),
    "weights": np.array([0.6, 0.4]),
    "feature_names": ("x", "c=b", "c=d"),
    "target_name": "y",
    "task_name": "who",
    "encoding": {"columns": ["x", "c"], "categories": {"c": ["a", "b", "d"]}},
    "shift": np.zeros(3),
    "scale": np.ones(3),
    "subspace": np.eye(4)[:, :2],
    "eigenvalues": np.ones(2),
    "offset": np.zeros(4),
    "gram": np.zeros((2, 5, 5)),
    "mass": np.array([3.0, 2.0]),
    "sources": (),
    "noise_edge": 0.0,
    "log_likelihood": 0.0,
    "n_tasks": 5,
    "n_rows": 20,
    "n_iter": 1,
    "converged": True,
}
MODEL = Model(**PARAMETERS)
# "u" is of the first component, "v" of the second
SUPPORT = pd.DataFrame(
    {"who": ["u", "v", "u", "v"], "x": [1, 1, 2, 2], "c": list("aabb"), "y": [1.0, 0, 4, -1]}
)
QUERY = pd.DataFrame(
    {"c": list("dab"), "note": ["k", None, 'say "z"'], "who": ["v", "u", "w"], "x": [1, 2, 3]}
)
# w has no support: the weighted mean of 5 and -2
EXPECTED = [3.0, 2.0, 2.2]
SPREAD = [0.2, 0.1, np.sqrt(0.6 * (0.01 + 2.8**2) + 0.4 * (0.04 + 4.2**2))]


def write(frame, path):
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    return path


def read(path):
    return pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)


def predict(tmp_path, support=SUPPORT, query=QUERY, *, model=MODEL, suffixes=("csv",) * 3, **kw):
    out = tmp_path / f"out.{suffixes[2]}"
    tables = (
        write(support, tmp_path / f"support.{suffixes[0]}"),
        write(query, tmp_path / f"query.{suffixes[1]}"),
    )
    assert predict_tables(model, *tables, out, **kw).rows == len(query)
    return read(out)


@pytest.mark.parametrize("suffixes", [("csv",) * 3, ("parquet",) * 3, ("csv", "parquet", "csv")])
def test_rows_are_kept_and_predicted(tmp_path, suffixes):
    got = predict(tmp_path, suffixes=suffixes)
    np.testing.assert_allclose(got["prediction"], EXPECTED)
    np.testing.assert_allclose(got["std"], SPREAD)
    assert list(got.columns) == [*QUERY.columns, *ADDED]
    assert got["label"].tolist() == [1, 0, 0]  # w: the likeliest without support
    np.testing.assert_allclose(got["probability"], [1, 1, 0.6])
    assert got["x"].tolist() == [1, 2, 3]
    assert got["note"].fillna("").tolist() == ["k", "", 'say "z"']
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("method", ["bayes", "map"])
def test_intervals_are_those_of_the_mixture(tmp_path, method):
    got = predict(tmp_path, level=0.9, method=method)
    known, wanted = got.iloc[:2], got.iloc[2]
    half = 1.6448536 * np.array(SPREAD[:2])  # of one component, the normal's
    np.testing.assert_allclose(known["low"], known["prediction"] - half, rtol=1e-6)
    np.testing.assert_allclose(known["high"], known["prediction"] + half, rtol=1e-6)

    def below(bound):
        return 0.6 * ndtr((bound - 5) / 0.1) + 0.4 * ndtr((bound + 2) / 0.2)

    np.testing.assert_allclose(below(wanted[["low", "high"]].to_numpy(float)), [0.05, 0.95])
    here = MODEL.predict_interval([[3.0, 1, 0]], level=0.9)
    np.testing.assert_allclose(wanted[["low", "high"]].to_numpy(float), np.ravel(here))


def test_a_level_that_is_no_probability(tmp_path):
    with pytest.raises(InputError, match=r"between 0 and 1, such as 0\.95, got 95"):
        predict(tmp_path, level=95)


def test_tasks_with_support_are_counted(tmp_path):
    tables = write(SUPPORT, tmp_path / "support.csv"), write(QUERY, tmp_path / "query.csv")
    assert predict_tables(MODEL, *tables, tmp_path / "out.csv") == Predicted(3, 3, 2)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_rows_that_miss_a_value_get_no_prediction(tmp_path, suffix):
    holes = {"x": [None, 1.0], "c": ["a", None], "y": [7.0, 7.0], "who": ["u", "v"]}
    support = pd.concat([SUPPORT.assign(extra=None), pd.DataFrame(holes)])
    query = pd.concat([QUERY.iloc[:1].assign(x=None), QUERY, QUERY.iloc[:1].assign(c=None)])
    support, query = support.reset_index(drop=True), query.reset_index(drop=True)
    tables = [write(f, tmp_path / f"{n}.{suffix}") for n, f in (("s", support), ("q", query))]
    out = tmp_path / f"out.{suffix}"
    done = predict_tables(MODEL, *tables, out, missing="drop")
    assert done == Predicted(3, 3, 2, 2, 2)
    got = read(out)
    np.testing.assert_allclose(got["prediction"], [np.nan, *EXPECTED, np.nan])
    np.testing.assert_allclose(got["std"], [np.nan, *SPREAD, np.nan])
    assert got["c"].fillna("").tolist() == ["d", *QUERY["c"], ""]
    assert got["label"].fillna(-1).tolist() == [-1, 1, 0, 0, -1]
    if suffix == "parquet":
        assert pq.read_schema(out).field("label").type == "int64"
    only = write(query.assign(x=None).astype({"x": float}), tmp_path / f"q2.{suffix}")
    with pytest.raises(InputError, match=r"q2.*: every row misses one of x, c"):
        predict_tables(MODEL, tables[0], only, tmp_path / f"out2.{suffix}", missing="drop")


def test_map_takes_the_likeliest_component(tmp_path):
    assert predict(tmp_path, method="map")["prediction"].tolist() == [3.0, 2.0, 5.0]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("known", "wanted"),
    [
        ({"u": 1, "v": 2}, {"u": 1, "v": 2, "w": 3}),
        ({"u": 1.0, "v": 2.0}, {"u": 1, "v": 2, "w": 3}),
        ({"u": "1", "v": "2"}, {"u": 1, "v": 2, "w": 3}),
        ({"u": 1, "v": 2}, {"u": "1", "v": "2", "w": "new"}),
    ],
)
def test_tasks_of_another_type_are_the_same_tasks(tmp_path, known, wanted, suffix):
    support = SUPPORT.assign(who=SUPPORT["who"].map(known))
    query = QUERY.assign(who=QUERY["who"].map(wanted))
    got = predict(tmp_path, support, query, suffixes=(suffix, suffix, "csv"))
    np.testing.assert_allclose(got["prediction"], EXPECTED)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_categories_that_are_whole_numbers(tmp_path, suffix):
    months = {"a": 1, "b": 2, "d": 11}
    encoding = {"columns": ["x", "c"], "categories": {"c": [1, 2, 11]}}
    model = Model(**PARAMETERS | {"encoding": encoding, "feature_names": ("x", "c=2", "c=11")})
    got = predict(
        tmp_path,
        SUPPORT.assign(c=SUPPORT["c"].map(months)),
        QUERY.assign(c=QUERY["c"].map(months)),
        model=model,
        suffixes=(suffix, suffix, "csv"),
    )
    np.testing.assert_allclose(got["prediction"], EXPECTED)


def test_a_model_without_encoding_wants_its_features_as_columns(tmp_path):
    model = Model(**PARAMETERS | {"encoding": None, "feature_names": ("x", "b", "d")})

    def plain(frame):
        dummies = {"b": (frame["c"] == "b").astype(int), "d": (frame["c"] == "d").astype(int)}
        return frame.assign(**dummies).drop(columns="c")

    got = predict(tmp_path, plain(SUPPORT), plain(QUERY), model=model)
    np.testing.assert_allclose(got["prediction"], EXPECTED)


@pytest.mark.parametrize(
    ("support", "query", "error", "message"),
    [
        (
            SUPPORT,
            QUERY.rename(columns={"x": "X"}),
            FeatureMismatchError,
            r"'x' is not in .*query.csv: did you mean 'X'.*fitted with that column",
        ),
        (SUPPORT, QUERY.rename(columns={"who": "whom"}), FeatureMismatchError, "did you mean"),
        (SUPPORT.drop(columns="y"), QUERY, FeatureMismatchError, r"'y' is not in .*support.csv"),
        (SUPPORT, QUERY.assign(x=[1, "oops", 2]), InputError, r"query.csv.*'x'.*'oops' in row 2"),
        (SUPPORT, QUERY.assign(c=["a", "b", "zz"]), InputError, r"'c' has 1 .*'zz' in row 3"),
        (SUPPORT, QUERY.assign(x=[None, 1, None]), InputError, r"'x' has 2 missing.*row 1"),
        (SUPPORT.assign(y=["1", "?", "2", "3"]), QUERY, InputError, r"support.csv.*'\?' in row 2"),
        (SUPPORT.assign(who=["u", None, "v", "v"]), QUERY, InputError, "1 missing.*row 2.*task"),
        (SUPPORT.iloc[:0], QUERY, InputError, r"support.csv is empty"),
        (
            SUPPORT.assign(who=[1, 2, 1, 2]),
            QUERY,
            InputError,
            r"no task of .*query.csv has support: .* 'v' \(str\), .*support.csv 1 \(int\)",
        ),
        (SUPPORT, QUERY.assign(std=0), InputError, r"columns named \['std'\]"),
    ],
)
def test_tables_that_do_not_fit_the_model(tmp_path, support, query, error, message):
    with pytest.raises(error, match=message):
        predict(tmp_path, support, query)
    assert not (tmp_path / "out.csv").exists()


def test_fractional_task_ids(tmp_path):
    query = QUERY.assign(who=[1.0, 2.5, 3.0])
    with pytest.raises(InputError, match=r"task 2.5 in row 2 is not a whole number"):
        predict(tmp_path, query=query, suffixes=("csv", "parquet", "csv"))


def test_outputs_that_cannot_be(tmp_path):
    taken = tmp_path / "taken.csv"
    taken.write_text("precious")
    with pytest.raises(PathExistsError, match=r"taken\.csv exists"):
        predict_tables(MODEL, "nowhere.csv", "nowhere.csv", taken)
    assert taken.read_text() == "precious"
    with pytest.raises(InputError, match=r"\.csv or \.parquet file, got .*out.xls"):
        predict_tables(MODEL, "nowhere.csv", "nowhere.csv", tmp_path / "out.xls")
    with pytest.raises(StoreError, match=r"folder .*no of the output does not exist"):
        predict_tables(MODEL, "nowhere.csv", "nowhere.csv", tmp_path / "no" / "out.csv")
    with pytest.raises(InputError, match=r"there is no file or folder nowhere\.csv"):
        predict_tables(MODEL, "nowhere.csv", "nowhere.csv", tmp_path / "out.csv")
